"""XFS filesystems, versions 4 and 5 (XFS Algorithms & Data Structures), read-only.

Read: short, block, leaf and node directories, extent lists and trees, reflinks, big timestamps, local and remote
symlinks and attributes. Not done: log replay, checksums, files on a realtime device.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.inodes import (
    MOST_DIRECTORY_BYTES,
    MOST_LINK_BYTES,
    Inode,
    Remembering,
    Run,
    decode_name,
    read_runs,
)
from harness.images.filesystems.xfs_attributes import short_attributes, tree_attributes
from harness.images.filesystems.xfs_inode import LOCAL, Fork, RawInode, fork_extents, parse_inode

VERSION_5 = 5
FTYPE = 0x1  # incompat
READABLE_INCOMPAT = 0xFF  # ftype to parent pointers
FEATURES2_FTYPE = 0x200  # how version 4 says it
MORE_BITS = 0x8000
LEAF_OFFSET = 1 << 35  # bytes: a directory's names lie below, its hashes above
BLOCK_MAGICS = {b"XD2B": 16, b"XDB3": 64}  # names and hashes in one block; header sizes
DATA_MAGICS = {b"XD2D": 16, b"XDD3": 64}
SYMLINK_MAGIC, SYMLINK_HEADER = b"XSLM", 56
FREE_TAG = 0xFFFF
MOST_REMEMBERED = 4096


class Xfs:
    """The inodes of one XFS filesystem. Raises DamagedImage or UnsupportedImage when made from anything else."""

    filesystem = "xfs"
    ignores_case = False

    def __init__(self, block: Block) -> None:
        self._block = block
        self._metadata = Remembering(block)
        self._inodes: OrderedDict[int, RawInode] = OrderedDict()
        self._directories: OrderedDict[int, Mapping[str, int]] = OrderedDict()
        raw = self._metadata.read(0, 512)
        self._block_size: int
        self._group_blocks: int
        magic, self._block_size, self._blocks = struct.unpack_from(">4sIQ", raw)
        if magic != b"XFSB":
            raise DamagedImage("no XFS superblock", where=block.name)
        (self.root,) = struct.unpack_from(">Q", raw, 56)
        self._group_blocks, self._groups = struct.unpack_from(">II", raw, 84)
        version, _sector, self._inode_size, self._block_inodes = struct.unpack_from(">HHHH", raw, 100)
        self._inode_log, self._group_log = raw[123], raw[124]
        self._directory_block = self._block_size << min(raw[192], 8)
        self._is_5 = version & 0xF == VERSION_5
        features2, incompat = struct.unpack_from(">I", raw, 200)[0], struct.unpack_from(">I", raw, 216)[0]
        old_ftype = bool(version & MORE_BITS and features2 & FEATURES2_FTYPE)
        self._has_ftype = bool(incompat & FTYPE) if self._is_5 else old_ftype
        self._check_superblock(incompat if self._is_5 else 0)

    def _check_superblock(self, incompat: int) -> None:
        sound = (
            self._block_size in {512 << shift for shift in range(8)}
            and 256 <= self._inode_size <= min(2048, self._block_size)
            and self._block_inodes == self._block_size // self._inode_size
            and 1 << self._inode_log == self._block_inodes
            and 0 < self._group_blocks <= 1 << self._group_log <= 1 << 31
            and self._groups > 0
            and self._directory_block <= 65536
        )
        if not sound:
            raise DamagedImage("its XFS superblock has impossible sizes", where=self.name)
        if unknown := incompat & ~READABLE_INCOMPAT:
            raise UnsupportedImage(f"XFS with features that we do not read: {unknown:#x}", where=self.name)

    @property
    def name(self) -> str:
        return self._block.name

    def inode(self, number: int) -> Inode:
        return self._raw(number).public

    def _raw(self, number: int) -> RawInode:
        found = self._inodes.get(number)
        if found is None:
            packed, index = divmod(number, self._block_inodes)
            at = self._place(packed, 1) + index * self._inode_size
            found = parse_inode(number, self._metadata.read(at, self._inode_size), self.name)
            self._inodes[number] = found
            if len(self._inodes) > MOST_REMEMBERED:
                self._inodes.popitem(last=False)
        return found

    def _place(self, packed: int, count: int) -> int:
        """The byte of a packed block number: allocation group above, block within the group below."""
        group, within = packed >> self._group_log, packed & (1 << self._group_log) - 1
        if group >= self._groups or within + count > self._group_blocks:
            raise DamagedImage(f"block {packed} (+{count}) lies outside the filesystem", where=self.name)
        return (group * self._group_blocks + within) * self._block_size

    def _read_block(self, packed: int) -> bytes:
        return self._metadata.read(self._place(packed, 1), self._block_size)

    def _runs(self, fork: Fork, where: str) -> Iterator[Run]:
        """Runs of a fork, holes included."""
        at = 0
        for extent in fork_extents(fork, self._read_block, where):
            if extent.logical > at:
                yield Run((extent.logical - at) * self._block_size, None)
            start = self._place(extent.start, extent.count)
            yield Run(extent.count * self._block_size, start if extent.written else None)
            at = extent.logical + extent.count

    def _where(self, inode: RawInode) -> str:
        return f"{self.name}: inode {inode.public.number}"

    def entries(self, number: int) -> Mapping[str, int]:
        known = self._directories.get(number)
        if known is None:
            known = self._directories[number] = dict(self._read_directory(self._raw(number)))
            if len(self._directories) > MOST_REMEMBERED // 8:
                self._directories.popitem(last=False)
        return known

    def _read_directory(self, inode: RawInode) -> Iterator[tuple[str, int]]:
        where = self._where(inode)
        if inode.data.format == LOCAL:
            yield from self._short_names(inode.data.raw, where)
            return
        done = 0
        per = self._directory_block // self._block_size
        pending = b""
        for extent in fork_extents(inode.data, self._read_block, where):
            if extent.logical * self._block_size >= LEAF_OFFSET:
                break
            done += extent.count * self._block_size
            if done > min(MOST_DIRECTORY_BYTES, self._block.size):
                raise DamagedImage("a directory is impossibly long", where=where)
            for index in range(extent.count):
                pending += self._read_block(extent.start + index)
                if len(pending) == per * self._block_size:
                    yield from self._names(pending, where)
                    pending = b""

    def _short_names(self, raw: bytes, where: str) -> Iterator[tuple[str, int]]:
        count, wide = raw[0], raw[1]
        width = 8 if wide else 4
        at = 2 + width
        for _ in range(count or wide):
            end = at + 3 + raw[at] if at < len(raw) else len(raw)
            number = end + self._has_ftype
            if number + width > len(raw):
                raise DamagedImage("its names run out of the inode", where=where)
            yield decode_name(raw[at + 3 : end], where), int.from_bytes(raw[number : number + width], "big")
            at = number + width

    def _names(self, raw: bytes, where: str) -> Iterator[tuple[str, int]]:
        magic = raw[:4]
        at, end = DATA_MAGICS.get(magic, 0), len(raw)
        if magic in BLOCK_MAGICS:
            (hashes,) = struct.unpack_from(">I", raw, len(raw) - 8)
            at, end = BLOCK_MAGICS[magic], len(raw) - 8 - hashes * 8
        if not at or end < at:
            raise DamagedImage("a block of its names is damaged", where=where)
        while at + 16 <= end:
            tag, length = struct.unpack_from(">HH", raw, at)
            if tag == FREE_TAG:
                if length < 8 or length % 8:
                    raise DamagedImage("a gap between its names is damaged", where=where)
                at += length
                continue
            number, name_length = struct.unpack_from(">QB", raw, at)
            following = at + (8 + 1 + name_length + self._has_ftype + 2 + 7 & ~7)
            name = raw[at + 9 : at + 9 + name_length]
            if following > end:
                raise DamagedImage("a name runs out of its block", where=where)
            if name not in {b".", b".."}:
                yield decode_name(name, where), number
            at = following

    def target(self, number: int) -> str:
        inode = self._raw(number)
        size, where = inode.public.size, self._where(inode)
        if size > MOST_LINK_BYTES:
            raise DamagedImage(f"claims a target of {size:,} bytes", where=where)
        if inode.data.format == LOCAL:
            return inode.data.raw[:size].decode("utf-8", "surrogateescape")
        parts = []
        for extent in fork_extents(inode.data, self._read_block, where):
            count = min(extent.count, MOST_LINK_BYTES // self._block_size + 9)
            raw = self._metadata.read(self._place(extent.start, count), count * self._block_size)
            if self._is_5 and raw[:4] != SYMLINK_MAGIC:
                raise DamagedImage("its target is not where it should be", where=where)
            parts.append(raw[SYMLINK_HEADER:] if self._is_5 else raw)
            if sum(map(len, parts)) >= size:
                break
        return b"".join(parts)[:size].decode("utf-8", "surrogateescape")

    def chunks(self, number: int, size: int) -> Iterator[bytes]:
        inode = self._raw(number)
        if inode.is_realtime:
            raise UnsupportedImage("its content lies on a realtime device", where=self._where(inode))
        return read_runs(self._block, self._runs(inode.data, self._where(inode)), inode.public.size, size)

    def xattrs(self, number: int) -> Mapping[str, bytes]:
        inode = self._raw(number)
        fork, where = inode.attributes, self._where(inode)
        if fork is None:
            return {}
        if fork.format == LOCAL:
            return dict(short_attributes(fork.raw, where))
        extents = tuple(fork_extents(fork, self._read_block, where))
        if not extents:
            return {}

        def read(first: int, count: int) -> bytes:
            for extent in extents:
                if extent.logical <= first and first + count <= extent.logical + extent.count:
                    at = self._place(extent.start + first - extent.logical, count)
                    return self._metadata.read(at, count * self._block_size)
            raise DamagedImage(f"its attributes have no block {first}", where=where)

        return dict(tree_attributes(read, self._block_size, where, checksummed=self._is_5))
