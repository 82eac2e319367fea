"""Whose bytes are whose in ext2, ext3 and ext4 (Linux, Documentation/filesystems/ext4): an exact account.

A reported file explains its inode, attributes, map and blocks; files in other places explain bitmaps and descriptors;
another checksum seed explains every checksum and nothing else; the journal follows from anything.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence

from harness.errors import HarnessError
from harness.images.block import Part
from harness.images.difference.accounts import Account, Moment, Range
from harness.images.difference.superblocks import EXT4, Told, ranges
from harness.images.filesystems.ext4 import Ext4, Group
from harness.images.lru import Recent

TIMES = {"ctime": (0x0C, 0x84), "creation time": (0x90, 0x94), "atime": (0x08, 0x8C)}
GENERATION, FLAGS, VERSION = 0x64, 0x20, 0x24
INDEXED = 0x1000  # of an inode's flags: a directory with hashes
INODE_CHECKSUMS = ((0x7C, 2), (0x82, 2))
SMALLEST_INODE = 128  # bytes: has no room for the upper half
ATTRIBUTES_CHECKSUM = 0x10  # in a block of attributes
SUPERBLOCK_SIZE = 1024
METADATA_CHECKSUMS = 0x400  # read-only compatible feature
CHECKSUM_SEED = 0x2000  # incompatible feature: checksums begin with a seed of their own instead of the UUID
RESERVED_INODES = range(1, 11)
ROOT, JOURNAL = 2, 8
QUOTAS = (3, 4)
ORPHAN_FILE = 0x280  # in the superblock: the number of its inode
MADE_BY_MKFS = {"/", "/lost+found"}
REMEMBERED = 512


class Ext4Account(Account):
    """Two ext4 filesystems of one geometry. Raises DamagedImage or UnsupportedImage for one that cannot be read."""

    is_exact = True
    time_knob = "file ctime"

    def __init__(self, one: Part, other: Part, inodes: tuple[Ext4, Ext4], told: Sequence[Told]) -> None:
        super().__init__(inodes)
        self._parts, self._ext4 = (one, other), inodes
        raws = tuple(part.read(1024, SUPERBLOCK_SIZE) for part in (one, other))
        self._orphans = [struct.unpack_from("<I", raw, ORPHAN_FILE)[0] for raw in raws]
        self._told = bool(told)
        times = [each.raw for each in told if each.cause == "timestamp" and len(each.raw[0]) == 4]
        self._moments = {(_seconds(first), _seconds(second)) for first, second in times}
        self.seeded = _checksum_seed(raws[0]) != _checksum_seed(raws[1])
        self._other_hashes = any(each.cause == "hash seed" for each in told)
        self._footprints = tuple(Recent(REMEMBERED, _reader(each)) for each in inodes)
        self._groups: Sequence[Group] = ()
        self._places: list[tuple[int, int, str]] = []  # start, end, what lies there
        self._bitmaps: list[int] = []  # of blocks, by group

    def footprints(self, mine: int | None, theirs: int | None) -> list[Range]:
        found: list[Range] = []
        for side, number in enumerate((mine, theirs)):
            if number is not None:
                found += self._footprints[side][number]
        return found

    def is_moved(self, mine: int, theirs: int) -> bool:
        return mine != theirs or self._footprints[0][mine] != self._footprints[1][theirs]

    def checksums(self, mine: int, theirs: int) -> list[Range]:
        """At the end of each block of names and of the map, and within the block of attributes."""
        found: list[Range] = []
        for side, number in enumerate((mine, theirs)):
            ext4 = self._ext4[side]
            size = ext4.block_size
            content, attributes, maps = ext4.blocks_of(number)
            found += [(at + ATTRIBUTES_CHECKSUM, at + ATTRIBUTES_CHECKSUM + 4) for at in attributes]
            tail = 12 + (size - 12) // 12 * 12  # of an extent block, behind as many entries as fit
            found += [(at + tail, at + tail + 4) for at in maps]
            if ext4.inode(number).kind == "directory":
                found += [(at - 4, at) for start, end in content for at in range(start + size, end + 1, size)]
        return found

    def keeps_order(self, mine: int, theirs: int) -> bool:
        if not self._other_hashes:
            return True
        raws = (self._ext4[0].raw_inode(mine), self._ext4[1].raw_inode(theirs))
        return not any(struct.unpack_from("<I", raw, FLAGS)[0] & INDEXED for raw in raws)

    def times(self, mine: int, theirs: int) -> Iterator[tuple[str, Moment, Moment]]:
        raws = (self._ext4[0].raw_inode(mine), self._ext4[1].raw_inode(theirs))
        for name, (low, high) in TIMES.items():
            first, second = (_time(raw, low, high) for raw in raws)
            if first != second:
                yield name, first, second

    def follows(self, path: str, name: str, first: Moment, second: Moment) -> bool:
        is_ours = (first[0], second[0]) in self._moments and not first[1] and not second[1]
        return is_ours and (name != "mtime" or path in MADE_BY_MKFS)

    def oddities(self, mine: int, theirs: int) -> Iterator[tuple[str, str]]:
        raws = (self._ext4[0].raw_inode(mine), self._ext4[1].raw_inode(theirs))
        for name, at, form, key in (
            ("inode generation", GENERATION, "", "generation"),
            ("inode flags", FLAGS, "#x", ""),
            ("inode version", VERSION, "", ""),
        ):
            first, second = (struct.unpack_from("<I", raw, at)[0] for raw in raws)
            is_order = at == FLAGS and (first ^ second) & ~0x10 in {0, INDEXED}  # immutable is a mode, hashes an order
            if first != second and not is_order:
                yield f"{name} {first:{form}} / {second:{form}}", key

    def consequences(self, *, found: bool, may_move: bool) -> Iterable[Range]:
        if not (found or self._told):
            return
        for inodes in self._ext4:
            if may_move or self._told:
                for at in inodes.superblocks():
                    yield from ranges(EXT4, at)
                    yield at + 0x5A, at + 0x5C  # the number of its group, in copies
                yield from (inodes.slot(number) for number in RESERVED_INODES if number != ROOT)
            else:
                yield 1024 + 0x3FC, 2048
            if may_move or self.seeded:
                yield from inodes.descriptors()
            if may_move:
                yield from _bitmaps(inodes)
        for side, orphans in enumerate(self._orphans):
            for number in (JOURNAL, *QUOTAS, *([orphans] if orphans else ())):
                yield from self._safely(side, number)

    def _safely(self, side: int, number: int) -> Sequence[Range]:
        try:
            return self._footprints[side][number]
        except HarnessError:  # an inode that this filesystem does not use
            return ()

    def mask(self, offset: int, left: bytearray) -> None:
        if not self.seeded:
            return
        if not self._groups:
            self._groups = sorted(self._ext4[0].groups(), key=_table)
        index = bisect_right(self._groups, offset + len(left) - 1, key=_table) - 1
        for group in self._groups[max(0, index - 1) : index + 1]:
            size = self._ext4[0].inode_size
            first = max(0, (offset - group.table) // size)
            for slot in range(group.table + first * size, min(group.table_end, offset + len(left)), size):
                for at, length in INODE_CHECKSUMS[: 1 + (size > SMALLEST_INODE)]:
                    start, end = (max(0, min(len(left), slot + at + more - offset)) for more in (0, length))
                    left[start:end] = bytes(end - start)

    def place_of(self, offset: int) -> tuple[str, str]:
        """As the first filesystem has it."""
        if not self._places:
            self._places = sorted(self._known_places())
        index = bisect_right(self._places, (offset, offset + 2**62, "")) - 1
        if index >= 0 and self._places[index][0] <= offset < self._places[index][1]:
            return self._places[index][2], ""
        return ("in free blocks", "free space") if self._is_free(offset) else ("in used blocks", "")

    def _known_places(self) -> Iterator[tuple[int, int, str]]:
        ext4 = self._ext4[0]
        for number, start in enumerate(ext4.superblocks()):
            yield start, start + SUPERBLOCK_SIZE, "in a copy of the superblock" if number else "in the superblock"
        yield from ((start, end, "in the group descriptors") for start, end in ext4.descriptors())
        yield from ((start, end, "in the journal") for start, end in self._safely(0, JOURNAL)[1:])
        self._bitmaps = []
        for group in ext4.groups():
            yield group.table, group.table_end, "in a table of inodes"
            for bitmap in (group.block_bitmap, group.inode_bitmap):
                yield bitmap, bitmap + ext4.block_size, "in a bitmap"
            self._bitmaps.append(group.block_bitmap)

    def _is_free(self, offset: int) -> bool:
        group, block = self._ext4[0].group_of(offset)
        if group >= len(self._bitmaps) or block // 8 >= self._ext4[0].block_size or not self._bitmaps[group]:
            return False
        return not self._parts[0].read(self._bitmaps[group] + block // 8, 1)[0] >> block % 8 & 1


def _reader(inodes: Ext4) -> Callable[[int], tuple[Range, ...]]:
    return lambda number: tuple(inodes.footprint(number))


def _table(group: Group) -> int:
    return group.table


def _bitmaps(inodes: Ext4) -> Iterator[Range]:
    for group in inodes.groups():
        for bitmap in (group.block_bitmap, group.inode_bitmap):
            yield bitmap, bitmap + inodes.block_size


def _seconds(raw: bytes) -> int:
    return int.from_bytes(raw, "little")


def _checksum_seed(superblock: bytes) -> bytes:
    """What the checksum of every metadata block begins with; the same where there are none."""
    incompatible, read_only = struct.unpack_from("<II", superblock, 0x60)
    if not read_only & METADATA_CHECKSUMS:
        return b""
    return superblock[0x270:0x274] if incompatible & CHECKSUM_SEED else superblock[0x68:0x78]


def _time(raw: bytes, low: int, high: int) -> Moment:
    """Seconds and nanoseconds; fields that a small inode lacks read as zero."""
    seconds = struct.unpack_from("<i", raw, low)[0] if low + 4 <= len(raw) else 0
    extra = struct.unpack_from("<I", raw, high)[0] if high + 4 <= len(raw) else 0
    return seconds + ((extra & 3) << 32), extra >> 2
