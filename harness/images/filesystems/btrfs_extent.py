"""A stretch of a btrfs file: inline, on disk or a hole, plain or packed (Linux btrfs_tree.h, fs/btrfs/lzo.c)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.filesystems.packed import unpack

HEADER, PLACE = struct.Struct("<8xQBBHB"), struct.Struct("<QQQQ")
INLINE, REGULAR, PREALLOCATED = range(3)
CODECS = {0: "", 1: "zlib", 2: "lzo", 3: "zstd"}
MOST_PACKED = MOST_UNPACKED = 2**17  # bytes; BTRFS_MAX_COMPRESSED, BTRFS_MAX_UNCOMPRESSED
MOST_INLINE = 2**16


@dataclass(frozen=True, slots=True)
class Extent:
    """`length` bytes of a file. Packed ones begin `skip` bytes into what `disk_length` bytes at `disk` unpack to."""

    length: int
    unpacked: int  # bytes of the whole extent
    codec: str
    inline: bytes | None = None
    disk: int = 0  # a logical address; 0 for a hole
    disk_length: int = 0
    skip: int = 0
    is_hole: bool = False


def parse_extent(raw: bytes, where: str) -> Extent:
    """Read an extent item. Raises DamagedImage for an impossible one, UnsupportedImage for encryption."""
    if len(raw) < HEADER.size:
        raise DamagedImage("an extent is cut short", where=where)
    unpacked, compression, encryption, encoding, kind = HEADER.unpack_from(raw)
    codec = CODECS.get(compression)
    if codec is None or encryption or encoding:
        raise UnsupportedImage(f"an extent is packed in an unknown way ({compression}, {encryption})", where=where)
    if kind == INLINE:
        content = raw[HEADER.size :]
        if unpacked > MOST_INLINE or not (codec or unpacked == len(content)):
            raise DamagedImage(f"an inline extent claims {unpacked:,} bytes", where=where)
        return Extent(unpacked, unpacked, codec, content)
    if kind > PREALLOCATED or len(raw) < HEADER.size + PLACE.size:
        raise DamagedImage(f"an extent is of an unknown kind {kind}", where=where)
    disk, disk_length, skip, length = PLACE.unpack_from(raw, HEADER.size)
    is_hole = kind == PREALLOCATED or not disk
    if not length or length >> 62 or (not is_hole and skip + length > unpacked):
        raise DamagedImage(f"an extent claims {length:,} bytes", where=where)
    if codec and not is_hole and (unpacked > MOST_UNPACKED or disk_length > MOST_PACKED):
        raise DamagedImage(f"a packed extent claims {unpacked:,} bytes in {disk_length:,}", where=where)
    return Extent(length, unpacked, codec, None, disk, disk_length, skip, is_hole)


def unpack_extent(extent: Extent, packed: bytes, sector: int, where: str) -> bytes:
    """All bytes of an extent; `sector` is the filesystem's. Zeros follow a packed one that ends early."""
    if not extent.codec:
        return packed
    if extent.codec == "lzo":
        found = _unpack_lzo(packed, extent.unpacked, sector, where)
    else:
        found = unpack(extent.codec, packed, extent.unpacked, where)
    return found.ljust(extent.unpacked, b"\0")


def _unpack_lzo(packed: bytes, limit: int, sector: int, where: str) -> bytes:
    """Segments of a sector each, with their lengths before them; no length crosses the end of a sector."""
    total = int.from_bytes(packed[:4], "little")
    at, found = 4, b""
    if not 4 < total <= len(packed):
        raise DamagedImage("an LZO extent has an impossible length", where=where)
    while at < total and len(found) < limit:
        if sector - at % sector < 4:
            at += sector - at % sector
        length = int.from_bytes(packed[at : at + 4], "little")
        if not length or at + 4 + length > total:
            raise DamagedImage("a segment runs out of its LZO extent", where=where)
        found += unpack("lzo", packed[at + 4 : at + 4 + length], sector, where)
        at += 4 + length
    if len(found) > limit:
        raise DamagedImage("an LZO extent holds more than it claims", where=where)
    return found
