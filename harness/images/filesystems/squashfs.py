"""squashfs 4.0 (Linux Documentation/filesystems/squashfs.rst and fs/squashfs/squashfs_fs.h), read-only.

Every compression that mksquashfs knows is read, fragments, sparse blocks and extended attributes too. An inode number
here is squashfs' reference to the inode: its packed block in the upper bits, the byte within it in the lower 16.
Owners are 32 bits wide, times unsigned seconds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.inodes import Inode, Remembering, decode_name
from harness.images.filesystems.listings import Listings
from harness.images.filesystems.packed import unpack
from harness.images.filesystems.squashfs_inode import NONE, RawInode, TableInode, parse_inode, read_table
from harness.images.filesystems.squashfs_metadata import Metadata, Table
from harness.images.lru import Recent

SUPERBLOCK = struct.Struct("<4sIIIIHHHHHHQQQQQQQQ")
CODECS = {1: "zlib", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
ABSENT = 2**64 - 1
STORED = 1 << 24  # a block that is not packed
DIRECTORY_HEADER, DIRECTORY_ENTRY = struct.Struct("<III"), struct.Struct("<HhHH")
MOST_IN_A_HEADER = 256  # names
PHANTOM = 3  # a directory's size counts "." and ".." as this
FRAGMENT, ATTRIBUTES = struct.Struct("<QII"), struct.Struct("<QII")
ATTRIBUTE_SPACES = {0: "user.", 1: "trusted.", 2: "security."}
ELSEWHERE = 0x100  # an attribute whose value is a reference
MOST_ATTRIBUTE_BYTES = 65536  # Linux's limit for one value, and for the list of names
LISTED_AT_ONCE = 65536  # bytes of a directory
SIZES_AT_ONCE = 1024  # block sizes read in one bite
REMEMBERED = 4096  # inodes
UNPACKED = 8  # blocks of at most 1 MiB


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of a file: bytes, or zeros where there are none."""

    length: int
    data: bytes | None


