"""ext2, ext3 and ext4 filesystems (Linux, Documentation/filesystems/ext4), read-only.

Read: extent trees and indirect blocks, 64bit, flex_bg, meta_bg, hashed directories (read linearly), inline data,
fast and slow symlinks, attributes in the inode, in a block and in inodes of their own. Not done: journal replay (see
`needs_recovery`), metadata checksums, encrypted files.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.ext4_inode import (
    FLAG_EA_INODE,
    FLAG_ENCRYPTED,
    INLINE_DATA,
    RawInode,
    block_attributes,
    inode_attributes,
    parse_inode,
)
from harness.images.filesystems.ext4_map import FileMap, joined
from harness.images.filesystems.inodes import (
    MOST_DIRECTORY_BYTES,
    MOST_LINK_BYTES,
    Inode,
    Remembering,
    Run,
    decode_name,
    read_runs,
)

MAGIC = 0xEF53
ROOT = 2
FILETYPE = 0x2
RECOVER = 0x4
META_BG = 0x10
SIXTY_FOUR_BIT = 0x80
READABLE_INCOMPAT = 0x3E7D6  # filetype recover meta_bg extents 64bit mmp flex_bg ea_inode csum_seed largedir inline
# encrypt casefold: an encrypted file is refused by itself
SPARSE_SUPER2 = 0x200  # compat
SPARSE_SUPER = 0x1  # ro_compat
LONGEST_FAST_LINK = 60
MOST_VALUE_BYTES = 2**20
MOST_REMEMBERED = 4096
MOST_GROUPS = 2**18  # 32 TiB of groups as large as they usually are


class Group(NamedTuple):
    """Where a block group keeps its metadata, in bytes of the filesystem."""

    start: int
    block_bitmap: int
    inode_bitmap: int
    table: int  # of inodes
    table_end: int


class Ext4:
    """The inodes of one ext2/3/4 filesystem. Raises DamagedImage or UnsupportedImage when made from anything else."""

    filesystem = "ext4"
    root = ROOT
    ignores_case = False
    _first_block: int
    _group_blocks: int
    _group_inodes: int
    _inode_size: int
    _block_size: int
    _superblock_block: int

    def __init__(self, block: Block) -> None:
        self._block = block
        self._metadata = Remembering(block)
        self._inodes: OrderedDict[int, RawInode] = OrderedDict()
        self._directories: OrderedDict[int, Mapping[str, int]] = OrderedDict()
        self._read_superblock(self._metadata.read(1024, 1024))

    @property
    def name(self) -> str:
        return self._block.name

    def _read_superblock(self, raw: bytes) -> None:
        (magic,) = struct.unpack_from("<H", raw, 0x38)
        if magic != MAGIC:
            raise DamagedImage(f"no ext4 superblock (magic {magic:#06x}, expected {MAGIC:#06x})", where=self.name)
        self._inode_count, blocks = struct.unpack_from("<II", raw, 0)
        self._first_block, log_size = struct.unpack_from("<II", raw, 0x14)
        self._group_blocks, _clusters, self._group_inodes = struct.unpack_from("<III", raw, 0x20)
        self._compat, self._incompat, self._ro_compat = struct.unpack_from("<III", raw, 0x5C)
        (revision,) = struct.unpack_from("<I", raw, 0x4C)
        (inode_size,) = struct.unpack_from("<H", raw, 0x58)
        (descriptor_size,) = struct.unpack_from("<H", raw, 0xFE)
        (self._first_meta_group,) = struct.unpack_from("<I", raw, 0x104)
        self._backup_groups = struct.unpack_from("<II", raw, 0x24C)
        wide = bool(self._incompat & SIXTY_FOUR_BIT)
        self._inode_size = inode_size if revision else 128
        self._descriptor_size = descriptor_size if wide else 32
        self._block_count = blocks | (struct.unpack_from("<I", raw, 0x150)[0] << 32 if wide else 0)
        self._block_size = 1024 << min(log_size, 16)
        self._superblock_block = 1024 // self._block_size  # bigalloc counts blocks of 1 KiB from 0, others from 1
        self._check_superblock(log_size, wide=wide)

    def _check_superblock(self, log_size: int, *, wide: bool) -> None:
        sound = (
            log_size <= 6
            and 128 <= self._inode_size <= self._block_size
            and self._inode_size & (self._inode_size - 1) == 0
            and (64 if wide else 32) <= self._descriptor_size <= 1024
            and self._block_size % self._descriptor_size == 0
            and self._group_inodes > 0
            and self._group_blocks > 0
            and self._inode_count > ROOT
        )
        if not sound:
            raise DamagedImage("its ext4 superblock has impossible sizes", where=self.name)
        if unknown := self._incompat & ~READABLE_INCOMPAT:
            raise UnsupportedImage(f"ext4 with features that we do not read: {unknown:#x}", where=self.name)

    @property
    def needs_recovery(self) -> bool:
        """Whether the journal holds changes that a mount would replay and that are not visible here."""
        return bool(self._incompat & RECOVER)

    def inode(self, number: int) -> Inode:
        return self._raw(number).public

    def _raw(self, number: int) -> RawInode:
        found = self._inodes.get(number)
        if found is None:
            found = parse_inode(number, self._metadata.read(self._place(number), self._inode_size), self.name)
            self._inodes[number] = found
            if len(self._inodes) > MOST_REMEMBERED:
                self._inodes.popitem(last=False)
        return found

    def raw_inode(self, number: int) -> bytes:
        """An inode as it lies on disk."""
        return self._raw(number).raw

    def footprint(self, number: int) -> Iterator[tuple[int, int]]:
        """Where an inode, its content, its attributes and its map lie: ranges of bytes, start and end."""
        yield self.slot(number)
        content, attributes, maps = self.blocks_of(number)
        yield from content
        yield from ((start, start + self._block_size) for start in (*attributes, *maps))

    def blocks_of(self, number: int) -> tuple[list[tuple[int, int]], list[int], list[int]]:
        """Where an inode's content lies as ranges of bytes, and where its blocks of attributes and of its map begin."""
        inode = self._raw(number)
        attributes = [inode.attribute_block * self._block_size] if inode.attribute_block else []
        is_long_link = inode.public.kind == "symlink" and not self._is_fast_link(inode)
        if inode.is_inline or not (inode.public.kind in {"file", "directory"} or is_long_link):
            return [], attributes, []
        placed = FileMap(self._metadata, self._block_size, self._block_count, f"{self.name}: inode {number}")
        content = [(run.offset, run.offset + run.length) for run in self._runs(inode, placed) if run.offset is not None]
        return content, attributes, [block * self._block_size for block in sorted(placed.seen)]

    def slot(self, number: int) -> tuple[int, int]:
        """Where an inode lies, used or not: start and end in bytes."""
        place = self._place(number)
        return place, place + self._inode_size

    def superblocks(self) -> Iterator[int]:
        """Where the superblock and its copies begin, in bytes."""
        yield 1024
        for group in range(1, self._groups):
            if self.has_superblock(group):
                yield (self._first_block + group * self._group_blocks) * self._block_size

    def groups(self) -> Iterator[Group]:
        """Where each block group keeps its metadata; those beyond the end of the block are left out."""
        table_bytes = self._group_inodes * self._inode_size
        for group in range(self._groups):
            raw = self.descriptor(group)
            low = struct.unpack_from("<III", raw)
            high = struct.unpack_from("<III", raw, 0x20) if len(raw) >= 64 else (0, 0, 0)
            blocks, inodes, table = (
                (least | most << 32) * self._block_size for least, most in zip(low, high, strict=True)
            )
            start = (self._first_block + group * self._group_blocks) * self._block_size
            yield Group(start, blocks, inodes, table, table + table_bytes)

    def descriptors(self) -> Iterator[tuple[int, int]]:
        """Where the group descriptors and their copies lie: ranges of bytes."""
        per_block = self._block_size // self._descriptor_size
        blocks = -(-self._groups // per_block)
        for start in self.superblocks():
            first = (start // self._block_size + 1) * self._block_size
            yield first, first + blocks * self._block_size
        if self._incompat & META_BG:
            for meta_group in range(self._first_meta_group, blocks):
                place = self._descriptor_block(meta_group, per_block) * self._block_size
                yield place, place + self._block_size

    @property
    def block_size(self) -> int:
        return self._block_size

    @property
    def inode_size(self) -> int:
        return self._inode_size

    @property
    def _groups(self) -> int:
        """As many block groups as it claims, but no more than the block has room for."""
        present = min(self._block_count, self._block.size // self._block_size)
        groups: int = max(1, -(-(present - self._first_block) // self._group_blocks))
        if groups > MOST_GROUPS:
            raise DamagedImage(f"claims {groups:,} block groups", where=self.name)
        return groups

    def group_of(self, offset: int) -> tuple[int, int]:
        """The number of the block group of a byte, and of the byte's block within it."""
        return divmod(max(0, offset // self._block_size - self._first_block), self._group_blocks)

    def _place(self, number: int) -> int:
        """The byte at which an inode lies."""
        if not 1 <= number <= self._inode_count:
            raise DamagedImage(f"inode {number} is not one of {self._inode_count}", where=self.name)
        group, index = divmod(number - 1, self._group_inodes)
        descriptor = self.descriptor(group)
        table: int = struct.unpack_from("<I", descriptor, 8)[0]
        if len(descriptor) >= 64:
            table |= struct.unpack_from("<I", descriptor, 0x28)[0] << 32
        return table * self._block_size + index * self._inode_size

    def descriptor(self, group: int) -> bytes:
        """The descriptor of a block group, as it lies on disk."""
        per_block = self._block_size // self._descriptor_size
        at = self._descriptor_block(group // per_block, per_block) * self._block_size
        return self._metadata.read(at + group % per_block * self._descriptor_size, self._descriptor_size)

    def _descriptor_block(self, meta_group: int, per_block: int) -> int:
        if not self._incompat & META_BG or meta_group < self._first_meta_group:
            return self._superblock_block + 1 + meta_group
        group = meta_group * per_block
        first = self._superblock_block if group == 0 else self._first_block + group * self._group_blocks
        return first + self.has_superblock(group)

    def has_superblock(self, group: int) -> bool:
        """Whether a block group begins with the superblock or a copy of it."""
        if self._compat & SPARSE_SUPER2:
            return group == 0 or group in self._backup_groups
        if group <= 1 or not self._ro_compat & SPARSE_SUPER:
            return True
        return any(_is_power(group, base) for base in (3, 5, 7))

    def entries(self, number: int) -> Mapping[str, int]:
        known = self._directories.get(number)
        if known is None:
            known = dict(self._read_directory(self._raw(number)))
            self._directories[number] = known
            if len(self._directories) > MOST_REMEMBERED // 8:
                self._directories.popitem(last=False)
        return known

    def _read_directory(self, inode: RawInode) -> Iterator[tuple[str, int]]:
        where = f"{self.name}: directory inode {inode.public.number}"
        if inode.flags & FLAG_ENCRYPTED:
            raise UnsupportedImage("encrypted directory", where=where)
        if inode.is_inline:
            yield from self._names(inode.root[4:], where)
            yield from self._names(self.xattrs_and_data(inode)[1], where)
            return
        if inode.public.size > min(MOST_DIRECTORY_BYTES, self._block.size):
            raise DamagedImage(f"claims {inode.public.size:,} bytes of names", where=where)
        for piece in self._content(inode, self._block_size):
            yield from self._names(piece, where)

    def _names(self, piece: bytes, where: str) -> Iterator[tuple[str, int]]:
        at = 0
        while at + 8 <= len(piece):
            number, length, name_length = struct.unpack_from("<IHH", piece, at)
            if length in {0, 0xFFFF} and self._block_size == 65536:
                length = len(piece)
            if self._incompat & FILETYPE:
                name_length &= 0xFF
            if length < 8 or length % 4 or at + length > len(piece) or (number and name_length + 8 > length):
                raise DamagedImage(f"damaged record at byte {at}", where=where)
            name = piece[at + 8 : at + 8 + name_length]
            if number and name not in {b".", b".."}:
                yield decode_name(name, where), number
            at += length

    def target(self, number: int) -> str:
        inode = self._raw(number)
        if inode.public.size > MOST_LINK_BYTES:
            raise DamagedImage(f"symlink {number} claims a target of {inode.public.size:,} bytes", where=self.name)
        if inode.flags & FLAG_ENCRYPTED:
            raise UnsupportedImage(f"symlink {number} is encrypted", where=self.name)
        if self._is_fast_link(inode):
            return inode.root[: inode.public.size].decode("utf-8", "surrogateescape")
        return b"".join(self._content(inode, self._block_size)).decode("utf-8", "surrogateescape")

    def _is_fast_link(self, inode: RawInode) -> bool:
        """Whether the target lies in the inode: as the kernel decides it, no block beside that of the attributes."""
        attribute_sectors = self._block_size // 512 if inode.attribute_block else 0
        plain = not (inode.is_inline or inode.has_extents)
        return plain and inode.public.size < LONGEST_FAST_LINK and inode.sectors <= attribute_sectors

    def chunks(self, number: int, size: int) -> Iterator[bytes]:
        inode = self._raw(number)
        if inode.flags & FLAG_ENCRYPTED:
            raise UnsupportedImage(f"inode {number} is encrypted", where=self.name)
        return self._content(inode, size)

    def _content(self, inode: RawInode, size: int) -> Iterator[bytes]:
        if inode.is_inline:
            whole = (inode.root + self.xattrs_and_data(inode)[1])[: inode.public.size]
            if len(whole) < inode.public.size:
                message = f"inode {inode.public.number} claims {inode.public.size:,} bytes and has {len(whole)} inline"
                raise DamagedImage(message, where=self.name)
            return iter([whole] if whole else [])
        return read_runs(self._block, joined(self._runs(inode)), inode.public.size, size)

    def _runs(self, inode: RawInode, placed: FileMap | None = None) -> Iterator[Run]:
        if placed is None:
            where = f"{self.name}: inode {inode.public.number}"
            placed = FileMap(self._metadata, self._block_size, self._block_count, where)
        return placed.extents(inode.root) if inode.has_extents else placed.pointers(inode.root, inode.public.size)

    def xattrs(self, number: int) -> Mapping[str, bytes]:
        return self.xattrs_and_data(self._raw(number))[0]

    def xattrs_and_data(self, inode: RawInode) -> tuple[Mapping[str, bytes], bytes]:
        """The visible attributes, and the inline data that hides among them."""
        where = f"{self.name}: inode {inode.public.number}"
        found = dict(inode_attributes(inode, self._value, where))
        if inode.attribute_block:
            if inode.attribute_block >= self._block_count:
                raise DamagedImage("its attribute block lies outside the filesystem", where=where)
            raw = self._metadata.read(inode.attribute_block * self._block_size, self._block_size)
            found.update(block_attributes(raw, self._value, where))
        data = found.pop(INLINE_DATA, b"")
        return found, data

    def _value(self, number: int) -> bytes:
        inode = self._raw(number)
        if not inode.flags & FLAG_EA_INODE or inode.public.size > MOST_VALUE_BYTES or inode.is_inline:
            raise DamagedImage(f"inode {number} cannot hold an attribute's value", where=self.name)
        return b"".join(self._content(inode, 65536))


def _is_power(number: int, base: int) -> bool:
    while number > 1 and number % base == 0:
        number //= base
    return number == 1
