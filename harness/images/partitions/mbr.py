"""MBR partition tables: the four primary entries, and the logical partitions of an extended one.

Facts: the layout of the sector as in UEFI 2.10, 5.2.1; the chain of extended boot records as Linux follows it
(block/partitions/msdos.c). Sectors are always 512 bytes here: what a disk with other sectors means by an MBR nobody
agrees on. Sizes and starts are bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from harness.errors import DamagedImage
from harness.images.block import Block

SECTOR = 512
SIGNATURE = b"\x55\xaa"
ENTRIES = range(446, 510, 16)
PROTECTIVE = 0xEE
EXTENDED = frozenset({0x05, 0x0F, 0x85})  # CHS, LBA, Linux
FIRST_LOGICAL = 5
MOST_LOGICAL = 128  # Linux stops at 256 minors; nobody had more than a dozen


@dataclass(frozen=True, slots=True)
class MbrPartition:
    """One used entry; numbers as the kernel and sfdisk count: primary 1 to 4, logical from 5."""

    number: int
    type: int  # the type byte, 0x83 for Linux
    is_active: bool
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class MbrTable:
    """An MBR with its logical partitions. `problem` is empty, or says where the chain of the latter breaks off."""

    disk_id: int
    partitions: tuple[MbrPartition, ...]
    problem: str = ""
    sector_size: int = SECTOR


@dataclass(frozen=True, slots=True)
class MbrEntry:
    """The sixteen bytes of one entry; sectors count from the start of the disk or of an extended partition."""

    status: int
    type: int
    first: int
    sectors: int

    @property
    def is_used(self) -> bool:
        return bool(self.type and self.sectors)


def read_entries(sector: bytes) -> tuple[MbrEntry, ...]:
    """The four entries of a boot sector; none where it has no boot signature."""
    if sector[510:512] != SIGNATURE:
        return ()
    rows = (struct.unpack_from("<B3xB3xII", sector, at) for at in ENTRIES)
    return tuple(MbrEntry(*row) for row in rows)


def find_mbr(block: Block) -> MbrTable | None:
    """The table in the first sector, or None where there is none.

    A boot signature alone is no table (every FAT boot sector has one): at least one entry must be used, and the
    status of each be 0 or 0x80, as Linux asks. Raises DamagedImage for a chain of logical partitions that loops or
    does not end; one that leaves the disk, as in a truncated image, becomes the table's `problem`.
    """
    sector = block.read(0, min(SECTOR, block.size))
    entries = read_entries(sector)
    if not any(entry.is_used for entry in entries) or any(entry.status & 0x7F for entry in entries):
        return None
    primary = [_partition(number, entry, 0) for number, entry in enumerate(entries, 1) if entry.is_used]
    logical: list[MbrPartition] = []
    problem = ""
    for entry in entries:
        if entry.is_used and entry.type in EXTENDED and not problem:
            chain = _Chain(block, entry.first)
            logical += chain.partitions(FIRST_LOGICAL + len(logical))
            problem = chain.problem
    (disk_id,) = struct.unpack_from("<I", sector, 440)
    return MbrTable(disk_id, (*primary, *logical), problem)


class _Chain:
    """The extended boot records of one extended partition: each names a partition and the next record."""

    def __init__(self, block: Block, first: int) -> None:
        self._block = block
        self._first = first  # sector; the next records count from here
        self.problem = ""

    def partitions(self, number: int) -> Iterator[MbrPartition]:
        seen: set[int] = set()
        at: int | None = self._first
        while at is not None:
            if at in seen:
                raise self._refused(f"the chain of logical partitions comes back to sector {at:,}")
            if len(seen) == MOST_LOGICAL:
                raise self._refused(f"more than {MOST_LOGICAL} logical partitions")
            seen.add(at)
            entries = self._record(at)
            for entry in entries:
                if entry.is_used and entry.type not in EXTENDED:
                    yield _partition(number, entry, at)
                    number += 1
            links = [entry.first for entry in entries if entry.is_used and entry.type in EXTENDED]
            at = self._first + links[0] if links else None

    def _record(self, at: int) -> tuple[MbrEntry, ...]:
        """The two entries of a record that mean something; none with `problem` set where there is no record."""
        where = f"extended boot record at sector {at:,} (byte {at * SECTOR:,})"
        if (at + 1) * SECTOR > self._block.size:
            self.problem = f"{where} lies beyond the end of the disk at {self._block.size:,}"
            return ()
        entries = read_entries(self._block.read(at * SECTOR, SECTOR))
        if not entries:
            self.problem = f"{where}: no boot signature"
        return entries[:2]

    def _refused(self, what: str) -> DamagedImage:
        return DamagedImage(what, where=self._block.name, next_step="compare the image's checksum with the published")


def _partition(number: int, entry: MbrEntry, base: int) -> MbrPartition:
    return MbrPartition(number, entry.type, entry.status == 0x80, (base + entry.first) * SECTOR, entry.sectors * SECTOR)
