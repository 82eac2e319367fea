"""A disk's layout: its partition table if it has one, and what each partition holds. Sizes are bytes.

An MBR and a GPT give the same `LayoutPartition`; what only one of them knows is None for the other. A disk without a
table is one filesystem, or an ISO: then `filesystem` says which, as it also does for an ISO that has a table as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from uuid import UUID

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block, Part
from harness.images.filesystems.superblock import Filesystem, identify
from harness.images.partitions.gpt import Partition, Table, find_table, no_table
from harness.images.partitions.mbr import EXTENDED, MbrPartition, MbrTable, find_mbr

TableLabel = Literal["gpt", "mbr", "none"]
SECTOR = 512  # bytes, where no table says


@dataclass(frozen=True, slots=True)
class LayoutPartition:
    """A partition with its content; `filesystem` is None where nothing was recognised."""

    number: int
    label: str  # PARTLABEL; empty in an MBR
    type_guid: UUID | None
    part_guid: UUID | None
    start: int
    size: int
    attributes: int  # of a GPT; in an MBR the active flag, 0x80 or 0
    filesystem: Filesystem | None
    missing: int = 0  # bytes of it that lie beyond the end of the disk: a truncated image
    mbr_type: int | None = None  # the type byte of an MBR

    @property
    def title(self) -> str:
        """What messages call it."""
        return repr(self.label) if self.label else str(self.number)


@dataclass(frozen=True, slots=True)
class Layout:
    """What a disk is divided into. `filesystem` is what the disk itself begins with, in front of any partition."""

    table: Table | MbrTable | None
    partitions: tuple[LayoutPartition, ...]
    block: Block = field(repr=False, compare=False)
    filesystem: Filesystem | None = None

    @property
    def label(self) -> TableLabel:
        """The kind of the partition table."""
        if self.table is None:
            return "none"
        return "gpt" if isinstance(self.table, Table) else "mbr"

    @property
    def gpt(self) -> Table:
        """The GPT, for whoever needs one. Raises UnsupportedImage on a disk with an MBR or without a table."""
        if not isinstance(self.table, Table):
            what = "an MBR partition table" if self.table else f"no partition table, but {_named(self.filesystem)}"
            raise UnsupportedImage(f"has {what}, and this needs a GPT", where=self.block.name)
        return self.table

    @property
    def disk_guid(self) -> UUID:
        return self.gpt.disk_guid

    @property
    def sector_size(self) -> int:
        return self.table.sector_size if self.table else SECTOR

    def partition(self, label: str) -> LayoutPartition:
        """The partition with this PARTLABEL. Raises DamagedImage where there is none, or more than one."""
        found = [partition for partition in self.partitions if partition.label == label]
        if len(found) != 1:
            labels = ", ".join(repr(partition.label) for partition in self.partitions) or "none at all"
            wrong = f"{len(found)} partitions are" if found else "no partition is"
            raise DamagedImage(f"{wrong} labelled {label!r}; there are: {labels}", where=self.block.name)
        return found[0]

    def part_block(self, label: str) -> Part:
        """The bytes of the partition with this PARTLABEL."""
        return part_of(self.block, self.partition(label))


def read_layout(block: Block) -> Layout:
    """Read the partition table and identify what each partition holds, or what the disk holds without one.

    Raises DamagedImage for a table that cannot be trusted, and for a disk with neither a table nor a filesystem.
    """
    whole = identify(block)
    table = _find_table(block, whole)
    if table is None:
        if whole is None:
            raise no_table(block)
        return Layout(None, (), block, whole)
    if isinstance(table, MbrTable):
        return Layout(table, tuple(_of_mbr(block, partition) for partition in table.partitions), block, whole)
    return Layout(table, tuple(_of_gpt(block, partition) for partition in table.partitions), block, whole)


def part_of(block: Block, partition: Partition | LayoutPartition) -> Part:
    """A partition as a block of its own, named by its label in error messages."""
    title = partition.title if isinstance(partition, LayoutPartition) else repr(partition.label)
    return Part(block, partition.start, partition.size, f"{block.name}, partition {title}")


def _find_table(block: Block, whole: Filesystem | None) -> Table | MbrTable | None:
    """The table that counts; what a FAT boot sector holds where an MBR has its entries is code."""
    if gpt := find_table(block):
        return gpt
    return None if whole and whole.type == "vfat" else find_mbr(block)


def _of_gpt(block: Block, partition: Partition) -> LayoutPartition:
    there = _present(block, partition.start, partition.size, repr(partition.label))
    return LayoutPartition(
        number=partition.number,
        label=partition.label,
        type_guid=partition.type_guid,
        part_guid=partition.part_guid,
        start=partition.start,
        size=partition.size,
        attributes=partition.attributes,
        filesystem=identify(there) if there.size else None,
        missing=partition.size - there.size,
    )


def _of_mbr(block: Block, partition: MbrPartition) -> LayoutPartition:
    there = _present(block, partition.start, partition.size, str(partition.number))
    return LayoutPartition(
        number=partition.number,
        label="",
        type_guid=None,
        part_guid=None,
        start=partition.start,
        size=partition.size,
        attributes=0x80 if partition.is_active else 0,
        filesystem=identify(there) if there.size and partition.type not in EXTENDED else None,
        missing=partition.size - there.size,
        mbr_type=partition.type,
    )


def _present(block: Block, start: int, size: int, title: str) -> Part:
    """As much of a partition as the disk has."""
    return Part(block, start, max(0, min(size, block.size - start)), f"{block.name}, partition {title}")


def _named(filesystem: Filesystem | None) -> str:
    return f"{filesystem.type} from its start" if filesystem else "nothing we know"
