"""Extended attributes in EROFS: some follow the inode, some are shared (Linux fs/erofs/erofs_fs.h)."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.filesystems.erofs_inode import RawInode
from harness.images.filesystems.inodes import Remembering

HEADER = 12
ENTRY = struct.Struct("<BBH")  # length of the name, its prefix, length of the value
LONG = 0x80  # a prefix that is spelt out elsewhere
PREFIXES = {
    1: "user.",
    2: "system.posix_acl_access",
    3: "system.posix_acl_default",
    4: "trusted.",
    5: "lustre.",
    6: "security.",
}


def attributes(inode: RawInode, metadata: Remembering, shared_at: int, where: str) -> Mapping[str, bytes]:
    """All attributes of an inode by full name.

    Raises DamagedImage where they run out of their area, UnsupportedImage for names with a long prefix.
    """
    start, length = inode.attributes
    if not length:
        return {}
    raw = metadata.read(start, length)
    shared = raw[4]
    at = HEADER + 4 * shared
    if at > length:
        raise DamagedImage(f"claims {shared} shared attributes", where=where)
    found = {}
    for (number,) in struct.iter_unpack("<I", raw[HEADER:at]):
        place = shared_at + number * 4
        header = metadata.read(place, ENTRY.size)
        name_length, _prefix, value_length = ENTRY.unpack(header)
        name, value = _attribute(header + metadata.read(place + ENTRY.size, name_length + value_length), where)
        found[name] = value
    while at + ENTRY.size <= length:
        name_length, prefix, value_length = ENTRY.unpack_from(raw, at)
        if not prefix and not name_length:
            break  # padding
        end = at + ENTRY.size + name_length + value_length
        if end > length:
            raise DamagedImage("an attribute runs out of its area", where=where)
        name, value = _attribute(raw[at:end], where)
        found[name] = value
        at = -(-end // 4) * 4
    return found


def _attribute(raw: bytes, where: str) -> tuple[str, bytes]:
    name_length, prefix, _value_length = ENTRY.unpack_from(raw)
    if prefix & LONG:
        raise UnsupportedImage("an attribute has a long prefix, which we do not read", where=where)
    text = PREFIXES.get(prefix)
    if text is None:
        raise DamagedImage(f"an attribute has the unknown prefix {prefix}", where=where)
    end = ENTRY.size + name_length
    return text + raw[ENTRY.size : end].decode("utf-8", "surrogateescape"), raw[end:]
