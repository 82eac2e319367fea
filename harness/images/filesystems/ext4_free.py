"""The free blocks of an ext2/3/4 filesystem, by its block bitmaps (Linux, Documentation/filesystems/ext4).

What a bitmap calls free is believed only where its group's descriptor counts the same, and never of a place where the
filesystem's own tables lie: the bitmap of a group that was never used is not even written.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.ext4 import META_BG, SIXTY_FOUR_BIT, Ext4
from harness.images.ranges import Range, merged, without

BITMAP_UNWRITTEN = 0x2  # flag of a group: BLOCK_UNINIT
CHECKSUMMED = 0x410  # ro_compat gdt_csum and metadata_csum: only then the flag means anything
BIGALLOC = 0x200  # ro_compat
ZERO_RUN: Final = re.compile("0+")


@dataclass(frozen=True, slots=True)
class _Groups:
    """The numbers of a superblock that say where block groups lie; all but sizes in blocks."""

    size: int  # bytes of a block
    count: int  # of groups
    blocks: int
    first: int
    group_blocks: int
    cluster: int  # blocks that one bit of a bitmap stands for
    table_blocks: int  # of a group's inode table
    descriptor_blocks: int  # that follow the superblock and its copies, reserved ones included
    may_be_unwritten: bool
    meta_group: int  # groups whose descriptors stand together
    first_meta_group: int | None  # None where all descriptors stand in front

    def start(self, group: int) -> int:
        return self.first + group * self.group_blocks

    def end(self, group: int) -> int:
        return min(self.start(group + 1), self.blocks)

    def holds_descriptors(self, group: int) -> bool:
        """Whether a group has a block with the descriptors of its meta group: the first, second and last have."""
        number, index = divmod(group, self.meta_group)
        is_one = self.first_meta_group is not None and number >= self.first_meta_group
        return is_one and index in {0, 1, self.meta_group - 1}


def ext4_free(block: Block) -> list[Range]:
    """Bytes of the filesystem that hold nothing, in order.

    Raises UnsupportedImage where a journal would have to be replayed first, DamagedImage for a filesystem that
    contradicts itself.
    """
    inodes = Ext4(block)
    if inodes.needs_recovery:
        raise UnsupportedImage("has a journal to replay", where=block.name)
    groups = _groups(block.read(1024, 1024))
    if groups.blocks * groups.size > block.size:
        raise DamagedImage(f"its filesystem claims {groups.blocks * groups.size:,} bytes", where=block.name)
    taken: list[Range] = []
    free: list[Range] = []
    for group in range(groups.count):
        descriptor = inodes.descriptor(group)
        taken += _tables(groups, group, descriptor, has_superblock=inodes.has_superblock(group))
        free += _free_of(block, groups, group, descriptor)
    left = without(merged(free), merged(taken))
    return [Range(start * groups.size, end * groups.size) for start, end in left]


def _groups(raw: bytes) -> _Groups:
    inodes_per_group, inode_size = struct.unpack_from("<I", raw, 0x28)[0], struct.unpack_from("<H", raw, 0x58)[0]
    blocks, first, log_size, log_cluster = struct.unpack_from("<I12xIII", raw, 4)
    group_blocks = struct.unpack_from("<I", raw, 0x20)[0]
    revision, incompatible, read_only = (struct.unpack_from("<I", raw, at)[0] for at in (0x4C, 0x60, 0x64))
    wide = bool(incompatible & SIXTY_FOUR_BIT)
    blocks |= struct.unpack_from("<I", raw, 0x150)[0] << 32 if wide else 0
    size = 1024 << log_size
    count = -(-(blocks - first) // group_blocks)
    descriptor_size = struct.unpack_from("<H", raw, 0xFE)[0] if wide else 32
    meta_group = struct.unpack_from("<I", raw, 0x104)[0] if incompatible & META_BG else None
    in_front = -(-count * descriptor_size // size) if meta_group is None else meta_group
    return _Groups(
        size=size,
        count=count,
        blocks=blocks,
        first=first,
        group_blocks=group_blocks,
        cluster=1 << max(0, min(log_cluster - log_size, 16)) if read_only & BIGALLOC else 1,
        table_blocks=-(-inodes_per_group * (inode_size if revision else 128) // size),
        descriptor_blocks=in_front + struct.unpack_from("<H", raw, 0xCE)[0],
        may_be_unwritten=bool(read_only & CHECKSUMMED),
        meta_group=size // descriptor_size,
        first_meta_group=meta_group,
    )


def _tables(groups: _Groups, group: int, descriptor: bytes, *, has_superblock: bool) -> Iterator[Range]:
    """Where bitmaps, inode table and, in some groups, superblock and descriptors lie, in blocks.

    With meta_bg one block of descriptors stands at the start of the first, second and last group of each set.
    """
    wide = len(descriptor) >= 64
    low, high = (
        struct.unpack_from("<III", descriptor),
        struct.unpack_from("<III", descriptor, 0x20) if wide else (0,) * 3,
    )
    bitmap, inode_bitmap, table = (each | more << 32 for each, more in zip(low, high, strict=True))
    yield Range(bitmap, bitmap + 1)
    yield Range(inode_bitmap, inode_bitmap + 1)
    yield Range(table, table + groups.table_blocks)
    start = groups.start(group) if group else max(groups.first, 1024 // groups.size)  # the first one is at byte 1024
    if has_superblock:
        yield Range(start if group else 0, start + 1 + groups.descriptor_blocks)
    if groups.holds_descriptors(group):
        yield Range(start, start + 1 + has_superblock)


def _free_of(block: Block, groups: _Groups, group: int, descriptor: bytes) -> Iterator[Range]:
    """The runs of free blocks of one group."""
    start, end = groups.start(group), groups.end(group)
    low, (flags,) = struct.unpack_from("<I", descriptor)[0], struct.unpack_from("<H", descriptor, 0x12)
    (counted,) = struct.unpack_from("<H", descriptor, 0xC)
    if len(descriptor) >= 64:
        low |= struct.unpack_from("<I", descriptor, 0x20)[0] << 32
        counted |= struct.unpack_from("<H", descriptor, 0x2C)[0] << 16
    if groups.may_be_unwritten and flags & BITMAP_UNWRITTEN:
        yield Range(start, end)
        return
    if not 0 < low < groups.blocks:
        raise DamagedImage(f"group {group}: its block bitmap is said to be at block {low}", where=block.name)
    clusters = -(-(end - start) // groups.cluster)
    if clusters > groups.size * 8:
        raise DamagedImage(f"group {group} has {clusters:,} clusters, more than a bitmap counts", where=block.name)
    bits = int.from_bytes(block.read(low * groups.size, groups.size), "little") & ((1 << clusters) - 1)
    found = clusters - bits.bit_count()
    if found != counted:
        raise DamagedImage(
            f"group {group}: its bitmap has {found:,} free blocks, its descriptor {counted:,}",
            where=block.name,
            next_step="run e2fsck on it",
        )
    for run in ZERO_RUN.finditer(f"{bits:0{clusters}b}"[::-1]):
        yield Range(start + run.start() * groups.cluster, min(end, start + run.end() * groups.cluster))
