"""btrfs' trees: superblock, chunks (logical addresses to bytes), nodes, and the items between two keys.

Facts from Linux include/uapi/linux/btrfs_tree.h and fs/btrfs/tree-checker.c. Every node is held to the keys that its
parent promises, so that nothing hostile can lead in a circle or to the same node twice.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.btrfs_chunks import CHUNK_ITEM, CHUNK_TREE, Chunks
from harness.images.filesystems.inodes import Remembering
from harness.images.lru import Recent

Key: TypeAlias = tuple[int, int, int]  # object, kind, offset
SUPERBLOCK, SUPERBLOCK_SIZE = 65536, 4096
HEADER = 101
NODE_FIELDS = struct.Struct("<48xQ40xIB")  # of a node's header: address, items, level
ITEM, POINTER = struct.Struct("<QBQII"), struct.Struct("<QBQQQ")
DEEPEST = 7
NODES = 128  # remembered
FIRST: Key = (0, 0, 0)
END: Key = (2**64, 0, 0)
READABLE_INCOMPAT = 0x10FFF  # all but zones, extent tree 2, stripe tree


class Top(NamedTuple):
    """Where a tree begins: a logical address, and how many levels of nodes are below."""

    node: int
    level: int


@dataclass(frozen=True, slots=True)
class _Node:
    keys: list[Key]
    pointers: list[int]  # of an inner node
    places: list[tuple[int, int]]  # of a leaf: first byte and end of each item
    raw: bytes


@dataclass(frozen=True, slots=True)
class Trees:
    """All trees of one filesystem."""

    chunks: Chunks
    roots: Top
    sector: int
    nodes: Recent[tuple[int, int], _Node]
    name: str

    def items(self, node: int, level: int, first: Key, last: Key) -> Iterator[tuple[Key, bytes]]:
        """The items of a tree from one key to another, in order. Raises DamagedImage for a broken tree."""
        if level > DEEPEST:
            raise DamagedImage(f"a tree claims {level} levels", where=self.name)
        return self._below(Top(node, level), (first, last), (FIRST, END), is_top=True)

    def _below(
        self, top: Top, wanted: tuple[Key, Key], promised: tuple[Key, Key], *, is_top: bool
    ) -> Iterator[tuple[Key, bytes]]:
        node = self.nodes[top]
        keys = node.keys
        if keys and (keys[0] < promised[0] or keys[-1] >= promised[1] or (not is_top and keys[0] != promised[0])):
            raise DamagedImage(f"the node at {top.node:,} has keys that its parent does not know", where=self.name)
        if not keys and not is_top:
            raise DamagedImage(f"the node at {top.node:,} is empty", where=self.name)
        begin = bisect_left(keys, wanted[0]) if not top.level else max(bisect_right(keys, wanted[0]) - 1, 0)
        for index in range(begin, bisect_right(keys, wanted[1])):
            if not top.level:
                start, end = node.places[index]
                yield keys[index], node.raw[start:end]
                continue
            limit = keys[index + 1] if index + 1 < len(keys) else promised[1]
            below = Top(node.pointers[index], top.level - 1)
            yield from self._below(below, wanted, (keys[index], limit), is_top=False)


def open_trees(block: Block) -> Trees:
    """Read the superblock and all chunks. Raises DamagedImage or UnsupportedImage where that cannot be done."""
    metadata = Remembering(block)
    raw = metadata.read(SUPERBLOCK, SUPERBLOCK_SIZE)
    if raw[64:72] != b"_BHRfS_M":
        raise DamagedImage("no btrfs superblock", where=block.name)
    roots, chunk_root = struct.unpack_from("<QQ", raw, 80)
    devices, sector, node_size = struct.unpack_from("<QII", raw, 136)
    (array_size,), (incompat,) = struct.unpack_from("<I", raw, 160), struct.unpack_from("<Q", raw, 188)
    if devices != 1:
        raise UnsupportedImage(f"btrfs on {devices} devices; we read those on one", where=block.name)
    if unknown := incompat & ~READABLE_INCOMPAT:
        raise UnsupportedImage(f"btrfs with features that we do not read: {unknown:#x}", where=block.name)
    sizes = {4096 << shift for shift in range(5)}
    if sector not in sizes or node_size not in sizes or node_size < sector or array_size > 2048:
        raise DamagedImage("its btrfs superblock has impossible sizes", where=block.name)
    chunks = Chunks(block.size, block.name)
    for number, data in chunks.bootstrap(raw[811 : 811 + array_size]):
        chunks.add(number, data)
    nodes: Recent[tuple[int, int], _Node] = Recent(NODES, lambda place: _read_node(metadata, chunks, place, node_size))
    trees = Trees(chunks, Top(roots, raw[198]), sector, nodes, block.name)
    found = trees.items(chunk_root, raw[199], (CHUNK_TREE, CHUNK_ITEM, 0), (CHUNK_TREE, CHUNK_ITEM, 2**64 - 1))
    for key, data in list(found):
        chunks.add(key[2], data)
    return trees


def _read_node(metadata: Remembering, chunks: Chunks, place: tuple[int, int], size: int) -> _Node:
    address, level = place
    raw = metadata.read(chunks.place(address, size), size)
    own_address, count, own_level = NODE_FIELDS.unpack_from(raw)
    record = POINTER if level else ITEM
    if own_address != address or own_level != level or count > (size - HEADER) // record.size:
        raise DamagedImage(f"the node at {address:,} is damaged", where=metadata.name)
    found = [record.unpack_from(raw, HEADER + index * record.size) for index in range(count)]
    keys: list[Key] = [(number, kind, offset) for number, kind, offset, _, _ in found]
    if any(before >= after for before, after in pairwise(keys)):
        raise DamagedImage(f"the keys of the node at {address:,} are out of order", where=metadata.name)
    if level:
        return _Node(keys, [pointer for _, _, _, pointer, _ in found], [], b"")
    places = [(HEADER + start, HEADER + start + length) for _, _, _, start, length in found]
    least = HEADER + count * record.size
    if any(start < least or end > size for start, end in places):
        raise DamagedImage(f"an item lies outside its leaf at {address:,}", where=metadata.name)
    return _Node(keys, [], places, raw)
