"""btrfs' inodes, and the items that carry names: of directories and of attributes (Linux btrfs_tree.h)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from harness.errors import DamagedImage
from harness.images.filesystems.inodes import KINDS, Inode

DIRECTORY_ITEM = 84
INODE = struct.Struct("<16xQ16xIIIIQQ64xqI12x")
IMMUTABLE = 1 << 6
MINOR_BITS = 20  # of a device number inside the kernel, which is what btrfs stores
NAMED = struct.Struct("<QBQQHHB")  # key, transaction, lengths of data and name, type


@dataclass(frozen=True, slots=True)
class Named:
    """A name and the key of what it names, or an attribute's name and value (`data`)."""

    number: int
    kind: int
    name: bytes
    data: bytes


def parse_inode(number: int, raw: bytes, where: str) -> Inode:
    """Read an inode item. Raises DamagedImage where it is none."""
    if len(raw) < INODE.size:
        raise DamagedImage("is cut short", where=where)
    size, links, uid, gid, mode, device, flags, seconds, nanoseconds = INODE.unpack_from(raw)
    kind = KINDS.get(mode & 0xF000)
    if kind is None or size >> 63 or nanoseconds >= 10**9:
        raise DamagedImage("is damaged", where=where)
    numbers = (device >> MINOR_BITS, device & (1 << MINOR_BITS) - 1) if kind in {"character", "block"} else None
    return Inode(
        number,
        kind,
        mode & 0o7777,
        uid,
        gid,
        size,
        seconds,
        nanoseconds,
        links,
        bool(flags & IMMUTABLE),
        numbers,
    )


def named_items(raw: bytes, where: str) -> Iterator[Named]:
    """The named things in one item: usually one, several where their names have the same hash."""
    at = 0
    while at < len(raw):
        if at + NAMED.size > len(raw):
            raise DamagedImage("a name runs out of its item", where=where)
        number, kind, _offset, _transaction, data_length, name_length, _type = NAMED.unpack_from(raw, at)
        at += NAMED.size
        end = at + name_length + data_length
        if not 0 < name_length <= 255 or end > len(raw):
            raise DamagedImage("a name runs out of its item", where=where)
        yield Named(number, kind, raw[at : at + name_length], raw[at + name_length : end])
        at = end
