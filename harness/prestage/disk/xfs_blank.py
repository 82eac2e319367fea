"""An XFS filesystem as mkfs.xfs leaves it, opened to have blocks given to its files (XFS Algorithms & Data Structures).

Only that fresh shape is read: version 5, no reverse map, each tree of free space or inodes a single block. Anything
else is refused, for somebody else's filesystem is not ours to write to. All numbers are big-endian, checksums are
CRC-32C in little-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from harness.errors import ToolFailed, UnsupportedImage
from harness.images.filesystems.superblock_parts import crc32c

SUPERBLOCK_CRC, AGF_CRC, TREE_CRC, INODE_CRC = 224, 216, 52, 100
FREE_COUNT = 144  # of the superblock
TREE_HEADER, RECORD = 56, struct.Struct(">II")
BY_BLOCK, BY_LENGTH, INODES = b"AB3B", b"AB3C", b"IAB3"
AGF_ROOTS, AGF_LEVELS, AGF_FREE = 16, 28, 52
AGI_ROOT = 20
CHUNK = 64  # inodes of one record
# What the kernel of RHEL 8.4 (4.18) mounts for writing: free inode tree, reverse map, reflink; types in directories,
# sparse inodes, another UUID in metadata.
KNOWN_RO_COMPAT, KNOWN_INCOMPAT = 0x7, 0x7


@dataclass(frozen=True, slots=True)
class Free:
    """The longest run of free blocks of one allocation group; `start` counts within the group."""

    group: int
    start: int
    count: int


class BlankXfs:
    """A fresh filesystem in a file, open for reading and writing."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        raw = self._read(0, 512)
        if raw[:4] != b"XFSB":
            raise self._unexpected("no superblock")
        self.block_size: int
        self.blocks: int
        self.group_blocks: int
        self.groups: int
        self.block_size, self.blocks = struct.unpack_from(">IQ", raw, 4)
        self.group_blocks, self.groups = struct.unpack_from(">II", raw, 84)
        version, self._sector, self.inode_size, self._inopblock = struct.unpack_from(">HHHH", raw, 100)
        self._inode_log, self.group_log = raw[123], raw[124]
        ro_compat, incompat = struct.unpack_from(">II", raw, 212)
        if version & 0xF != 5:
            raise self._unexpected("not version 5")
        if more := (ro_compat & ~KNOWN_RO_COMPAT) << 32 | incompat & ~KNOWN_INCOMPAT:
            raise UnsupportedImage(
                f"mkfs.xfs made it with features that Linux 4.18 does not mount ({more:#x})",
                next_step="use xfsprogs 5.10 to 6.6, or --filesystem ext4",
            )

    def offset(self, group: int, block: int) -> int:
        """The byte at which a block of a group lies."""
        return (group * self.group_blocks + block) * self.block_size

    def free(self) -> list[Free]:
        """The longest free run of each group."""
        found = []
        for group in range(self.groups):
            records = self._free_records(group)
            start, count = max(records, key=lambda record: record[1])
            found.append(Free(group, start, count))
        return found

    def take(self, run: Free, count: int) -> None:
        """Take blocks from the beginning of a group's longest free run, which must be longer than that."""
        at = self.offset(run.group, 0) + self._sector
        agf = bytearray(self._read(at, self._sector))
        records = self._free_records(run.group)
        records.remove((run.start, run.count))
        records.append((run.start + count, run.count - count))
        for index, (magic, key) in enumerate(((BY_BLOCK, (0, 1)), (BY_LENGTH, (1, 0)))):
            (root,) = struct.unpack_from(">I", agf, AGF_ROOTS + 4 * index)
            place = self.offset(run.group, root)
            tree = bytearray(self._read(place, self.block_size))
            self._check_leaf(tree, magic, len(records))
            for number, record in enumerate(sorted(records, key=lambda each: (each[key[0]], each[key[1]]))):
                RECORD.pack_into(tree, TREE_HEADER + number * RECORD.size, *record)
            self._write(place, tree, TREE_CRC)
        (free,) = struct.unpack_from(">I", agf, AGF_FREE)
        struct.pack_into(">II", agf, AGF_FREE, free - count, max(length for _, length in records))
        self._write(at, agf, AGF_CRC)
        head = bytearray(self._read(0, self._sector))
        (free,) = struct.unpack_from(">Q", head, FREE_COUNT)
        struct.pack_into(">Q", head, FREE_COUNT, free - count)
        self._write(0, head, SUPERBLOCK_CRC)

    def inodes(self) -> Iterator[tuple[int, bytearray]]:
        """Every inode in use: its number, and itself to be changed and given to `write_inode`."""
        for group in range(self.groups):
            (root,) = struct.unpack_from(">I", self._read(self.offset(group, 0) + 2 * self._sector, 512), AGI_ROOT)
            tree = self._read(self.offset(group, root), self.block_size)
            magic, level, count = struct.unpack_from(">4sHH", tree)
            if magic != INODES or level:
                raise self._unexpected("its tree of inodes has more than one block")
            for index in range(count):
                first, _, _, _, free = struct.unpack_from(">IHBBQ", tree, TREE_HEADER + 16 * index)
                used = (first + bit for bit in range(CHUNK) if not free >> bit & 1)
                for number in used:
                    packed = group << self.group_log + self._inode_log | number
                    yield packed, bytearray(self._read(self._inode_at(packed), self.inode_size))

    def write_inode(self, number: int, inode: bytearray) -> None:
        self._write(self._inode_at(number), inode, INODE_CRC)

    def _inode_at(self, number: int) -> int:
        block, index = divmod(number, self._inopblock)
        group, within = block >> self.group_log, block & (1 << self.group_log) - 1
        return int(self.offset(group, within) + index * self.inode_size)

    def _free_records(self, group: int) -> list[tuple[int, int]]:
        agf = self._read(self.offset(group, 0) + self._sector, self._sector)
        (root,), levels = struct.unpack_from(">I", agf, AGF_ROOTS), struct.unpack_from(">II", agf, AGF_LEVELS)
        if agf[:4] != b"XAGF" or levels != (1, 1):
            raise self._unexpected("its trees of free space have more than one block")
        tree = self._read(self.offset(group, root), self.block_size)
        count = self._check_leaf(tree, BY_BLOCK)
        places = range(TREE_HEADER, TREE_HEADER + count * RECORD.size, RECORD.size)
        return [(start, length) for start, length in (RECORD.unpack_from(tree, at) for at in places)]

    def _check_leaf(self, tree: bytes | bytearray, magic: bytes, expected: int | None = None) -> int:
        found, level, count = struct.unpack_from(">4sHH", tree)
        if found != magic or level or not count or expected not in {None, count}:
            raise self._unexpected("a tree of free space is not as it should be")
        return int(count)

    def _read(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def _write(self, offset: int, raw: bytearray, checksum: int) -> None:
        raw[checksum : checksum + 4] = bytes(4)
        struct.pack_into("<I", raw, checksum, crc32c(bytes(raw)) ^ 0xFFFFFFFF)
        self._file.seek(offset)
        self._file.write(raw)

    def _unexpected(self, what: str) -> ToolFailed:
        return ToolFailed(f"mkfs.xfs left what we do not know: {what}", where=self._name, next_step="use ext4 instead")


def open_blank(path: Path) -> BinaryIO:
    """The file of a fresh filesystem, without buffers: what is written is read back through `BlankXfs`."""
    return path.open("r+b", buffering=0)
