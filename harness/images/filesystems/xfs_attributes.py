"""Extended attributes in XFS: in the inode, or in a B+tree of blocks with large values apart (chapter "Attributes")."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from harness.errors import DamagedImage

Reader = Callable[[int, int], bytes]  # (first logical block of the attr fork, blocks) -> bytes

LEAVES = {0xFBEE: 32, 0x3BEE: 80}  # magic: where the entries begin
NODES = {0xFEBE: 16, 0x3EBE: 64}
REMOTE_MAGIC = b"XARM"
REMOTE_HEADER = 56  # bytes before the value in each block, version 5 only
FLAG_LOCAL, FLAG_ROOT, FLAG_SECURE, FLAG_PARENT, FLAG_INCOMPLETE = 0x01, 0x02, 0x04, 0x08, 0x80
LONGEST_VALUE = 65536
MOST_BLOCKS = 4096
DEEPEST_TREE = 5


def short_attributes(raw: bytes, where: str) -> Iterator[tuple[str, bytes]]:
    """Attributes kept within the inode."""
    count, at = raw[2] if len(raw) > 3 else 0, 4
    for _ in range(count):
        if at + 3 > len(raw) or at + 3 + raw[at] + raw[at + 1] > len(raw):
            raise DamagedImage("its attributes run out of the inode", where=where)
        name_length, value_length, flags = raw[at : at + 3]
        name, at = raw[at + 3 : at + 3 + name_length], at + 3 + name_length
        value, at = raw[at : at + value_length], at + value_length
        if not flags & (FLAG_PARENT | FLAG_INCOMPLETE):
            yield _full_name(flags, name), value


def tree_attributes(read: Reader, block_size: int, where: str, *, checksummed: bool) -> Iterator[tuple[str, bytes]]:
    """Attributes kept in blocks: from the leftmost leaf along the chain."""
    number = _leftmost(read, where)
    for _ in range(MOST_BLOCKS):
        raw = read(number, 1)
        (following,) = struct.unpack_from(">I", raw)
        (magic,) = struct.unpack_from(">H", raw, 8)
        start = LEAVES.get(magic)
        if start is None:
            raise DamagedImage(f"attribute block {number} is no leaf", where=where)
        yield from _leaf(raw, start, read, block_size, where, checksummed=checksummed)
        if not following:
            return
        number = following
    raise DamagedImage(f"more than {MOST_BLOCKS} blocks of attributes", where=where)


def _leftmost(read: Reader, where: str) -> int:
    number = 0
    for _ in range(DEEPEST_TREE + 1):
        raw = read(number, 1)
        start = NODES.get(struct.unpack_from(">H", raw, 8)[0])
        if start is None:
            return number
        (number,) = struct.unpack_from(">I", raw, start + 4)
    raise DamagedImage("its attribute tree is too deep", where=where)


def _leaf(
    raw: bytes, start: int, read: Reader, block_size: int, where: str, *, checksummed: bool
) -> Iterator[tuple[str, bytes]]:
    (count,) = struct.unpack_from(">H", raw, start - 24 if checksummed else start - 20)
    if start + count * 8 > len(raw):
        raise DamagedImage("an attribute leaf claims too many entries", where=where)
    for index in range(count):
        at, flags = struct.unpack_from(">HB", raw, start + index * 8 + 4)
        if at + 9 > len(raw):
            raise DamagedImage("an attribute lies outside its leaf", where=where)
        if flags & FLAG_LOCAL:
            value_length, name_length = struct.unpack_from(">HB", raw, at)
            name = raw[at + 3 : at + 3 + name_length]
            value = raw[at + 3 + name_length : at + 3 + name_length + value_length]
        else:
            first, value_length, name_length = struct.unpack_from(">IIB", raw, at)
            name = raw[at + 9 : at + 9 + name_length]
            value = _remote(read, first, value_length, block_size, where, checksummed=checksummed)
        if len(name) != name_length or len(value) != value_length:
            raise DamagedImage("an attribute lies outside its leaf", where=where)
        if not flags & (FLAG_PARENT | FLAG_INCOMPLETE):
            yield _full_name(flags, name), value


def _remote(read: Reader, first: int, length: int, block_size: int, where: str, *, checksummed: bool) -> bytes:
    if length > LONGEST_VALUE:
        raise DamagedImage(f"an attribute claims {length:,} bytes", where=where)
    header = REMOTE_HEADER if checksummed else 0
    blocks = -(-length // (block_size - header))
    pieces = [read(first + index, 1) for index in range(blocks)]
    if header and any(piece[:4] != REMOTE_MAGIC for piece in pieces):
        raise DamagedImage("an attribute's value is not where it should be", where=where)
    return b"".join(piece[header:] for piece in pieces)[:length]


def _full_name(flags: int, name: bytes) -> str:
    prefix = "trusted." if flags & FLAG_ROOT else "security." if flags & FLAG_SECURE else "user."
    return prefix + name.decode("utf-8", "surrogateescape")
