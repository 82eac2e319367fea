"""A disk's layout: its partition table, and what each partition holds. Sizes are bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from harness.errors import DamagedImage
from harness.images.block import Block, Part
from harness.images.filesystems.superblock import Filesystem, identify
from harness.images.partitions.gpt import Partition, Table, read_table


@dataclass(frozen=True, slots=True)
class LayoutPartition:
    """A partition with its content; `filesystem` is None where nothing was recognised."""

    number: int
    label: str  # PARTLABEL
    type_guid: UUID
    part_guid: UUID
    start: int
    size: int
    attributes: int
    filesystem: Filesystem | None
    missing: int = 0  # bytes of it that lie beyond the end of the disk: a truncated image


@dataclass(frozen=True, slots=True)
class Layout:
    """What a disk is divided into."""

    table: Table
    partitions: tuple[LayoutPartition, ...]
    block: Block = field(repr=False, compare=False)

    @property
    def disk_guid(self) -> UUID:
        return self.table.disk_guid

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
    """Read the partition table and identify what each partition holds. Raises what `read_table` raises."""
    table = read_table(block)
    return Layout(table, tuple(_described(block, partition) for partition in table.partitions), block)


def part_of(block: Block, partition: Partition | LayoutPartition) -> Part:
    """A partition as a block of its own, named by its label in error messages."""
    return Part(block, partition.start, partition.size, f"{block.name}, partition {partition.label!r}")


def _described(block: Block, partition: Partition) -> LayoutPartition:
    present = max(0, min(partition.size, block.size - partition.start))
    there = Part(block, partition.start, present, f"{block.name}, partition {partition.label!r}")
    return LayoutPartition(
        number=partition.number,
        label=partition.label,
        type_guid=partition.type_guid,
        part_guid=partition.part_guid,
        start=partition.start,
        size=partition.size,
        attributes=partition.attributes,
        filesystem=identify(there) if present else None,
        missing=partition.size - present,
    )
