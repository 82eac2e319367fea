"""A GPT to be written (UEFI 2.10, 5.3): entries are put into it, then it says which bytes go where.

Nothing is written here. `GptDraft.pieces` gives the backup before the primary, so that whoever writes them one after
the other, each safely on the disk before the next, has one good copy at any moment: the old primary, then the new
backup. A new table's bytes are those that sgdisk writes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from harness.errors import BadInput, DamagedImage
from harness.images.block import Block
from harness.images.partitions.gpt import Partition, Table
from harness.images.partitions.gpt_header import Header, find_header
from harness.images.partitions.mbr import PROTECTIVE

ENTRY_SIZE = 128
ENTRY_COUNT = 128
LONGEST_LABEL = 36  # UTF-16 units
REVISION = 0x00010000
HEADER_LENGTH = 92
MOST_PROTECTED = 0xFFFFFFFF
MBR_CODE = 440  # bytes of boot code; then the disk id, the entries and the signature
ENTRIES_AT = 446
GptBytes = tuple[int, bytes]  # offset on the disk, what goes there


@dataclass(frozen=True, slots=True)
class GptDraft:
    """A table for a disk of `sectors` sectors; `entries` is the array as it lies on the disk."""

    sector_size: int
    sectors: int
    disk_guid: UUID
    first_usable_lba: int
    entries: bytes = field(repr=False)
    entry_size: int = ENTRY_SIZE
    entries_lba: int = 2  # of the primary

    @property
    def last_lba(self) -> int:
        return self.sectors - 1

    @property
    def entry_sectors(self) -> int:
        return -(-len(self.entries) // self.sector_size)

    @property
    def last_usable_lba(self) -> int:
        return self.last_lba - self.entry_sectors - 1

    @property
    def numbers(self) -> tuple[int, ...]:
        """The partition numbers in use."""
        size = self.entry_size
        used = (at for at in range(0, len(self.entries), size) if any(self.entries[at : at + 16]))
        return tuple(at // size + 1 for at in used)

    @property
    def most(self) -> int:
        """How many partitions there can be."""
        return len(self.entries) // self.entry_size

    def usable_to_the_end(self) -> GptDraft:
        """With its first usable sector right behind the entries, for a partition that ends with the disk.

        sgdisk --move-second-header, which CoreOS runs on first boot, leaves as many sectors free at the end of the disk
        as the table does in front (gdisk 1.0.9). sfdisk leaves 2048 there, and sgdisk would then refuse such a disk.
        """
        return replace(self, first_usable_lba=self.entries_lba + self.entry_sectors)

    def entry(self, number: int) -> bytes:
        """The entry of a partition as it lies on the disk."""
        at = (number - 1) * self.entry_size
        return self.entries[at : at + self.entry_size]

    def having(self, entries: Mapping[int, bytes]) -> GptDraft:
        """With these entries under these numbers. Raises BadInput for a number that is taken or beyond the table."""
        changed = bytearray(self.entries)
        for number, entry in entries.items():
            if not 1 <= number <= self.most:
                raise BadInput(f"partition {number} is beyond the table, which has {self.most} entries")
            if any(self.entry(number)[:16]):
                raise BadInput(
                    f"there is a partition {number} already", next_step=f"in use: {', '.join(map(str, self.numbers))}"
                )
            at = (number - 1) * self.entry_size
            changed[at : at + self.entry_size] = entry[: self.entry_size].ljust(self.entry_size, b"\0")
        return replace(self, entries=bytes(changed))

    def emptied(self) -> GptDraft:
        """The same table without a partition."""
        return replace(self, entries=bytes(len(self.entries)))

    def on(self, sectors: int) -> GptDraft:
        """The same table for a disk of another length."""
        return replace(self, sectors=sectors)

    def backup(self) -> tuple[GptBytes, ...]:
        """The backup's entries and header, at the end of the disk."""
        size, at = self.sector_size, self.last_lba - self.entry_sectors
        padded = self.entries.ljust(self.entry_sectors * size, b"\0")
        return (at * size, padded), (self.last_lba * size, self._header(self.last_lba, 1, at))

    def primary(self) -> tuple[GptBytes, ...]:
        """The primary's entries and header."""
        size = self.sector_size
        padded = self.entries.ljust(self.entry_sectors * size, b"\0")
        return (self.entries_lba * size, padded), (size, self._header(1, self.last_lba, self.entries_lba))

    def mbr(self, old: bytes = b"") -> bytes:
        """The first sector: `old` with one protective entry over the whole disk and nothing else in its table."""
        sector = bytearray(old[:512].ljust(512, b"\0"))
        sector[ENTRIES_AT:510] = bytes(64)
        length = min(self.last_lba, MOST_PROTECTED)
        struct.pack_into("<B3sB3sII", sector, ENTRIES_AT, 0, b"\0\2\0", PROTECTIVE, b"\xff" * 3, 1, length)
        sector[510:512] = b"\x55\xaa"
        return bytes(sector) + bytes(self.sector_size - 512)

    def _header(self, own: int, other: int, entries_lba: int) -> bytes:
        fields = (own, other, self.first_usable_lba, self.last_usable_lba, self.disk_guid.bytes_le, entries_lba)
        crc = zlib.crc32(self.entries)

        def packed(own_crc: int) -> bytes:
            head = struct.pack("<8sIIII", b"EFI PART", REVISION, HEADER_LENGTH, own_crc, 0)
            return head + struct.pack("<QQQQ16sQIII", *fields, self.most, self.entry_size, crc)

        return packed(zlib.crc32(packed(0))).ljust(self.sector_size, b"\0")


