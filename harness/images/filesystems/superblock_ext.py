"""The superblock of ext2, ext3 and ext4 (Linux Documentation/filesystems/ext4/super.rst; names as e2fsprogs')."""

from __future__ import annotations

import struct
from uuid import UUID

from harness.images.block import Block
from harness.images.filesystems.superblock_parts import Facts, crc32c, flags, text

MAGIC = 0xEF53
COMPATIBLE = {
    0: "dir_prealloc", 1: "imagic_inodes", 2: "has_journal", 3: "ext_attr", 4: "resize_inode", 5: "dir_index",
    6: "lazy_bg", 8: "snapshot_bitmap", 9: "sparse_super2", 10: "fast_commit", 11: "stable_inodes", 12: "orphan_file",
}  # fmt: skip
INCOMPATIBLE = {
    0: "compression", 1: "filetype", 2: "needs_recovery", 3: "journal_dev", 4: "meta_bg", 6: "extent", 7: "64bit",
    8: "mmp", 9: "flex_bg", 10: "ea_inode", 12: "dirdata", 13: "metadata_csum_seed", 14: "large_dir",
    15: "inline_data", 16: "encrypt", 17: "casefold",
}  # fmt: skip
READ_ONLY_COMPATIBLE = {
    0: "sparse_super", 1: "large_file", 2: "btree_dir", 3: "huge_file", 4: "uninit_bg", 5: "dir_nlink",
    6: "extra_isize", 7: "snapshot", 8: "quota", 9: "bigalloc", 10: "metadata_csum", 11: "replica", 12: "read-only",
    13: "project", 14: "shared_blocks", 15: "verity", 16: "orphan_present",
}  # fmt: skip
EXT3_FEATURES = frozenset({"filetype", "needs_recovery", "meta_bg", "sparse_super", "large_file", "btree_dir"})
LARGEST_LOG_BLOCK_SIZE = 6  # 64 KiB


def ext_facts(head: bytes, _: Block) -> Facts | None:
    """What the superblock at 1024 says, or None."""
    sb = head[1024:2048]
    (magic, state) = struct.unpack_from("<HH", sb, 56)
    (log_block_size,) = struct.unpack_from("<I", sb, 24)
    if magic != MAGIC or log_block_size > LARGEST_LOG_BLOCK_SIZE:
        return None
    revision, (inodes, blocks) = struct.unpack_from("<I", sb, 76)[0], struct.unpack_from("<II", sb, 0)
    compatible, incompatible, read_only = struct.unpack_from("<III", sb, 92) if revision else (0, 0, 0)
    names = flags(compatible, COMPATIBLE)
    demanding = (*flags(incompatible, INCOMPATIBLE), *flags(read_only, READ_ONLY_COMPATIBLE))
    features = (*names, *demanding)
    if "64bit" in features:
        blocks += struct.unpack_from("<I", sb, 336)[0] << 32
    kind = _type(features, demanding)
    (free,) = struct.unpack_from("<I", sb, 12)
    details: dict[str, str | int | bool | tuple[str, ...]] = {
        "block_size": 1024 << log_block_size,
        "blocks": blocks,
        "free_blocks": free + (struct.unpack_from("<I", sb, 344)[0] << 32 if "64bit" in features else 0),
        "inodes": inodes,
        "features": features,
        "metadata_csum_seed": "metadata_csum_seed" in features,
        "needs_recovery": "needs_recovery" in features,
        "state": "clean" if state & 1 and not state & 2 else "not clean" + (" with errors" if state & 2 else ""),
    }
    if "metadata_csum" in features:
        details["checksum_ok"] = crc32c(sb[:1020]) == struct.unpack_from("<I", sb, 1020)[0]
    return kind, text(sb[120:136]), str(UUID(bytes=sb[104:120])), blocks * (1024 << log_block_size), details


def _type(features: tuple[str, ...], demanding: tuple[str, ...]) -> str:
    """As blkid decides: by the first kernel driver that would have mounted it."""
    if "journal_dev" in features:
        return "jbd"
    if any(name not in EXT3_FEATURES for name in demanding):
        return "ext4"
    return "ext3" if "has_journal" in features else "ext2"
