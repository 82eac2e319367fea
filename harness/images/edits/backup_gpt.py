"""The backup GPT moved to the end of a disk that was enlarged, as first boot does (UEFI 2.10, 5.3.2).

The same bytes as `sfdisk --relocate gpt-bak-std` writes: entries and header in the last sectors, the old copy left
where it was. (sgdisk puts the entries at a multiple of 1 MiB in front of the end; both are right.)
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

from harness.errors import DamagedImage
from harness.images.formats.raw import FileBlock
from harness.images.partitions.gpt import Table
from harness.images.partitions.gpt_header import Header, find_header

HEADER_SIZE, HEADER_CRC, OWN_LBA, ALTERNATE_LBA, LAST_USABLE, ENTRIES_LBA = 12, 16, 24, 32, 48, 72
PROTECTIVE_SIZE = 446 + 12  # in sector 0: the length of the first entry
MOST_PROTECTED = 0xFFFFFFFF


def move_backup(disk: Path, table: Table) -> int:
    """Write the backup of a raw disk's GPT at its end and make the primary point to it; returns the header's LBA.

    Raises DamagedImage where the primary cannot be trusted or the last partition reaches into the backup's place.
    """
    with FileBlock(disk) as block:
        size = table.sector_size
        header = find_header(block, size, 1)
        if not header.is_trusted:
            raise DamagedImage(
                f"its primary GPT is no good: {header.problem}", where=str(disk), next_step="repair it with sgdisk"
            )
        last = block.size // size - 1
        entry_sectors = -(-len(header.entries) // size)
        last_usable = last - entry_sectors - 1
        _check_room(header, table, last_usable, str(disk))
        primary, mbr = block.read(size, size), block.read(0, 512)
    backup = _header(primary, OWN_LBA, last, ALTERNATE_LBA, 1, last_usable, last - entry_sectors)
    primary = _header(primary, OWN_LBA, 1, ALTERNATE_LBA, last, last_usable, header.entries_lba)
    with disk.open("r+b") as file:
        for offset, data in (
            (
                0,
                _protective(mbr, last, whole=table.protective_mbr.found and not table.protective_mbr.has_other_entries),
            ),
            (size, primary),
            ((last - entry_sectors) * size, header.entries),
            (last * size, backup),
        ):
            file.seek(offset)
            file.write(data)
    return last


def _check_room(header: Header, table: Table, last_usable: int, where: str) -> None:
    furthest = max((partition.last_lba for partition in table.partitions), default=header.first_usable_lba)
    if furthest > last_usable:
        raise DamagedImage(f"the last partition ends at LBA {furthest}, where the backup GPT would begin", where=where)


def _header(sector: bytes, own_at: int, own: int, other_at: int, other: int, last_usable: int, entries: int) -> bytes:
    changed = bytearray(sector)
    for at, value in ((own_at, own), (other_at, other), (LAST_USABLE, last_usable), (ENTRIES_LBA, entries)):
        struct.pack_into("<Q", changed, at, value)
    (length,) = struct.unpack_from("<I", changed, HEADER_SIZE)
    struct.pack_into("<I", changed, HEADER_CRC, 0)
    struct.pack_into("<I", changed, HEADER_CRC, zlib.crc32(changed[:length]))
    return bytes(changed)


def _protective(mbr: bytes, last: int, *, whole: bool) -> bytes:
    """The MBR with its one protective entry reaching to the end of the disk; a hybrid MBR is left as it is."""
    if not whole:
        return mbr
    changed = bytearray(mbr)
    struct.pack_into("<I", changed, PROTECTIVE_SIZE, min(last, MOST_PROTECTED))
    return bytes(changed)
