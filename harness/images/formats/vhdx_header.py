"""The headers, region table and metadata of a VHDX: what they claim, and whether that can be believed.

Facts from Microsoft's [MS-VHDX]. All numbers are little-endian, checksums are CRC-32C; sizes and offsets are bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.superblock_parts import CASTAGNOLI, crc32c
from harness.images.formats.mapping import AGAIN

MAGIC = b"vhdxfile"
CREATOR_SIZE = 512
MIB = 2**20
HEADERS_AT = (64 * 1024, 128 * 1024)
HEADER_SIZE = 4096
REGION_TABLES_AT = (192 * 1024, 256 * 1024)
TABLE_SIZE = 64 * 1024  # of a region table, and of the metadata table
MOST_ENTRIES = 2047  # of either
NO_GUID = UUID(int=0)
BAT = UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA = UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
FILE_PARAMETERS = UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
DISK_SIZE = UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
DISK_ID = UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
LOGICAL_SECTOR = UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL_SECTOR = UUID("cda348c7-445d-4471-9cc9-e9885251c556")
PARENT_LOCATOR = UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
ITEM_SIZES = {FILE_PARAMETERS: 8, DISK_SIZE: 8, DISK_ID: 16, LOGICAL_SECTOR: 4, PHYSICAL_SECTOR: 4}
REQUIRED_REGION, REQUIRED_ITEM = 1, 4
LEAVES_BLOCKS_ALLOCATED, HAS_PARENT = 1, 2
BLOCK_SIZES = range(MIB, 256 * MIB + 1)
SECTOR_SIZES = (512, 4096)
LARGEST_DISK = 64 * 2**40

_HEADER = struct.Struct("<4sIQ16s16s16sHHIQ")
_TABLE = struct.Struct("<4sII")
_REGION = struct.Struct("<16sQII")
_METADATA = struct.Struct("<8s2xH")
_ITEM = struct.Struct("<16sIII4x")


@dataclass(frozen=True, slots=True)
class VhdxHeader:
    """The newer of the two headers that is whole."""

    sequence_number: int
    file_write_guid: UUID
    data_write_guid: UUID
    log_guid: UUID
    version: int
    log_offset: int
    log_length: int


class Region(NamedTuple):
    """A part of the file with a purpose of its own."""

    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class VhdxMetadata:
    """What the disk is, as the metadata region has it."""

    disk_size: int
    block_size: int
    leaves_blocks_allocated: bool
    logical_sector_size: int
    physical_sector_size: int
    disk_id: UUID


def read_creator(file: Block) -> str:
    """The program that wrote the file, by its own word."""
    field = file.read(len(MAGIC), min(CREATOR_SIZE, file.size - len(MAGIC)))
    return field.decode("utf-16-le", errors="backslashreplace").split("\0", 1)[0]


def read_header(file: Block, name: str) -> VhdxHeader:
    """The header with the higher sequence number of those that are whole; it has no log to replay.

    Raises DamagedImage where neither copy is whole, UnsupportedImage for another version or where a log waits.
    """
    if file.size < MIB:
        raise DamagedImage(f"ends within its VHDX headers, after {file.size:,} bytes", where=name, next_step=AGAIN)
    found = [header for header in (_header(file.read(at, HEADER_SIZE)) for at in HEADERS_AT) if header]
    if not found:
        raise DamagedImage("neither VHDX header is whole (signature or checksum)", where=name, next_step=AGAIN)
    header = max(found, key=lambda each: each.sequence_number)
    if header.version != 1:
        raise UnsupportedImage(f"VHDX version {header.version} (we read 1)", where=name)
    if header.log_guid != NO_GUID:
        raise UnsupportedImage(
            "was not closed cleanly: its VHDX log has to be replayed first",
            where=name,
            next_step="run qemu-img check -r all on a copy",
        )
    return header


def read_regions(file: Block, name: str) -> Mapping[UUID, Region]:
    """The regions by their GUID, from the first copy of the table that is whole: within the file, apart, known."""
    table = next((each for each in (_region_table(file.read(at, TABLE_SIZE)) for at in REGION_TABLES_AT) if each), b"")
    if not table:
        raise DamagedImage("neither VHDX region table is whole (signature or checksum)", where=name, next_step=AGAIN)
    (count,) = struct.unpack_from("<I", table, 8)
    if count > MOST_ENTRIES:
        raise DamagedImage(f"VHDX region table of {count:,} entries (at most {MOST_ENTRIES})", where=name)
    regions: dict[UUID, Region] = {}
    for number in range(count):
        guid, offset, length, flags = _REGION.unpack_from(table, 16 + number * _REGION.size)
        kind = UUID(bytes_le=guid)
        if kind not in {BAT, METADATA} and flags & REQUIRED_REGION:
            raise UnsupportedImage(f"VHDX region {kind} is required and not known to us", where=name)
        if kind in regions:
            raise DamagedImage(f"VHDX region {kind} is listed twice", where=name)
        regions[kind] = Region(offset, length)
    _check_regions(regions, file, name)
    return regions


def read_metadata(file: Block, region: Region, name: str) -> VhdxMetadata:
    """The items of the metadata region.

    Raises DamagedImage for items that are missing, outside or absurd, UnsupportedImage for a disk with a parent and
    for required items that we do not know.
    """
    items = _items(file, region, name)
    block_size, flags = struct.unpack("<II", items[FILE_PARAMETERS])
    if flags & HAS_PARENT or PARENT_LOCATOR in items:
        raise UnsupportedImage(
            f"is the difference to a parent VHDX, {_parent(items.get(PARENT_LOCATOR, b''))!r}, "
            "which we do not open on an image's word",
            where=name,
            next_step="merge it with its parent first (Hyper-V: Merge-VHD)",
        )
    found = VhdxMetadata(
        disk_size=int.from_bytes(items[DISK_SIZE], "little"),
        block_size=block_size,
        leaves_blocks_allocated=bool(flags & LEAVES_BLOCKS_ALLOCATED),
        logical_sector_size=int.from_bytes(items[LOGICAL_SECTOR], "little"),
        physical_sector_size=int.from_bytes(items[PHYSICAL_SECTOR], "little"),
        disk_id=UUID(bytes_le=items[DISK_ID]),
    )
    _check_metadata(found, name)
    return found


def _header(block: bytes) -> VhdxHeader | None:
    signature, stored, sequence, file_guid, data_guid, log_guid, _, version, length, offset = _HEADER.unpack_from(block)
    if signature != b"head" or _checksum(block) != stored:
        return None
    return VhdxHeader(
        sequence_number=sequence,
        file_write_guid=UUID(bytes_le=file_guid),
        data_write_guid=UUID(bytes_le=data_guid),
        log_guid=UUID(bytes_le=log_guid),
        version=version,
        log_offset=offset,
        log_length=length,
    )


def _region_table(table: bytes) -> bytes | None:
    signature, stored, _ = _TABLE.unpack_from(table)
    return table if signature == b"regi" and _checksum(table) == stored else None


def _checksum(block: bytes) -> int:
    """CRC-32C with the checksum itself (4 bytes at 4) as zero; the zeroes at the end are reckoned, not read."""
    used = (block[:4] + bytes(4) + block[8:]).rstrip(b"\0")
    return _after_zeroes(crc32c(used), len(block) - len(used)) ^ 0xFFFF_FFFF


def _after_zeroes(crc: int, count: int) -> int:
    """What becomes of a CRC by `count` zero bytes: it is multiplied by x**(8 * count), modulo the polynomial."""
    power = 1 << 23  # x**8, with the bits in reverse as the CRC has them
    while count:
        if count & 1:
            crc = _product(crc, power)
        power = _product(power, power)
        count >>= 1
    return crc


def _product(one: int, other: int) -> int:
    found = 0
    for bit in range(31, -1, -1):
        if one >> bit & 1:
            found ^= other
        other = other >> 1 ^ (CASTAGNOLI if other & 1 else 0)
    return found


def _check_regions(regions: Mapping[UUID, Region], file: Block, name: str) -> None:
    for kind, what in ((BAT, "block allocation table"), (METADATA, "metadata")):
        if kind not in regions:
            raise DamagedImage(f"VHDX region table names no {what}", where=name)
    end = MIB
    for offset, length in sorted(regions.values()):
        if offset % MIB or length % MIB or not length or offset < end:
            raise DamagedImage(f"VHDX region at {offset:#x} (+{length:,} bytes) overlaps or is unaligned", where=name)
        end = offset + length
    if end > file.size:
        raise DamagedImage(
            f"VHDX region ends at {end:,}, beyond the end of the file at {file.size:,}", where=name, next_step=AGAIN
        )


def _items(file: Block, region: Region, name: str) -> Mapping[UUID, bytes]:
    table = file.read(region.offset, TABLE_SIZE)
    signature, count = _METADATA.unpack_from(table)
    if signature != b"metadata" or count > MOST_ENTRIES:
        raise DamagedImage(f"no VHDX metadata table: starts with {signature!r}, {count:,} entries", where=name)
    items: dict[UUID, bytes] = {}
    for number in range(count):
        guid, offset, length, flags = _ITEM.unpack_from(table, 32 + number * _ITEM.size)
        kind = UUID(bytes_le=guid)
        if kind not in ITEM_SIZES and kind != PARENT_LOCATOR:
            if flags & REQUIRED_ITEM:
                raise UnsupportedImage(f"VHDX metadata item {kind} is required and not known to us", where=name)
            continue
        if offset < TABLE_SIZE or offset + length > region.length or length != ITEM_SIZES.get(kind, min(length, MIB)):
            raise DamagedImage(f"VHDX metadata item {kind} at {offset:#x} (+{length:,} bytes)", where=name)
        if kind in items:
            raise DamagedImage(f"VHDX metadata item {kind} is listed twice", where=name)
        items[kind] = file.read(region.offset + offset, length)
    for kind in ITEM_SIZES:
        if kind not in items:
            raise DamagedImage(f"VHDX metadata item {kind} is missing", where=name)
    return items


def _check_metadata(found: VhdxMetadata, name: str) -> None:
    if found.block_size not in BLOCK_SIZES or found.block_size & (found.block_size - 1):
        raise DamagedImage(f"VHDX with blocks of {found.block_size:,} bytes", where=name)
    if found.logical_sector_size not in SECTOR_SIZES or found.physical_sector_size not in SECTOR_SIZES:
        raise DamagedImage(
            f"VHDX with sectors of {found.logical_sector_size:,} and {found.physical_sector_size:,} bytes", where=name
        )
    if found.disk_size > LARGEST_DISK or found.disk_size % found.logical_sector_size:
        raise DamagedImage(f"VHDX of a disk of {found.disk_size:,} bytes (whole sectors, at most 64 TiB)", where=name)


def _parent(locator: bytes) -> str:
    """The path of the parent out of a locator's keys and values; nothing ever opens it."""
    if len(locator) < 20:
        return ""
    (count,) = struct.unpack_from("<H", locator, 18)
    for at in range(20, min(20 + 12 * count, len(locator) - 11), 12):
        key_at, value_at, key_length, value_length = struct.unpack_from("<IIHH", locator, at)
        key = locator[key_at : key_at + key_length].decode("utf-16-le", errors="backslashreplace")
        if key in {"relative_path", "absolute_win32_path", "volume_path"}:
            return locator[value_at : value_at + value_length].decode("utf-16-le", errors="backslashreplace")
    return ""
