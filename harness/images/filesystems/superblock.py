"""What a partition holds, told by its superblock: filesystem type, label, UUID, size.

Type names and the form of UUIDs are those of blkid(8). A superblock is data from outside: what it points at is read
only after its place was checked, and nothing in it can make this fail. `None` means that nothing was recognised.
Facts from each format's own documentation, named at its function.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from uuid import UUID

from harness.images.block import Block
from harness.images.filesystems.superblock_ext import ext_facts
from harness.images.filesystems.superblock_fat import fat_facts
from harness.images.filesystems.superblock_luks import luks_facts
from harness.images.filesystems.superblock_parts import Facts, crc32c, flags, text

HEAD = 72 * 1024  # bytes: holds every superblock looked for, the furthest is btrfs' at 64 KiB
SWAP_PAGE_SIZES = (4096, 8192, 16384, 65536)
SQUASHFS_COMPRESSIONS = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}
XFS_COMPATIBLE = {0: "finobt", 1: "rmapbt", 2: "reflink", 3: "inobtcount"}
XFS_INCOMPATIBLE = {0: "ftype", 1: "sparse", 2: "meta_uuid", 3: "bigtime", 4: "needsrepair", 5: "nrext64"}
XFS_VERSION_5 = 5


@dataclass(frozen=True, slots=True)
class Filesystem:
    """A recognised superblock."""

    type: str  # as blkid names it: ext4, xfs, vfat, squashfs, erofs, btrfs, crypto_LUKS, iso9660, swap
    label: str | None
    uuid: str | None  # in the form blkid prints: 7B77-95E7 for vfat, 2026-11-21-07-00-00-00 for iso9660
    size: int  # bytes, as the superblock has it; 0 where it does not say
    details: Mapping[str, str | int | bool | tuple[str, ...]]


def identify(block: Block) -> Filesystem | None:
    """The filesystem, LUKS container or swap area that a partition or disk begins with."""
    head = block.read(0, min(HEAD, block.size))
    head += bytes(HEAD - len(head))
    for probe in PROBES:
        if facts := probe(head, block):
            return Filesystem(*facts)
    return None


def _squashfs(head: bytes, _: Block) -> Facts | None:
    """Linux Documentation/filesystems/squashfs.rst."""
    if head[:4] != b"hsqs":
        return None
    block_size, compression = struct.unpack_from("<I4xH", head, 12)
    major, minor, size = struct.unpack_from("<HH8xQ", head, 28)
    return (
        "squashfs",
        None,
        None,
        size,
        {
            "version": f"{major}.{minor}",
            "block_size": block_size,
            "compression": SQUASHFS_COMPRESSIONS.get(compression, str(compression)),
        },
    )


def _xfs(head: bytes, _: Block) -> Facts | None:
    """XFS Algorithms & Data Structures, "Superblocks"; big-endian, but for the checksum."""
    if head[:4] != b"XFSB":
        return None
    block_size, blocks = struct.unpack_from(">IQ", head, 4)
    ag_blocks, ag_count = struct.unpack_from(">II", head, 84)
    version, sector_size, inode_size = struct.unpack_from(">HHH", head, 100)
    details: dict[str, str | int | bool | tuple[str, ...]] = {
        "block_size": block_size,
        "sector_size": sector_size,
        "inode_size": inode_size,
        "agcount": ag_count,
        "agblocks": ag_blocks,
        "version": version & 0xF,
        "reflink": False,
    }
    if version & 0xF == XFS_VERSION_5:
        compatible, incompatible = struct.unpack_from(">II", head, 212)
        names = (*flags(compatible, XFS_COMPATIBLE), *flags(incompatible, XFS_INCOMPATIBLE))
        sector = head[: min(max(sector_size, 512), 32768)]
        (stored,) = struct.unpack_from("<I", head, 224)
        details["reflink"] = "reflink" in names
        details["features"] = names
        details["checksum_ok"] = crc32c(sector[:224] + bytes(4) + sector[228:]) ^ 0xFFFFFFFF == stored
    return "xfs", text(head[108:120]), str(UUID(bytes=head[32:48])), block_size * blocks, details


def _btrfs(head: bytes, _: Block) -> Facts | None:
    """Linux fs/btrfs/ctree.h; the first superblock is at 64 KiB."""
    sb = head[65536:]
    if sb[64:72] != b"_BHRfS_M":
        return None
    generation, size = struct.unpack_from("<Q32xQ", sb, 72)[:2]
    devices, sector_size, node_size = struct.unpack_from("<QII", sb, 136)
    return (
        "btrfs",
        text(sb[299:555]),
        str(UUID(bytes=sb[32:48])),
        size,
        {"generation": generation, "devices": devices, "sector_size": sector_size, "node_size": node_size},
    )


def _erofs(head: bytes, _: Block) -> Facts | None:
    """Linux fs/erofs/erofs_fs.h; the superblock is at 1024."""
    sb = head[1024:1152]
    if sb[:4] != b"\xe2\xe1\xf5\xe0":
        return None
    bits = sb[12]
    (blocks,) = struct.unpack_from("<I", sb, 36)
    uuid = None if not any(sb[48:64]) else str(UUID(bytes=sb[48:64]))
    block_size = 1 << bits if bits <= 16 else 0  # 64 KiB, the largest page
    return "erofs", text(sb[64:80]), uuid, blocks * block_size, {"block_size": block_size}


def _swap(head: bytes, _: Block) -> Facts | None:
    """Linux include/linux/swap.h: the magic ends the first page, the header is at 1024."""
    for page_size in SWAP_PAGE_SIZES:
        if head[page_size - 10 : page_size] == b"SWAPSPACE2":
            version, last_page = struct.unpack_from("<II", head, 1024)
            if version == 1:
                uuid = str(UUID(bytes=head[1036:1052])) if any(head[1036:1052]) else None
                details = {"page_size": page_size, "version": version}
                return "swap", text(head[1052:1068]), uuid, last_page * page_size, details
    return None


def _iso9660(head: bytes, _: Block) -> Facts | None:
    """ECMA-119, 8.4: the primary volume descriptor in sector 16."""
    descriptor = head[32768:34816]
    if descriptor[:7] != b"\x01CD001\x01":
        return None
    (blocks,), (block_size,) = struct.unpack_from("<I", descriptor, 80), struct.unpack_from("<H", descriptor, 128)
    created, modified = descriptor[813:829], descriptor[830:846]
    stamp = modified if modified.isdigit() and modified.strip(b"0") else created
    digits = stamp.decode("ascii", errors="replace")
    uuid = "-".join((digits[:4], *(digits[at : at + 2] for at in range(4, 16, 2)))) if stamp.isdigit() else None
    details = {"system_id": text(descriptor[8:40], " \0") or "", "block_size": block_size}
    return "iso9660", text(descriptor[40:72], " \0"), uuid, blocks * block_size, details


# FAT comes last: its boot sector has the weakest magic.
PROBES: tuple[Callable[[bytes, Block], Facts | None], ...] = (
    luks_facts,
    _xfs,
    _squashfs,
    _btrfs,
    _erofs,
    ext_facts,
    _swap,
    _iso9660,
    fat_facts,
)
