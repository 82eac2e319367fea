"""What the superblock readers share: the shape of their answer, names of flags, text fields, CRC-32C."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TypeAlias

Details: TypeAlias = Mapping[str, str | int | bool | tuple[str, ...]]
Facts: TypeAlias = tuple[str, str | None, str | None, int, Details]  # the fields of a Filesystem, in order
CASTAGNOLI = 0x82F63B78  # reversed polynomial


def text(field: bytes, padding: str = "\0") -> str | None:
    """A fixed-width text field without what pads it; None when nothing remains."""
    content = field.split(b"\0", 1)[0]
    return content.decode("utf-8", errors="replace").rstrip(padding) or None


def flags(bits: int, names: Mapping[int, str]) -> tuple[str, ...]:
    """Names of the set bits, lowest first; `bit N` for those without a name."""
    return tuple(names.get(bit, f"bit {bit}") for bit in range(bits.bit_length()) if bits >> bit & 1)


def crc32c(data: bytes, crc: int = 0xFFFFFFFF) -> int:
    """CRC-32C without the final inversion, as ext4 stores it."""
    table = _crc32c_table()
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


@cache
def _crc32c_table() -> tuple[int, ...]:
    return tuple(_crc32c_of(byte) for byte in range(256))


def _crc32c_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (CASTAGNOLI if byte & 1 else 0)
    return byte
