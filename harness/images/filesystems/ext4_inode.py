"""One ext2/3/4 inode as it lies on disk, and the extended attributes around it (Linux, Documentation/filesystems/ext4).

POSIX ACLs come as stored on disk, which is shorter than what getfattr shows.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.errors import DamagedImage
from harness.images.filesystems.inodes import KINDS, Inode

FLAG_IMMUTABLE = 0x10
FLAG_ENCRYPTED = 0x800
FLAG_HUGE_FILE = 0x40000
FLAG_EXTENTS = 0x80000
FLAG_EA_INODE = 0x200000
FLAG_INLINE_DATA = 0x10000000

CORE = struct.Struct("<HHIIIIIHHII")  # mode uid size atime ctime mtime dtime gid links blocks flags
XATTR_MAGIC = 0xEA020000
XATTR_ENTRY = struct.Struct("<BBHIII")  # name length, name index, value offset, value inode, value size, hash
XATTR_BLOCK_HEADER = 32
MOST_XATTRS = 4096
PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    6: "security.",
    7: "system.",
    8: "system.richacl",
}
INLINE_DATA = "system.data"


@dataclass(frozen=True, slots=True)
class RawInode:
    """An inode's fields that map its content, beside the public ones."""

    public: Inode
    raw: bytes
    flags: int
    root: bytes  # the 60 bytes of i_block
    attribute_block: int  # 0 for none
    sectors: int  # i_blocks; only compared with zero

    @property
    def is_inline(self) -> bool:
        return bool(self.flags & FLAG_INLINE_DATA)

    @property
    def has_extents(self) -> bool:
        return bool(self.flags & FLAG_EXTENTS)


def parse_inode(number: int, raw: bytes, where: str) -> RawInode:
    """Read an on-disk inode. Raises DamagedImage where its mode says no kind of file."""
    mode, uid, size, _atime, _ctime, mtime, _dtime, gid, links, sectors, flags = CORE.unpack_from(raw)
    attributes, size_high = struct.unpack_from("<II", raw, 0x68)
    _sectors_high, attributes_high, uid_high, gid_high = struct.unpack_from("<HHHH", raw, 0x74)
    kind = KINDS.get(mode & 0xF000)
    if kind is None:
        raise DamagedImage(f"inode {number} has the impossible mode {mode:o}", where=where)
    if kind == "file":
        size |= size_high << 32
    seconds, nanoseconds = _modified(mtime, raw)
    root = raw[0x28:0x64]
    public = Inode(
        number,
        kind,
        mode & 0o7777,
        uid | uid_high << 16,
        gid | gid_high << 16,
        size,
        seconds,
        nanoseconds,
        links,
        bool(flags & FLAG_IMMUTABLE),
        _device(root) if kind in {"character", "block"} else None,
    )
    return RawInode(public, raw, flags, root, attributes | attributes_high << 32, sectors)


def _modified(mtime: int, raw: bytes) -> tuple[int, int]:
    seconds = mtime - (1 << 32) if mtime >> 31 else mtime
    if len(raw) < 0x8C or struct.unpack_from("<H", raw, 0x80)[0] < 0x0C:
        return seconds, 0
    (extra,) = struct.unpack_from("<I", raw, 0x88)
    return seconds + ((extra & 3) << 32), extra >> 2


def _device(root: bytes) -> tuple[int, int]:
    old, new = struct.unpack_from("<II", root)
    if old:
        return old >> 8 & 0xFF, old & 0xFF
    return (new & 0xFFF00) >> 8, (new & 0xFF) | (new >> 12 & 0xFFF00)


def inode_attributes(inode: RawInode, value_of: Callable[[int], bytes], where: str) -> Iterator[tuple[str, bytes]]:
    """Attributes stored behind the inode's fields; `value_of` reads a value kept in an inode of its own."""
    raw = inode.raw
    if len(raw) <= 132:
        return
    start = 128 + struct.unpack_from("<H", raw, 0x80)[0]
    if start + 8 > len(raw) or struct.unpack_from("<I", raw, start)[0] != XATTR_MAGIC:
        return
    yield from _attributes(raw, start + 4, start + 4, value_of, where)


def block_attributes(raw: bytes, value_of: Callable[[int], bytes], where: str) -> Iterator[tuple[str, bytes]]:
    """Attributes in a block of their own. Raises DamagedImage where its magic is wrong."""
    if struct.unpack_from("<I", raw)[0] != XATTR_MAGIC:
        raise DamagedImage("its attribute block has no magic", where=where)
    yield from _attributes(raw, XATTR_BLOCK_HEADER, 0, value_of, where)


def _attributes(
    raw: bytes, at: int, base: int, value_of: Callable[[int], bytes], where: str
) -> Iterator[tuple[str, bytes]]:
    for _ in range(MOST_XATTRS):
        if at + 4 > len(raw) or raw[at : at + 4] == bytes(4):
            return
        if at + XATTR_ENTRY.size > len(raw):
            break
        length, index, offset, value_inode, size, _hash = XATTR_ENTRY.unpack_from(raw, at)
        name = raw[at + XATTR_ENTRY.size : at + XATTR_ENTRY.size + length]
        if value_inode:
            value = value_of(value_inode)
        else:
            value = raw[base + offset : base + offset + size]
            if len(value) != size:
                break
        yield PREFIXES.get(index, f"unknown-{index}.") + name.decode("utf-8", "surrogateescape"), value
        at += XATTR_ENTRY.size + (length + 3 & ~3)
    raise DamagedImage("its extended attributes are damaged", where=where)
