"""GUID partition tables (UEFI 2.10, chapter 5): read, check, explain.

Sizes are bytes unless a name ends in _lba. Nothing here opens files: give it a `Block`. Both copies of the table are
always looked at, because a check wants to know about the one that was not needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from uuid import UUID

from harness.errors import DamagedImage, HarnessError, UnsupportedImage
from harness.images.block import Block
from harness.images.partitions.gpt_header import Header, find_header
from harness.images.partitions.mbr import PROTECTIVE, find_mbr, read_entries

SECTOR_SIZES = (512, 4096)
LEGACY_BIOS_BOOTABLE = 1 << 2


@dataclass(frozen=True, slots=True)
class Partition:
    """One used entry of the table."""

    number: int  # 1-based, as sgdisk and the kernel count
    type_guid: UUID
    part_guid: UUID
    label: str  # PARTLABEL, at most 36 UTF-16 units
    start: int  # bytes from the start of the disk
    size: int  # bytes
    attributes: int
    sector_size: int

    @property
    def legacy_bios_bootable(self) -> bool:
        return bool(self.attributes & LEGACY_BIOS_BOOTABLE)

    @property
    def first_lba(self) -> int:
        return self.start // self.sector_size

    @property
    def last_lba(self) -> int:
        """Inclusive, as sgdisk prints it."""
        return (self.start + self.size) // self.sector_size - 1


@dataclass(frozen=True, slots=True)
class CopyState:
    """One of the two copies of the table; `problem` is empty when nothing is wrong with it."""

    location_lba: int
    found: bool
    header_crc_ok: bool
    entries_crc_ok: bool
    matches: bool  # says the same as the other copy, and each knows where the other is
    problem: str


@dataclass(frozen=True, slots=True)
class ProtectiveMbr:
    """The protective entry of the MBR in sector 0."""

    found: bool
    start_lba: int
    size_lba: int  # as recorded: the last LBA of the disk the table was made for, or 0xFFFFFFFF
    has_other_entries: bool  # a hybrid MBR


@dataclass(frozen=True, slots=True)
class Table:
    """A partition table, from whichever copy can be trusted."""

    sector_size: int
    disk_guid: UUID
    partitions: tuple[Partition, ...]
    first_usable_lba: int
    last_usable_lba: int
    alternate_lba: int  # where the trusted primary says the backup is; without one, where the backup was found
    last_lba: int  # of the disk as it is now
    primary: CopyState
    backup: CopyState
    protective_mbr: ProtectiveMbr

    @property
    def backup_is_at_end(self) -> bool:
        """False for a cloud image before its first boot: it was made at metal size, then the disk was enlarged."""
        return self.backup.found and self.backup.location_lba == self.last_lba

    @property
    def is_sound(self) -> bool:
        return not self.primary.problem and not self.backup.problem


def read_table(block: Block) -> Table:
    """Read the primary copy, or the backup where the primary is damaged.

    The returned table says which copies were valid, so that a check can assert both. Raises DamagedImage naming
    header, field and offset when neither copy can be trusted, UnsupportedImage when the disk has an MBR only.
    """
    table = find_table(block)
    if table is None:
        raise no_table(block)
    return table


def find_table(block: Block) -> Table | None:
    """As `read_table`, but None for a disk that shows no sign of ever having had a GPT.

    A backup alone is no GPT on a disk whose MBR has partitions of its own: it is left from an earlier life.
    """
    mbr = _protective_mbr(block)
    pairs = [pair for sector_size in SECTOR_SIZES if (pair := _pair(block, sector_size, mbr))]
    found = [pair for pair in pairs if pair[0].found or pair[1].found]
    if mbr.has_other_entries and not mbr.found and not any(pair[0].found for pair in found):
        return None
    for copy in (0, 1):
        for pair in found:
            if pair[copy].is_trusted:
                return _table(block, pair, pair[copy], mbr)
    if found or mbr.found:
        raise _refusal(block, found)
    return None


def _pair(block: Block, sector_size: int, mbr: ProtectiveMbr) -> tuple[Header, Header] | None:
    """Both copies as found with this sector size, or None on a disk too small to have any."""
    last_lba = block.size // sector_size - 1
    if last_lba < 2:  # MBR, header, one sector of entries
        return None
    primary = find_header(block, sector_size, 1)
    places = [last_lba]
    if primary.found and primary.alternate_lba not in places:
        places.insert(0, primary.alternate_lba)
    if mbr.found and 2 < mbr.size_lba < last_lba:  # a disk enlarged after it lost its primary
        places.append(mbr.size_lba)
    candidates = [find_header(block, sector_size, lba) for lba in places]
    backup = next(
        (header for header in candidates if header.is_trusted),
        next((header for header in candidates if header.found), candidates[0]),
    )
    return primary, backup


def _table(block: Block, pair: tuple[Header, Header], trusted: Header, mbr: ProtectiveMbr) -> Table:
    primary, backup = pair
    differences = "; ".join(_differences(primary, backup)) if primary.found and backup.found else ""
    return Table(
        sector_size=trusted.sector_size,
        disk_guid=trusted.disk_guid,
        partitions=tuple(_partitions(trusted)),
        first_usable_lba=trusted.first_usable_lba,
        last_usable_lba=trusted.last_usable_lba,
        alternate_lba=primary.alternate_lba if trusted is primary else backup.lba,
        last_lba=block.size // trusted.sector_size - 1,
        primary=_state(primary, backup, "" if trusted is primary else differences),
        backup=_state(backup, primary, "" if trusted is backup else differences),
        protective_mbr=mbr,
    )


def _state(header: Header, other: Header, differences: str) -> CopyState:
    both = header.found and other.found
    return CopyState(
        location_lba=header.lba,
        found=header.found,
        header_crc_ok=header.crc_ok,
        entries_crc_ok=header.entries_crc_ok,
        matches=both and not any(_differences(header, other)),
        problem=header.problem or (f"differs from the other copy: {differences}" if differences else ""),
    )


def _differences(one: Header, other: Header) -> Iterator[str]:
    if one.disk_guid != other.disk_guid:
        yield f"disk GUID {one.disk_guid} and {other.disk_guid}"
    if (one.first_usable_lba, one.last_usable_lba) != (other.first_usable_lba, other.last_usable_lba):
        yield "usable range"
    if one.entries != other.entries:
        yield "partition entries"
    if one.alternate_lba != other.lba or other.alternate_lba != one.lba:
        yield "their locations"


def _partitions(header: Header) -> Iterator[Partition]:
    size = header.sector_size
    for index, entry in header.used_entries():
        first, last, attributes = struct.unpack_from("<QQQ", entry, 32)
        yield Partition(
            number=index + 1,
            type_guid=UUID(bytes_le=entry[:16]),
            part_guid=UUID(bytes_le=entry[16:32]),
            label=entry[56:128].decode("utf-16-le", errors="replace").split("\0", 1)[0],
            start=first * size,
            size=(last - first + 1) * size,
            attributes=attributes,
            sector_size=size,
        )


def _protective_mbr(block: Block) -> ProtectiveMbr:
    entries = read_entries(block.read(0, min(512, block.size)))
    guards = [entry for entry in entries if entry.type == PROTECTIVE]
    others = any(entry.type not in {0, PROTECTIVE} for entry in entries)
    start, size = (guards[0].first, guards[0].sectors) if guards else (0, 0)
    return ProtectiveMbr(found=bool(guards), start_lba=start, size_lba=size, has_other_entries=others)


def _refusal(block: Block, found: list[tuple[Header, Header]]) -> HarnessError:
    """Say why a GPT cannot be read: neither copy that was found is right, or none was found behind its MBR."""
    if found:
        primary, backup = found[0]
        return DamagedImage(
            f"neither GPT can be trusted: primary {primary.problem}; backup {backup.problem}",
            where=block.name,
            next_step="compare the image's checksum with the published one",
        )
    return DamagedImage(
        "has a protective MBR, but neither a primary GPT header at LBA 1 nor a backup at its end "
        "(sectors of 512 and 4096 bytes tried)",
        where=block.name,
        next_step="truncated or wiped? compare the image's checksum with the published one",
    )


def no_table(block: Block) -> HarnessError:
    """Why `read_table` gives nothing for a disk without a sign of a GPT."""
    if find_mbr(block):
        return UnsupportedImage("has an MBR partition table and no GPT", where=block.name)
    return DamagedImage(
        "has no partition table: no GPT header at LBA 1 or at its end, no MBR",
        where=block.name,
        next_step="is this a partition or filesystem image, or a blank disk?",
    )
