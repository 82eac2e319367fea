"""The data partition of a pre-staged disk: where it lies, what it is called, what holds it. Without booting."""

import pytest

LINUX_FILESYSTEM = "0fc63daf-8483-4772-8e79-3d69d8477de4"
MIB = 2**20


def test_partition_table_is_sound(prestaged):
    table = prestaged.layout.gpt
    assert (table.primary.problem, table.backup.problem, table.backup_is_at_end) == ("", "", True)


def test_data_partition_is_the_last_and_ends_with_the_disk(prestaged):
    last = max(prestaged.layout.partitions, key=lambda partition: partition.start)
    assert last.title == prestaged.partition.title
    table = prestaged.layout.gpt
    free = (table.last_usable_lba + 1) * table.sector_size - last.start - last.size
    assert 0 <= free < MIB, f"{free:,} usable bytes lie behind the data partition"


def test_data_partition_is_aligned_and_of_linux(prestaged):
    found = {"beyond a MiB": prestaged.partition.start % MIB, "type": str(prestaged.partition.type_guid)}
    assert found == {"beyond a MiB": 0, "type": LINUX_FILESYSTEM}


def test_filesystem_is_one_that_coreos_mounts(prestaged):
    assert prestaged.filesystem.type in {"xfs", "ext4"}


def test_superblock_is_sound_and_the_filesystem_within_its_partition(prestaged):
    filesystem = prestaged.filesystem
    assert filesystem.details.get("checksum_ok", True), "the superblock has another checksum than it says"
    assert filesystem.size <= prestaged.partition.size


def test_the_seeds_disk_comes_out_to_the_sector(prestaged):
    """Facts D3: sgdisk moved sector 120,000,000 to 119,998,464; the filesystem has four groups."""
    if not prestaged.is_ours:
        pytest.skip("the disk under test is not the seed's")
    (partition,) = prestaged.layout.gpt.partitions
    details = prestaged.filesystem.details
    found = {
        "number": partition.number,
        "label": partition.label,
        "first sector": partition.first_lba,
        "last sector": partition.last_lba,
        "groups": details["agcount"],
        "blocks of a group": details["agblocks"],
        "size": prestaged.filesystem.size,
    }
    assert found == {
        "number": 1,
        "label": "data",
        "first sector": 119_998_464,
        "last sector": 251_658_206,
        "groups": 4,
        "blocks of a group": 4_114_367,
        "size": 16_457_467 * 4096,
    }
