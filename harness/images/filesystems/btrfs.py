"""btrfs on a single device (Linux include/uapi/linux/btrfs_tree.h), read-only.

The root is the default subvolume; others show as directories where they belong. zlib, LZO and zstd are unpacked. An
inode number is btrfs' own within the subvolume shown, with the subvolume's id above bit 48 in others. Not done: replay
of the log, checksums, several devices, zones.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.errors import DamagedImage
from harness.images.block import Block
from harness.images.filesystems.btrfs_extent import Extent, parse_extent, unpack_extent
from harness.images.filesystems.btrfs_inode import DIRECTORY_ITEM, Named, named_items, parse_inode
from harness.images.filesystems.btrfs_tree import Trees, open_trees
from harness.images.filesystems.inodes import MOST_LINK_BYTES, Inode, decode_name
from harness.images.filesystems.listings import Listings
from harness.images.lru import Recent

ROOT_TREE_DIRECTORY, FILES_TREE = 6, 5
FIRST_INODE = 256  # of every subvolume: its root
EMPTY = 2  # an inode of ours: where a snapshot holds the name of a subvolume that it does not contain
INODE_ITEM, ATTRIBUTE_ITEM, NAMES_BY_INDEX, EXTENT_ITEM = 1, 24, 96, 108
ROOT_ITEM, ROOT_REFERENCE = 132, 156
ROOT_FIELDS, ROOT_LEVEL = struct.Struct("<160x8xQQ"), 238
REFERENCE = struct.Struct("<QQH")
LAST = 2**64 - 1
TREE_SHIFT = 48  # of an inode number; the subvolume lies above
MOST_ATTRIBUTES = 65536
REMEMBERED = 4096  # inodes
UNPACKED = 16  # extents of at most 128 KiB


@dataclass(frozen=True, slots=True)
class _Subvolume:
    """The tree of one subvolume: where its top node lies."""

    node: int
    level: int


class Btrfs:
    """The inodes of one btrfs. Raises DamagedImage or UnsupportedImage when made from anything else."""

    filesystem = "btrfs"
    ignores_case = False
    root = FIRST_INODE

    def __init__(self, block: Block) -> None:
        self._block = block
        self._trees: Trees = open_trees(block)
        self._inodes: Recent[int, Inode] = Recent(REMEMBERED, self._read_inode)
        self._subvolumes: Recent[int, _Subvolume] = Recent(256, self._find_subvolume)
        self._listings = Listings(self._read_directory, block.name)
        self._unpacked: Recent[Extent, bytes] = Recent(UNPACKED, self._unpack)
        self._shown = self._default_subvolume()

    @property
    def name(self) -> str:
        return self._block.name

    def _default_subvolume(self) -> int:
        for data in self._items_of_roots(ROOT_TREE_DIRECTORY, DIRECTORY_ITEM):
            for item in named_items(data, self.name):
                if item.name == b"default" and item.kind == ROOT_ITEM:
                    return item.number
        return FILES_TREE

    def _items_of_roots(self, number: int, kind: int) -> Iterator[bytes]:
        tree = self._trees.roots
        for _key, data in self._trees.items(tree.node, tree.level, (number, kind, 0), (number, kind, LAST)):
            yield data

    def _find_subvolume(self, number: int) -> _Subvolume:
        found = list(self._items_of_roots(number, ROOT_ITEM))[-1:]
        if not found or len(found[0]) <= ROOT_LEVEL:
            raise DamagedImage(f"there is no subvolume {number}", where=self.name)
        _directory, node = ROOT_FIELDS.unpack_from(found[0])
        return _Subvolume(node, found[0][ROOT_LEVEL])

    def _split(self, number: int) -> tuple[int, int]:
        """Subvolume and inode of one of our numbers."""
        return number >> TREE_SHIFT or self._shown, number & (1 << TREE_SHIFT) - 1

    def _joined(self, subvolume: int, number: int, where: str) -> int:
        if not 0 < number < 1 << TREE_SHIFT or subvolume >> 64:
            raise DamagedImage(f"inode {number} has an impossible number", where=where)
        return number if subvolume == self._shown else subvolume << TREE_SHIFT | number

    def _where(self, number: int) -> str:
        subvolume, inode = self._split(number)
        return f"{self.name}: inode {inode} of subvolume {subvolume}"

    def _items(self, number: int, kind: int) -> Iterator[tuple[int, bytes]]:
        """The items of one kind of one inode, with the last part of their keys."""
        subvolume, inode = self._split(number)
        tree = self._subvolumes[subvolume]
        for key, data in self._trees.items(tree.node, tree.level, (inode, kind, 0), (inode, kind, LAST)):
            yield key[2], data

    def inode(self, number: int) -> Inode:
        return self._inodes[number]

    def _read_inode(self, number: int) -> Inode:
        if self._split(number)[1] == EMPTY:
            return Inode(number, "directory", 0o755, 0, 0, 0, 0, 0, 1)
        for _place, data in self._items(number, INODE_ITEM):
            return parse_inode(number, data, self._where(number))
        raise DamagedImage("does not exist", where=self._where(number))

    def entries(self, number: int) -> Mapping[str, int]:
        return self._listings[number]

    def _read_directory(self, number: int) -> Iterator[tuple[str, int]]:
        subvolume, inode = self._split(number)
        if inode == EMPTY:
            return
        where = self._where(number)
        for _index, data in self._items(number, NAMES_BY_INDEX):
            for item in named_items(data, where):
                if item.kind == ROOT_ITEM:
                    found = self._subvolume_at(subvolume, inode, item, where)
                elif item.kind == INODE_ITEM:
                    found = self._joined(subvolume, item.number, where)
                else:
                    raise DamagedImage(f"holds a name for an item of kind {item.kind}", where=where)
                yield decode_name(item.name, where), found

    def _subvolume_at(self, parent: int, directory: int, item: Named, where: str) -> int:
        """The root of a subvolume, if its parent says that it belongs here; a snapshot holds names of others."""
        for key, data in self._trees.items(
            self._trees.roots.node,
            self._trees.roots.level,
            (parent, ROOT_REFERENCE, item.number),
            (parent, ROOT_REFERENCE, item.number),
        ):
            if len(data) >= REFERENCE.size and key[2] == item.number:
                holder, _sequence, length = REFERENCE.unpack_from(data)
                if holder == directory and data[REFERENCE.size : REFERENCE.size + length] == item.name:
                    return self._joined(item.number, FIRST_INODE, where)
        return self._joined(item.number, EMPTY, where)

    def target(self, number: int) -> str:
        inode = self.inode(number)
        if inode.kind != "symlink" or inode.size > MOST_LINK_BYTES:
            raise DamagedImage(f"is a {inode.kind} of {inode.size:,} bytes, not a symlink", where=self._where(number))
        return b"".join(self.chunks(number, MOST_LINK_BYTES)).decode("utf-8", "surrogateescape")

    def chunks(self, number: int, size: int) -> Iterator[bytes]:
        left, position = self.inode(number).size, 0
        for at, data in self._items(number, EXTENT_ITEM):
            extent = parse_extent(data, self._where(number))
            if at < position:
                raise DamagedImage("its extents overlap", where=self._where(number))
            gap = min(at - position, left)
            yield from _zeros(gap, size)
            length = min(extent.length, left - gap)
            yield from self._content(extent, length, size)
            left -= gap + length
            position = at + extent.length
            if not left:
                return
        yield from _zeros(left, size)

    def _content(self, extent: Extent, length: int, size: int) -> Iterator[bytes]:
        if extent.is_hole:
            yield from _zeros(length, size)
            return
        if extent.codec or extent.inline is not None:
            whole = self._unpacked[extent]
            for at in range(extent.skip, extent.skip + length, size):
                yield whole[at : min(at + size, extent.skip + length)]
            return
        start = self._trees.chunks.place(extent.disk + extent.skip, length)
        for done in range(0, length, size):
            yield self._block.read(start + done, min(size, length - done))

    def _unpack(self, extent: Extent) -> bytes:
        packed = extent.inline
        if packed is None:
            packed = self._block.read(self._trees.chunks.place(extent.disk, extent.disk_length), extent.disk_length)
        return unpack_extent(extent, packed, self._trees.sector, self.name)

    def xattrs(self, number: int) -> Mapping[str, bytes]:
        found: dict[str, bytes] = {}
        if self._split(number)[1] == EMPTY:
            return found
        where = self._where(number)
        for _hash, data in self._items(number, ATTRIBUTE_ITEM):
            for item in named_items(data, where):
                found[item.name.decode("utf-8", "surrogateescape")] = item.data
            if len(found) > MOST_ATTRIBUTES:
                raise DamagedImage("has impossibly many attributes", where=where)
        return found


def _zeros(length: int, size: int) -> Iterator[bytes]:
    for at in range(0, length, size):
        yield bytes(min(size, length - at))
