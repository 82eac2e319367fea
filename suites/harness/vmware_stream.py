"""A streamOptimized VMDK as VMware writes it: tables behind the grains, the directory known to the footer only.

After VMware's "Virtual Disk Format 5.0"; qemu-img cannot write this kind, but reads it.
"""

from __future__ import annotations

import struct
import zlib


def header(capacity: int, directory: int, *, flags: int = 0x30001, version: int = 3) -> bytes:
    packed = struct.pack("<4sIIQQQQIQQQ?4sH", b"KDMV", version, flags, capacity, 128, 1, 20, 512, 0, directory, 128,
                         False, b"\n \r\n", 1)  # fmt: skip
    return packed.ljust(512, b"\0")


def stream(content: bytes) -> bytes:
    """A whole streamOptimized VMDK of a raw disk's bytes."""
    grains = [content[at : at + 65536].ljust(65536, b"\0") for at in range(0, len(content), 65536)]
    sectors = -(-len(content) // 512)
    text = f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="streamOptimized"\nRW {sectors} '
    out = bytearray(header(sectors, 2**64 - 1) + f'{text}SPARSE "x.vmdk"\n'.encode()).ljust(65536, b"\0")
    directory = []
    for first in range(0, len(grains), 512):
        table = []
        for number, grain in enumerate(grains[first : first + 512], first):
            table.append(len(out) // 512 if any(grain) else 0)
            if any(grain):
                packed = zlib.compress(grain)
                out += padded(struct.pack("<QI", number * 128, len(packed)) + packed)
        out += padded(struct.pack("<QII", 4, 0, 1))
        directory.append(len(out) // 512)
        out += struct.pack(f"<{len(table)}I", *table).ljust(2048, b"\0")
    out += padded(struct.pack("<QII", 1, 0, 2))
    at = len(out) // 512
    out += padded(struct.pack(f"<{len(directory)}I", *directory))
    return bytes(out + padded(struct.pack("<QII", 1, 0, 3)) + header(sectors, at) + bytes(512))


def padded(piece: bytes) -> bytes:
    return piece.ljust(-(-len(piece) // 512) * 512, b"\0")
