"""What the partitions hold, before the first boot."""

import pytest


def seen(layout, label):
    filesystem = layout.partition(label).filesystem
    return {
        "type": filesystem.type if filesystem else None,
        "label": filesystem.label if filesystem else None,
        "uuid": filesystem.uuid if filesystem else None,
    }


def details(layout, label):
    filesystem = layout.partition(label).filesystem
    return filesystem.details if filesystem else {}


def test_filesystems_are_those_of_the_profile(layout, profile):
    promised = {row.partition: {"type": row.type, "label": row.label} for row in profile.filesystems}
    found = {label: {key: seen(layout, label)[key] for key in ("type", "label")} for label in promised}
    assert found == promised


def test_uuids_are_the_placeholders_until_the_first_boot(layout, profile):
    promised = {row.partition: row.uuid for row in profile.filesystems if row.uuid}
    assert {label: seen(layout, label)["uuid"] for label in promised} == promised


def test_filesystem_features_are_those_of_the_profile(layout, profile):
    promised = {row.partition: row.features for row in profile.filesystems if row.features}
    there = {label: details(layout, label).get("features", ()) for label in promised}
    found = {label: tuple(name for name in promised[label] if name in there[label]) for label in promised}
    assert found == promised


def test_filesystem_details_are_those_of_the_profile(layout, profile):
    promised = {row.partition: row.details for row in profile.filesystems if row.details}
    found = {label: {key: details(layout, label).get(key) for key in wanted} for label, wanted in promised.items()}
    assert found == promised


def test_partitions_without_a_filesystem_hold_none(layout, profile):
    with_filesystem = {row.partition for row in profile.filesystems}
    surprises = {
        partition.label: partition.filesystem.type
        for partition in layout.partitions
        if partition.label not in with_filesystem and partition.filesystem
    }
    assert surprises == {}


def test_no_filesystem_needs_recovery(layout):
    dirty = [
        partition.label
        for partition in layout.partitions
        if partition.filesystem and partition.filesystem.details.get("needs_recovery")
    ]
    assert not dirty, f"{', '.join(dirty)}: the journal was not replayed; was the image shut down cleanly?"


def test_superblock_checksums_are_right(layout):
    wrong = [
        partition.label
        for partition in layout.partitions
        if partition.filesystem and partition.filesystem.details.get("checksum_ok") is False
    ]
    assert not wrong, f"superblock checksum of {', '.join(wrong)} is wrong: the filesystem is damaged"


def test_ext4_filesystems_fill_their_partitions(layout):
    sizes = {
        partition.label: (partition.filesystem.size, partition.size)
        for partition in layout.partitions
        if partition.filesystem and partition.filesystem.type == "ext4"
    }
    assert {label: found for label, (found, _) in sizes.items()} == {label: size for label, (_, size) in sizes.items()}


@pytest.mark.needs("ostree")
def test_physical_root_is_immutable(files, profile):
    root = files("root")
    if root.filesystem != "ext4":
        pytest.skip(f"the +i flag of {root.filesystem} is not read offline")
    assert root.stat("/").immutable, "the physical root directory lacks the immutable flag (chattr +i)"
