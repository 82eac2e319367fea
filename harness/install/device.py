"""A block device that an image is written to: opened for ourselves alone, its sectors, its zeroes."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness.errors import BadInput

BLKSSZGET, BLKRRPART, BLKZEROOUT = 0x1268, 0x125F, 0x127F  # linux/fs.h
STEP = 2**20
ZEROES = bytes(STEP)


def is_device(path: Path) -> bool:
    """Whether a path names a block device."""
    try:
        return stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        return False


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A device that nobody mounts or uses meanwhile, or a plain file. Raises BadInput where that cannot be."""
    alone = os.O_EXCL if is_device(path) else 0
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | alone)
    except OSError as cause:
        raise BadInput(
            f"cannot be opened: {cause.strerror}", where=str(path), next_step="is it mounted or in use? see lsblk"
        ) from cause
    try:
        yield descriptor
    except OSError as cause:
        raise BadInput(f"cannot be written: {cause.strerror}", where=str(path)) from cause
    finally:
        os.close(descriptor)


def sector_size(path: Path) -> int | None:
    """Bytes of a device's logical sector; None for a plain file, which has none."""
    if not is_device(path):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            (size,) = struct.unpack("i", fcntl.ioctl(descriptor, BLKSSZGET, struct.pack("i", 0)))
        finally:
            os.close(descriptor)
    except OSError as cause:
        raise BadInput(f"cannot be opened: {cause.strerror}", where=str(path)) from cause
    return int(size)


def write(descriptor: int, data: bytes, offset: int) -> None:
    """All of it."""
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, offset)
        view, offset = view[done:], offset + done


def write_zeroes(descriptor: int, start: int, end: int) -> None:
    """Zeroes, by the device itself where it can; whole sectors."""
    if stat.S_ISBLK(os.fstat(descriptor).st_mode):
        with suppress(OSError):
            fcntl.ioctl(descriptor, BLKZEROOUT, struct.pack("QQ", start, end - start))
            return
    for offset in range(start, end, STEP):
        write(descriptor, ZEROES[: min(STEP, end - offset)], offset)


def reread_partitions(descriptor: int) -> None:
    """Have the kernel look at the new table; a loop device without partitions and one in use do not."""
    with suppress(OSError):
        fcntl.ioctl(descriptor, BLKRRPART)
