"""What breaks under a test is told by class and cause, within seconds, and leaves nothing behind.

Each test injects a fault (injected.py) into checks that would otherwise wait for minutes: a command by the channel has
120 seconds, one by testinfra as long as pytest lets it run. The classes, and why they are honest:

- `infra`: QEMU killed, host disk full, network cut, worker killed. No guest can do any of it, so it says nothing about
  the image and may be tried again.
- `image`: kernel panic, sshd gone, network switched off from inside. The guest had come up and did it to itself. That
  a check provoked it here does not matter: it would be the same for a check that stumbles over it.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.machine.snapshot import Snapshot
from suites.harness.faults.driver import Told, borrowed_store, run

pytestmark = pytest.mark.boot
SECONDS = 30.0  # a check may take on a host that is not overloaded, the restore of its machine included
SMALL_DISK = 'mount -t tmpfs -o size=32m tmpfs "$0" && exec "$@"'  # $0: where overlays are put


@pytest.fixture
def inject(snapshot: Snapshot, store, tmp_path):
    """Run an injected check. `snapshot` is asked for so that the run has only to restore it."""
    borrowed = borrowed_store(store, tmp_path / "store")

    def inject(name: str, *options: str, within=()) -> Told:
        return run([name], borrowed, snapshot.boot.accel.name, *options, within=within)

    inject.store = borrowed
    return inject


def test_a_killed_qemu_is_named_with_its_signal(inject):
    inject("test_qemu_is_killed").assert_lost("infra", "qemu-system-x86_64 was killed by signal 9", within=SECONDS)


def test_a_kernel_panic_is_the_images_and_quoted_from_the_console(inject):
    told = inject("test_kernel_panics")
    told.assert_lost("image", "[kernel-panic]", "sysrq triggered crash", within=SECONDS)


def test_a_full_disk_of_the_host_is_no_fault_of_the_image(inject):
    """QEMU stops a guest whose overlay cannot grow, so that it can go on once there is room: to the guest, a nap."""
    scratch = inject.store / "scratch"
    scratch.mkdir(parents=True)
    small = ["unshare", "--mount", "sh", "-c", SMALL_DISK, str(scratch)]
    inject("test_disk_is_full", within=small).assert_lost("infra", "the host's disk is full", within=SECONDS)


@pytest.mark.parametrize("when", ["while_a_command_runs", "between_commands"])
def test_a_stopped_ssh_is_told_from_a_dead_guest(inject, when):
    told = inject(f"test_ssh_is_stopped_{when}")
    told.assert_lost("image", "ssh does not answer", "its channel answers", within=SECONDS)


@pytest.mark.parametrize("when", ["while_a_command_runs", "between_commands"])
def test_a_cut_network_is_told_from_a_stopped_ssh(inject, when):
    told = inject(f"test_network_is_cut_{when}")
    told.assert_lost("infra", "the network is cut", "has no carrier", "its channel answers", within=SECONDS)


def test_a_network_that_the_guest_switches_off_is_not_the_hosts_fault(inject):
    told = inject("test_network_is_switched_off_by_the_guest")
    told.assert_lost("image", "is switched off", "its channel answers", within=SECONDS)


def test_a_killed_worker_loses_its_own_check_only(inject, snapshot):
    told = run(["test_worker_is_killed", "test_machine_answers"], inject.store, snapshot.boot.accel.name, "-n", "2")
    lost = {name: result for name, result in told.results.items() if result["outcome"] != "passed"}
    replace(told, results=lost).assert_lost("infra", "crashed while running", within=SECONDS)
    assert (len(lost), len(told.results)) == (1, 5)
