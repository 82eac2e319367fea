"""One squashfs inode as it lies in the inode table (Linux fs/squashfs/squashfs_fs.h)."""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from harness.errors import DamagedImage
from harness.images.filesystems.inodes import MOST_LINK_BYTES, Inode, Kind, linux_device
from harness.images.filesystems.squashfs_metadata import Cursor

NONE = 0xFFFFFFFF  # no fragment, no attributes
HEADER = struct.Struct("<HHHHII")
DIRECTORY, LONG_DIRECTORY = struct.Struct("<IIHHI"), struct.Struct("<IIIIHHI")
DIRECTORY_INDEX = struct.Struct("<III")  # then a name, one byte longer than the last number says
FILE, LONG_FILE = struct.Struct("<IIII"), struct.Struct("<QQQIIII")
MOST_BLOCKS = 2**22  # of one file: 512 GiB with the usual blocks
LONG = 7  # what is added to a type whose inode has all fields
KINDS: Final[Mapping[int, Kind]] = {
    1: "directory",
    2: "file",
    3: "symlink",
    4: "block",
    5: "character",
    6: "fifo",
    7: "socket",
}


@dataclass(frozen=True, slots=True)
class Content:
    """Where a file's bytes lie: packed blocks one after the other, and the rest in a shared fragment."""

    start: int  # byte of the first block
    blocks: int
    sizes: tuple[int, int]  # metadata block and byte of the list of packed sizes
    fragment: int
    offset: int  # bytes into the unpacked fragment


@dataclass(frozen=True, slots=True)
class RawInode:
    """An inode and what leads to its content; `listing` is a directory's metadata block and byte.

    `indexes` is how many records of its index follow a directory's inode.
    """

    public: Inode
    attributes: int = NONE
    target: bytes = b""
    listing: tuple[int, int] | None = None
    content: Content | None = None
    indexes: int = 0


class TableInode(NamedTuple):
    """An inode as the inode table has it: a file's `packed` are the lengths of its blocks as they are stored."""

    raw: RawInode
    packed: array[int]


def read_table(cursor: Cursor, count: int, block_size: int) -> Iterator[TableInode]:
    """The `count` inodes that begin at a cursor, in order; their numbers are made up, their owners left out.

    Raises DamagedImage for what is no inode, or for a file of impossibly many blocks.
    """
    for number in range(count):
        inode = parse_inode(number, cursor, _nobody, block_size)
        blocks = inode.content.blocks if inode.content else 0
        if blocks > MOST_BLOCKS:
            raise DamagedImage(f"a file claims {inode.public.size:,} bytes, impossibly many", where=cursor.name)
        packed = array("I", cursor.read(4 * blocks))
        if sys.byteorder == "big":
            packed.byteswap()
        yield TableInode(inode, packed)
        for _ in range(inode.indexes):
            _index, _start, name_length = DIRECTORY_INDEX.unpack(cursor.read(DIRECTORY_INDEX.size))
            if name_length >= 256:
                raise DamagedImage(f"a directory's index has a name of {name_length + 1:,} bytes", where=cursor.name)
            cursor.read(name_length + 1)


def _nobody(_index: int) -> int:
    return 0


def parse_inode(number: int, cursor: Cursor, owner: Callable[[int], int], block_size: int) -> RawInode:
    """Read the inode at a cursor; `owner` gives the id with an index. Raises DamagedImage where it is none."""
    form, mode, uid, gid, seconds, _number = HEADER.unpack(cursor.read(HEADER.size))
    is_long = form > LONG
    kind = KINDS.get(form - LONG if is_long else form)
    where = f"{cursor.name}: inode {number:#x}"
    if kind is None:
        raise DamagedImage(f"is of an unknown type {form}", where=where)

    def public(size: int, links: int, device: tuple[int, int] | None = None) -> Inode:
        owners = owner(uid), owner(gid)
        return Inode(number, kind, mode & 0o7777, *owners, size, seconds, 0, links, device=device)

    if kind == "directory":
        if is_long:
            links, size, start, _parent, indexes, offset, attributes = LONG_DIRECTORY.unpack(cursor.read(24))
        else:
            (start, links, size, offset, _parent), attributes, indexes = DIRECTORY.unpack(cursor.read(16)), NONE, 0
        return RawInode(public(size, links), attributes, listing=(start, offset), indexes=indexes)
    if kind == "file":
        return _file(cursor, public, block_size, is_long=is_long)
    (links,) = struct.unpack("<I", cursor.read(4))
    size, target, device = 0, b"", None
    if kind == "symlink":
        (size,) = struct.unpack("<I", cursor.read(4))
        if size > MOST_LINK_BYTES:
            raise DamagedImage(f"claims a target of {size:,} bytes", where=where)
        target = cursor.read(size)
    elif kind in {"character", "block"}:
        device = linux_device(struct.unpack("<I", cursor.read(4))[0])
    attributes = struct.unpack("<I", cursor.read(4))[0] if is_long else NONE
    return RawInode(public(size, links, device), attributes, target)


def _file(cursor: Cursor, public: Callable[[int, int], Inode], block_size: int, *, is_long: bool) -> RawInode:
    if is_long:
        start, size, _sparse, links, fragment, offset, attributes = LONG_FILE.unpack(cursor.read(LONG_FILE.size))
    else:
        (start, fragment, offset, size), links, attributes = FILE.unpack(cursor.read(FILE.size)), 1, NONE
    blocks = size // block_size if fragment != NONE else -(-size // block_size)
    content = Content(start, blocks, (cursor.at, cursor.offset), fragment, offset)
    return RawInode(public(size, links), attributes, content=content)
