"""How EROFS packs a file (Linux fs/erofs/zmap.c and zdata.c): logical clusters, and the extents that they delimit.

An index has one record for each logical cluster (usually a block): HEAD or PLAIN says at which byte of the cluster a
new extent begins and in which block its packed bytes lie, NONHEAD that the extent before goes on. The full index has
8 bytes a record; the compact one packs 2 or 16 records together and names a block once for all of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.erofs_inode import FULL, RawInode
from harness.images.filesystems.inodes import Remembering
from harness.images.filesystems.packed import unpack

PLAIN, HEAD, NONHEAD, HEAD_2 = range(4)
TWO_BYTES, BIG, BIG_2, INLINE_TAIL, INTERLACED, FRAGMENT = 0x1, 0x2, 0x4, 0x8, 0x10, 0x20  # advice
KNOWN_ADVICE = 0x3F
WHOLE_FRAGMENT = 0x80  # of the byte of cluster bits
COUNT = 0x800  # of a NONHEAD's distance: it is the packed blocks of its extent instead
PARTIAL = 0x8000  # the packed bytes hold more than this extent
CODECS = {0: "lz4", 1: "microlzma", 2: "deflate", 3: "zstd"}
MOST_UNPACKED = 12 * 2**20  # bytes of one extent; Linux's Z_EROFS_PCLUSTER_MAX_DSIZE
MOST_PACKED = 2**20  # Z_EROFS_PCLUSTER_MAX_SIZE


@dataclass(frozen=True, slots=True)
class Packing:
    """What the superblock says of packed files."""

    block_bits: int
    zero_padded: bool  # packed bytes end with their last block, instead of beginning with their first


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a file: `unpack()` gives its bytes, or they lie at byte `fragment` of the fragments' inode."""

    start: int
    length: int
    unpack: Callable[[], bytes]
    fragment: int | None = None


@dataclass(frozen=True, slots=True)
class _Cluster:
    """One record of the index. `value` is the distance to the head, or the number of packed blocks for `counts`."""

    kind: int
    offset: int = 0
    block: int = 0
    value: int = 0
    counts: bool = False
    partial: bool = False


@dataclass(frozen=True, slots=True)
class _Map:
    """The header before the index of one file."""

    fragment: int
    tail: int  # bytes of the inline tail
    advice: int
    codecs: tuple[int, int]
    cluster_bits: int
    at: int  # byte of the index


