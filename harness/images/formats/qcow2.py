"""The virtual disk inside a qcow2 file, read in process (QEMU's docs/interop/qcow2.txt).

Versions 2 and 3, zlib and zstd clusters, zero clusters, extended L2 entries (32 subclusters), and a backing block
only where the caller hands one over: a name found in an image is never opened. Every offset is checked against the
file's length before it is followed; tables and unpacked clusters are remembered within a fixed budget.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Self

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.extents import Extent, extents_of
from harness.images.formats.disk import Disk, Fact
from harness.images.formats.qcow2_header import MAGIC, Qcow2Header, read_header
from harness.images.formats.raw import FileBlock
from harness.images.lru import Recent

__all__ = ["MAGIC", "Qcow2Block", "Qcow2Header"]

COMPRESSED = 1 << 62  # flag of a standard L2 entry; bit 63 (COPIED) says nothing about content
OFFSET_MASK = 0x00FF_FFFF_FFFF_FE00  # bits 9 to 55 of L1 and L2 entries
READS_AS_ZEROES = 1  # flag of a standard L2 entry, version 3, without extended L2
SUBCLUSTERS = 32
ALL_SUBCLUSTERS = 2**SUBCLUSTERS - 1
CACHE_BYTES = 16 * 2**20  # budget of L2 tables, and again of unpacked clusters
TABLES_CHECKED_ON_OPENING = 256  # those last in the file: a truncated file misses their clusters first

RunKind = Literal["data", "zero", "hole", "compressed"]


class Run(NamedTuple):
    """Bytes of the virtual disk that one rule applies to; `source` is a file offset, or a compressed L2 entry."""

    kind: RunKind
    offset: int
    length: int
    source: int


class Qcow2Block:
    """The virtual disk of a qcow2 file; closes the file when it is closed.

    Raises DamagedImage and UnsupportedImage as `read_header` does, and UnsupportedImage for a file that names a
    backing file unless `backing` is given.
    """

    def __init__(self, file: Path | Disk, *, backing: Block | None = None, name: str = "") -> None:
        self._file = FileBlock(file, name) if isinstance(file, Path) else file
        try:
            self.header = read_header(self._file)
            self._check_backing(backing)
            self.backing = backing if self.header.backing_file is not None else None
            self._size = self.header.virtual_size // 512 * 512  # QEMU counts whole sectors
            self._l1 = self._numbers(self.header.l1_offset, min(self.header.l1_needed, self.header.l1_size))
            self._tables: dict[int, int] = {}  # offset of each L2 table -> the first L1 index that uses it
            self._check_l1()
        except BaseException:
            self._file.close()
            raise
        budget = CACHE_BYTES // self.header.cluster_size
        self._l2: Recent[int, array[int]] = Recent(budget, self._read_l2)
        self._unpacked: Recent[int, bytes] = Recent(budget, self._unpack)

    @property
    def name(self) -> str:
        return self._file.name

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise DamagedImage(
                f"read of {length:,} bytes at {offset:,} lies beyond the end of the disk at {self._size:,}",
                where=self.name,
            )
        pieces = [self._content(run) for run in self._runs(offset, length)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def extents(self) -> Iterator[Extent]:
        """The whole disk in order; compressed clusters and what a backing block holds count as data."""
        pending: Extent | None = None
        for extent in self._plain_extents():
            if pending and pending.kind == extent.kind:
                pending = Extent(pending.offset, pending.length + extent.length, pending.kind)
            else:
                if pending:
                    yield pending
                pending = extent
        if pending:
            yield pending

    def runs(self) -> Iterator[Run]:
        """Where in the file the disk's clusters lie."""
        return self._runs(0, self._size)

    def facts(self) -> Mapping[str, Fact]:
        """The header's properties that a release fixes."""
        header = self.header
        return {
            "version": header.version,
            "cluster_size": header.cluster_size,
            "refcount_bits": 1 << header.refcount_order,
            "header_length": header.header_length,
            "compression_type": header.compression_type,
            "backing_file": header.backing_file,
            "incompatible_features": header.incompatible_features,
            "snapshots": header.snapshots,
        }

    def has_compressed_clusters(self) -> bool:
        """Whether any cluster of the disk is compressed; reads L2 tables only, and stops at the first hit."""
        stride = 2 if self.header.has_extended_l2 else 1
        return any(any(entry & COMPRESSED for entry in self._l2[index][::stride]) for index in self._tables.values())

    def check_length(self) -> None:
        """Raise DamagedImage if clusters lie beyond the end of the file, looking at the L2 tables last in the file.

        Cheap enough for every opening; `read` and `extents` notice the rest when they meet it.
        """
        stride = 2 if self.header.has_extended_l2 else 1
        for table in sorted(self._tables)[-TABLES_CHECKED_ON_OPENING:]:
            furthest = self._furthest(self._l2[self._tables[table]][::stride])
            if furthest >= self._file.size:
                raise self._beyond_end("cluster", furthest, self.header.cluster_size)

    def _furthest(self, table: array[int]) -> int:
        """The highest file offset an L2 table names, as far as that can be told quickly.

        Bit 63 marks the entries that no snapshot shares; where there is one, the largest number is the furthest of
        them. A table without any is looked at entry by entry.
        """
        largest = max(table)
        if largest >> 63:
            return largest & OFFSET_MASK
        compressed = (1 << 62 - (self.header.cluster_bits - 8)) - 1
        return max(entry & (compressed if entry & COMPRESSED else OFFSET_MASK) for entry in table)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- believing the file -------------------------------------------------------------------------------------

    def _check_backing(self, backing: Block | None) -> None:
        if self.header.backing_file is not None and backing is None:
            raise UnsupportedImage(
                f"needs its backing file {self.header.backing_file!r}, which we do not open on an image's word",
                where=self.name,
                next_step="flatten it with qemu-img convert, or name the base",
            )

    def _check_l1(self) -> None:
        cluster_size = self.header.cluster_size
        for index, entry in enumerate(self._l1):
            table = entry & OFFSET_MASK
            if table % cluster_size:
                raise DamagedImage(f"L1 entry {index}: L2 table at {table:#x} is not aligned", where=self.name)
            if table and table not in self._tables:
                if table + cluster_size > self._file.size:
                    raise self._beyond_end(f"L1 entry {index}: L2 table", table, cluster_size)
                self._tables[table] = index

    def _beyond_end(self, what: str, offset: int, length: int) -> DamagedImage:
        return DamagedImage(
            f"{what} at {offset:#x} (+{length:,} bytes) lies beyond the end of the file at {self._file.size:,}",
            where=self.name,
            next_step="truncated download? get it again and compare its checksum",
        )

    def _numbers(self, offset: int, count: int) -> array[int]:
        numbers = array("Q", self._file.read(offset, count * 8) if count else b"")
        if sys.byteorder == "little":
            numbers.byteswap()
        return numbers

    def _read_l2(self, index: int) -> array[int]:
        return self._numbers(self._l1[index] & OFFSET_MASK, self.header.cluster_size // 8)

    # -- from disk to file --------------------------------------------------------------------------------------

    def _runs(self, offset: int, length: int) -> Iterator[Run]:
        """Neighbouring clusters that continue each other in the file come as one run."""
        end = offset + length
        pending: Run | None = None
        for run in self._clusters(offset, end):
            if pending is None:
                pending = run
            elif pending.kind == run.kind and (
                run.kind in {"zero", "hole"} or (run.kind == "data" and pending.source + pending.length == run.source)
            ):
                pending = Run(pending.kind, pending.offset, pending.length + run.length, pending.source)
            else:
                yield pending
                pending = run
        if pending:
            yield pending

    def _clusters(self, position: int, end: int) -> Iterator[Run]:
        cluster_size, per_table = self.header.cluster_size, self.header.l2_entries
        coverage = cluster_size * per_table
        resolve = self._subclusters if self.header.has_extended_l2 else self._cluster
        while position < end:
            index = position // coverage
            stop = min(end, (index + 1) * coverage)
            if not self._l1[index] & OFFSET_MASK:
                yield Run("hole", position, stop - position, 0)
                position = stop
                continue
            table = self._l2[index]
            while position < stop:
                upto = min(stop, position - position % cluster_size + cluster_size)
                yield from resolve(table, position, upto)
                position = upto

    def _cluster(self, table: array[int], position: int, upto: int) -> Iterator[Run]:
        """The bytes of one cluster from `position` to `upto`, by a standard L2 entry."""
        cluster_size = self.header.cluster_size
        entry = table[position // cluster_size % len(table)]
        if entry & COMPRESSED:
            yield Run("compressed", position, upto - position, entry)
        elif entry & READS_AS_ZEROES:
            if self.header.version == 2:  # the bit is reserved there
                raise DamagedImage(f"zero cluster at {position:,} in a version 2 file", where=self.name)
            yield Run("zero", position, upto - position, 0)
        elif entry & OFFSET_MASK:
            yield Run("data", position, upto - position, self._host(entry, position) + position % cluster_size)
        else:
            yield Run("hole", position, upto - position, 0)

    def _subclusters(self, table: array[int], position: int, upto: int) -> Iterator[Run]:
        """The bytes of one cluster from `position` to `upto`, by an extended L2 entry."""
        cluster_size = self.header.cluster_size
        slot = position // cluster_size % (len(table) // 2) * 2
        entry, bitmap = table[slot], table[slot + 1]
        if entry & COMPRESSED:
            yield Run("compressed", position, upto - position, entry)
            return
        allocated, zero = bitmap & ALL_SUBCLUSTERS, bitmap >> SUBCLUSTERS
        if allocated & zero:
            raise DamagedImage(f"subclusters at {position:,} are both allocated and zero", where=self.name)
        host = self._host(entry, position) if allocated else 0
        size = cluster_size // SUBCLUSTERS
        while position < upto:
            within = position % cluster_size
            next_one = min(upto, position - position % size + size)
            bit = 1 << (within // size)
            kind: RunKind = "data" if allocated & bit else "zero" if zero & bit else "hole"
            yield Run(kind, position, next_one - position, host + within if kind == "data" else 0)
            position = next_one

    def _host(self, entry: int, position: int) -> int:
        host = entry & OFFSET_MASK
        if not host or host % self.header.cluster_size:
            raise DamagedImage(f"cluster of {position:,} is said to be at {host:#x}, unaligned", where=self.name)
        return host

    # -- content ------------------------------------------------------------------------------------------------

    def _content(self, run: Run) -> bytes:
        if run.kind == "data":
            if run.source + run.length > self._file.size:
                raise self._beyond_end(f"data of {run.offset:,}", run.source, run.length)
            return self._file.read(run.source, run.length)
        if run.kind == "compressed":
            within = run.offset % self.header.cluster_size
            return self._unpacked[run.source][within : within + run.length]
        if run.kind == "hole" and self.backing is not None:
            known = max(0, min(run.length, self.backing.size - run.offset))
            return (self.backing.read(run.offset, known) if known else b"") + bytes(run.length - known)
        return bytes(run.length)

    def _unpack(self, entry: int) -> bytes:
        """One cluster from a compressed descriptor: offset below bit 62-(cluster_bits-8), then 512-byte sectors."""
        shift = 62 - (self.header.cluster_bits - 8)
        offset = entry & ((1 << shift) - 1)
        sectors = (entry >> shift & ((1 << (62 - shift)) - 1)) + 1
        if offset >= self._file.size:
            raise self._beyond_end("compressed cluster", offset, sectors * 512)
        length = min(sectors * 512 - offset % 512, self._file.size - offset)
        packed = self._file.read(offset, length)
        cluster = _decompressor(self.header.compression_type)(packed, self.header.cluster_size)
        if len(cluster) != self.header.cluster_size:
            raise DamagedImage(
                f"compressed cluster at {offset:#x} does not unpack ({self.header.compression_type})",
                where=self.name,
                next_step="get the image again and compare its checksum",
            )
        return cluster

    def _plain_extents(self) -> Iterator[Extent]:
        for kind, offset, length, _ in self._runs(0, self._size):
            if kind == "hole" and self.backing is not None:
                yield from _window(self.backing, offset, length)
            else:
                yield Extent(offset, length, "data" if kind == "compressed" else kind)


def _window(backing: Block, offset: int, length: int) -> Iterator[Extent]:
    """What a backing block holds of a range, and zeroes where it ends before the range does."""
    end = min(offset + length, backing.size)
    for start, size, kind in extents_of(backing):
        if start >= end:
            break
        first, last = max(start, offset), min(start + size, end)
        if first < last:
            yield Extent(first, last - first, kind)
    if offset + length > max(end, offset):
        first = max(end, offset)
        yield Extent(first, offset + length - first, "zero")


def _decompressor(kind: Literal["zlib", "zstd"]) -> Callable[[bytes, int], bytes]:
    return _inflate if kind == "zlib" else _unzstd


def _inflate(packed: bytes, size: int) -> bytes:
    """Raw deflate; what follows the stream up to the end of its last sector is another cluster's."""
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size)
    except zlib.error:
        return b""


def _unzstd(packed: bytes, size: int) -> bytes:
    from backports import zstd  # noqa: PLC0415 - only images that wear it pay for it

    try:
        return zstd.ZstdDecompressor().decompress(packed, size)
    except zstd.ZstdError:
        return b""
