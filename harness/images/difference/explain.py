"""Where and why two disk images differ: container, partition table, partitions, packages, and what is left."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from harness.errors import HarnessError
from harness.images.block import Block, Part
from harness.images.difference.causes import Difference
from harness.images.difference.containers import explain_headers, explain_storage
from harness.images.difference.differing import Changes, differing
from harness.images.difference.filesystem import explain_filesystem
from harness.images.difference.packages import Installed, compare_packages
from harness.images.difference.table import TableComparison
from harness.images.difference.wrappings import explain_wrapping
from harness.images.formats.raw import FileBlock
from harness.images.partitions.layout import Layout, LayoutPartition, part_of, read_layout
from harness.images.source import Image

MOST = 200  # differences that anybody reads
MOST_FOUND = 100_000  # that are kept to be counted: two strangers differ in every file


def explain_difference(one: Image, other: Image, most: int = MOST) -> tuple[Difference, ...]:
    """The differences of two opened images, at most `most`; empty only for the same bytes.

    In the order of what explains what: container, partition table, each partition's filesystem and files, packages,
    then bytes that nothing explains. Partitions are matched by number; the same bytes cost one pass over them and no
    more. `first` and `second` in a detail, and what stands left and right of a slash, are `one` and `other`.
    """
    if _is_same_file(one, other):
        return tuple(islice(explain_wrapping(one, other, same_inside=True), most))
    headers = list(explain_headers(one, other))
    inside = list(islice(_disks(one.block, other.block), MOST_FOUND))
    storage = [] if inside else list(explain_storage(one, other, headers))
    wrapping = list(explain_wrapping(one, other, same_inside=False)) if one.compression == other.compression else []
    known = [found for found in inside if found.area != "bytes"]
    unknown = [found for found in inside if found.area == "bytes"]
    return tuple([*headers, *storage, *wrapping, *known, *unknown][:most])


def _is_same_file(one: Image, other: Image) -> bool:
    """Whether the uncompressed files are the same, byte by byte."""
    if one.container != other.container or one.compression != other.compression:
        return False
    with FileBlock(one.plain_path) as mine, FileBlock(other.plain_path) as theirs:
        parts = [Part(file, 0, file.size, file.name) for file in (mine, theirs)]
        return mine.size == theirs.size and next(differing(*parts), None) is None


def _disks(one: Block, other: Block) -> Iterator[Difference]:
    changes = Changes(Part(one, 0, one.size, one.name), Part(other, 0, other.size, other.name))
    if not changes and one.size == other.size:
        return
    layouts = _layout(one), _layout(other)
    mine, theirs = layouts
    if mine and theirs and mine.table and theirs.table:
        yield from _partitioned(changes, mine, theirs)
    elif (mine.label if mine else "") != (theirs.label if theirs else ""):
        kinds = (layout.label if layout else "nothing that can be read" for layout in layouts)
        yield Difference("partition table", "", "", "partition table", " / ".join(kinds))
    elif changes:
        packages = compare_packages(mine, theirs) if mine and theirs else Installed()
        yield from explain_filesystem(changes, "", packages.explained)
        yield from packages.differences


def _partitioned(changes: Changes, mine: Layout, theirs: Layout) -> Iterator[Difference]:
    tables = TableComparison(mine, theirs)
    yield from tables.differences()
    numbered = {partition.number: partition for partition in theirs.partitions}
    packages: Installed | None = None
    for partition in mine.partitions:
        match = numbered.get(partition.number)
        within = _within(changes, partition, match) if match else None
        if not within:
            continue
        if packages is None:
            packages = compare_packages(mine, theirs)
        known = packages.explained if packages.partition == partition.number else frozenset()
        yield from explain_filesystem(within, partition.label or str(partition.number), known)
    yield from packages.differences if packages else ()
    yield from tables.between(changes)


def _within(changes: Changes, mine: LayoutPartition, theirs: LayoutPartition) -> Changes:
    """What differs in a partition, wherever it lies; read again only where it lies elsewhere."""
    windows = _window(changes.one.whole, mine), _window(changes.other.whole, theirs)
    if mine.start == theirs.start and (part := changes.window(*windows)) is not None:
        return part
    return Changes(*windows)


def _window(block: Block, partition: LayoutPartition) -> Part:
    """A partition as far as the disk reaches."""
    whole = part_of(block, partition)
    return Part(block, whole.start, max(0, min(whole.size, block.size - whole.start)), whole.name)


def _layout(block: Block) -> Layout | None:
    try:
        return read_layout(block)
    except HarnessError:
        return None
