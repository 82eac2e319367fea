"""Small containers written by hand, as no one program writes them: units in any order, apart, packed by anybody.

Each is sound by its format. The disk is `count` units; what is not listed is absent and reads as zeroes.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from backports import zstd

SECTOR = 512
PARAMETERS = {  # level, whether memory is the format's usual, strategy
    "usual": (-1, True, zlib.Z_DEFAULT_STRATEGY),
    "best": (9, True, zlib.Z_DEFAULT_STRATEGY),
    "fast": (1, True, zlib.Z_DEFAULT_STRATEGY),
    "of other memory": (6, False, zlib.Z_DEFAULT_STRATEGY),
    "without matches": (6, True, zlib.Z_HUFFMAN_ONLY),
    "of runs": (6, False, zlib.Z_RLE),
    "not packed at all": (0, True, zlib.Z_DEFAULT_STRATEGY),
}
KNOWN = ("usual", "best", "fast")  # to those who try codecs
CONTENTS: Mapping[str, Callable[[random.Random, int], bytes]] = {
    "zero": lambda _, size: bytes(size),
    "text": lambda dice, size: (b"%d compressible " % dice.randrange(99) * size)[:size],
    "noise": lambda dice, size: dice.randbytes(size),
    "words": lambda dice, size: bytes(dice.choices(b"etaoin shrdlu\n", k=size)),
    "late": lambda dice, size: dice.randbytes(9).rjust(size, b"\0"),
}


class Unit(NamedTuple):
    """A unit of the disk that the container has; `gap` is how far it lies behind where it could."""

    guest: int
    content: str
    pack: str  # "stored", "zstd" or of PARAMETERS
    gap: int


def deflated(content: bytes, pack: str, window: int, memory: int) -> bytes:
    level, is_usual, strategy = PARAMETERS[pack]
    packer = zlib.compressobj(level, zlib.DEFLATED, window, memory if is_usual else 17 - memory, strategy)
    return packer.compress(content) + packer.flush()


def _plain(unit: Unit, size: int, seed: int) -> bytes:
    return CONTENTS[unit.content](random.Random(seed * 1000 + unit.guest), size)


def qcow2(units: Sequence[Unit], count: int, bits: int, seed: int) -> bytes:
    """Version 3 with 16-bit counts; `zstd` where any unit is packed so, then no other codec is."""
    size = 1 << bits
    is_zstd = any(unit.pack == "zstd" for unit in units)
    tables = -(-count // (size // 8))
    l1, l2 = 3 * size, 4 * size  # one cluster each: header, refcount table, refcount block, L1
    out = bytearray(l2 + tables * size)
    for unit in units:
        plain = _plain(unit, size, seed)
        at = len(out) + unit.gap
        if unit.pack == "stored":
            at = -(-at // size) * size
            entry, data = at | 1 << 63, plain
        else:
            data = zstd.compress(plain, 3) if is_zstd else deflated(plain, unit.pack, -12, 9)
            sectors = (at + len(data) - 1) // SECTOR - at // SECTOR
            entry = at | 1 << 62 | sectors << 62 - (bits - 8)
        if unit.pack != "stored" and len(data) >= size:  # what does not shrink is stored
            at = -(-at // size) * size
            entry, data = at | 1 << 63, plain
        out = out.ljust(at, b"\0") + data
        struct.pack_into(">Q", out, l2 + unit.guest * 8, entry)
    out = out.ljust(-(-len(out) // size) * size, b"\0")
    for index in range(tables):
        struct.pack_into(">Q", out, l1 + index * 8, l2 + index * size | 1 << 63)
    struct.pack_into(">Q", out, size, 2 * size)
    for cluster in range(min(len(out) // size, size // 2)):
        struct.pack_into(">H", out, 2 * size + cluster * 2, 1)
    feature = 8 if is_zstd else 0
    struct.pack_into(">4sIQIIQIIQQIIQ", out, 0, b"QFI\xfb", 3, 0, 0, bits, count * size, 0, tables, l1, size, 1, 0, 0)
    struct.pack_into(">QQQIIB", out, 72, feature, 0, 0, 4, 112, is_zstd)
    return bytes(out)


def vmdk(units: Sequence[Unit], count: int, bits: int, seed: int, *, is_stream: bool = True) -> bytes:
    """One file with one grain directory; a stream has each grain behind its marker, else all are stored."""
    size, entries = 1 << bits, 32
    tables = -(-count // entries)
    overhead = 3 * SECTOR + tables * SECTOR  # header, descriptor, directory; a table a sector
    out = bytearray(overhead)
    for unit in units:
        plain = _plain(unit, size, seed)
        at = len(out) + unit.gap * SECTOR
        if is_stream:
            packed = deflated(plain, unit.pack, 15, 8)
            plain = struct.pack("<QI", unit.guest * size // SECTOR, len(packed)) + packed
        out = (out.ljust(at, b"\0") + plain).ljust(-(-(at + len(plain)) // SECTOR) * SECTOR, b"\0")
        struct.pack_into(
            "<I", out, 3 * SECTOR + unit.guest // entries * SECTOR + unit.guest % entries * 4, at // SECTOR
        )
    for index in range(tables):
        struct.pack_into("<I", out, 2 * SECTOR + index * 4, 3 + index)
    flags = 0x30001 if is_stream else 1
    struct.pack_into("<4sIIQQQQIQQQB4sH", out, 0, b"KDMV", 3, flags, count * size // SECTOR, size // SECTOR, 1, 1,
                     entries, 0, 2, overhead // SECTOR, 0, b"\n \r\n", int(is_stream))  # fmt: skip
    kind = "streamOptimized" if is_stream else "monolithicSparse"
    text = (
        f'# Disk DescriptorFile\nversion=1\nCID={seed:08x}\nparentCID=ffffffff\ncreateType="{kind}"\n'
        f'RW {count * size // SECTOR} SPARSE "x"\n'
    )
    out[SECTOR : SECTOR + len(text)] = text.encode()
    return bytes(out)


def vhd(units: Sequence[Unit], count: int, seed: int) -> bytes:
    """A dynamic one of 64 KiB blocks; a block of noise has a bitmap as other programs than QEMU write it."""
    size = 2**16
    table = -(-count * 4 // SECTOR) * SECTOR
    out = bytearray(1536) + b"\xff" * table
    for unit in units:
        at = len(out) + unit.gap * SECTOR
        bitmap = b"\xff" * 16 if unit.content != "noise" else b"\xf0" * 16
        out = out.ljust(at, b"\0") + bitmap.ljust(SECTOR, b"\0" if unit.content == "noise" else b"\xff")
        out += _plain(unit, size, seed)
        struct.pack_into(">I", out, 1536 + unit.guest * 4, at // SECTOR)
    disk = count * size
    footer = bytearray(
        struct.pack(">8sIIQI4sI4s", b"conectix", 2, 1 << 16, 512, seed, b"win ", 1 << 16, b"Wi2k")
        + struct.pack(">QQHBBIIQQ", disk, disk, 1, 1, 1, 3, 0, seed, seed)
    ).ljust(512, b"\0")
    header = bytearray(struct.pack(">8sQQIIII", b"cxsparse", 2**64 - 1, 1536, 1 << 16, count, size, 0))
    header = header.ljust(1024, b"\0")
    struct.pack_into(">I", footer, 64, ~sum(footer) & 0xFFFF_FFFF)
    struct.pack_into(">I", header, 36, ~sum(header) & 0xFFFF_FFFF)
    out[:1536] = footer + header
    return bytes(out + footer)
