"""The guest's own verbs, as far as no machine is needed: what is remembered across a reboot, and what is read."""

from __future__ import annotations

import pytest

from harness.errors import MachineFailed, NotInGuest
from harness.machine.guest.backend import ScriptBackend
from harness.machine.guest.channel import Completed
from harness.machine.guest.filesystems import Filesystem, read_filesystems
from harness.machine.guest.host import Guest


class Answering:
    """A machine that restarts in no time and gives one answer."""

    def __init__(self, answer: str = "") -> None:
        self.answer = answer
        self.restarts: list[str] = []

    def run(self, script, deadline=None):  # noqa: ARG002
        return Completed(0, self.answer.encode(), b"")

    def reboot(self, deadline):  # noqa: ARG002
        self.restarts.append("reboot")

    def soft_reboot(self, deadline):  # noqa: ARG002
        self.restarts.append("soft reboot")

    def cut_power(self, deadline):  # noqa: ARG002
        self.restarts.append("power cut")


@pytest.mark.parametrize("verb", ["reboot", "soft_reboot", "cut_power"])
def test_what_testinfra_remembers_does_not_outlive_a_restart(verb):
    machine = Answering("Linux")  # to `uname -s`
    guest = Guest(machine, lambda: ScriptBackend(machine))
    guest.file, guest.has_command_v  # noqa: B018  looked up, and so remembered
    getattr(guest, verb)()
    assert len(machine.restarts) == 1
    assert "file" not in vars(guest)


COMMAND_LINE = "rw console=tty0 console=ttyS0,115200n8 ignition.firstboot empty= ostree=/ostree/boot.1/x\n"


@pytest.mark.parametrize(
    "name, value",
    [
        ("ignition.firstboot", "ignition.firstboot"),
        ("console", "ttyS0,115200n8"),
        ("ostree", "/ostree/boot.1/x"),
        ("empty", ""),
        ("ignition", None),
    ],
)
def test_kernel_arguments_are_read_whole(name, value):
    assert Guest(Answering(COMMAND_LINE), lambda: None).kernel_argument(name) == value


TABLE = "ext4 vda3 0 boot\next4 vda4 0 root\nxfs vdb1 0 data\next4 vdc 2 \n--\n"


def look(log: str) -> list[tuple[str, bool, str]]:
    found = read_filesystems(Completed(0, f"{TABLE}{log}".encode(), b""))
    return [(each.label or each.device, each.was_recovered, each.damage) for each in found]


def test_a_quiet_log_means_sound_filesystems_but_for_counted_errors():
    assert look("") == [
        ("boot", False, ""),
        ("root", False, ""),
        ("data", False, ""),
        ("vdc", False, "2 errors in its superblock"),
    ]


@pytest.mark.parametrize(
    "line, label",
    [
        ("EXT4-fs (vda4): recovery complete", "root"),
        ("boot: recovering journal", "boot"),
        ("XFS (vdb1): Ending recovery (logdev: internal)", "data"),
    ],
)
def test_a_replayed_journal_is_seen(line, label):
    assert [name for name, was_recovered, _ in look(f"{line}\n") if was_recovered] == [label]


@pytest.mark.parametrize(
    "line, label",
    [
        ("EXT4-fs error (device vda4): ext4_lookup:1855: inode #2: comm ls: deleted inode referenced: 12", "root"),
        ("EXT4-fs (vda3): warning: mounting fs with errors, running e2fsck is recommended", "boot"),
        ("XFS (vdb1): Metadata corruption detected at xfs_dinode_verify+0x1", "data"),
        ("boot: UNEXPECTED INCONSISTENCY; RUN fsck MANUALLY.", "boot"),
    ],
)
def test_damage_is_quoted(line, label):
    assert (label, False, line) in look(f"{line}\n")


def test_a_filesystem_is_a_value():
    (first, *_) = read_filesystems(Completed(0, TABLE.encode(), b""))
    assert first == Filesystem("ext4", "vda3", "boot", was_recovered=False, damage="")


@pytest.mark.parametrize("answer", [Completed(127, b"", b"bash: lsblk: not found"), Completed(0, b"nothing", b"")])
def test_a_guest_that_cannot_be_looked_at_is_a_typed_error(answer):
    with pytest.raises(MachineFailed, match="cannot be looked at"):
        read_filesystems(answer)


def test_a_soft_reboot_is_refused_where_systemd_does_not_know_it(machine):
    """The reference has systemd 252; nothing has happened to the shared machine afterwards."""
    with pytest.raises(NotInGuest, match=r"came with systemd 254, here is 'systemd 252"):
        machine.guest_by_channel.soft_reboot()
    assert machine.is_up