def blank(sectors: int, sector_size: int, disk_guid: UUID) -> GptDraft:
    """A table without partitions, as sgdisk makes one. Raises BadInput for a disk too small to have one."""
    entries = bytes(ENTRY_COUNT * ENTRY_SIZE)
    first_usable = 2 + len(entries) // sector_size
    draft = GptDraft(sector_size, sectors, disk_guid, first_usable, entries)
    if draft.last_usable_lba <= first_usable:
        raise BadInput(f"a disk of {sectors * sector_size:,} bytes has no room for a partition table and a partition")
    return draft


def draft_of(block: Block, table: Table) -> GptDraft:
    """The table of a disk, to be changed, for a disk of the same length.

    Raises DamagedImage where no copy can be trusted, or where a partition lies where the backup has to be.
    """
    header = _trusted(block, table)
    entries_lba = header.entries_lba if header.lba == 1 else 2  # a backup does not say where the primary's are
    if entries_lba * table.sector_size + len(header.entries) > header.first_usable_lba * table.sector_size:
        raise DamagedImage("the entries of its GPT lie among the partitions", where=block.name)
    draft = GptDraft(
        sector_size=table.sector_size,
        sectors=block.size // table.sector_size,
        disk_guid=header.disk_guid,
        first_usable_lba=header.first_usable_lba,
        entries=header.entries,
        entry_size=header.entry_size,
        entries_lba=entries_lba,
    )
    check_fits(draft, table.partitions, block.name)
    return draft


def check_fits(draft: GptDraft, partitions: tuple[Partition, ...], where: str) -> None:
    """Raise DamagedImage for partitions that reach into a copy of the table."""
    for partition in partitions:
        if partition.last_lba > draft.last_usable_lba or partition.first_lba < draft.first_usable_lba:
            raise DamagedImage(
                f"partition {partition.number} ({partition.label!r}) has sectors {partition.first_lba} to "
                f"{partition.last_lba}; usable are {draft.first_usable_lba} to {draft.last_usable_lba}",
                where=where,
                next_step="truncated, or made for another disk? compare it with its source",
            )


def new_entry(type_guid: UUID, part_guid: UUID, first_lba: int, last_lba: int, label: str) -> bytes:
    """One entry. Raises BadInput for a label that has no room in it."""
    name = label.encode("utf-16-le", "surrogatepass")
    if len(name) > 2 * LONGEST_LABEL or "\0" in label:
        raise BadInput(f"{label!r} is no partition label", next_step=f"at most {LONGEST_LABEL} characters")
    head = type_guid.bytes_le + part_guid.bytes_le + struct.pack("<QQQ", first_lba, last_lba, 0)
    return (head + name).ljust(ENTRY_SIZE, b"\0")


def _trusted(block: Block, table: Table) -> Header:
    """The copy that `table` was read from."""
    primary = find_header(block, table.sector_size, 1)
    if primary.is_trusted:
        return primary
    backup = find_header(block, table.sector_size, table.backup.location_lba)
    if backup.is_trusted:
        return backup
    raise DamagedImage(f"its GPT cannot be trusted: {primary.problem}", where=block.name)
