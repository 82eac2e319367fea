"""The partition table as shipped, before the first boot."""

from itertools import pairwise

import pytest

from harness.profile import backup_place, partition_rows

MIB = 2**20


def test_partitions_are_exactly_those_of_the_profile(layout, profile):
    assert partition_rows(layout, profile.partitions) == profile.partitions


def test_each_partition_starts_where_the_one_before_ends(layout):
    rows = sorted(layout.partitions, key=lambda partition: partition.start)
    gaps = {after.label: after.start - (row.start + row.size) for row, after in pairwise(rows)}
    assert gaps == dict.fromkeys(gaps, 0)


def test_every_partition_lies_on_the_disk(layout):
    beyond = {partition.label: partition.missing for partition in layout.partitions if partition.missing}
    assert not beyond, f"partitions reach beyond the end of the disk (bytes): {beyond}; was the image truncated?"


@pytest.mark.needs("disk.guid")
def test_disk_guid_is_the_placeholder_until_the_first_boot(layout, profile):
    assert layout.disk_guid == profile.disk.guid, "disk GUID is not the placeholder: was this image booted?"


def test_sectors_are_as_large_as_promised(layout, profile):
    assert {"sector size": layout.gpt.sector_size} == {"sector size": profile.disk.sector_size}


def test_primary_gpt_is_sound(layout):
    primary = layout.gpt.primary
    assert primary.found, f"primary GPT: {primary.problem}"
    assert primary.header_crc_ok, f"primary GPT: {primary.problem}"
    assert primary.entries_crc_ok, f"primary GPT: {primary.problem}"


def test_backup_gpt_is_sound_and_says_the_same(layout):
    backup = layout.gpt.backup
    assert not backup.problem, f"backup GPT: {backup.problem}"


def test_backup_gpt_lies_where_the_profile_says(layout, profile):
    assert backup_place(layout.gpt) == profile.disk.backup_gpt


def test_root_ends_one_mib_before_the_backup_gpt(layout, profile):
    """The disk is laid out at metal size, and only then enlarged for clouds."""
    if profile.disk.backup_gpt != "before the end":
        pytest.skip(f"{profile.name} promises the backup GPT {profile.disk.backup_gpt}")
    last = max(layout.partitions, key=lambda partition: partition.start)
    metal_size = (layout.gpt.alternate_lba + 1) * layout.gpt.sector_size
    found = {"bytes behind root": metal_size - (last.start + last.size), "bytes beyond a whole MiB": metal_size % MIB}
    assert found == {"bytes behind root": MIB, "bytes beyond a whole MiB": 0}


def test_protective_mbr_covers_the_disk_as_it_was_laid_out(layout):
    mbr = layout.gpt.protective_mbr
    found = {"is there": mbr.found, "starts at LBA": mbr.start_lba, "has other entries": mbr.has_other_entries}
    assert found == {"is there": True, "starts at LBA": 1, "has other entries": False}
    assert mbr.size_lba == layout.gpt.alternate_lba, "protective MBR and backup GPT disagree on where the disk ends"


def test_every_partition_has_a_guid_of_its_own(layout):
    guids = [partition.part_guid for partition in layout.partitions]
    assert len(set(guids)) == len(guids), f"PARTUUIDs repeat: {guids}"


def test_virtual_disk_is_as_large_as_promised(image, profile):
    assert {"virtual size": image.block.size} == {"virtual size": profile.disk.virtual_size}
