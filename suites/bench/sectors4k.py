"""A disk with a GUID partition table of 4 KiB sectors (UEFI 2.10, 5.3): sfdisk of Debian 12 makes none in a file."""

from __future__ import annotations

import struct
import subprocess
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

MIB, SECTOR = 2**20, 4096
ENTRIES, ENTRY_SIZE = 128, 128
ENTRY_SECTORS = ENTRIES * ENTRY_SIZE // SECTOR


class Part(NamedTuple):
    """One partition: label, type GUID, first MiB, MiB, and the file with its filesystem."""

    label: str
    type_guid: str
    first: int
    mib: int
    content: Path


def write_disk(target: Path, guid: uuid.UUID, parts: Sequence[Part], mib: int) -> None:
    """Write a sparse raw disk of `mib` MiB with these partitions."""
    last = mib * MIB // SECTOR - 1
    entries = b"".join(_entry(guid, part) for part in parts).ljust(ENTRIES * ENTRY_SIZE, b"\0")
    with target.open("wb") as disk:
        disk.truncate(mib * MIB)
        disk.write(_protective_mbr(last))
        places = ((1, last, 2), (last, 1, last - ENTRY_SECTORS))  # header, its other copy, entries
        for own, other, at in places:
            disk.seek(own * SECTOR)
            disk.write(_header(guid, entries, own, other, at, last))
            disk.seek(at * SECTOR)
            disk.write(entries)
    for part in parts:
        copy = ["dd", f"if={part.content}", f"of={target}", "bs=1M", f"seek={part.first}", "conv=notrunc,sparse"]
        subprocess.run([*copy, "status=none"], check=True)


def _entry(guid: uuid.UUID, part: Part) -> bytes:
    first, size = part.first * MIB // SECTOR, part.mib * MIB // SECTOR
    own = uuid.uuid5(guid, part.label)
    name = part.label.encode("utf-16-le").ljust(72, b"\0")
    return uuid.UUID(part.type_guid).bytes_le + own.bytes_le + struct.pack("<QQQ", first, first + size - 1, 0) + name


def _header(guid: uuid.UUID, entries: bytes, own: int, other: int, at: int, last: int) -> bytes:
    first = 2 + ENTRY_SECTORS
    places = struct.pack("<QQQQ", own, other, first, last - first + 1)
    table = struct.pack("<QIII", at, ENTRIES, ENTRY_SIZE, zlib.crc32(entries))
    rest = places + guid.bytes_le + table
    head = b"EFI PART" + struct.pack("<II", 0x10000, 92)
    check = zlib.crc32(head + bytes(8) + rest)
    return (head + struct.pack("<II", check, 0) + rest).ljust(SECTOR, b"\0")


def _protective_mbr(last: int) -> bytes:
    record = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, min(last, 0xFFFFFFFF))
    return (bytes(446) + record).ljust(510, b"\0") + b"\x55\xaa"
