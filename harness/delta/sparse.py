"""Any block read as pieces and zeroes: holes are known to be zeroes without reading them.

What a file system or container calls a hole is only a short cut here: the bytes that come out are the same for sparse
and dense copies of the same content, and so is all that is derived from them.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from harness.errors import BadInput, DamagedImage
from harness.images.block import Block
from harness.images.extents import extents_of
from harness.images.formats.raw import FileBlock

STEP = 2**20  # bytes: the largest piece that is read at once
ZEROES = bytes(STEP)


class Piece(NamedTuple):
    """Bytes of a block; `is_hole` where they are known to be zeroes."""

    offset: int
    length: int
    is_hole: bool


class Content:
    """The bytes of a block; closes nothing but what it opened itself. `descriptor` is -1 where it is no plain file."""

    def __init__(self, block: Block) -> None:
        self.name = block.name
        self.size = block.size
        self._block = block
        self.descriptor = -1
        self._ends: list[int] = []  # where each run of data or of holes ends, in order
        self._holes: list[bool] = []
        for offset, length, kind in extents_of(block):
            self._note(offset + length, kind != "data")
        if isinstance(block, FileBlock):
            with suppress(OSError):  # removed since it was opened: then through the block
                self.descriptor = os.open(block.path, os.O_RDONLY | os.O_CLOEXEC)

    def _note(self, end: int, is_hole: bool) -> None:  # noqa: FBT001 - two facts of one run
        if self._holes and self._holes[-1] == is_hole:
            self._ends[-1] = end
        else:
            self._ends.append(end)
            self._holes.append(is_hole)

    def pieces(self, offset: int, length: int) -> Iterator[Piece]:
        """A range in order, cut where data and holes meet."""
        index = bisect_right(self._ends, offset)
        end = offset + length
        while offset < end:
            upto = min(end, self._ends[index]) if index < len(self._ends) else end
            yield Piece(offset, upto - offset, index < len(self._ends) and self._holes[index])
            offset, index = upto, index + 1

    def is_hole(self, offset: int, length: int) -> bool:
        """Whether a range is known to be zeroes; False says nothing."""
        index = bisect_right(self._ends, offset)
        return index < len(self._ends) and self._holes[index] and offset + length <= self._ends[index]

    def read(self, offset: int, length: int) -> bytes:
        """At most STEP bytes; the very object ZEROES where all of it is a hole, so that comparing it is free."""
        if self.is_hole(offset, length):
            return ZEROES[:length]
        if self.descriptor < 0:
            return self._block.read(offset, length)
        with suppress(OSError):  # the block says in words what is wrong
            found = os.pread(self.descriptor, length, offset)
            if len(found) == length:
                return found
        return self._block.read(offset, length)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill a buffer. Raises DamagedImage where the block ends before that, BadInput where it cannot be read."""
        if self.descriptor < 0:
            view[:] = self._block.read(offset, len(view))
            return
        while view:
            try:
                done = os.preadv(self.descriptor, [view], offset)
            except OSError as cause:
                raise BadInput(f"cannot be read at {offset:,}: {cause.strerror}", where=self.name) from cause
            if not done:
                raise DamagedImage(f"became shorter than {self.size:,} bytes while it was read", where=self.name)
            view, offset = view[done:], offset + done

    def close(self) -> None:
        if self.descriptor >= 0:
            with suppress(OSError):
                os.close(self.descriptor)
        self.descriptor = -1


def common_prefix(left: bytes, right: bytes) -> int:
    """How many bytes two pieces of the same length begin with in common.

    >>> common_prefix(b"abcd", b"abxd")
    2
    """
    low, high = 0, len(left)
    if left == right:
        return high
    while high - low > 1:  # left[:low] is common, the first difference lies before `high`
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low


def common_suffix(left: bytes, right: bytes) -> int:
    """How many bytes two pieces of the same length end with in common.

    >>> common_suffix(b"abcd", b"xbcd")
    3
    """
    low, high, size = 0, len(left), len(left)
    if left == right:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if left[size - middle : size - low] == right[size - middle : size - low]:
            low = middle
        else:
            high = middle
    return low
