"""The header of a VMDK sparse extent, and its footer: what they claim, and whether that can be believed.

Facts from VMware's "Virtual Disk Format 5.0" and from QEMU's block/vmdk.c for what QEMU accepts. All numbers are
little-endian; the file counts in sectors of 512 bytes, the names here in bytes unless they end in `_sectors`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.formats.mapping import AGAIN

MAGIC = b"KDMV"
SECTOR = 512
VERSIONS = (1, 2, 3)
NEWLINES = b"\n \r\n"  # become something else where a file is transferred as text
NEWLINES_VALID, REDUNDANT_DIRECTORY, ZERO_GRAINS, COMPRESSED, MARKERS = 1 << 0, 1 << 1, 1 << 2, 1 << 16, 1 << 17
DEFLATE = 1
DIRECTORY_AT_END = 2**64 - 1
FOOTER_SIZE = 3 * SECTOR  # footer marker, footer, end-of-stream marker: the end of a stream
FOOTER_MARKER = 3
LARGEST_GRAIN = 16 * 2**20  # bytes; VMware and QEMU write 64 KiB
MOST_TABLE_ENTRIES = 512  # as QEMU's limit; nobody writes another number
MOST_TABLES = 2**20  # 2 TiB, the format's limit, in the smallest grains of 4 KiB

_HEADER = struct.Struct("<4sIIQQQQIQQQ?4sH")
_MARKER = struct.Struct("<QII")


@dataclass(frozen=True, slots=True)
class VmdkHeader:
    """What a sparse extent says about itself; sizes and offsets in bytes, flags as the bit field of the format."""

    version: int
    flags: int
    capacity: int
    grain_size: int
    descriptor_offset: int
    descriptor_size: int
    table_entries: int  # of one grain table
    directory_offset: int
    overhead: int
    unclean_shutdown: bool
    compress_algorithm: int
    has_footer: bool

    @property
    def is_compressed(self) -> bool:
        return bool(self.flags & COMPRESSED)

    @property
    def tables(self) -> int:
        """Grain tables that the capacity takes: entries of the grain directory."""
        return -(-self.capacity // (self.grain_size * self.table_entries))


def read_header(file: Block, name: str) -> VmdkHeader:
    """Read the header, or the footer where the header sends us there, and check all that it claims about the file.

    Raises DamagedImage for claims that contradict the format or the file's length, UnsupportedImage for a version or
    a compression that we do not read.
    """
    if file.size < SECTOR:
        raise DamagedImage(f"ends within its VMDK header, after {file.size} bytes", where=name, next_step=AGAIN)
    header = _parse(file.read(0, SECTOR), name, "header")
    if header.directory_offset == DIRECTORY_AT_END * SECTOR:
        header = _footer(file, header, name)
    _check_shape(header, name)
    _check_places(header, file, name)
    return header


def _parse(sector: bytes, name: str, what: str) -> VmdkHeader:
    (magic, version, flags, capacity, grain, descriptor, descriptor_size, entries, _redundant, directory, overhead,
     unclean, newlines, algorithm) = _HEADER.unpack_from(sector)  # fmt: skip
    if magic != MAGIC:
        raise DamagedImage(f"no VMDK {what}: starts with {magic!r}", where=name, next_step=AGAIN)
    if version not in VERSIONS:
        raise UnsupportedImage(f"VMDK version {version} (we read 1 to 3)", where=name)
    if flags & NEWLINES_VALID and newlines != NEWLINES:
        raise DamagedImage(
            f"VMDK {what} at 73: the newline test holds {newlines!r}, not {NEWLINES!r}",
            where=name,
            next_step="was it transferred as text? get it again in binary mode",
        )
    return VmdkHeader(
        version=version,
        flags=flags,
        capacity=capacity * SECTOR,
        grain_size=grain * SECTOR,
        descriptor_offset=descriptor * SECTOR,
        descriptor_size=descriptor_size * SECTOR,
        table_entries=entries,
        directory_offset=directory * SECTOR,
        overhead=overhead * SECTOR,
        unclean_shutdown=unclean,
        compress_algorithm=algorithm,
        has_footer=what == "footer",
    )


def _footer(file: Block, header: VmdkHeader, name: str) -> VmdkHeader:
    """The header's copy at the end of a stream, which knows where the grain directory came to lie."""
    if file.size < SECTOR + FOOTER_SIZE:
        raise DamagedImage("ends before the VMDK footer that its header announces", where=name, next_step=AGAIN)
    end = file.read(file.size - FOOTER_SIZE, FOOTER_SIZE)
    _, size, kind = _MARKER.unpack_from(end)
    if (size, kind) != (0, FOOTER_MARKER) or _MARKER.unpack_from(end, 2 * SECTOR) != (0, 0, 0):
        raise DamagedImage(
            f"the last {FOOTER_SIZE} bytes are not the VMDK footer that its header announces",
            where=name,
            next_step=AGAIN,
        )
    footer = _parse(end[SECTOR:], name, "footer")
    if footer.directory_offset == DIRECTORY_AT_END * SECTOR:
        raise DamagedImage("VMDK footer: looks for the grain directory in itself", where=name)
    for field in ("capacity", "grain_size", "table_entries", "compress_algorithm", "flags", "descriptor_offset"):
        if getattr(footer, field) != getattr(header, field):
            raise DamagedImage(f"VMDK footer and header contradict each other in their {field}", where=name)
    return footer


def _check_shape(header: VmdkHeader, name: str) -> None:
    grain = header.grain_size
    if not SECTOR <= grain <= LARGEST_GRAIN or grain & (grain - 1):
        raise DamagedImage(f"VMDK header at 20: a grain size of {grain:,} bytes", where=name)
    if not 1 <= header.table_entries <= MOST_TABLE_ENTRIES:
        raise DamagedImage(f"VMDK header at 44: {header.table_entries:,} entries a grain table", where=name)
    if header.tables > MOST_TABLES:
        raise DamagedImage(
            f"VMDK header at 12: a capacity of {header.capacity:,} bytes takes {header.tables:,} grain tables",
            where=name,
        )
    if header.compress_algorithm not in {0, DEFLATE}:
        raise UnsupportedImage(f"VMDK compression algorithm {header.compress_algorithm} (we read deflate)", where=name)
    if header.is_compressed != (header.compress_algorithm == DEFLATE):
        raise DamagedImage("VMDK header: compression algorithm and its flag contradict each other", where=name)
    if header.is_compressed and not header.flags & MARKERS:
        raise UnsupportedImage("VMDK with compressed grains but no markers", where=name)


def _check_places(header: VmdkHeader, file: Block, name: str) -> None:
    places = (
        ("grain directory", header.directory_offset, header.tables * 4),
        ("descriptor", header.descriptor_offset, header.descriptor_size),
    )
    for what, offset, length in places:
        if length and offset < SECTOR and (what != "descriptor" or offset):
            raise DamagedImage(f"{what} is said to be at {offset:#x}, in the header", where=name)
        if length and offset + length > file.size:
            raise DamagedImage(
                f"{what} at {offset:#x} (+{length:,} bytes) lies beyond the end of the file at {file.size:,}",
                where=name,
                next_step=AGAIN,
            )
