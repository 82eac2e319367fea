"""The small notations of tar headers: numbers, checksums, pax records, names."""

from __future__ import annotations

import re
from typing import Final

OCTAL: Final = re.compile(rb"[ \0]*([0-7]+)[ \0]*")
CHECKSUM = slice(148, 156)
MOST_DIGITS = 20  # of the length of a pax record: more than any archive has bytes


def number(field: bytes) -> int | None:
    """A numeric field: octal, or base 256 where the first bit is set (GNU tar manual, "Extensions").

    None for what is neither, and for a negative number. An empty field is 0, as all readers take it.
    """
    if field[0] & 0x80:
        return None if field[0] & 0x40 else int.from_bytes(bytes([field[0] & 0x3F]) + field[1:], "big")
    if not field.strip(b" \0"):
        return 0
    match = OCTAL.fullmatch(field)
    return int(match[1], 8) if match else None


def checksum_is_right(header: bytes) -> bool:
    """Whether the checksum field is the sum of all bytes, its own taken as spaces."""
    stored = number(header[CHECKSUM])
    blank = header[: CHECKSUM.start] + b" " * 8 + header[CHECKSUM.stop :]
    signed = sum(byte - 256 if byte > 127 else byte for byte in blank)  # as some old programs counted
    return stored is not None and stored in {sum(blank), signed}


def pax_records(content: bytes) -> list[tuple[str, bytes]] | None:
    r"""The records of a pax header in order; None where it is garbled.

    >>> pax_records(b"12 size=1234\n")
    >>> pax_records(b"13 size=1234\n")
    [('size', b'1234')]
    """
    found, at = [], 0
    while at < len(content):
        digits, space, _ = content[at : at + MOST_DIGITS].partition(b" ")
        if not space or not digits.isdigit():
            return None
        end = at + int(digits)
        record = content[at + len(digits) + 1 : end]
        key, equals, value = record.partition(b"=")
        if end > len(content) or not equals or not record.endswith(b"\n"):
            return None
        found.append((text(key), value[:-1]))
        at = end
    return found


def text(raw: bytes) -> str:
    """A name as text; undecodable bytes are surrogate escapes."""
    return raw.decode("utf-8", "surrogateescape")
