"""Guests of aarch64, emulated: a small one boots, answers, and is saved and restored as those of x86_64 are.

No CoreOS image of it was at hand. What Ignition, udev and systemd would do, forty lines do (arm_init.sh).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import BootFailed, BuildFailed, MissingTool
from harness.machine.accel import Accel
from harness.machine.boot import Boot
from harness.machine.guest.channel import Completed
from harness.machine.hardware.firmware import firmware_files
from harness.machine.hardware.spec import MachineSpec, unsaveable
from harness.machine.machine import TIMELINE, Machine, booted
from harness.machine.snapshot import Snapshot, restored, snapshot_of
from harness.store import Store
from harness.tools import find_tool
from suites.harness.small_arm_guest import arm_guest_disk

pytestmark = pytest.mark.boot

TCG = Accel("tcg", "tests")
SAVED = MachineSpec.parse(
    "arch=aarch64,memory=512,nics=0,tpm,disk=64M:4k,serial=extra,disk=65M:scsi,4k,disk=66M:mpath,512e"
)
BOOTED = MachineSpec.parse(
    "arch=aarch64,memory=512,cpus=1,nvme,nics=2,disk=64M:nvme,4k,fw_cfg=opt/org.example/name:text"
)
BOOT_TIME = 400.0
BOOT_ID = "cat /proc/sys/kernel/random/boot_id"
NOT_BY_ITSELF = "mount -o remount,commit=600 /var; echo 0 >/proc/sys/vm/dirty_writeback_centisecs"
EXCHANGE = "/sys/firmware/qemu_fw_cfg/by_name"
# Bytes, logical and physical sector, and serial, by whichever way the kernel of a disk tells it (SCSI: VPD page 80h).
DISKS = """
for disk in /sys/block/[nsv]*; do
    serial=$(cat $disk/serial $disk/device/serial 2>/dev/null || tail -c +5 $disk/device/vpd_pg80)
    sectors="$(<$disk/queue/logical_block_size) $(<$disk/queue/physical_block_size)"
    echo ${disk##*/} $(($(<$disk/size) * 512)) $sectors $serial
done
"""
PCR7 = "cat /sys/class/tpm/tpm0/pcr-sha256/7"
DRAW = "head -c 16 /dev/urandom | od -An -t x1"
LEASE = "busybox ip link set {0} up; busybox udhcpc -i {0} -n -q -f -s /bin/true 2>&1"


@pytest.fixture(scope="module")
def disk(store) -> Path:
    """The guest's disk, where QEMU, firmware and packages for it can be had."""
    try:
        find_tool("qemu-system-aarch64")
        firmware_files("aarch64", "uefi")
        return arm_guest_disk(store)
    except (MissingTool, BuildFailed) as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def saved(disk, tmp_path_factory) -> tuple[Snapshot, Store]:
    """The guest booted once and saved, and the store it lies in."""
    folder = tmp_path_factory.mktemp("aarch64")
    own_store = Store(folder / "store")
    return snapshot_of(Boot(disk, b"", SAVED, TCG), own_store, folder / "logs", Deadline(BOOT_TIME)), own_store


@pytest.fixture
def clones(saved, tmp_path):
    """Machines restored from it."""
    snapshot, own_store = saved

    @contextmanager
    def clone(name: str) -> Iterator[Machine]:
        with restored(snapshot, own_store, tmp_path / name, Deadline(120)) as machine:
            yield machine

    return clone


@pytest.fixture(scope="module")
def restored_guest(saved, tmp_path_factory) -> Iterator[Machine]:
    """One of them, for those who only look."""
    snapshot, own_store = saved
    with restored(snapshot, own_store, tmp_path_factory.mktemp("restored"), Deadline(120)) as machine:
        yield machine


def test_it_can_be_saved():
    assert unsaveable(SAVED) == ""


def test_its_console_shows_the_stages_of_a_boot_by_uefi(saved):
    stages = json.loads((saved[0].first_boot / TIMELINE).read_text())
    assert [stage["name"] for stage in stages[:3]] == ["firmware", "boot loader", "kernel"]
    assert {stage["name"] for stage in stages[3:]} == {"login prompt", "channel", "settled"}


def test_a_restored_guest_answers_on_its_console(restored_guest):
    console = restored_guest.console
    console.sendline("root")
    console.expect("# ", Deadline(60))
    assert console.run("uname -m; test -d /sys/firmware/efi", Deadline(60)) == (0, "aarch64\n")
    assert console.run("cut -d ' ' -f 1 /proc/consoles; (exit 3)", Deadline(60)) == (3, "ttyAMA0\n")


def test_a_restored_guest_answers_by_its_channel(restored_guest):
    assert restored_guest.run("echo out; echo err >&2; exit 7") == Completed(7, b"out\n", b"err\n")
    assert restored_guest.run("nproc").text == "2"


def test_a_restored_guest_sees_its_disks_as_they_were_asked_for(restored_guest):
    """Which of the SCSI disks is sda is decided anew in every boot."""
    mib = 2**20
    found = [line.partition(" ")[2] for line in restored_guest.run(DISKS).text.splitlines()]
    assert sorted(found) == sorted(
        [
            f"{65 * mib} 4096 4096 disk-2",
            f"{66 * mib} 512 4096 disk-3",
            f"{66 * mib} 512 4096 disk-3",
            f"{88 * mib} 512 512 primary-disk",
            f"{64 * mib} 4096 4096 extra",
        ]
    )


@pytest.mark.nightly
def test_restored_guests_know_the_time_and_share_no_numbers(clones):
    time.sleep(2)  # a clock that nobody puts forward is then behind for certain
    with clones("one") as one, clones("two") as two:
        asked = time.time()
        told = float(one.run("echo $EPOCHREALTIME").text)
        assert asked - 1 < told < time.time() + 1
        assert one.run(DRAW).text != two.run(DRAW).text
        one.run("echo mine >/var/mine; sync")
        assert two.run("test -e /var/mine").rc == 1


@pytest.mark.nightly
def test_a_restored_guest_has_the_tpm_that_measured_its_boot(clones):
    with clones("one") as one, clones("two") as two:
        measured = one.run(PCR7).text
        assert len(measured) == 64
        assert set(measured) != {"0"}
        assert two.run(PCR7).text == measured


@pytest.mark.nightly
def test_a_power_cut_loses_what_was_not_written_to_the_disk(clones):
    """And the guest boots again: from the disk of the snapshot, beside the config of its first boot."""
    with clones("cut") as machine:
        before = machine.run(f"{NOT_BY_ITSELF}; echo kept >/var/kept; sync; echo lost >/var/lost; {BOOT_ID}").text
        machine.cut_power(Deadline(BOOT_TIME))
        said = machine.run(f"cat /var/kept /var/lost; test -e {EXCHANGE}/opt/com.coreos/config; echo $?")
        assert said.out == b"kept\n0\n"
        assert machine.run(BOOT_ID).text != before


def test_what_cannot_be_restored_boots_from_nvme_reads_its_config_and_powers_off(disk, tmp_path):
    """Ignition's config lies where its qemu platform reads it, and the cards have addresses."""
    assert unsaveable(BOOTED) == "QEMU cannot save NVMe disks"
    with booted(
        Boot(disk, b"", BOOTED, TCG), Store(tmp_path / "store"), tmp_path / "logs", Deadline(BOOT_TIME)
    ) as machine:
        config = (machine.scratch / "config.ign").read_bytes()
        assert machine.run(f"cat {EXCHANGE}/opt/com.coreos/config/raw").out == config
        assert machine.run(f"cat {EXCHANGE}/opt/org.example/name/raw").text == "text"
        assert machine.run(DISKS).text.splitlines() == [
            f"nvme0n1 {88 * 2**20} 512 512 primary-disk",
            f"nvme1n1 {64 * 2**20} 4096 4096 disk-1",
        ]
        assert "lease of 10.0.2.15 obtained" in machine.run(LEASE.format("eth0")).text
        assert "lease of 10.0.3.15 obtained" in machine.run(LEASE.format("eth1")).text
        machine.run("systemctl poweroff")
        assert machine.process.wait(Deadline(60)) == 0


def test_a_disk_without_boot_loader_is_told_within_seconds(disk, tmp_path):
    """`disk` says whether there is an aarch64 to be had. The firmware ends in its shell, and would wait there."""
    empty = tmp_path / "empty.raw"
    empty.write_bytes(bytes(2**20))
    began = time.monotonic()
    spec = MachineSpec.parse("arch=aarch64,memory=512,cpus=1,nics=0")
    with (
        pytest.raises(BootFailed, match=r'no-bootable-device.*"EFI Internal Shell"'),
        booted(Boot(empty, b"", spec, TCG), Store(tmp_path / "store"), tmp_path / "logs", Deadline(BOOT_TIME)),
    ):
        pytest.fail("it came up")
    assert time.monotonic() - began < BOOT_TIME / 4
