"""Where an ext2/3/4 file's bytes lie: extent trees and indirect blocks (Linux, Documentation/filesystems/ext4).

Everything is checked against the filesystem's size, and no metadata block is believed twice within one file, so
that the work is bounded by the image and not by what it claims.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from harness.errors import DamagedImage
from harness.images.block import Block
from harness.images.filesystems.inodes import Run

EXTENT_MAGIC = 0xF30A
DEEPEST_TREE = 5
LONGEST_WRITTEN = 32768  # a longer extent is allocated but unwritten, and reads as zeros
DIRECT_POINTERS = 12
HEADER = struct.Struct("<HHHH")
LEAF = struct.Struct("<IHHI")
INDEX = struct.Struct("<IIH")


@dataclass(slots=True)
class FileMap:
    """The map of one file; `root` is the 60 bytes of its inode that hold the tree or the pointers."""

    block: Block
    block_size: int
    block_count: int
    where: str
    seen: set[int] = field(default_factory=set)

    def extents(self, root: bytes) -> Iterator[Run]:
        """Runs of an extent tree, holes included."""
        at = 0
        for first, count, start, written in self._leaves(root, None):
            if first < at:
                raise DamagedImage("extents overlap or are out of order", where=self.where)
            if first > at:
                yield Run((first - at) * self.block_size, None)
            self._check(start, count)
            yield Run(count * self.block_size, start * self.block_size if written else None)
            at = first + count

    def _leaves(self, node: bytes, expected_depth: int | None) -> Iterator[tuple[int, int, int, bool]]:
        magic, entries, _most, depth = HEADER.unpack_from(node)
        if magic != EXTENT_MAGIC or depth > DEEPEST_TREE or 12 + 12 * entries > len(node):
            raise DamagedImage("its extent tree has a damaged header", where=self.where)
        if expected_depth is not None and depth != expected_depth:
            raise DamagedImage(f"its extent tree says depth {depth} at depth {expected_depth}", where=self.where)
        for at in range(12, 12 + 12 * entries, 12):
            if depth:
                _first, low, high = INDEX.unpack_from(node, at)
                yield from self._leaves(self._metadata(low | high << 32), depth - 1)
                continue
            first, length, high, low = LEAF.unpack_from(node, at)
            written = length <= LONGEST_WRITTEN
            yield first, length if written else length - LONGEST_WRITTEN, low | high << 32, written

    def pointers(self, root: bytes, size: int) -> Iterator[Run]:
        """Runs of direct and indirect blocks, as ext2 and ext3 have them, for the first `size` bytes."""
        left = -(-size // self.block_size)
        numbers = struct.unpack("<15I", root)
        for number in numbers[:DIRECT_POINTERS]:
            if left <= 0:
                return
            yield self._data(number, 1)
            left -= 1
        for depth, number in enumerate(numbers[DIRECT_POINTERS:], 1):
            if left <= 0:
                return
            yield from self._indirect(number, depth, left)
            left -= (self.block_size // 4) ** depth

    def _indirect(self, number: int, depth: int, left: int) -> Iterator[Run]:
        reach = (self.block_size // 4) ** depth
        if not number:
            yield Run(min(reach, left) * self.block_size, None)
            return
        if not depth:
            yield self._data(number, 1)
            return
        step = reach // (self.block_size // 4)
        for pointer in struct.unpack(f"<{self.block_size // 4}I", self._metadata(number)):
            if left <= 0:
                return
            yield from self._indirect(pointer, depth - 1, left)
            left -= step

    def _data(self, number: int, count: int) -> Run:
        if not number:
            return Run(count * self.block_size, None)
        self._check(number, count)
        return Run(count * self.block_size, number * self.block_size)

    def _metadata(self, number: int) -> bytes:
        if number in self.seen:
            raise DamagedImage(f"its map uses block {number} twice", where=self.where)
        self.seen.add(number)
        self._check(number, 1)
        return self.block.read(number * self.block_size, self.block_size)

    def _check(self, start: int, count: int) -> None:
        if not start or start + count > self.block_count:
            raise DamagedImage(
                f"blocks {start} (+{count}) lie outside the filesystem of {self.block_count} blocks", where=self.where
            )


def joined(runs: Iterator[Run]) -> Iterator[Run]:
    """The same runs with neighbours made one, so that content is read in large bites."""
    last: Run | None = None
    for run in runs:
        if last is None:
            last = run
        elif last.offset is None and run.offset is None:
            last = Run(last.length + run.length, None)
        elif last.offset is not None and run.offset == last.offset + last.length:
            last = Run(last.length + run.length, last.offset)
        else:
            yield last
            last = run
    if last is not None:
        yield last
