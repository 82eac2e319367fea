"""One EROFS inode as it lies on disk (Linux fs/erofs/erofs_fs.h)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from harness.errors import DamagedImage
from harness.images.filesystems.inodes import KINDS, Inode, Remembering, linux_device

PLAIN, FULL, INLINE, COMPACT, CHUNKED = range(5)  # how content is laid out; two of them are packed
SHORT = struct.Struct("<HHHHIIIIHHI")
LONG = struct.Struct("<HHHHQIIIIQII16x")


class Stamp(NamedTuple):
    """The time of all inodes that have none of their own."""

    seconds: int
    nanoseconds: int


@dataclass(frozen=True, slots=True)
class RawInode:
    """An inode and what follows it."""

    public: Inode
    layout: int
    word: int  # the first block, or the form of its chunks
    attributes: tuple[int, int]  # byte and length
    after: int  # the byte after inode and attributes


def parse_inode(number: int, at: int, metadata: Remembering, stamp: Stamp) -> RawInode:
    """Read the inode at a byte. Raises DamagedImage where it is none."""
    (form,) = struct.unpack("<H", metadata.read(at, 2))
    if form & 1:
        _form, count, mode, _, size, word, _ino, uid, gid, seconds, nanoseconds, links = LONG.unpack(
            metadata.read(at, LONG.size)
        )
    else:
        _form, count, mode, links, size, _, word, _ino, uid, gid, _ = SHORT.unpack(metadata.read(at, SHORT.size))
        seconds, nanoseconds = stamp
    kind = KINDS.get(mode & 0xF000)
    if kind is None or size >> 62 or form >> 4 or nanoseconds >= 10**9:
        raise DamagedImage(f"inode {number} is damaged or not in use", where=metadata.name)
    seconds -= (seconds >> 63) << 64  # it is signed
    device = linux_device(word) if kind in {"character", "block"} else None
    public = Inode(number, kind, mode & 0o7777, uid, gid, size, seconds, nanoseconds, links, device=device)
    start = at + (LONG.size if form & 1 else SHORT.size)
    length = 12 + 4 * (count - 1) if count else 0
    return RawInode(public, form >> 1 & 7, word, (start, length), start + length)
