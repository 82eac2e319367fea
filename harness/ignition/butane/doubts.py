"""What Butane warns of: modes that look decimal, and partitions that may be found by the wrong name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from harness.ignition.butane.dialect import Dialect
from harness.ignition.butane.fault import Remark
from harness.ignition.butane.reader import Node

BOOT_DISK: Final = "/dev/disk/by-id/coreos-boot-disk"
RESERVED_LABELS: Final = {"BIOS-BOOT": 1, "PowerPC-PReP-boot": 1, "EFI-SYSTEM": 2, "boot": 3, "root": 4}
RESERVED_SINCE: Final = 3  # fcos 1.3, which knows of boot devices
SET_ID: Final = 0o6000


def doubts(config: Node, dialect: Dialect) -> Iterator[Remark]:
    """Every doubt about a config, with its place."""
    for kind in ("files", "directories"):
        for entry in config.each("storage", kind):
            mode = entry.get("mode")
            if mode is not None and _looks_decimal(mode.value, is_folder=kind == "directories"):
                words = f"mode {mode.value} would be reasonable in octal: write 0{mode.value}"
                yield Remark(mode.at, words)
    for disk in config.each("storage", "disks"):
        if not disk.plain("wipe_table"):
            for partition in disk.each("partitions"):
                yield from _partition_doubts(partition, disk, dialect)


def _partition_doubts(partition: Node, disk: Node, dialect: Dialect) -> Iterator[Remark]:
    label, number = partition.get("label"), partition.plain("number", default=0)
    if label is None:
        return
    if dialect.base >= RESERVED_SINCE and RESERVED_LABELS.get(label.value, number) != number:
        wanted = RESERVED_LABELS[label.value]
        yield Remark(label.at, f'partition "{label.value}" of the OS has number {wanted}, not {number}')
    if dialect.guards_mount_points and not number and disk.plain("device") != BOOT_DISK:
        yield Remark(label.at, "partitions cannot be found again by label: give number, or wipe_table: true")


def _looks_decimal(mode: int, *, is_folder: bool) -> bool:
    digits = str(mode)
    if mode < 0 or len(digits) > 4 or not set(digits) <= set("01234567"):
        return False
    return not _is_typical(mode, is_folder=is_folder) and _is_typical(int(digits, 8), is_folder=is_folder)


def _is_typical(mode: int, *, is_folder: bool) -> bool:
    """Whether nobody would be surprised: the owner may all that the group may, and the group all that others may."""
    if mode == 0:
        return True
    owner, group, others = mode >> 6 & 7, mode >> 3 & 7, mode & 7
    grows = not (others & ~group or group & ~owner)
    readable = all(not part or part & 4 for part in (owner, group, others)) and bool(owner & 4)
    searchable = all(part & 1 or not part for part in (group, others)) or not owner & 1
    if not (grows and readable and searchable) or mode > 0o7777:
        return False
    if is_folder:
        return bool(owner & 1) and not mode & 0o4000 and not (mode & 0o3000 and not owner & 2)
    return not mode & 0o1000 and not (mode & SET_ID and (not owner & 1 or others & 2))
