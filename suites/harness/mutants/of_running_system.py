"""Mutants that only a boot can tell from a sound image. Each starts a machine, so they belong to the night."""

from suites.harness.mutants.copies import Disk
from suites.harness.mutants.mutant import mutant
from suites.harness.mutants.of_boot_configuration import initrd_path
from suites.harness.mutants.of_identity import deployed

NO_FAILED_UNIT = "test_running_system.py::test_no_unit_has_failed"
IS_RUNNING = "test_running_system.py::test_system_is_running"
UNITS = "test_running_system.py::test_units_are_in_their_promised_state"
ASKED = "test_no_unit_has_failed or test_system_is_running"
EMERGENCY = "an emergency shell is waiting.*after: .*Timed out waiting for device.*by-label/root"
BROKEN_UNIT = b"""[Unit]
Description=Unit that cannot start

[Service]
Type=oneshot
ExecStart=/usr/bin/false

[Install]
WantedBy=multi-user.target
"""


@mutant(
    NO_FAILED_UNIT,
    IS_RUNNING,
    cause="Kernel panic - not syncing: VFS: Unable to mount root fs",
    verdict="boot",
    asks=ASKED,
)
def initramfs_cannot_be_unpacked(disk: Disk) -> None:
    """The initramfs holds noise: the kernel finds no init."""
    path = initrd_path(disk)
    size = disk.boot.files.stat(path).size
    disk.boot.replace(path, bytes(range(256)) * (size // 256))


@mutant(
    NO_FAILED_UNIT,
    IS_RUNNING,
    cause=EMERGENCY,
    verdict="boot",
    asks=ASKED,
)
def root_cannot_be_found(disk: Disk) -> None:
    """The initramfs looks for a filesystem labelled root, and there is none."""
    disk.root.debugfs("ssv volume_name lost")


@mutant(NO_FAILED_UNIT, IS_RUNNING, cause="failed units: broken.service", asks=ASKED)
def a_unit_fails(disk: Disk) -> None:
    """A service of the image fails at each boot."""
    disk.root.add(deployed(disk, "/etc/systemd/system/broken.service"), BROKEN_UNIT)
    wants = deployed(disk, "/etc/systemd/system/multi-user.target.wants")
    disk.root.debugfs(f"symlink {wants}/broken.service /etc/systemd/system/broken.service")


@mutant(UNITS, cause=r"podman-auto-update\.timer.*enabled, active", asks="test_units_are_in_their_promised_state")
def a_unit_is_enabled_that_should_not_be(disk: Disk) -> None:
    """Containers update themselves, which nobody promised."""
    wants = deployed(disk, "/etc/systemd/system/timers.target.wants")
    disk.root.debugfs(f"symlink {wants}/podman-auto-update.timer /usr/lib/systemd/system/podman-auto-update.timer")
