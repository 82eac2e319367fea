"""What QEMU makes up in a VHDX, replaced (Microsoft, [MS-VHDX]): all of it lies in the first four MiB.

Both headers carry a sequence number and identifiers of the last writes; the metadata hold an identifier of the disk;
the log holds spent entries. The log is empty, as its identifier of zero says, so zeroes do as well.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid5

from harness.images.filesystems.superblock_parts import crc32c

HEADERS = (64 * 1024, 128 * 1024)
HEADER = 4096  # bytes that the checksum covers
CHECKSUM, SEQUENCE, WRITES, LOG, LOG_PLACE = 4, 8, 16, 48, 68
REGIONS = 192 * 1024
METADATA_REGION = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
DISK_IDENTIFIER = UUID("beca12ab-b2e6-4523-93ef-c309e000c746")  # "page 83 data"
MOST_ENTRIES = 2047
LONGEST_LOG = 2**28  # bytes


def set_vhdx_marks(path: Path, identifier: UUID) -> bool:
    """Rewrite a VHDX in place; False for one that is not as QEMU leaves it, of which nothing was changed then."""
    with path.open("r+b") as file:
        headers = [bytearray(_read(file, offset, HEADER)) for offset in HEADERS]
        metadata = _found(file, REGIONS, b"regi", 16, METADATA_REGION)
        if metadata is None or any(header[:4] != b"head" or any(header[LOG : LOG + 16]) for header in headers):
            return False
        item = _found(file, metadata, b"metadata", 32, DISK_IDENTIFIER)
        length, place = struct.unpack_from("<IQ", headers[0], LOG_PLACE)
        if item is None or length > LONGEST_LOG or place < HEADERS[1] + HEADER:
            return False
        writes = uuid5(identifier, "file").bytes_le + uuid5(identifier, "data").bytes_le
        order = sorted((0, 1), key=lambda index: int.from_bytes(headers[index][SEQUENCE : SEQUENCE + 8], "little"))
        for sequence, index in enumerate(order, 1):
            header = headers[index]
            struct.pack_into("<Q", header, SEQUENCE, sequence)
            header[WRITES : WRITES + 32] = writes
            struct.pack_into("<I", header, CHECKSUM, 0)
            struct.pack_into("<I", header, CHECKSUM, crc32c(bytes(header)) ^ 0xFFFFFFFF)
            _write(file, HEADERS[index], bytes(header))
        _write(file, metadata + item, identifier.bytes_le)
        for offset in range(place, place + length, 2**20):
            _write(file, offset, bytes(min(2**20, place + length - offset)))
    return True


def _found(file: BinaryIO, table: int, magic: bytes, entries_at: int, wanted: UUID) -> int | None:
    """The offset that a region or metadata table gives for an entry; both have entries of 32 bytes."""
    head = _read(file, table, entries_at)
    if not head.startswith(magic):
        return None
    is_regions = magic == b"regi"
    count = struct.unpack_from("<I", head, 8)[0] if is_regions else struct.unpack_from("<H", head, 10)[0]
    for index in range(min(count, MOST_ENTRIES)):
        entry = _read(file, table + entries_at + index * 32, 32)
        if entry[:16] == wanted.bytes_le:
            offset: int = struct.unpack_from("<Q" if is_regions else "<I", entry, 16)[0]
            return offset
    return None


def _read(file: BinaryIO, offset: int, length: int) -> bytes:
    file.seek(offset)
    return file.read(length).ljust(length, b"\0")


def _write(file: BinaryIO, offset: int, data: bytes) -> None:
    file.seek(offset)
    file.write(data)
