"""Sharing the blocks of two files instead of copying them, on file systems that can (Btrfs, XFS, bcachefs)."""

from __future__ import annotations

import fcntl
import struct

FICLONERANGE = 0x4020940D  # linux/fs.h; man 2 ioctl_ficlonerange
RANGE = struct.Struct("qQQQ")  # source, its offset, length, offset in the target
ALIGNMENT = 4096  # bytes: what the usual file systems share; larger blocks refuse, and are copied
WORTH_SHARING = 2**16  # bytes


def share(source: int, offset: int, target: int, position: int, length: int) -> bool:
    """Make a range of the file `target` the same blocks as one of `source`; False where that cannot be."""
    try:
        fcntl.ioctl(target, FICLONERANGE, RANGE.pack(source, offset, length, position))
    except OSError:  # the file system cannot, or they are two: copying says what else is wrong
        return False
    return True


def shareable(offset: int, position: int, length: int) -> tuple[int, int]:
    """Which part of a range can be shared: bytes before it, and its length, 0 where it is not worth it.

    >>> shareable(100, 4196, 100_000)
    (3996, 94208)
    >>> shareable(100, 0, 100_000)
    (0, 0)
    """
    if (offset - position) % ALIGNMENT or length < WORTH_SHARING:
        return 0, 0
    before = -offset % ALIGNMENT
    return before, (length - before) // ALIGNMENT * ALIGNMENT
