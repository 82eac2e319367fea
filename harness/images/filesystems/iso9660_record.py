"""One directory record of ISO 9660 (ECMA-119, 9.1)."""

from __future__ import annotations

import calendar
import struct
from dataclasses import dataclass

from harness.errors import DamagedImage

SHORTEST = 34  # bytes: a name of one
DIRECTORY, ASSOCIATED, MULTIPLE = 0x02, 0x04, 0x80  # flags; Linux shows no associated files


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it is; `name` as written, `system_use` what follows the name."""

    block: int
    attribute_blocks: int  # an extended attribute record before the content
    size: int
    mtime: int
    flags: int
    interleave: int
    name: bytes
    system_use: bytes

    @property
    def is_directory(self) -> bool:
        return bool(self.flags & DIRECTORY)


def record_length(first: bytes, where: str) -> int:
    """The length of a record by its first byte. Raises DamagedImage where none can begin."""
    if first[0] < SHORTEST:
        raise DamagedImage(f"a directory record claims {first[0]} bytes", where=where)
    return first[0]


def parse_record(raw: bytes, where: str) -> Record:
    """Read one record. Raises DamagedImage where it is none."""
    record_length(raw[:1], where)
    attribute_blocks, block, size = struct.unpack_from("<BI4xI", raw, 1)
    flags, unit, gap, name_length = struct.unpack_from("<BBB4xB", raw, 25)
    end = 33 + name_length
    if not name_length or end > len(raw):
        raise DamagedImage("a directory record has an impossible name", where=where)
    end += end & 1  # a name is padded to an even place
    return Record(
        block, attribute_blocks, size, seconds(raw[18:25]), flags, unit or gap, raw[33 : 33 + name_length], raw[end:]
    )


def seconds(raw: bytes) -> int:
    """Seconds since the epoch of the 7-byte form (9.1.5); 0 for a date that no calendar has."""
    year, month, day, hour, minute, second, zone = struct.unpack("<6Bb", raw)
    if not 1 <= month <= 12 or not 1 <= day <= 31:
        return 0
    return calendar.timegm((1900 + year, month, day, hour, minute, second)) - _east(zone)


def long_seconds(raw: bytes) -> int:
    """Seconds since the epoch of the 17-byte form in decimal digits (8.4.26.1); 0 for one that is no date."""
    if not raw[:16].isdigit():
        return 0
    year, month, day = int(raw[:4]), int(raw[4:6]), int(raw[6:8])
    if not 1 <= month <= 12 or not 1 <= day <= 31 or not year:
        return 0
    hour, minute, second, zone = int(raw[8:10]), int(raw[10:12]), int(raw[12:14]), struct.unpack("<b", raw[16:17])[0]
    return calendar.timegm((year, month, day, hour, minute, second)) - _east(zone)


def _east(quarters: int) -> int:
    """Seconds east of Greenwich; as Linux, zero where no clock has it (genisoimage writes such zones for 2038)."""
    return quarters * 15 * 60 if -52 <= quarters <= 52 else 0