class Squashfs:
    """The inodes of one squashfs. Raises DamagedImage or UnsupportedImage when made from anything else."""

    filesystem = "squashfs"
    ignores_case = False

    def __init__(self, block: Block) -> None:
        self._block = block
        raw = Remembering(block)
        fields = SUPERBLOCK.unpack(raw.read(0, SUPERBLOCK.size))
        magic, self.count, _made, self.block_size, fragments, codec, log, _flags, ids, major, minor = fields[:11]
        self.root, _used, id_table, attribute_table, inodes, directories, fragment_table, _lookup = fields[11:]
        if magic != b"hsqs" or (major, minor) != (4, 0):
            raise UnsupportedImage(f"no squashfs 4.0 superblock (version {major}.{minor})", where=block.name)
        if self.block_size not in {2**shift for shift in range(12, 21)} or self.block_size != 1 << (log & 31):
            raise DamagedImage(f"its superblock has impossible blocks of {self.block_size:,} bytes", where=block.name)
        self._codec = CODECS.get(codec, f"unknown ({codec})")
        metadata = self._metadata = Metadata(raw, self._codec)
        self._inode_table, self._directory_table = inodes, directories
        self._ids = Table(metadata, id_table, ids, 4)
        self._fragments = Table(metadata, fragment_table, fragments, FRAGMENT.size)
        self._attributes, self._attribute_values = self._attribute_tables(raw, attribute_table)
        self._raw: Recent[int, RawInode] = Recent(REMEMBERED, self._parse)
        self._unpacked: Recent[tuple[int, int], bytes] = Recent(UNPACKED, self.unpack)
        self._listings = Listings(self._read_directory, block.name)

    def _attribute_tables(self, raw: Remembering, at: int) -> tuple[Table, int]:
        if at == ABSENT:
            return Table(self._metadata, 0, 0, ATTRIBUTES.size), 0
        values, count, _unused = ATTRIBUTES.unpack(raw.read(at, ATTRIBUTES.size))
        return Table(self._metadata, at + ATTRIBUTES.size, count, ATTRIBUTES.size), values

    @property
    def name(self) -> str:
        return self._block.name

    def table(self) -> Iterator[TableInode]:
        """The inodes as the inode table has them, each once. Raises DamagedImage where that is broken."""
        return read_table(self._metadata.cursor(self._inode_table, 0), self.count, self.block_size)

    def listing(self, start: int, offset: int, length: int) -> Iterator[bytes]:
        """What a directory's inode leads to, as it is stored, in pieces. Raises DamagedImage where it ends early."""
        cursor = self._metadata.cursor(self._directory_table + start, offset)
        for done in range(0, length, LISTED_AT_ONCE):
            yield cursor.read(min(LISTED_AT_ONCE, length - done))

    def fragment(self, index: int) -> tuple[int, int]:
        """Where a fragment lies, and its stored length with its flag. Raises DamagedImage where there is none."""
        start, packed, _unused = FRAGMENT.unpack(self._fragments[index])
        return start, packed

    def metadata_at(self, at: int) -> tuple[bytes, int]:
        """A block of metadata unpacked, and where the one behind it lies. Raises DamagedImage where there is none."""
        return self._metadata.block(at)

    def inode(self, number: int) -> Inode:
        return self._raw[number].public

    def _parse(self, number: int) -> RawInode:
        cursor = self._metadata.cursor(self._inode_table + (number >> 16), number & 0xFFFF)
        return parse_inode(number, cursor, self._owner, self.block_size)

    def _owner(self, index: int) -> int:
        return int.from_bytes(self._ids[index], "little")

    def _where(self, number: int) -> str:
        return f"{self.name}: inode {number:#x}"

    def entries(self, number: int) -> Mapping[str, int]:
        return self._listings[number]

    def _read_directory(self, number: int) -> Iterator[tuple[str, int]]:
        inode, where = self._raw[number], self._where(number)
        if inode.listing is None:
            raise DamagedImage("is not a directory", where=where)
        cursor = self._metadata.cursor(self._directory_table + inode.listing[0], inode.listing[1])
        left = inode.public.size - PHANTOM
        while left > 0:
            count, start, _base = DIRECTORY_HEADER.unpack(cursor.read(DIRECTORY_HEADER.size))
            left -= DIRECTORY_HEADER.size
            if count >= MOST_IN_A_HEADER:
                raise DamagedImage(f"a list of names claims {count + 1:,} of them", where=where)
            for _ in range(count + 1):
                offset, _delta, _kind, length = DIRECTORY_ENTRY.unpack(cursor.read(DIRECTORY_ENTRY.size))
                if length >= 256:
                    raise DamagedImage(f"a name claims {length + 1:,} bytes", where=where)
                left -= DIRECTORY_ENTRY.size + length + 1
                if left < 0:
                    raise DamagedImage("its names run out of the directory", where=where)
                yield decode_name(cursor.read(length + 1), where), start << 16 | offset

    def target(self, number: int) -> str:
        inode = self._raw[number]
        if inode.public.kind != "symlink":
            raise DamagedImage("is not a symlink", where=self._where(number))
        return inode.target.decode("utf-8", "surrogateescape")

    def chunks(self, number: int, size: int) -> Iterator[bytes]:
        for piece in self._pieces(number):
            for at in range(0, piece.length, size):
                bite = min(size, piece.length - at)
                yield bytes(bite) if piece.data is None else piece.data[at : at + bite]

    def _pieces(self, number: int) -> Iterator[_Piece]:
        inode, where = self._raw[number], self._where(number)
        content = inode.content
        if content is None:
            raise DamagedImage("has no content", where=where)
        cursor = self._metadata.cursor(*content.sizes)
        at, left = content.start, inode.public.size
        for step in range(0, content.blocks, SIZES_AT_ONCE):
            bite = min(SIZES_AT_ONCE, content.blocks - step)
            for packed in struct.unpack(f"<{bite}I", cursor.read(4 * bite)):
                length = min(self.block_size, left)
                yield _Piece(length, self._data(at, packed, length, where))
                at += packed & STORED - 1
                left -= length
        if content.fragment != NONE:
            whole = self._unpacked[self.fragment(content.fragment)]
            if content.offset + left > len(whole):
                raise DamagedImage("its end lies outside its fragment", where=where)
            yield _Piece(left, whole[content.offset : content.offset + left])

    def _data(self, at: int, packed: int, length: int, where: str) -> bytes | None:
        if not packed:
            return None
        found = self.unpack((at, packed))
        if len(found) != length:
            raise DamagedImage(f"a block holds {len(found):,} bytes instead of {length:,}", where=where)
        return found

    def unpack(self, place: tuple[int, int]) -> bytes:
        """A block or fragment by where it lies and its stored length with its flag; threads may call this at once."""
        at, packed = place
        length = packed & STORED - 1
        if length > self.block_size:
            raise DamagedImage(f"a packed block claims {length:,} bytes", where=self.name)
        raw = self._block.read(at, length)
        return raw if packed & STORED else unpack(self._codec, raw, self.block_size, self.name)

    def xattrs(self, number: int) -> Mapping[str, bytes]:
        inode, where = self._raw[number], self._where(number)
        if inode.attributes == NONE:
            return {}
        place, count, length = ATTRIBUTES.unpack(self._attributes[inode.attributes])
        if length > MOST_ATTRIBUTE_BYTES * 16 or count * 8 > length:
            raise DamagedImage(f"claims {count:,} attributes", where=where)
        cursor = self._metadata.cursor(self._attribute_values + (place >> 16), place & 0xFFFF)
        found: dict[str, bytes] = {}
        for _ in range(count):
            space, name_length = struct.unpack("<HH", cursor.read(4))
            prefix = ATTRIBUTE_SPACES.get(space & 0xFF)
            if prefix is None or not 0 < name_length < 256:
                raise DamagedImage("an attribute has an impossible name", where=where)
            name = prefix + cursor.read(name_length).decode("utf-8", "surrogateescape")
            (value_length,) = struct.unpack("<I", cursor.read(4))
            if value_length > MOST_ATTRIBUTE_BYTES:
                raise DamagedImage(f"an attribute claims {value_length:,} bytes", where=where)
            value = cursor.read(value_length)
            found[name] = self._far_value(value, where) if space & ELSEWHERE else value
        return found

    def _far_value(self, reference: bytes, where: str) -> bytes:
        if len(reference) != 8:
            raise DamagedImage("an attribute's value lies nowhere", where=where)
        (place,) = struct.unpack("<Q", reference)
        cursor = self._metadata.cursor(self._attribute_values + (place >> 16), place & 0xFFFF)
        (length,) = struct.unpack("<I", cursor.read(4))
        if length > MOST_ATTRIBUTE_BYTES:
            raise DamagedImage(f"an attribute claims {length:,} bytes", where=where)
        return cursor.read(length)
