"""One copy of a GPT header with its entries, read with nothing believed before it is checked (UEFI 2.10, 5.3.2).

A `Header` is always returned, even of a place where there is none: its `problem` then says so in words.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from uuid import UUID

from harness.errors import DamagedImage
from harness.images.block import Block

SIGNATURE = b"EFI PART"
HEADER_LENGTH = 92  # bytes that revision 1.0 defines
SMALLEST_ENTRY = 128
LARGEST_ENTRY = 4096
LARGEST_ARRAY = 4 * 2**20  # bytes: the kernel's bound, 256 times the usual 16 KiB
NO_GUID = UUID(int=0)
_FIELDS = struct.Struct("<8sIIIIQQQQ16sQIII")


@dataclass(frozen=True, slots=True)
class Header:
    """A copy of the header at `lba`; the fields after `problem` mean something only if `found`."""

    lba: int
    sector_size: int
    found: bool = False
    crc_ok: bool = False
    entries_crc_ok: bool = False
    problem: str = ""
    alternate_lba: int = 0
    first_usable_lba: int = 0
    last_usable_lba: int = 0
    disk_guid: UUID = NO_GUID
    entries_lba: int = 0
    entry_count: int = 0
    entry_size: int = 0
    entries: bytes = field(default=b"", repr=False)

    @property
    def is_trusted(self) -> bool:
        return self.found and not self.problem

    def used_entries(self) -> Iterator[tuple[int, bytes]]:
        """Index from 0 and bytes of every entry with a type."""
        for index in range(len(self.entries) // self.entry_size if self.entry_size else 0):
            entry = self.entries[index * self.entry_size : (index + 1) * self.entry_size]
            if any(entry[:16]):
                yield index, entry


def find_header(block: Block, sector_size: int, lba: int) -> Header:
    """The copy at this place, checked as far as it can be; never raises for what the disk holds."""
    header = Header(lba, sector_size)
    offset = lba * sector_size
    if offset + sector_size > block.size:
        return replace(
            header,
            problem=f"header at LBA {lba} (byte {offset:,}) lies beyond the end of the disk at {block.size:,}",
        )
    sector = block.read(offset, sector_size)
    if not sector.startswith(SIGNATURE):
        return replace(header, problem=f"header at LBA {lba} (byte {offset:,}): no signature {SIGNATURE.decode()!r}")
    header, length, crc, own_lba, entries_crc = _parsed(header, sector)
    if not HEADER_LENGTH <= length <= sector_size:
        return replace(header, problem=f"header at LBA {lba} (byte {offset + 12:,}): header size is {length}")
    zeroed = sector[:16] + bytes(4) + sector[20:length]
    header = replace(header, crc_ok=zlib.crc32(zeroed) == crc)
    header = _with_entries(block, header, entries_crc)
    if not header.crc_ok:
        return replace(header, problem=f"header at LBA {lba} (byte {offset + 16:,}): CRC is not {crc:#010x}")
    if own_lba != lba:
        return replace(header, problem=f"header at LBA {lba} (byte {offset + 24:,}): says it is at LBA {own_lba}")
    return header if header.problem else replace(header, problem=_contradiction(header))


def _parsed(header: Header, sector: bytes) -> tuple[Header, int, int, int, int]:
    """The header with its fields; then what only checking needs: its length, CRC, own LBA and its entries' CRC."""
    _, _, length, crc, _, own, alternate, first, last, guid, entries_lba, count, size, entries_crc = (
        _FIELDS.unpack_from(sector)
    )
    filled = replace(
        header,
        found=True,
        alternate_lba=alternate,
        first_usable_lba=first,
        last_usable_lba=last,
        disk_guid=UUID(bytes_le=guid),
        entries_lba=entries_lba,
        entry_count=count,
        entry_size=size,
    )
    return filled, length, crc, own, entries_crc


def _with_entries(block: Block, header: Header, crc: int) -> Header:
    """The header with its entries where they can be read, or with a problem."""
    where = f"header at LBA {header.lba}"
    size, count = header.entry_size, header.entry_count
    if not SMALLEST_ENTRY <= size <= LARGEST_ENTRY or size & (size - 1):
        return replace(header, problem=f"{where}: entry size is {size:,} bytes")
    if size * count > LARGEST_ARRAY:
        return replace(header, problem=f"{where}: {count:,} entries are more than we believe")
    offset = header.entries_lba * header.sector_size
    try:
        entries = block.read(offset, size * count)
    except DamagedImage:
        return replace(header, problem=f"{where}: entries at LBA {header.entries_lba} lie beyond the end of the disk")
    header = replace(header, entries=entries, entries_crc_ok=zlib.crc32(entries) == crc)
    if not header.entries_crc_ok:
        return replace(
            header, problem=f"{where}: CRC of the entries at LBA {header.entries_lba} (byte {offset:,}) is wrong"
        )
    return header


def _contradiction(header: Header) -> str:
    """What a header with right CRCs says that cannot be: only a program's mistake or intent makes these."""
    where = f"header at LBA {header.lba}"
    if header.first_usable_lba > header.last_usable_lba + 1:
        return f"{where}: usable range {header.first_usable_lba} to {header.last_usable_lba} is upside down"
    for index, entry in header.used_entries():
        first, last = struct.unpack_from("<QQ", entry, 32)
        if last < first:
            return f"{where}: partition {index + 1} ends at LBA {last} before it starts at LBA {first}"
    return ""
