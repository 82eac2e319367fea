"""A raw disk image, or a block device, as a `Block`.

Sizes and offsets are bytes. Nothing is mapped or cached: every read is one `pread`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from harness.errors import BadInput, DamagedImage
from harness.images.extents import Extent
from harness.images.formats.disk import Fact


class FileBlock:
    """The bytes of a file or block device, opened read-only until `close`.

    Raises BadInput when it cannot be opened.
    """

    def __init__(self, path: Path, name: str = "") -> None:
        self.path = path
        self._name = name or str(path)
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe has no other end
        except OSError as cause:
            raise BadInput(f"cannot be opened: {cause.strerror}", where=str(path)) from cause
        try:
            self._size = _size_of(self._descriptor, path)
        except BaseException:
            os.close(self._descriptor)
            raise

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise DamagedImage(
                f"read of {length:,} bytes at {offset:,} lies beyond its end at {self._size:,}", where=self._name
            )
        try:
            found = os.pread(self._descriptor, length, offset)
            if len(found) < length:  # a signal, or more than Linux reads at once (2 GiB)
                found = self._read_on(found, offset, length)
        except OSError as cause:
            raise BadInput(f"cannot be read at {offset:,}: {cause.strerror}", where=self._name) from cause
        return found

    def _read_on(self, found: bytes, offset: int, length: int) -> bytes:
        pieces = [found]
        missing = length - len(found)
        while missing:
            piece = os.pread(self._descriptor, missing, offset + length - missing)
            if not piece:
                raise DamagedImage(f"became shorter than {self._size:,} bytes while it was read", where=self._name)
            pieces.append(piece)
            missing -= len(piece)
        return b"".join(pieces)

    def extents(self) -> Iterator[Extent]:
        """What the file system stores of the file, by SEEK_DATA; a file system without it stores everything."""
        position = 0
        while position < self._size:
            data = self._seek(position, os.SEEK_DATA)
            if data > position:
                yield Extent(position, data - position, "hole")
            if data >= self._size:
                return
            position = self._seek(data, os.SEEK_HOLE)
            if position <= data:  # grew a hole under our eyes: believe that the rest is data
                position = self._size
            yield Extent(data, position - data, "data")

    def _seek(self, position: int, whence: int) -> int:
        try:
            return min(os.lseek(self._descriptor, position, whence), self._size)
        except OSError as cause:
            if cause.errno == errno.ENXIO:  # no data after this position
                return self._size
            return position if whence == os.SEEK_DATA else self._size

    def facts(self) -> Mapping[str, Fact]:
        """Nothing: a raw disk has no header."""
        return {}

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _size_of(descriptor: int, path: Path) -> int:
    """Bytes of an opened file or block device. Raises BadInput for anything else."""
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise BadInput("is a directory", where=str(path), next_step="name a file")
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise BadInput("is neither a file nor a block device", where=str(path))
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path)) from cause
