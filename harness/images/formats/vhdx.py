"""The virtual disk inside a VHDX, fixed or dynamic (Microsoft's [MS-VHDX]).

One table has an entry for each block; after every chunk of them comes one for a bitmap, which only a disk with a
parent uses. A chunk is what we read at a time.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

from harness.errors import DamagedImage
from harness.images.block import Block
from harness.images.formats.disk import Fact, Opening
from harness.images.formats.mapping import HOLE, ZERO, Area, MappedDisk, PlaceKind, numbers, open_file
from harness.images.formats.vhdx_header import (
    BAT,
    MAGIC,
    METADATA,
    MIB,
    read_creator,
    read_header,
    read_metadata,
    read_regions,
)

SECTORS_OF_CHUNK = 2**23  # of the disk, for which one bitmap block has the bits
STATE = 7  # mask; bits 20 and up are the offset in MiB
PRESENT = 6
PLACES: Mapping[int, tuple[PlaceKind, int]] = {
    0: HOLE,  # never written
    1: HOLE,  # undefined: QEMU and Hyper-V read zeroes
    2: ZERO,
    3: HOLE,  # unmapped
    5: HOLE,  # unmapped, as drafts of the format had it and QEMU still reads it
}


class VhdxBlock(MappedDisk):
    """The virtual disk of a VHDX file, or of a window on one; closes the file when it is closed.

    Raises UnsupportedImage for a disk with a parent or a log to replay, DamagedImage for what contradicts its
    checksum, the format or the file's length.
    """

    def __init__(self, file: Block, name: str = "") -> None:
        name = name or file.name
        self.header = read_header(file, name)
        regions = read_regions(file, name)
        self.metadata = found = read_metadata(file, regions[METADATA], name)
        self.creator = read_creator(file)
        self._bat = regions[BAT]
        areas = [Area("headers", 0, MIB), Area("log", self.header.log_offset, self.header.log_length)]
        areas += [Area("regions", region.offset, region.length) for region in regions.values()]
        chunk = SECTORS_OF_CHUNK * found.logical_sector_size // found.block_size  # blocks
        super().__init__(file, name, size=found.disk_size, step=found.block_size, per_table=chunk, areas=areas)
        blocks = -(-found.disk_size // found.block_size)
        needed = (blocks + max(0, blocks - 1) // chunk) * 8
        if needed > self._bat.length:
            raise DamagedImage(
                f"VHDX block allocation table of {self._bat.length:,} bytes is too small for {found.disk_size:,} bytes "
                f"(needs {needed:,})",
                where=name,
            )
        self._check_length(_furthest)

    def facts(self) -> Mapping[str, Fact]:
        """What headers and metadata say, in the format's words; sizes in bytes."""
        found = self.metadata
        return {
            "subformat": "fixed" if found.leaves_blocks_allocated else "dynamic",
            "creator": self.creator,
            "version": self.header.version,
            "block_size": found.block_size,
            "logical_sector_size": found.logical_sector_size,
            "physical_sector_size": found.physical_sector_size,
            "virtual_disk_id": str(found.disk_id),
            "file_write_guid": str(self.header.file_write_guid),
            "data_write_guid": str(self.header.data_write_guid),
            "log_length": self.header.log_length,
        }

    def _read_table(self, index: int) -> array[int] | None:
        first = index * self._per_table
        count = min(self._per_table, -(-self._size // self._step) - first)
        table = numbers(self._file.read(self._bat.offset + (first + index) * 8, count * 8), "Q", "little")
        return table if any(table) else None

    def _place(self, entry: int) -> tuple[PlaceKind, int]:
        state = entry & STATE
        if state == PRESENT:
            return "data", (entry >> 20) * MIB
        if state not in PLACES:
            raise DamagedImage(f"a VHDX block is in state {state} on a disk without a parent", where=self.name)
        return PLACES[state]


def _furthest(table: array[int]) -> int:
    """Where the last block of a table begins, as far as that can be told quickly: the largest entry, if present."""
    largest = max(table)
    if largest & STATE != PRESENT:
        largest = max((entry for entry in table if entry & STATE == PRESENT), default=0)
    return (largest >> 20) * MIB


def recognises(head: bytes, _file: Block | None) -> bool:
    """Whether a file that begins like this is a VHDX."""
    return head.startswith(MAGIC)


def open_disk(opening: Opening) -> VhdxBlock:
    """Open a VHDX file; raises as `VhdxBlock` does."""
    return open_file(opening, VhdxBlock)
