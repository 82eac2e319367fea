"""Images made again from recipes boot, and their guests know which platform they are on."""

from __future__ import annotations

import pytest

from harness.deadline import Deadline
from harness.ignition.config import Config
from harness.images.edits.inject import inject_ignition
from harness.machine.boot import Boot
from harness.machine.machine import booted
from harness.machine.snapshot import snapshot_of
from harness.machine.turns import turn_to_boot
from harness.report.folder import machine_folder

pytestmark = [pytest.mark.nightly, pytest.mark.boot, pytest.mark.timeout(3600)]
BOOT_TIME = 600.0  # seconds, once it is its turn


def test_qemu_boots_with_its_config(rehydrated_image, ignition: Config, machine_spec, accel, store, run_folder):
    """A cold boot: what the snapshots of the reference image hold was booted from other bytes on disk."""
    image = rehydrated_image("reference-qemu.qcow2")
    boot = Boot(image, ignition.raw, machine_spec, accel)
    logs = machine_folder(run_folder, "rehydrated-qemu")
    with turn_to_boot(store, machine_spec), booted(boot, store, logs, Deadline(BOOT_TIME)) as machine:
        assert "ignition.platform.id=qemu" in machine.guest.check_output("cat /proc/cmdline")
        assert machine.guest.run("systemctl is-system-running").stdout.strip() == "running"


@pytest.fixture
def openstack(rehydrated_image, ignition: Config, tmp_path):
    """The image with a config on its boot filesystem: on OpenStack nothing of QEMU's is read."""
    disk = tmp_path / "openstack.raw"
    inject_ignition(rehydrated_image("reference-openstack.qcow2"), ignition.raw, disk)
    return disk


def test_openstack_boots(openstack, console_password, machine_spec, accel, store, restores, run_folder):
    logs = machine_folder(run_folder, "rehydrated-openstack")
    taken = snapshot_of(Boot(openstack, None, machine_spec, accel), store, logs, Deadline(BOOT_TIME))
    with restores(taken, "rehydrated-openstack-console") as machine:
        deadline = Deadline(120.0)
        machine.console.login("console", console_password[0], deadline)
        status, line = machine.console.run("cat /proc/cmdline", deadline)
        assert (status, "ignition.platform.id=openstack" in line) == (0, True)
        assert machine.console.run("systemctl is-system-running", deadline) == (0, "running\n")
