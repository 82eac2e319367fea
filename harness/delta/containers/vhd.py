"""VHD: a fixed one is the raw disk and a footer behind it, a dynamic one has blocks, each behind a bitmap of ones.

Format from Microsoft's "Virtual Hard Disk Image Format Specification" 1.0. Footers and header are patches; so is a
bitmap that is not all ones, as other programs than QEMU write it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from harness.delta.containers.content import Content
from harness.delta.containers.dialects import SECTOR
from harness.delta.containers.layout import MOST_UNITS
from harness.delta.containers.plan import Mapped, Splice, Tables
from harness.delta.containers.splice import spliced
from harness.delta.containers.survey import MOST_FOUND, Survey, stored_units, surveyed
from harness.images.block import Block, Part
from harness.images.extents import Extent, SparseBlock, extents_of
from harness.images.formats.vhd import UNUSED, VhdBlock
from harness.images.formats.vhd_header import COOKIE, FIXED, FOOTER_SIZE, read_dynamic_header, read_footer

ENTRIES_OF_SECTOR = 128  # the table is filled up to whole sectors


def recognises(file: Block) -> bool:
    """Whether a file ends with a footer; one that also begins with it is dynamic."""
    return file.size > FOOTER_SIZE and file.read(file.size - FOOTER_SIZE, len(COOKIE)) == COOKIE


def dissect(file: Block) -> tuple[Splice, SparseBlock] | tuple[Mapped, Content] | None:
    """The plan and the disk. Raises DamagedImage and UnsupportedImage as its reader does."""
    footer = read_footer(file, file.name)
    if footer.disk_type == FIXED:
        size = file.size - FOOTER_SIZE
        plan = spliced(file, [(0, 0, size)])
        return (plan, Beginning(file, size)) if plan else None
    header = read_dynamic_header(file, footer, file.name)
    unit = header.block_size
    if not 0 < footer.size <= MOST_UNITS * unit:
        return None
    disk = VhdBlock(file)
    found = sorted(islice(stored_units(disk.runs(), unit), MOST_FOUND + 1), key=lambda each: each.offset)
    if len(found) > MOST_FOUND:
        return None
    blocks = -(-footer.size // unit)
    return surveyed(
        Survey(
            file=file,
            disk=disk,
            entries="vhd",
            unit=unit,
            last=unit,
            per_table=ENTRIES_OF_SECTOR,
            found=found,
            tables=[Tables(0, -(-blocks // ENTRIES_OF_SECTOR), header.table_offset, SECTOR)],
            absent=UNUSED,
        )
    )


class Beginning:
    """The first bytes of a block, with its holes."""

    def __init__(self, whole: Block, size: int) -> None:
        self.name, self.size = whole.name, size
        self._whole = whole
        self._part = Part(whole, 0, size, whole.name)

    def read(self, offset: int, length: int) -> bytes:
        return self._part.read(offset, length)

    def extents(self) -> Iterator[Extent]:
        for offset, length, kind in extents_of(self._whole):
            if offset < self.size:
                yield Extent(offset, min(length, self.size - offset), kind)
