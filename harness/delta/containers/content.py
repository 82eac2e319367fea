"""What is left of a container without its packing: a disk with its holes, and behind it pieces of the file."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from harness.errors import DamagedImage
from harness.images.block import Block
from harness.images.extents import Extent, extents_of
from harness.images.ranges import Range, without


class Content:
    """The bytes of `disk`, with zeroes where `masked` says so, then `pieces` of `file` one after another."""

    def __init__(self, disk: Block, masked: list[Range], file: Block, pieces: Sequence[Range]) -> None:
        self.name = file.name
        self._disk = disk
        self._masked = masked
        self._starts = [each.start for each in masked]
        self._file = file
        self._pieces = pieces
        self._offsets = list(accumulate((piece.size for piece in pieces), initial=disk.size))
        self.size = self._offsets[-1]

    def followed_by(self, pieces: Sequence[Range]) -> Content:
        """The same with more pieces of the file behind it."""
        return Content(self._disk, self._masked, self._file, [*self._pieces, *pieces])

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises DamagedImage beyond the end."""
        end = offset + length
        if offset < 0 or length < 0 or end > self.size:
            raise DamagedImage(f"read of {length:,} bytes at {offset:,} lies beyond its end", where=self.name)
        found = [self._of_disk(offset, min(end, self._disk.size))] if offset < self._disk.size else []
        at = max(offset, self._disk.size)
        while at < end:
            index = bisect_right(self._offsets, at) - 1
            stop = min(end, self._offsets[index + 1])
            found.append(self._file.read(self._pieces[index].start + at - self._offsets[index], stop - at))
            at = stop
        return found[0] if len(found) == 1 else b"".join(found)

    def _of_disk(self, offset: int, end: int) -> bytes:
        found, at = [], offset
        for start, stop in without([Range(offset, end)], self._masks(offset, end)):
            found += [bytes(start - at), self._disk.read(start, stop - start)]
            at = stop
        return b"".join([*found, bytes(end - at)])

    def _masks(self, start: int, end: int) -> list[Range]:
        first = max(0, bisect_right(self._starts, start) - 1)
        return self._masked[first : bisect_left(self._starts, end)]

    def extents(self) -> Iterator[Extent]:
        """The disk's own, with masked units as holes, and one of data for the pieces."""
        at = 0
        for start, length, kind in extents_of(self._disk):
            whole = Range(start, start + length)
            for first, last in without([whole], self._masks(*whole)):
                if first > at:
                    yield Extent(at, first - at, "hole")
                yield Extent(first, last - first, kind)
                at = last
        if at < self._disk.size:
            yield Extent(at, self._disk.size - at, "hole")
        if self.size > self._disk.size:
            yield Extent(self._disk.size, self.size - self._disk.size, "data")
