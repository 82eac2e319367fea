"""Where and why two disk images differ: partition table, partitions, files, and what lies between them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from harness.errors import HarnessError
from harness.images.block import Block, Part
from harness.images.difference.differing import Difference, count_differing, differing, gaps
from harness.images.difference.trees import explain_filesystem
from harness.images.formats.raw import FileBlock
from harness.images.partitions.gpt import Partition, Table, read_table
from harness.images.partitions.layout import part_of
from harness.images.source import Image

MOST = 200  # differences that anybody reads
BOOT_CODE = 440  # bytes of the MBR before the disk signature
MBR = 512
DISK_FIELDS = {
    "disk_guid": "disk GUID", "sector_size": "sector size", "first_usable_lba": "first usable sector",
    "last_usable_lba": "last usable sector", "alternate_lba": "backup at sector", "protective_mbr": "protective MBR",
    "primary": "primary copy", "backup": "backup copy",
}  # fmt: skip
PARTITION_FIELDS = ("label", "type_guid", "part_guid", "start", "size", "attributes")


def explain_difference(one: Image, other: Image, most: int = MOST) -> tuple[Difference, ...]:
    """The differences of two opened images, at most `most`; empty only for the same bytes.

    Partitions are matched by number; those with the same bytes cost one pass over their data and no more. `first`
    and `second` in a detail, and what stands left and right of a slash, are `one` and `other`.
    """
    found = tuple(islice(_explain(one.block, other.block), most))
    return found or tuple(_containers(one, other))


def _explain(one: Block, other: Block) -> Iterator[Difference]:
    if one.size != other.size:
        yield Difference("", "", "container", f"the virtual disk has {one.size:,} / {other.size:,} bytes")
    tables = _table(one), _table(other)
    if tables[0] is None and tables[1] is None:
        wholes = Part(one, 0, one.size, one.name), Part(other, 0, other.size, other.name)
        if next(differing(*wholes), None):
            yield from explain_filesystem(*wholes, "")
        return
    if tables[0] is None or tables[1] is None:
        yield Difference("", "", "partition table", f"only the {'first' if tables[0] else 'second'} has a readable one")
        return
    yield from _partitioned(one, other, tables[0], tables[1])


def _partitioned(one: Block, other: Block, mine: Table, theirs: Table) -> Iterator[Difference]:
    in_table = list(_tables(mine, theirs))
    yield from in_table
    numbered = {partition.number: partition for partition in theirs.partitions}
    for partition in mine.partitions:
        if match := numbered.get(partition.number):
            windows = _window(one, partition), _window(other, match)
            if next(differing(*windows), None):
                yield from explain_filesystem(*windows, partition.label)
    yield from _between(one, other, mine, theirs, table_explained=bool(in_table))


def _tables(mine: Table, theirs: Table) -> Iterator[Difference]:
    for field, name in DISK_FIELDS.items():
        if (first := getattr(mine, field)) != (second := getattr(theirs, field)):
            yield Difference("", "", "partition table", f"{name} {first} / {second}")
    here, there = ({p.number: p for p in table.partitions} for table in (mine, theirs))
    for number in sorted({*here, *there}):
        if number not in here or number not in there:
            alone = here.get(number) or there[number]
            text = f"partition {number} is only in the {'first' if number in here else 'second'}"
            yield Difference(alone.label, "", "partition table", text)
            continue
        for field in PARTITION_FIELDS:
            if (first := getattr(here[number], field)) != (second := getattr(there[number], field)):
                name = field.replace("_guid", " GUID")
                yield Difference(here[number].label, "", "partition table", f"{name} {first} / {second}")


def _between(one: Block, other: Block, mine: Table, theirs: Table, *, table_explained: bool) -> Iterator[Difference]:
    """Boot code, the bytes of both tables, and what no partition covers."""
    end = min(one.size, other.size)
    sector = mine.sector_size
    primary = (MBR, mine.first_usable_lba * sector)
    backup = ((mine.last_usable_lba + 1) * sector, (mine.backup.location_lba + 1) * sector)
    if text := _count(one, other, (0, BOOT_CODE)):
        yield Difference("", "", "content", f"boot code in the MBR: {text}")
    for name, area in (("MBR", (BOOT_CODE, MBR)), ("primary GPT", primary), ("backup GPT", backup)):
        if not table_explained and (text := _count(one, other, area)):
            yield Difference("", "", "partition table", f"{name}: {text}")
    taken = [(0, MBR), primary, backup]
    taken += [(p.start, p.start + p.size) for table in (mine, theirs) for p in table.partitions]
    for start, stop in gaps(taken, end):
        if text := _count(one, other, (start, stop)):
            yield Difference("", "", "content", f"between partitions, from byte {start:,}: {text}")


def _count(one: Block, other: Block, area: tuple[int, int]) -> str:
    start, end = area[0], min(area[1], one.size, other.size)
    if end <= start:
        return ""
    return count_differing(Part(one, start, end - start, one.name), Part(other, start, end - start, other.name))


def _containers(one: Image, other: Image) -> Iterator[Difference]:
    """The virtual disks are the same: are the files?"""
    if one.container != other.container:
        yield Difference("", "", "container", f"{one.container} / {other.container}")
        return
    with FileBlock(one.plain_path) as mine, FileBlock(other.plain_path) as theirs:
        if mine.size != theirs.size:
            sizes = f"{mine.size:,} / {theirs.size:,} bytes"
            yield Difference("", "", "container", f"same disk in {one.container} files of {sizes}")
        elif text := _count(mine, theirs, (0, mine.size)):
            yield Difference("", "", "container", f"same disk, but of the {one.container} file {text}")
        elif one.file_sha256() != other.file_sha256():
            yield Difference("", "", "container", "same file, compressed differently")


def _table(block: Block) -> Table | None:
    try:
        return read_table(block)
    except HarnessError:
        return None


def _window(block: Block, partition: Partition) -> Part:
    """A partition as far as the disk reaches."""
    whole = part_of(block, partition)
    return Part(block, whole.start, max(0, min(whole.size, block.size - whole.start)), whole.name)
