"""The data partition of a pre-staged disk: where it lies, what it is called, what holds it. Without booting."""

import pytest

LINUX_FILESYSTEM = "0fc63daf-8483-4772-8e79-3d69d8477de4"
MIB = 2**20


def test_partition_table_is_sound(prestaged):
    table = prestaged.layout.gpt
    assert (table.primary.problem, table.backup.problem, table.backup_is_at_end) == ("", "", True)


def test_data_partition_is_the_last_and_ends_with_the_disk(prestaged):
    last = max(prestaged.layout.partitions, key=lambda partition: partition.start)
    assert (last.number, last.label) == (prestaged.partition.number, prestaged.partition.label)
    table = prestaged.layout.gpt
    end = prestaged.partition.start + prestaged.partition.size
    assert (table.last_usable_lba + 1) * table.sector_size - end < MIB


def test_data_partition_is_aligned_and_of_linux(prestaged):
    found = (prestaged.partition.start % MIB, str(prestaged.partition.type_guid).lower())
    assert found == (0, LINUX_FILESYSTEM)


def test_filesystem_is_one_that_coreos_mounts(prestaged):
    assert prestaged.partition.filesystem.type in {"xfs", "ext4"}


def test_the_seeds_disk_comes_out_to_the_sector(prestaged):
    """Facts D3: sgdisk moved sector 120,000,000 to 119,998,464; the filesystem has four groups."""
    if not prestaged.is_ours:
        pytest.skip("the disk under test is not the seed's")
    (partition,) = prestaged.layout.gpt.partitions
    found = (partition.number, partition.label, partition.first_lba, partition.last_lba, partition.size // 512)
    assert found == (1, "data", 119_998_464, 251_658_206, 131_659_743)
    details = prestaged.partition.filesystem.details
    assert (details["agcount"], details["agblocks"]) == (4, 4_114_367)
    assert prestaged.partition.filesystem.size == 16_457_467 * details["block_size"]