def packed_pieces(
    inode: RawInode, packing: Packing, metadata: Remembering, block: Block, where: str
) -> Iterator[Piece]:
    """The extents of a packed file in order and without gaps.

    Raises DamagedImage for an index that contradicts itself, UnsupportedImage for packing that we do not read.
    """
    size = inode.public.size
    if not size:
        return
    at = -(-inode.after // 8) * 8
    raw = metadata.read(at, 8)
    if raw[7] & WHOLE_FRAGMENT:
        yield Piece(0, size, bytes, int.from_bytes(raw, "little") & (1 << 63) - 1)
        return
    fragment, advice, codecs, bits = struct.unpack("<IHBB", raw)
    found = _Map(fragment, fragment >> 16, advice, (codecs & 15, codecs >> 4), packing.block_bits + (bits & 15), at + 8)
    if advice & ~KNOWN_ADVICE or not packing.zero_padded or found.cluster_bits > 14:
        raise UnsupportedImage("is packed in a way that we do not read", where=where)
    reader = _Reader(inode, found, packing, metadata, block, where)
    yield from reader.pieces()


class _Reader:
    """Walks the index of one file."""

    def __init__(
        self, inode: RawInode, found: _Map, packing: Packing, metadata: Remembering, block: Block, where: str
    ) -> None:
        self._size = inode.public.size
        self._map, self._packing, self._metadata, self._block, self._where = found, packing, metadata, block, where
        self._total = -(-self._size // (1 << found.cluster_bits))
        self._is_full = inode.layout == FULL
        self._after_index = 0

    def pieces(self) -> Iterator[Piece]:
        bits = self._map.cluster_bits
        head: _Cluster | None = None
        start = blocks = 0
        for index, cluster in enumerate(self._clusters()):
            if cluster.kind == NONHEAD:
                if cluster.counts and head is not None and start >> bits == index - 1:
                    blocks = cluster.value
                continue
            begin = (index << bits) + cluster.offset
            if head is None and begin:
                raise DamagedImage("its first extent does not begin at its beginning", where=self._where)
            if begin >= self._size:
                break  # only marks the end
            if head is not None:
                yield self._piece(head, start, begin, blocks)
            head, start, blocks = cluster, begin, 0
        if head is None:
            raise DamagedImage("it has no extents", where=self._where)
        yield self._last(head, start, blocks)

    def _last(self, head: _Cluster, start: int, blocks: int) -> Piece:
        if self._map.advice & FRAGMENT:
            high = head.block << 32 if self._is_full else 0
            return Piece(start, self._size - start, bytes, self._map.fragment | high)
        if self._map.advice & INLINE_TAIL:
            return self._piece(head, start, self._size, 0, tail=True)
        return self._piece(head, start, self._size, blocks)

    def _piece(self, head: _Cluster, start: int, end: int, blocks: int, *, tail: bool = False) -> Piece:
        length = end - start
        block_bits = self._packing.block_bits
        is_big = self._map.advice & (BIG_2 if head.kind == HEAD_2 else BIG)
        if blocks and not is_big:
            raise DamagedImage("an extent of one block claims several", where=self._where)
        packed = blocks << block_bits if blocks else 1 << self._map.cluster_bits
        at = head.block << block_bits
        if tail:
            at, packed = self._after_index, self._map.tail
        if not 0 < length <= MOST_UNPACKED or not 0 < packed <= MOST_PACKED:
            raise DamagedImage(f"an extent claims {length:,} bytes in {packed:,}", where=self._where)

        def content() -> bytes:
            return self._unpack(head, self._block.read(at, packed), start, length)

        return Piece(start, length, content)

    def _unpack(self, head: _Cluster, raw: bytes, start: int, length: int) -> bytes:
        block_size = 1 << self._packing.block_bits
        if head.kind == PLAIN:
            if self._map.advice & INTERLACED and len(raw) == block_size:
                turn = start % block_size
                raw = raw[turn:] + raw[:turn]
            if length > len(raw):
                raise DamagedImage("a plain extent is longer than its blocks", where=self._where)
            return raw[:length]
        codec = CODECS.get(self._map.codecs[head.kind == HEAD_2], "unknown")
        stripped = raw.lstrip(b"\0")
        if len(raw) - len(stripped) >= block_size:
            raise DamagedImage("a packed extent begins with a block of zeros", where=self._where)
        limit = MOST_UNPACKED if head.partial else length
        found = unpack(codec, stripped, limit, self._where)
        if len(found) < length:
            raise DamagedImage(f"an extent of {length:,} bytes unpacks to {len(found):,}", where=self._where)
        return found[:length]

    def _clusters(self) -> Iterator[_Cluster]:
        return self._full_index() if self._is_full else self._compact_index()

    def _full_index(self) -> Iterator[_Cluster]:
        at = self._map.at + 8  # after a header that nobody uses any more
        self._after_index = at + self._total * 8
        for index in range(self._total):
            advice, offset, block = struct.unpack("<HHI", self._metadata.read(at + index * 8, 8))
            kind = advice & 3
            if kind != NONHEAD:
                yield self._checked(_Cluster(kind, offset, block, partial=bool(advice & PARTIAL)))
            else:
                back = block & 0xFFFF
                yield _Cluster(NONHEAD, value=back & ~COUNT, counts=bool(back & COUNT))

    def _compact_index(self) -> Iterator[_Cluster]:
        """First 4-byte records up to a multiple of 32 bytes, then 2-byte ones 16 at a time, then 4-byte ones again."""
        at, left = self._map.at, self._total
        first = (32 - at % 32) // 4 % 8
        two = (left - first) // 16 * 16 if self._map.advice & TWO_BYTES and first < left else 0
        for count, records, length in ((min(first, left), 2, 8), (two, 16, 32), (left - first - two, 2, 8)):
            for done in range(0, max(count, 0), records):
                pack = self._pack(self._metadata.read(at, length), records)
                self._after_index = at = at + length
                yield from pack[: count - done]

    def _pack(self, raw: bytes, records: int) -> list[_Cluster]:
        """The records that share one block number."""
        (base,) = struct.unpack_from("<I", raw, len(raw) - 4)
        low_bits = max(self._map.cluster_bits, 12)
        width = (len(raw) - 4) * 8 // records
        whole = int.from_bytes(raw[:-4], "little")
        pairs = []
        for index in range(records):
            value = whole >> index * width
            pairs.append((value & (1 << low_bits) - 1, value >> low_bits & 3))
        found = []
        for index, (low, kind) in enumerate(pairs):
            if kind == NONHEAD:
                found.append(_Cluster(NONHEAD, value=low & ~COUNT, counts=bool(low & COUNT)))
            else:
                before = self._blocks_before(pairs, index)
                found.append(self._checked(_Cluster(kind, low, base + before)))
        return found

    def _blocks_before(self, pairs: list[tuple[int, int]], index: int) -> int:
        """How many blocks after the pack's own the extent of a head lies (z_erofs_load_compact_lcluster)."""
        is_big = bool(self._map.advice & (BIG | BIG_2))
        count = 0 if is_big else 1
        while index > 0:
            index -= 1
            low, kind = pairs[index]
            if kind != NONHEAD:
                count += 1
            elif not is_big:
                index -= low
                count += index >= 0
            elif low & COUNT:
                index -= 1
                count += low & ~COUNT
            elif low <= 1:
                raise DamagedImage("its index counts back to nowhere", where=self._where)
            else:
                index -= low - 2
        return count

    def _checked(self, cluster: _Cluster) -> _Cluster:
        if cluster.offset >= 1 << self._map.cluster_bits:
            raise DamagedImage("an extent begins outside its cluster", where=self._where)
        return cluster
