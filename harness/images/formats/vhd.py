"""The virtual disk inside a VHD, fixed or dynamic (Microsoft's "Virtual Hard Disk Image Format Specification" 1.0).

A fixed VHD is the raw disk with a footer behind it. A dynamic one has a table of blocks; as QEMU does, we read an
allocated block whole and leave the bitmap of its sectors alone, which only means something on a parent.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from harness.images.block import Block
from harness.images.formats.disk import Fact, Opening
from harness.images.formats.mapping import HOLE, Area, MappedDisk, PlaceKind, numbers, open_file
from harness.images.formats.vhd_header import (
    COOKIE,
    DYNAMIC_HEADER_SIZE,
    FIXED,
    FOOTER_SIZE,
    SECTOR,
    DynamicHeader,
    read_dynamic_header,
    read_footer,
)

UNUSED = 0xFFFF_FFFF  # a table entry without a block
ENTRIES_READ = 4096  # of the block table, at a time


class VhdBlock(MappedDisk):
    """The virtual disk of a VHD file, or of a window on one; closes the file when it is closed.

    Raises UnsupportedImage for a differencing disk, DamagedImage for what contradicts its checksum, the format or
    the file's length.
    """

    def __init__(self, file: Block, name: str = "") -> None:
        name = name or file.name
        self.footer = footer = read_footer(file, name)
        self.dynamic: DynamicHeader | None = None
        areas = [Area("footer", file.size - FOOTER_SIZE, FOOTER_SIZE)]
        if footer.disk_type != FIXED:
            self.dynamic = header = read_dynamic_header(file, footer, name)
            areas += [
                Area("footer copy", 0, FOOTER_SIZE),
                Area("header", footer.data_offset, DYNAMIC_HEADER_SIZE),
                Area("block table", header.table_offset, -(-footer.size // header.block_size) * 4),
            ]
        step = self.dynamic.block_size if self.dynamic else max(1, footer.size)
        super().__init__(file, name, size=footer.size, step=step, per_table=ENTRIES_READ, areas=areas)
        if self.dynamic is None and footer.size > file.size - FOOTER_SIZE:
            raise self._beyond_end("the disk before the footer", 0, footer.size)

    def facts(self) -> Mapping[str, Fact]:
        """What the footer says, in the format's words; sizes in bytes."""
        footer = self.footer
        return {
            "disk_type": footer.kind,
            "block_size": self.dynamic.block_size if self.dynamic else None,
            "creator_application": _text(footer.creator_application),
            "creator_version": f"{footer.creator_version >> 16}.{footer.creator_version & 0xFFFF}",
            "creator_host_os": _text(footer.creator_host_os),
            "original_size": footer.original_size,
            "current_size": footer.current_size,
            "geometry": f"{footer.cylinders}/{footer.heads}/{footer.sectors}",
            "sized_by": "geometry" if footer.is_sized_by_geometry else "current_size",
            "unique_id": str(footer.unique_id),
            "timestamp": footer.written.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "saved_state": footer.has_saved_state,
        }

    def _read_table(self, index: int) -> array[int] | None:
        if self.dynamic is None:
            return array("I", [0])
        first = index * ENTRIES_READ
        count = min(ENTRIES_READ, -(-self._size // self.dynamic.block_size) - first)
        table = numbers(self._file.read(self.dynamic.table_offset + first * 4, count * 4), "I", "big")
        return None if table.count(UNUSED) == count else table

    def _place(self, entry: int) -> tuple[PlaceKind, int]:
        if self.dynamic is None:
            return "data", 0
        return HOLE if entry == UNUSED else ("data", entry * SECTOR + self.dynamic.bitmap_size)


def _text(field: bytes) -> str:
    return field.decode("latin-1").rstrip("\0 ")


def recognises(head: bytes, file: Block | None) -> bool:
    """Whether this is a VHD: a dynamic one by its first bytes, a fixed one only by the last of the whole file."""
    if head.startswith(COOKIE):
        return True
    return file is not None and file.size > FOOTER_SIZE and file.read(file.size - FOOTER_SIZE, len(COOKIE)) == COOKIE


def open_disk(opening: Opening) -> VhdBlock:
    """Open a VHD file; raises as `VhdBlock` does."""
    return open_file(opening, VhdBlock)
