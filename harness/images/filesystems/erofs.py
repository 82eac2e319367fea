"""EROFS (Linux Documentation/filesystems/erofs.rst and fs/erofs/erofs_fs.h), read-only.

Read: compact and extended inodes, plain, inline and chunk-based files, packed files (`erofs_packed`), shared and
inline extended attributes. An inode number is EROFS' nid. Not done: checksums, files on other devices, 48-bit
block numbers (6.15) and metadata in a box of its own (6.17).
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import islice

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.erofs_attributes import attributes
from harness.images.filesystems.erofs_inode import (
    CHUNKED,
    COMPACT,
    FULL,
    INLINE,
    PLAIN,
    RawInode,
    Stamp,
    parse_inode,
)
from harness.images.filesystems.erofs_packed import Packing, Piece, packed_pieces
from harness.images.filesystems.inodes import (
    MOST_DIRECTORY_BYTES,
    MOST_LINK_BYTES,
    Inode,
    Remembering,
    Run,
    decode_name,
    read_runs,
)
from harness.images.filesystems.listings import Listings
from harness.images.lru import Recent

SUPERBLOCK = 1024
SLOT = 32  # bytes; a nid counts these
ZERO_PADDING, FRAGMENTS = 0x1, 0x20  # incompatible features
READABLE_INCOMPAT = 0x7F
RECORD = struct.Struct("<QHBx")  # of a directory: nid, where the name lies, type
CHUNK_BITS, CHUNK_INDEXES, CHUNK_KNOWN = 0x1F, 0x20, 0x3F
CHUNK_HOLE = 0xFFFFFFFF
REMEMBERED = 4096  # inodes
LONGEST_NAME = 255
MOST_FRAGMENT_PIECES = 2**20
MOST_BLOCK_BITS = 16


class Erofs:
    """The inodes of one EROFS. Raises DamagedImage or UnsupportedImage when made from anything else."""

    filesystem = "erofs"
    ignores_case = False

    def __init__(self, block: Block) -> None:
        self._block = block
        self._metadata = Remembering(block)
        raw = self._metadata.read(SUPERBLOCK, 128)
        (bits,) = struct.unpack_from("<B", raw, 12)
        if raw[:4] != b"\xe2\xe1\xf5\xe0" or not 9 <= bits <= MOST_BLOCK_BITS or raw[90]:
            raise DamagedImage("no EROFS superblock, or one of impossible block sizes", where=block.name)
        (incompat,) = struct.unpack_from("<I", raw, 80)
        if unknown := incompat & ~READABLE_INCOMPAT:
            raise UnsupportedImage(f"EROFS with features that we do not read: {unknown:#x}", where=block.name)
        self.root: int
        (self.root,) = struct.unpack_from("<H", raw, 14)
        seconds, nanoseconds, _blocks, metadata, shared = struct.unpack_from("<QIIII", raw, 24)
        self._stamp = Stamp(seconds, nanoseconds)
        self._block_size = 1 << bits
        self._inodes_at, self._shared_at = metadata * self._block_size, shared * self._block_size
        self._packing = Packing(bits, zero_padded=bool(incompat & ZERO_PADDING))
        (self._fragments,) = struct.unpack_from("<Q", raw, 96) if incompat & FRAGMENTS else (0,)
        self._fragment_map: list[Piece] | None = None
        self._unpacked_fragments: Recent[int, bytes] = Recent(4, lambda index: self._fragment_pieces()[index].unpack())
        self._raw: Recent[int, RawInode] = Recent(REMEMBERED, self._parse)
        self._listings = Listings(self._read_directory, block.name)

    @property
    def name(self) -> str:
        return self._block.name

    def inode(self, number: int) -> Inode:
        return self._raw[number].public

    def _parse(self, number: int) -> RawInode:
        return parse_inode(number, self._inodes_at + number * SLOT, self._metadata, self._stamp)

    def _where(self, number: int) -> str:
        return f"{self.name}: inode {number}"

    def entries(self, number: int) -> Mapping[str, int]:
        return self._listings[number]

    def _read_directory(self, number: int) -> Iterator[tuple[str, int]]:
        inode, where = self._raw[number].public, self._where(number)
        if inode.kind != "directory" or inode.size > min(MOST_DIRECTORY_BYTES, self._block.size):
            raise DamagedImage(f"is a {inode.kind} of {inode.size:,} bytes, not a directory", where=where)
        for piece in self.chunks(number, self._block_size):
            yield from _names(piece, where)

    def target(self, number: int) -> str:
        inode = self._raw[number].public
        if inode.kind != "symlink" or inode.size > MOST_LINK_BYTES:
            raise DamagedImage(f"is a {inode.kind} of {inode.size:,} bytes, not a symlink", where=self._where(number))
        return b"".join(self.chunks(number, self._block_size)).decode("utf-8", "surrogateescape")

    def chunks(self, number: int, size: int) -> Iterator[bytes]:
        inode = self._raw[number]
        if inode.layout in {FULL, COMPACT}:
            yield from self._unpacked(inode, size)
        else:
            runs = self._runs(inode) if inode.layout != CHUNKED else self._chunk_runs(inode)
            yield from read_runs(self._block, runs, inode.public.size, size)

    def _runs(self, inode: RawInode) -> Iterator[Run]:
        """Whole blocks in a row; of an inline file, the rest follows the inode."""
        size, where = inode.public.size, self._where(inode.public.number)
        if size > self._block.size:
            raise DamagedImage(f"claims {size:,} bytes, more than the filesystem holds", where=where)
        if inode.layout not in {PLAIN, INLINE}:
            raise DamagedImage(f"has an unknown layout {inode.layout}", where=where)
        outside = size if inode.layout == PLAIN else max(size - 1, 0) // self._block_size * self._block_size
        if outside:
            yield Run(outside, inode.word * self._block_size)
        if size > outside:
            yield Run(size - outside, inode.after)

    def _chunk_runs(self, inode: RawInode) -> Iterator[Run]:
        form, where = inode.word & 0xFFFF, self._where(inode.public.number)
        if form & ~CHUNK_KNOWN:
            raise UnsupportedImage(f"has chunks of an unknown form {form:#x}", where=where)
        chunk = self._block_size << (form & CHUNK_BITS)
        wide = bool(form & CHUNK_INDEXES)
        record = struct.Struct("<2xHI" if wide else "<I")
        at = -(-inode.after // record.size) * record.size
        for index in range(-(-inode.public.size // chunk)):
            fields = record.unpack(self._metadata.read(at + index * record.size, record.size))
            start, device = fields[-1], fields[0] if wide else 0
            if device and start != CHUNK_HOLE:
                raise UnsupportedImage("its content lies on another device", where=where)
            yield Run(chunk, None if start == CHUNK_HOLE else start * self._block_size)

    def _unpacked(self, inode: RawInode, size: int) -> Iterator[bytes]:
        """The bytes of a packed file, at most `size` a piece."""
        for piece in self._pieces(inode):
            if piece.fragment is not None:
                yield from self._fragment(piece.fragment, piece.length, size)
                continue
            content = piece.unpack()
            for at in range(0, len(content), size):
                yield content[at : at + size]

    def _pieces(self, inode: RawInode) -> Iterator[Piece]:
        return packed_pieces(inode, self._packing, self._metadata, self._block, self._where(inode.public.number))

    def _fragment(self, start: int, length: int, size: int) -> Iterator[bytes]:
        """Bytes of the inode that holds all fragments; neighbours share an extent, which stays unpacked."""
        pieces = self._fragment_pieces()
        index, end = bisect_right(pieces, start, key=lambda piece: piece.start) - 1, start + length
        while start < end:
            if index >= len(pieces):
                raise DamagedImage("a fragment lies where none are", where=self.name)
            piece = pieces[index]
            content = self._unpacked_fragments[index]
            bite = content[start - piece.start : end - piece.start]
            for at in range(0, len(bite), size):
                yield bite[at : at + size]
            start, index = piece.start + piece.length, index + 1

    def _fragment_pieces(self) -> list[Piece]:
        if self._fragment_map is None:
            where = self._where(self._fragments)
            inode = self._raw[self._fragments]
            if not self._fragments or inode.layout not in {FULL, COMPACT} or inode.public.kind != "file":
                raise UnsupportedImage("its fragments are not in a packed file", where=where)
            found = list(islice(self._pieces(inode), MOST_FRAGMENT_PIECES + 1))
            if len(found) > MOST_FRAGMENT_PIECES or any(piece.fragment is not None for piece in found):
                raise DamagedImage("its fragments are impossibly many, or fragments themselves", where=where)
            self._fragment_map = found
        return self._fragment_map

    def xattrs(self, number: int) -> Mapping[str, bytes]:
        return attributes(self._raw[number], self._metadata, self._shared_at, self._where(number))


def _names(raw: bytes, where: str) -> Iterator[tuple[str, int]]:
    """The names in one directory block: all records first, then all names."""
    if len(raw) < RECORD.size:
        raise DamagedImage("a block of its names is damaged", where=where)
    (_nid, first, _kind) = RECORD.unpack_from(raw)
    if first % RECORD.size or not RECORD.size <= first < len(raw):
        raise DamagedImage("a block of its names is damaged", where=where)
    records = list(RECORD.iter_unpack(raw[:first]))
    ends = [*(record[1] for record in records[1:]), len(raw)]
    for (nid, start, _kind), end in zip(records, ends, strict=True):
        name = raw[start:end].split(b"\0", 1)[0] if end == len(raw) else raw[start:end]
        if not first <= start < end <= len(raw) or len(name) > LONGEST_NAME:
            raise DamagedImage("a name runs out of its block", where=where)
        if name not in {b".", b".."}:
            yield decode_name(name, where), nid
