"""The footer of a VHD and the header of a dynamic one: what they claim, and whether that can be believed.

Facts from Microsoft's "Virtual Hard Disk Image Format Specification" 1.0; which size counts, from QEMU's block/vpc.c.
All numbers in the file are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from uuid import UUID

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.formats.mapping import AGAIN

COOKIE = b"conectix"
DYNAMIC_COOKIE = b"cxsparse"
FOOTER_SIZE = 512
DYNAMIC_HEADER_SIZE = 1024
SECTOR = 512
FILE_VERSION = 0x0001_0000  # of footer and dynamic header alike
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
LARGEST_DISK = 0xFF00_0000 * SECTOR  # 2040 GiB, the format's limit
BLOCK_SIZES = range(2**16, 2**28 + 1)  # 2 MiB is the rule, 512 KiB are seen
# Where the geometry is as large as it can be, or where one of these wrote the disk, the size in the footer counts.
# Virtual PC and QEMU without force_size count cylinders * heads * sectors, and QEMU reads everybody else's so.
LARGEST_GEOMETRY = 65535 * 16 * 255  # sectors
SIZED_BY_FOOTER = (b"qem2", b"win ", b"d2v ", b"CTXS", b"tap\0", b"wa\0\0")

_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB")
_DYNAMIC = struct.Struct(">8sQQIIII16sII512s")
_CHECKSUM_AT = {FOOTER_SIZE: 64, DYNAMIC_HEADER_SIZE: 36}


@dataclass(frozen=True, slots=True)
class VhdFooter:
    """What the last 512 bytes say; sizes in bytes."""

    features: int
    data_offset: int  # of the dynamic header
    written: datetime
    creator_application: bytes
    creator_version: int
    creator_host_os: bytes
    original_size: int
    current_size: int
    cylinders: int
    heads: int
    sectors: int
    disk_type: int
    unique_id: UUID
    has_saved_state: bool

    @property
    def kind(self) -> Literal["fixed", "dynamic"]:
        return "fixed" if self.disk_type == FIXED else "dynamic"

    @property
    def geometry(self) -> int:
        """Bytes of cylinders * heads * sectors."""
        return self.cylinders * self.heads * self.sectors * SECTOR

    @property
    def is_sized_by_geometry(self) -> bool:
        by_footer = self.creator_application in SIZED_BY_FOOTER or self.geometry == LARGEST_GEOMETRY * SECTOR
        return not by_footer

    @property
    def size(self) -> int:
        """Of the virtual disk, as QEMU shows it to a guest."""
        return self.geometry if self.is_sized_by_geometry else self.current_size // SECTOR * SECTOR


@dataclass(frozen=True, slots=True)
class DynamicHeader:
    """Where the blocks of a dynamic disk are looked up."""

    table_offset: int
    table_entries: int
    block_size: int  # bytes of data; in the file a bitmap of its sectors comes before them

    @property
    def bitmap_size(self) -> int:
        """Bytes: one bit a sector, in whole sectors."""
        return -(-self.block_size // SECTOR // 8 // SECTOR) * SECTOR


def read_footer(file: Block, name: str) -> VhdFooter:
    """The footer, and its copy at the start of a dynamic disk held against it.

    Raises DamagedImage where either is missing, contradicts its checksum or the other, UnsupportedImage for a
    differencing disk.
    """
    if file.size < FOOTER_SIZE:
        raise DamagedImage(f"ends within its VHD header, after {file.size} bytes", where=name, next_step=AGAIN)
    footer = _parse(file.read(file.size - FOOTER_SIZE, FOOTER_SIZE), name, "footer")
    if footer.disk_type == DIFFERENCING:
        raise UnsupportedImage(
            f"is the difference to a parent VHD, {_parent_name(file, footer.data_offset)!r}, "
            "which we do not open on an image's word",
            where=name,
            next_step=f"convert it where its parent is: qemu-img convert -O qcow2 {name} disk.qcow2",
        )
    if footer.disk_type not in {FIXED, DYNAMIC}:
        raise DamagedImage(f"VHD footer at 60: disk type {footer.disk_type}", where=name)
    if footer.size > LARGEST_DISK:
        raise DamagedImage(f"VHD footer at 48: a disk of {footer.size:,} bytes (at most 2040 GiB)", where=name)
    if footer.disk_type == DYNAMIC and _parse(file.read(0, FOOTER_SIZE), name, "footer copy at 0") != footer:
        raise DamagedImage("VHD footer and its copy at 0 contradict each other", where=name, next_step=AGAIN)
    return footer


def read_dynamic_header(file: Block, footer: VhdFooter, name: str) -> DynamicHeader:
    """The header of a dynamic disk; raises DamagedImage where it cannot serve a disk of the footer's size."""
    offset = footer.data_offset
    if offset + DYNAMIC_HEADER_SIZE > file.size:
        raise DamagedImage(f"VHD header at {offset:#x} lies beyond the end of the file", where=name, next_step=AGAIN)
    sector = file.read(offset, DYNAMIC_HEADER_SIZE)
    cookie, _, table, version, entries, block_size, *_ = _DYNAMIC.unpack_from(sector)
    if cookie != DYNAMIC_COOKIE:
        raise DamagedImage(f"no VHD header at {offset:#x}: starts with {cookie!r}", where=name)
    _check_sum(sector, name, f"header at {offset:#x}")
    if version != FILE_VERSION:
        raise UnsupportedImage(f"VHD header of version {version:#x} (we read 0x10000)", where=name)
    if block_size not in BLOCK_SIZES or block_size & (block_size - 1):
        raise DamagedImage(f"VHD header at 32: blocks of {block_size:,} bytes", where=name)
    header = DynamicHeader(table, entries, block_size)
    needed = -(-footer.size // block_size)
    if needed > entries:
        raise DamagedImage(
            f"VHD block table of {entries:,} entries is too small for {footer.size:,} bytes (needs {needed:,})",
            where=name,
        )
    if table + needed * 4 > file.size:
        raise DamagedImage(
            f"VHD block table at {table:#x} (+{needed * 4:,} bytes) lies beyond the end of the file at {file.size:,}",
            where=name,
            next_step=AGAIN,
        )
    return header


def _parse(sector: bytes, name: str, what: str) -> VhdFooter:
    (cookie, features, version, offset, seconds, application, application_version, host, original, current, cylinders,
     heads, sectors, kind, _, unique_id, saved) = _FOOTER.unpack_from(sector)  # fmt: skip
    if cookie != COOKIE:
        raise DamagedImage(f"no VHD {what}: starts with {cookie!r}", where=name, next_step=AGAIN)
    _check_sum(sector, name, what)
    if version != FILE_VERSION:
        raise UnsupportedImage(f"VHD of version {version:#x} (we read 0x10000)", where=name)
    return VhdFooter(
        features=features,
        data_offset=offset,
        written=EPOCH + timedelta(seconds=seconds),
        creator_application=application,
        creator_version=application_version,
        creator_host_os=host,
        original_size=original,
        current_size=current,
        cylinders=cylinders,
        heads=heads,
        sectors=sectors,
        disk_type=kind,
        unique_id=UUID(bytes=unique_id),
        has_saved_state=bool(saved),
    )


def _check_sum(sector: bytes, name: str, what: str) -> None:
    """The one's complement of the sum of all bytes but those of the checksum itself."""
    at = _CHECKSUM_AT[len(sector)]
    (stored,) = struct.unpack_from(">I", sector, at)
    found = ~(sum(sector) - sum(sector[at : at + 4])) & 0xFFFF_FFFF
    if stored != found:
        raise DamagedImage(f"VHD {what}: checksum is {found:#x}, stored is {stored:#x}", where=name, next_step=AGAIN)


def _parent_name(file: Block, offset: int) -> str:
    """What a differencing disk calls its parent; nothing ever opens it."""
    if offset + DYNAMIC_HEADER_SIZE > file.size:
        return ""
    name = _DYNAMIC.unpack_from(file.read(offset, DYNAMIC_HEADER_SIZE))[-1]
    return str(name.decode("utf-16-be", errors="backslashreplace").split("\0", 1)[0])
