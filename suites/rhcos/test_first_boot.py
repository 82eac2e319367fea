"""What the first boot makes of the disk, and that it happens once."""

import json

import pytest

MIB = 2**20
BOOT_DISK = "/dev/$(lsblk --nodeps -no PKNAME /dev/disk/by-label/boot)"


@pytest.fixture(scope="module")
def kernel_arguments(guest):
    return guest.file("/proc/cmdline").content_string.split()


@pytest.fixture(scope="module")
def disk(guest):
    """The table as the guest's kernel and tools see it now."""
    return json.loads(guest.check_output(f"sfdisk --json {BOOT_DISK}"))


def bytes_of(disk, sectors):
    return sectors * disk["partitiontable"].get("sectorsize", 512)  # sfdisk of before 2.35 does not say


def uuid_of(guest, label):
    return guest.check_output("blkid -p -s UUID -o value /dev/disk/by-label/%s", label)


def test_first_boot_ran_ignition(kernel_arguments):
    assert "ignition.firstboot" in kernel_arguments


def test_ignition_left_its_result(guest):
    result = json.loads(guest.file("/etc/.ignition-result.json").content_string)
    assert result["userConfigProvided"] is True


def test_first_boot_stamp_is_gone(guest):
    assert not guest.file("/boot/ignition.firstboot").exists


@pytest.mark.needs("disk.guid")
def test_disk_guid_is_the_machines_own(disk, profile):
    assert disk["partitiontable"]["id"].lower() != str(profile.disk.guid)


def test_backup_gpt_moved_to_the_end_of_the_disk(guest):
    assert "No problems found" in guest.check_output(f"sgdisk -v {BOOT_DISK}")


def test_partition_labels_survive(disk, profile):
    found = [row["name"] for row in disk["partitiontable"]["partitions"]]
    assert found == [row.label for row in profile.partitions]


def test_root_partition_fills_the_disk(disk):
    table = disk["partitiontable"]
    last = max(table["partitions"], key=lambda row: row["start"])
    assert bytes_of(disk, table["lastlba"] - last["start"] - last["size"]) <= MIB


def test_root_filesystem_fills_its_partition(guest, disk):
    last = max(disk["partitiontable"]["partitions"], key=lambda row: row["start"])
    size = int(guest.check_output("df --block-size=1 --output=size /sysroot | tail -n 1"))
    assert size > 0.9 * bytes_of(disk, last["size"])


@pytest.mark.parametrize("label", ["boot", "root"])
def test_filesystem_uuid_is_the_machines_own(guest, profile, label):
    placeholder = next((row.uuid for row in profile.filesystems if row.partition == label), None)
    if placeholder is None:
        pytest.skip(f"{profile.name} promises no placeholder UUID for {label}")
    assert uuid_of(guest, label) != placeholder


@pytest.mark.needs("ostree")
def test_boot_filesystem_knows_the_root_uuid(guest):
    assert guest.file("/boot/.root_uuid").content_string.strip() == uuid_of(guest, "root")


@pytest.mark.needs("ostree")
def test_grub_knows_the_boot_uuid(guest):
    assert uuid_of(guest, "boot") in guest.file("/boot/grub2/bootuuid.cfg").content_string


def test_core_is_an_administrator(guest):
    groups = set(guest.user("core").groups)
    assert {"adm", "sudo", "systemd-journal", "wheel"} - groups == set()
