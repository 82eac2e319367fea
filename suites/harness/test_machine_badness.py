"""Bad console and journal lines: each pattern finds its own line, and a healthy boot trips none of them."""

from __future__ import annotations

import pytest

from harness.machine.console.badness import MOST_FINDINGS, Watcher, known_patterns

SAMPLES = {
    "emergency-shell": "Press Enter for maintenance",
    "dracut-refusing": "dracut: Refusing to continue",
    "kernel-panic": "[    2.944] Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
    "kernel-oops": "[   12.000001] Oops: 0002 [#1] PREEMPT SMP NOPTI",
    "kernel-warning": "[    9.123456] WARNING: CPU: 1 PID: 77 at kernel/workqueue.c:3167 __flush_work+0x1a/0x20",
    "offline-disk": "[   40.000000] sd 0:0:0:0: rejecting I/O to offline device",
    "bonding-link-spam": "[   50.000000] bond0: link status up for interface ens4, enabling it in 0 ms",
    "ext4-delayed-allocation": "EXT4-fs (vda4): Delayed block allocation failed for inode 12 at logical offset 0",
    "grub-memory": "alloc magic is broken at 0x7ff3b2a0: 0",
    "ignition-cancelled": "ignition[612]: failed to fetch config: context canceled",
    "initrd-cleanup-killed": "initrd-cleanup.service: Main process exited, code=killed, status=15/TERM",
    "go-panic": "ignition[612]: panic: runtime error: index out of range",
    "segfault": "[   20.000000] podman[99]: segfault at 0 ip 000055d0 sp 00007ffc error 4 in podman",
    "core-dump": "systemd[1]: crashing.service: Main process exited, code=dumped, status=6/ABRT",
    "ordering-cycle": "systemd[1]: sysinit.target: Found ordering cycle on a.service/start",
    "oom-killer": "[   70.000000] stress invoked oom-killer: gfp_mask=0x100cca, order=0, oom_score_adj=0",
    "generator-failure": "systemd[1]: /usr/lib/systemd/system-generators/podman-generator failed with exit status 1.",
    "no-bootable-device": "No bootable device.",
    "firmware-refused": 'BdsDxe: failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0): Access Denied',
    "shim-refused": "\u2502      Verification failed: (0x1A) Security Violation",
    "grub-refused": "error: bad shim signature.",
    "grub-rescue": "grub rescue> ",
    "ignition-failed": "ignition[431]: CRITICAL : Ignition failed: failed to create users/groups",
    "root-not-found": "dracut-initqueue[321]: Warning: /dev/disk/by-label/root does not exist",
}

HEALTHY = """\
SeaBIOS (version 1.16.2-debian-1.16.2-1)
Booting from Hard Disk...
[    0.000000] Linux version 6.1.0-56-cloud-amd64
[    0.000000] Kernel command line: rw ignition.firstboot panic=30 ignition.platform.id=qemu
[    0.920000] mce: [Hardware Error]: Machine check events logged
[    1.101000] pstore: Using crash dump compression: deflate
[  OK  ] Listening on systemd-coredump.socket - Process Core Dump Socket.
[  OK  ] Finished ignition-files.service - Ignition (files).
[    3.000000] systemd[1]: Starting dracut-initqueue.service - dracut initqueue hook...
[  OK  ] Reached target emergency.target - Emergency Mode.
[    5.000000] ignition[321]: GET error: attempt #1: no route to host
core@localhost login: """.splitlines()


def found(*lines: str, allowed: tuple[str, ...] = ()) -> list[str]:
    watcher = Watcher("console", allowed=allowed)
    watcher.feed(lines)
    return [finding.pattern.id for finding in watcher.findings]


def test_every_pattern_has_a_sample_here():
    assert [pattern.id for pattern in known_patterns()] == list(SAMPLES)


@pytest.mark.parametrize("pattern", known_patterns(), ids=lambda pattern: pattern.id)
def test_a_pattern_finds_its_sample_and_no_other_does(pattern):
    assert found(*[SAMPLES[pattern.id]] * pattern.times) == [pattern.id]


@pytest.mark.parametrize("pattern", known_patterns(), ids=lambda pattern: pattern.id)
def test_a_pattern_gives_its_reason(pattern):
    assert pattern.reason
    assert not pattern.reason.endswith(".")


def test_a_healthy_boot_has_no_bad_line():
    assert found(*HEALTHY) == []


def test_the_first_fatal_line_is_the_cause():
    watcher = Watcher("console")
    watcher.feed([SAMPLES["kernel-warning"], SAMPLES["oom-killer"], SAMPLES["kernel-panic"]])
    assert watcher.fatal is not None
    assert watcher.fatal.describe().startswith("the guest ran out of memory")
    assert "[oom-killer]" in watcher.fatal.describe()


def test_a_warning_ends_nothing():
    watcher = Watcher("console")
    watcher.feed([SAMPLES["kernel-warning"]])
    assert watcher.fatal is None


def test_an_allowed_pattern_is_not_reported():
    assert found(SAMPLES["segfault"], SAMPLES["kernel-panic"], allowed=("segfault",)) == ["kernel-panic"]


def test_a_repeated_line_counts_from_its_tenth_time():
    line = SAMPLES["bonding-link-spam"]
    assert found(*[line] * 9) == []
    assert found(*[line] * 12) == ["bonding-link-spam"] * 3


def test_console_prompts_are_not_looked_for_in_the_journal():
    watcher = Watcher("journal")
    watcher.feed([SAMPLES["grub-rescue"], SAMPLES["segfault"]])
    assert [finding.pattern.id for finding in watcher.findings] == ["segfault"]


def test_an_emergency_shell_names_what_failed_before_it():
    watcher = Watcher("console")
    watcher.feed(["[FAILED] Failed to start reference-grow.service - Grow the root filesystem."])
    watcher.feed(["You are in emergency mode. After logging in, type ..."])
    assert watcher.fatal is not None
    assert "reference-grow.service" in watcher.fatal.describe()


def test_a_guest_that_repeats_itself_does_not_fill_the_memory():
    assert len(found(*[SAMPLES["segfault"]] * (MOST_FINDINGS * 3))) == MOST_FINDINGS
