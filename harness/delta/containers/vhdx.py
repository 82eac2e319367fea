"""VHDX: the disk's blocks, their table and what QEMU left in the log predicted (Microsoft's [MS-VHDX]).

Headers with their identifiers, region tables and metadata are patches. A disk with a parent or a log to replay is not
taken apart.
"""

from __future__ import annotations

from array import array
from itertools import islice

from harness.delta.containers import vhdx_log
from harness.delta.containers.content import Content
from harness.delta.containers.layout import MOST_UNITS
from harness.delta.containers.plan import Mapped, Tables
from harness.delta.containers.survey import MOST_FOUND, Survey, stored_units, surveyed
from harness.images.block import Block
from harness.images.formats.mapping import numbers
from harness.images.formats.vhdx import PLACES, SECTORS_OF_CHUNK, VhdxBlock
from harness.images.formats.vhdx_header import BAT, MAGIC, VhdxHeader, read_regions


def recognises(head: bytes) -> bool:
    """Whether a file that begins like this is a VHDX."""
    return head.startswith(MAGIC)


def dissect(file: Block) -> tuple[Mapped, Content] | None:
    """The plan and content of a VHDX. Raises DamagedImage and UnsupportedImage as its reader does."""
    disk = VhdxBlock(file)
    unit = disk.metadata.block_size
    if not 0 < disk.size <= MOST_UNITS * unit:
        return None
    found = sorted(islice(stored_units(disk.runs(), unit), MOST_FOUND + 1), key=lambda each: each.offset)
    if len(found) > MOST_FOUND:
        return None
    blocks = -(-disk.size // unit)
    chunk = SECTORS_OF_CHUNK * disk.metadata.logical_sector_size // unit  # blocks; after them comes a bitmap's entry
    start = read_regions(file, file.name)[BAT].offset
    return surveyed(
        Survey(
            file=file,
            disk=disk,
            entries="vhdx",
            unit=unit,
            last=unit,
            per_table=min(chunk, blocks),
            found=found,
            tables=[Tables(0, -(-blocks // chunk), start, (chunk + 1) * 8)],
            absent=_absent(numbers(file.read(start, (blocks + (blocks - 1) // chunk) * 8), "Q", "little")),
            log=_log(file, disk.header),
        )
    )


def _absent(table: array[int]) -> int:
    """What the table says of most blocks that are not there."""
    return max(PLACES, key=table.count)


def _log(file: Block, header: VhdxHeader) -> tuple[int, int]:
    """Offset and length of the log, if it holds entries that can be predicted."""
    offset, length = header.log_offset, header.log_length
    if not 0 < length <= vhdx_log.LARGEST or length % vhdx_log.ENTRY or offset + length > file.size:
        return 0, 0
    return (offset, length) if file.read(offset, 4) == vhdx_log.SIGNATURE else (0, 0)
