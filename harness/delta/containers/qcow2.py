"""qcow2: the guest's clusters in the guest's order, with the file's tables predicted (QEMU's docs/interop/qcow2.txt).

Plain, zlib and zstd clusters in any mix. Snapshots, bitmaps and whatever else no L2 table of the disk names is kept
as it is; images with subclusters, a backing file or an external data file are not taken apart.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from itertools import islice

from harness.delta.containers.codecs import cluster_codecs
from harness.delta.containers.content import Content
from harness.delta.containers.dialects import SECTOR
from harness.delta.containers.layout import MOST_UNITS
from harness.delta.containers.plan import Mapped
from harness.delta.containers.rows import table_runs
from harness.delta.containers.survey import MOST_FOUND, Found, Survey, surveyed
from harness.images.block import Block
from harness.images.extents import Extent, extents_of
from harness.images.formats.disk import Fact
from harness.images.formats.mapping import numbers
from harness.images.formats.qcow2 import COMPRESSED, OFFSET_MASK, Qcow2Block
from harness.images.formats.qcow2_header import EXTERNAL_DATA, MAGIC, Qcow2Header

ORDINARY_COUNTS = 4  # refcount_order of all that qemu-img writes: 16 bits
MOST_COUNT_TABLE = 2**23  # bytes of refcount table looked at


def recognises(head: bytes) -> bool:
    """Whether a file that begins like this is a qcow2."""
    return head.startswith(MAGIC)


def dissect(file: Block) -> tuple[Mapped, Content] | None:
    """The plan and content of a qcow2 file. Raises DamagedImage and UnsupportedImage as its reader does."""
    disk = Qcow2Block(_Kept(file))
    header = disk.header
    if (
        header.has_extended_l2
        or header.incompatible_features & EXTERNAL_DATA
        or not 0 < disk.size <= MOST_UNITS * header.cluster_size
    ):
        return None
    l1 = _table(file, header.l1_offset, min(header.l1_size, header.l1_needed))
    places = [(index, entry & OFFSET_MASK) for index, entry in enumerate(l1) if entry & OFFSET_MASK]
    if len({offset for _, offset in places}) != len(places):
        return None  # one table for several parts of the disk: no disk is so by itself
    found = sorted(islice(_found(disk, file), MOST_FOUND + 1), key=lambda each: each.offset)
    if len(found) > MOST_FOUND:
        return None
    return surveyed(
        Survey(
            file=file,
            disk=disk,
            entries="qcow2",
            unit=header.cluster_size,
            last=header.cluster_size,
            per_table=header.l2_entries,
            candidates=cluster_codecs(header.compression_type),
            found=found,
            exact=False,
            tables=table_runs(places),
            counts=table_runs(list(_count_blocks(file, header))),
        )
    )


def _found(disk: Qcow2Block, file: Block) -> Iterator[Found]:
    size = disk.header.cluster_size
    shift = 62 - (disk.header.cluster_bits - 8)
    for kind, offset, length, source in disk.runs():
        if kind == "compressed":
            start = source & ((1 << shift) - 1)
            sectors = ((source & ~COMPRESSED & (1 << 62) - 1) >> shift) + 1
            room = min(sectors * SECTOR - start % SECTOR, file.size - start)
            yield Found(offset // size, start, max(0, room), packed=True)
        elif kind == "data":
            for at in range(0, length, size):
                yield Found((offset + at) // size, source + at, size, packed=False)


def _count_blocks(file: Block, header: Qcow2Header) -> Iterator[tuple[int, int]]:
    length = header.refcount_table_clusters * header.cluster_size
    offset = header.refcount_table_offset
    if header.refcount_order != ORDINARY_COUNTS or length > MOST_COUNT_TABLE or offset + length > file.size:
        return
    for index, entry in enumerate(_table(file, offset, length // 8)):
        block = entry & ~(SECTOR - 1)
        if block and block < file.size:
            yield index, block


def _table(file: Block, offset: int, count: int) -> array[int]:
    return numbers(file.read(offset, count * 8), "Q", "big")


class _Kept:
    """A file that is not closed by the disk that reads it: whoever opened it does that."""

    def __init__(self, file: Block) -> None:
        self.name, self.size = file.name, file.size
        self._file = file

    def read(self, offset: int, length: int) -> bytes:
        return self._file.read(offset, length)

    def extents(self) -> Iterator[Extent]:
        return extents_of(self._file)

    def facts(self) -> Mapping[str, Fact]:
        return {}

    def close(self) -> None:
        """Nothing."""
