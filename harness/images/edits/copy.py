"""A virtual disk as a raw, sparse file: what holds no data is not written.

Works for every container that `open_image` reads. A raw source is cloned where the filesystem can, else copied
inside the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.errors import BadInput
from harness.images.block import Block
from harness.images.extents import extents_of
from harness.images.formats.raw import FileBlock
from harness.images.ranges import Range, merged, without

STEP = 2**20  # bytes copied at a time
GRAIN = 4096  # bytes: a run of zeroes shorter than this is not worth a hole
ZEROES = bytes(STEP)
FICLONE = 0x40049409  # ioctl: share all blocks of a file (linux/fs.h)
CANNOT_SHARE = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTTY, errno.EPERM})


def copy_disk(block: Block, target: Path) -> None:
    """Write all data of a disk to a new raw file. Raises BadInput where it cannot be written."""
    with _created(target, block.size) as descriptor:
        if isinstance(block, FileBlock) and _copied_by_kernel(block, descriptor):
            return
        for each in data_of(block):
            for offset, piece in _pieces(block, each):
                _write(descriptor, piece, offset)


def copy_sparsely(block: Block, target: Path, leave_out: Sequence[Range] = ()) -> list[Range]:
    """Write a disk to a new raw file without what is to be left out and without zeroes; returns what was written.

    Zeroes are looked for in grains of 4 KiB. Raises BadInput where the file cannot be written.
    """
    written: list[Range] = []
    with _created(target, block.size) as descriptor:
        for each in without(data_of(block), merged(leave_out)):
            for offset, piece in _pieces(block, each):
                for start, end in _without_zeroes(offset, piece):
                    _write(descriptor, memoryview(piece)[start - offset : end - offset], start)
                    written.append(Range(start, end))
    return merged(written)


def graft(block: Block, target: Path, offset: int) -> None:
    """Write what of a block is not zeroes into a raw file that is there, from a place on, where it holds nothing yet.

    Raises BadInput where it cannot be written.
    """
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for each in data_of(block):
                for at, piece in _pieces(block, each):
                    for start, end in _without_zeroes(at, piece):
                        _write(descriptor, memoryview(piece)[start - at : end - at], offset + start)
        finally:
            os.close(descriptor)
    except OSError as cause:
        raise BadInput(f"cannot be written: {cause.strerror}", where=str(target)) from cause


def data_of(block: Block) -> Iterator[Range]:
    """Where a disk holds data, in order."""
    for offset, length, kind in extents_of(block):
        if kind == "data":
            yield Range(offset, offset + length)


def _pieces(block: Block, whole: Range) -> Iterator[tuple[int, bytes]]:
    for offset in range(whole.start, whole.end, STEP):
        yield offset, block.read(offset, min(STEP, whole.end - offset))


def _without_zeroes(offset: int, piece: bytes) -> Iterator[Range]:
    """The parts of a piece, on grains of the disk, that are not all zeroes."""
    if piece == ZEROES[: len(piece)]:
        return
    start: int | None = None
    at = 0
    while at < len(piece):
        upto = min(len(piece), at + GRAIN - (offset + at) % GRAIN)
        if piece[at:upto] == ZEROES[: upto - at]:
            if start is not None:
                yield Range(offset + start, offset + at)
            start = None
        elif start is None:
            start = at
        at = upto
    if start is not None:
        yield Range(offset + start, offset + len(piece))


@contextlib.contextmanager
def _created(target: Path, size: int) -> Iterator[int]:
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, size)
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as cause:
        raise BadInput(f"cannot be written: {cause.strerror}", where=str(target)) from cause


def _copied_by_kernel(block: FileBlock, target: int) -> bool:
    """Whether all of it could be cloned or copied without passing through here."""
    source = os.open(block.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.ioctl(target, FICLONE, source)
        except OSError:
            return _ranges_copied(block, source, target)
        os.ftruncate(target, block.size)
        return True
    finally:
        os.close(source)


def _ranges_copied(block: FileBlock, source: int, target: int) -> bool:
    for start, end in data_of(block):
        position = start
        while position < end:
            try:
                done = os.copy_file_range(source, target, end - position, position, position)
            except OSError as cause:
                if cause.errno in CANNOT_SHARE:
                    return False
                raise
            if not done:  # some filesystems say so instead of failing
                return False
            position += done
    return True


def _write(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        done = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[done:], offset + done
