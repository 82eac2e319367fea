"""One XFS inode as it lies on disk, and where its forks' bytes lie (XFS Algorithms & Data Structures, part III).

Everything in XFS is big-endian. A fork is the map of a file's content ("data") or of its attributes ("attr").
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.errors import DamagedImage
from harness.images.filesystems.inodes import KINDS, Inode

MAGIC = b"IN"
LOCAL, EXTENTS, BTREE = 1, 2, 3
CORE_SIZES = {1: 100, 2: 100, 3: 176}
FLAG_REALTIME, FLAG_IMMUTABLE = 0x1, 0x8
FLAG2_BIGTIME, FLAG2_NREXT64 = 0x8, 0x10
BIGTIME_EPOCH = -(2**31)
BTREE_MAGICS = {b"BMAP": 24, b"BMA3": 72}  # header sizes
DEEPEST_TREE = 9


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of a fork in filesystem blocks; `start` is a block number as XFS packs it."""

    logical: int
    start: int
    count: int
    written: bool


@dataclass(frozen=True, slots=True)
class Fork:
    """One fork within the inode: its format, its bytes, and how many extents they list."""

    format: int
    raw: bytes
    extents: int


@dataclass(frozen=True, slots=True)
class RawInode:
    """An inode with its forks. `attributes` is None where it has none."""

    public: Inode
    data: Fork
    attributes: Fork | None
    is_realtime: bool


def parse_inode(number: int, raw: bytes, where: str) -> RawInode:
    """Read an on-disk inode. Raises DamagedImage where it is none, or is not in use."""
    magic, mode, version, form = struct.unpack_from(">2sHBB", raw)
    core = CORE_SIZES.get(version)
    kind = KINDS.get(mode & 0xF000)
    if magic != MAGIC or core is None or kind is None:
        raise DamagedImage(f"inode {number} is damaged or not in use", where=where)
    uid, gid, new_links = struct.unpack_from(">III", raw, 8)
    links = struct.unpack_from(">H", raw, 6)[0] if version == 1 else new_links
    (size,) = struct.unpack_from(">Q", raw, 56)
    extents, attribute_extents, fork_offset, attribute_form = struct.unpack_from(">IHBB", raw, 76)
    (flags,) = struct.unpack_from(">H", raw, 90)
    flags2 = struct.unpack_from(">Q", raw, 120)[0] if version == 3 else 0
    if flags2 & FLAG2_NREXT64:
        (extents,), (attribute_extents,) = struct.unpack_from(">Q", raw, 24), struct.unpack_from(">I", raw, 76)
    seconds, nanoseconds = _modified(raw, bigtime=bool(flags2 & FLAG2_BIGTIME))
    middle = core + fork_offset * 8 if fork_offset else len(raw)
    if middle > len(raw) or size >> 63:
        raise DamagedImage(f"inode {number} has an impossible size or fork offset", where=where)
    (packed,) = struct.unpack_from(">I", raw, core)
    device = (packed >> 18, packed & 0x3FFFF) if kind in {"character", "block"} else None
    public = Inode(
        number,
        kind,
        mode & 0o7777,
        uid,
        gid,
        size,
        seconds,
        nanoseconds,
        links,
        bool(flags & FLAG_IMMUTABLE),
        device,
    )
    attributes = Fork(attribute_form, raw[middle:], attribute_extents) if fork_offset else None
    return RawInode(public, Fork(form, raw[core:middle], extents), attributes, bool(flags & FLAG_REALTIME))


def _modified(raw: bytes, *, bigtime: bool) -> tuple[int, int]:
    if not bigtime:
        seconds, nanoseconds = struct.unpack_from(">iI", raw, 40)
        return int(seconds), int(nanoseconds)
    seconds, nanoseconds = divmod(struct.unpack_from(">Q", raw, 40)[0], 10**9)
    return int(seconds) + BIGTIME_EPOCH, int(nanoseconds)


def fork_extents(fork: Fork, read_block: Callable[[int], bytes], where: str) -> Iterator[Extent]:
    """The extents of a fork in order; `read_block` gives a filesystem block. A local fork has none.

    Raises DamagedImage for a map that is out of order, or uses a block twice.
    """
    if fork.format == EXTENTS:
        if fork.extents * 16 > len(fork.raw):
            raise DamagedImage(f"its map claims {fork.extents} extents", where=where)
        found = _records(fork.raw, 0, fork.extents)
    elif fork.format == BTREE:
        found = _root(fork.raw, read_block, where)
    else:
        return
    at = 0
    for extent in found:
        if extent.logical < at or not extent.count:
            raise DamagedImage("its extents overlap or are out of order", where=where)
        at = extent.logical + extent.count
        yield extent


def _records(raw: bytes, at: int, count: int) -> Iterator[Extent]:
    for high, low in struct.iter_unpack(">QQ", raw[at : at + 16 * count]):
        yield Extent(high >> 9 & (1 << 54) - 1, (high & 0x1FF) << 43 | low >> 21, low & (1 << 21) - 1, not high >> 63)


def _root(raw: bytes, read_block: Callable[[int], bytes], where: str) -> Iterator[Extent]:
    level, count = struct.unpack_from(">HH", raw)
    most = (len(raw) - 4) // 16
    if not 0 < level <= DEEPEST_TREE or count > most:
        raise DamagedImage("the root of its extent tree is damaged", where=where)
    seen: set[int] = set()
    for pointer in struct.unpack_from(f">{count}Q", raw, 4 + most * 8):
        yield from _node(pointer, level - 1, read_block, seen, where)


def _node(pointer: int, level: int, read_block: Callable[[int], bytes], seen: set[int], where: str) -> Iterator[Extent]:
    if pointer in seen:
        raise DamagedImage(f"its extent tree uses block {pointer} twice", where=where)
    seen.add(pointer)
    raw = read_block(pointer)
    magic, found_level, count = struct.unpack_from(">4sHH", raw)
    header = BTREE_MAGICS.get(magic, 0)
    most = (len(raw) - header) // 16
    if not header or found_level != level or count > most:
        raise DamagedImage(f"block {pointer} of its extent tree is damaged", where=where)
    if not level:
        yield from _records(raw, header, count)
        return
    for child in struct.unpack_from(f">{count}Q", raw, header + most * 8):
        yield from _node(child, level - 1, read_block, seen, where)
