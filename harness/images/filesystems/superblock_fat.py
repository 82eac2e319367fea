"""FAT12, FAT16 and FAT32 (Microsoft's FAT specification 1.03): boot sector, and the label in the root directory."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from harness.images.block import Block
from harness.images.filesystems.superblock_parts import Facts

SECTOR_SIZES = frozenset({512, 1024, 2048, 4096})
LARGEST_FAT12 = 4085  # clusters, exclusive
LARGEST_FAT16 = 65525  # clusters, exclusive
NO_LABEL = {b"NO NAME    ", b"           ", bytes(11)}
ENTRY = 32  # bytes of a directory entry
VOLUME_ID, LONG_NAME, SUBDIRECTORY = 0x08, 0x0F, 0x10
DELETED = 0xE5
LONGEST_CHAIN = 128  # clusters of a FAT32 root directory that we look at
LARGEST_DIRECTORY = 2**21  # bytes: 65,535 entries


def fat_facts(head: bytes, block: Block) -> Facts | None:
    """What the boot sector says, with the label in the root directory; or None."""
    sector_size, per_cluster, reserved, fats, root_entries, sectors, media, fat_sectors = struct.unpack_from(
        "<HBHBHHBH", head, 11
    )
    if (
        sector_size not in SECTOR_SIZES
        or per_cluster == 0
        or per_cluster & (per_cluster - 1)
        or not reserved
        or fats not in {1, 2}
        or (media < 0xF8 and media != 0xF0)  # the values the specification allows
        or head[510:512] != b"\x55\xaa"
    ):
        return None
    is_fat32 = fat_sectors == 0
    if is_fat32:
        (fat_sectors,) = struct.unpack_from("<I", head, 36)
    sectors = sectors or struct.unpack_from("<I", head, 32)[0]
    root_start = reserved + fats * fat_sectors  # sectors
    root_sectors = -(-root_entries * ENTRY // sector_size)
    clusters = (sectors - root_start - root_sectors) // per_cluster
    if not fat_sectors or clusters <= 0:
        return None
    if is_fat32:
        first_cluster = struct.unpack_from("<I", head, 44)[0]
        data, fat = root_start * sector_size, reserved * sector_size
        places = _chain(block, fat, data, per_cluster * sector_size, first_cluster)
    else:
        places = iter([(root_start * sector_size, root_entries * ENTRY)])
    extended = 64 if is_fat32 else 36  # offset of the extended boot record
    has_volume_id = head[extended + 2] in {0x28, 0x29}
    serial = struct.unpack_from("<I", head, extended + 3)[0] if has_volume_id else 0
    boot_label = head[extended + 7 : extended + 18]
    kind = "FAT32" if is_fat32 else "FAT12" if clusters < LARGEST_FAT12 else "FAT16"
    root_label = _root_label(block, places)
    return (
        "vfat",
        root_label,
        f"{serial >> 16:04X}-{serial & 0xFFFF:04X}" if has_volume_id else None,
        sectors * sector_size,
        {
            "fat_type": kind,
            "volume_id": f"{serial:08X}",
            "boot_label": "" if boot_label in NO_LABEL or not has_volume_id else _decoded(boot_label),
            "sector_size": sector_size,
            "cluster_size": per_cluster * sector_size,
        },
    )


def _chain(block: Block, fat: int, data: int, cluster_size: int, cluster: int) -> Iterator[tuple[int, int]]:
    """Offset and length of the clusters of a FAT32 root directory."""
    for _ in range(LONGEST_CHAIN):
        if not 2 <= cluster < 0x0FFFFFF7:  # 0 and 1 are reserved, from F7 on the chain ends
            return
        yield data + (cluster - 2) * cluster_size, cluster_size
        place = fat + cluster * 4
        if place + 4 > block.size:
            return
        cluster = int.from_bytes(block.read(place, 4), "little") & 0x0FFFFFFF


def _root_label(block: Block, places: Iterator[tuple[int, int]]) -> str | None:
    """The volume label entry of the root directory, which is the label systems show."""
    for offset, length in places:
        if offset + length > block.size or length > LARGEST_DIRECTORY:
            return None
        directory = block.read(offset, length)
        for at in range(0, length, ENTRY):
            name, attributes = directory[at : at + 11], directory[at + 11]
            if name[0] == 0:
                return None
            if name[0] != DELETED and attributes != LONG_NAME and attributes & (VOLUME_ID | SUBDIRECTORY) == VOLUME_ID:
                return None if name in NO_LABEL else _decoded(name)
    return None


def _decoded(name: bytes) -> str:
    return name.decode("cp437").rstrip(" \0")
