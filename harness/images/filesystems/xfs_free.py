"""The free blocks of an XFS filesystem, by the free space trees of its allocation groups (XFS Algorithms & Data
Structures): each AGF names the root of a tree of (block, count), sorted by block.

Believed only where the log is clean, checksums are right (version 5), and the tree holds as many free blocks as the
AGF counts.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.superblock_parts import crc32c
from harness.images.filesystems.xfs import VERSION_5, Xfs
from harness.images.filesystems.xfs_log import log_is_clean
from harness.images.ranges import Range, merged

NEEDS_REPAIR = 1 << 4  # incompatible feature
TREE_MAGICS = {b"ABTB": 16, b"AB3B": 56}  # version 4 and 5; sizes of a tree block's header
TREE_CHECKSUM, AGF_CHECKSUM = 52, 216
NOBODY = 0xFFFFFFFF  # no sibling
DEEPEST_TREE = 9


@dataclass(frozen=True, slots=True)
class _Geometry:
    """The numbers of a superblock that say where allocation groups lie; sizes in blocks but for the first two."""

    size: int  # bytes of a block
    sector: int  # bytes
    blocks: int
    group_blocks: int
    groups: int
    has_checksums: bool

    def length(self, group: int) -> int:
        return min(self.group_blocks, self.blocks - group * self.group_blocks)


def xfs_free(block: Block) -> list[Range]:
    """Bytes of the filesystem that hold nothing, in order.

    Raises UnsupportedImage where the log would have to be replayed first or lies elsewhere, DamagedImage for a
    filesystem that contradicts itself.
    """
    Xfs(block)  # refuses what has impossible sizes
    raw = block.read(0, 512)
    geometry = _geometry(raw)
    if geometry.blocks * geometry.size > block.size:
        raise DamagedImage(f"its filesystem claims {geometry.blocks * geometry.size:,} bytes", where=block.name)
    _check_log(block, raw, geometry)
    found: list[Range] = []
    for group in range(geometry.groups):
        base = group * geometry.group_blocks
        free = list(_free_of(block, geometry, group))
        found += [Range((base + start) * geometry.size, (base + end) * geometry.size) for start, end in free]
    return merged(found)


def _geometry(raw: bytes) -> _Geometry:
    size, blocks = struct.unpack_from(">IQ", raw, 4)
    group_blocks, groups = struct.unpack_from(">II", raw, 84)
    version, sector = struct.unpack_from(">HH", raw, 100)
    return _Geometry(size, sector, blocks, group_blocks, groups, version & 0xF == VERSION_5)


def _check_log(block: Block, raw: bytes, geometry: _Geometry) -> None:
    (packed,), (log_blocks,) = struct.unpack_from(">Q", raw, 48), struct.unpack_from(">I", raw, 96)
    (incompatible,) = struct.unpack_from(">I", raw, 216)
    if geometry.has_checksums and incompatible & NEEDS_REPAIR:
        raise UnsupportedImage("says itself that it needs repair", where=block.name)
    if not packed:
        raise UnsupportedImage("keeps its log on another device", where=block.name)
    group, within = packed >> raw[124], packed & (1 << raw[124]) - 1
    start = (group * geometry.group_blocks + within) * geometry.size
    if start + log_blocks * geometry.size > block.size:
        raise DamagedImage("its log lies outside the filesystem", where=block.name)
    if not log_is_clean(block, start, log_blocks * geometry.size):
        raise UnsupportedImage("has a log to replay", where=block.name)


def _free_of(block: Block, geometry: _Geometry, group: int) -> Iterator[Range]:
    """The free runs of one group, in blocks of it."""
    where = f"{block.name}: allocation group {group}"
    length = geometry.length(group)
    agf = block.read(group * geometry.group_blocks * geometry.size + geometry.sector, geometry.sector)
    magic, _version, number, claimed, root = struct.unpack_from(">4sIIII", agf)
    (levels,), (counted,) = struct.unpack_from(">I", agf, 28), struct.unpack_from(">I", agf, 52)
    if magic != b"XAGF" or number != group or claimed != length or not 1 <= levels <= DEEPEST_TREE:
        raise DamagedImage("its free space header (AGF) is damaged", where=where)
    if geometry.has_checksums and not _sums(agf, AGF_CHECKSUM):
        raise DamagedImage("its free space header (AGF) has a wrong checksum", where=where)
    tree = _Tree(block, geometry, group, where)
    total, position = 0, 0
    for start, count in tree.records(root, levels):
        if start < position or not count or start + count > length:
            raise DamagedImage(f"its free blocks {start} (+{count}) are out of order", where=where)
        yield Range(start, start + count)
        total, position = total + count, start + count
    if total != counted:
        raise DamagedImage(f"its tree has {total:,} free blocks, its header {counted:,}", where=where)


@dataclass(frozen=True, slots=True)
class _Tree:
    """The blocks of one group's free space tree."""

    block: Block
    geometry: _Geometry
    group: int
    where: str

    def records(self, root: int, levels: int) -> Iterator[tuple[int, int]]:
        """First block and count of each free run: down the left edge, then along the leaves."""
        number = root
        for level in range(levels - 1, 0, -1):
            raw, header = self._read(number, level)
            room = (self.geometry.size - header) // 12  # a key of 8 bytes and a pointer of 4
            (number,) = struct.unpack_from(">I", raw, header + room * 8)
        seen: set[int] = set()
        while number != NOBODY:
            if number in seen:
                raise DamagedImage("its free space tree runs in a circle", where=self.where)
            seen.add(number)
            raw, header = self._read(number, 0)
            count, _left, right = struct.unpack_from(">HII", raw, 6)
            if header + count * 8 > len(raw):
                raise DamagedImage(f"block {number} of its free space tree claims {count} records", where=self.where)
            yield from struct.iter_unpack(">II", raw[header : header + count * 8])
            number = right

    def _read(self, number: int, level: int) -> tuple[bytes, int]:
        """A block of the tree and the size of its header."""
        if not 0 < number < self.geometry.length(self.group):
            raise DamagedImage(f"its free space tree leads to block {number}", where=self.where)
        at = (self.group * self.geometry.group_blocks + number) * self.geometry.size
        raw = self.block.read(at, self.geometry.size)
        header = TREE_MAGICS.get(raw[:4])
        if header is None or struct.unpack_from(">H", raw, 4)[0] != level:
            raise DamagedImage(f"block {number} is no part of its free space tree", where=self.where)
        if self.geometry.has_checksums and not _sums(raw, TREE_CHECKSUM):
            raise DamagedImage(f"block {number} of its free space tree has a wrong checksum", where=self.where)
        return raw, header


def _sums(raw: bytes, at: int) -> bool:
    """Whether a checksum stored within is that of the rest."""
    stored: int = struct.unpack_from("<I", raw, at)[0]
    return crc32c(raw[:at] + bytes(4) + raw[at + 4 :]) ^ 0xFFFFFFFF == stored
