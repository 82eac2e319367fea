"""VMDK in one file, streamOptimized or monolithicSparse: grains in the disk's order, tables and markers predicted.

Format from VMware's "Virtual Disk Format 5.0". The descriptor, with its CID and the name the file once had, and the
header are part of the plan as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import islice

from harness.delta.containers.codecs import grain_codecs
from harness.delta.containers.content import Content
from harness.delta.containers.dialects import SECTOR
from harness.delta.containers.layout import MOST_UNITS
from harness.delta.containers.mapped import LONGEST_SERIES, MARKER
from harness.delta.containers.plan import Mapped, Series
from harness.delta.containers.rows import table_runs
from harness.delta.containers.survey import MOST_FOUND, Found, Survey, surveyed
from harness.errors import DamagedImage
from harness.images.block import Block, Part
from harness.images.formats.mapping import numbers
from harness.images.formats.vmdk import ZEROED, VmdkBlock
from harness.images.formats.vmdk_header import MAGIC, ZERO_GRAINS, VmdkHeader

REDUNDANT_AT = 48  # of the header: sector of the other grain directory
FEWEST_IN_SERIES = 4


def recognises(head: bytes) -> bool:
    """Whether a file that begins like this is a VMDK with its disk inside."""
    return head.startswith(MAGIC)


def dissect(file: Block) -> tuple[Mapped, Content] | None:
    """The plan and content of a VMDK. Raises DamagedImage and UnsupportedImage as its reader does."""
    disk = VmdkBlock(Part(file, 0, file.size, file.name))
    header = disk.header
    if not 0 < disk.size <= MOST_UNITS * header.grain_size:
        return None
    redundant = int.from_bytes(file.read(REDUNDANT_AT, 8), "little") * SECTOR
    starts = [at for at in (redundant, header.directory_offset) if at and at + header.tables * 4 <= file.size]
    directories = [(at, list(numbers(file.read(at, header.tables * 4), "I", "little"))) for at in starts]
    found = sorted(islice(_found(file, header, directories[-1][1]), MOST_FOUND + 1), key=lambda each: each.offset)
    if len(found) > MOST_FOUND:
        return None
    places = [
        place
        for _, tables in directories
        for place in enumerate(table * SECTOR for table in tables)
        if place[1] and place[1] + header.table_entries * 4 <= file.size
    ]
    return surveyed(
        Survey(
            file=file,
            disk=disk,
            entries="vmdk",
            unit=header.grain_size,
            last=_last(file, header, found),
            per_table=header.table_entries,
            candidates=grain_codecs() if header.is_compressed else [],
            found=found,
            tables=table_runs(list(dict.fromkeys(places))),
            series=[each for at, tables in directories for each in _series(at, tables)],
        )
    )


def _found(file: Block, header: VmdkHeader, directory: list[int]) -> Iterator[Found]:
    for index, table in enumerate(directory):
        if not table:
            continue
        entries = numbers(file.read(table * SECTOR, header.table_entries * 4), "I", "little")
        for slot, entry in enumerate(entries):
            grain = index * header.table_entries + slot
            if (
                not entry
                or (entry == ZEROED and header.flags & ZERO_GRAINS)
                or grain * header.grain_size >= header.capacity
            ):
                continue
            offset, room = entry * SECTOR, header.grain_size
            if header.is_compressed:
                _, room = MARKER.unpack(file.read(offset, MARKER.size))
                offset += MARKER.size
                if not 0 < room <= 2 * header.grain_size:
                    raise DamagedImage(f"grain at {offset:#x} is said to be {room:,} bytes long", where=file.name)
            yield Found(grain, offset, room, packed=header.is_compressed)


def _last(file: Block, header: VmdkHeader, found: list[Found]) -> int:
    """Bytes that the disk's last grain unpacks to: QEMU packs what the disk has of it, others a whole grain."""
    size = header.grain_size
    for each in found:
        if each.packed and (each.guest + 1) * size > header.capacity:
            try:
                content = zlib.decompressobj().decompress(file.read(each.offset, each.room), size + 1)
            except zlib.error:
                return size
            return len(content) if header.capacity - each.guest * size <= len(content) <= size else size
    return size


def _series(at: int, tables: list[int]) -> Iterator[Series]:
    """A grain directory that counts up evenly, as that of a fresh file does."""
    if FEWEST_IN_SERIES <= len(tables) <= LONGEST_SERIES:
        step = tables[1] - tables[0]
        if step > 0 and tables == list(range(tables[0], tables[0] + step * len(tables), step)):
            yield Series(at, len(tables), tables[0], step)
