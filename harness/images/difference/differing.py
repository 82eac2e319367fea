"""Bytes in which two blocks differ, found without reading the holes of either, and what is left of them."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import NamedTuple

from harness.images.block import Part
from harness.images.extents import extents_of
from harness.images.lru import Recent

STEP = 2**20  # bytes compared at a time
PIECE = 4096  # bytes: what differs is handed out in pieces of this size
MOST_PIECES = 262_144  # of which the differing bytes are counted: 1 GiB; two strangers differ everywhere
REMEMBERED = 2048  # pieces kept in memory
SHOWN_BYTES = 8  # of the first that differ

Mask = Callable[[int, bytearray], None]  # zeroes what is explained in a piece of changed bytes at an offset


class Differing(NamedTuple):
    """A piece that differs: `changed` has a byte other than zero wherever the two are not the same."""

    offset: int
    changed: bytes


def differing(one: Part, other: Part) -> Iterator[Differing]:
    """The pieces in which two windows differ, as far as both reach."""
    end, position = min(one.size, other.size), 0
    for start, stop in heapq.merge(_data(one, end), _data(other, end)):
        position = max(position, start - start % PIECE)
        while position < stop:
            length = min(STEP, end - position, stop + -stop % PIECE - position)
            yield from _pieces(position, one.read(position, length), other.read(position, length))
            position += length


def _data(part: Part, end: int) -> Iterator[tuple[int, int]]:
    for offset, length, kind in extents_of(part.whole):
        if offset >= part.start + end:
            return
        start, stop = max(0, offset - part.start), min(end, offset + length - part.start)
        if kind == "data" and start < stop:
            yield start, stop


def _pieces(position: int, one: bytes, other: bytes) -> Iterator[Differing]:
    if one == other:
        return
    for at in range(0, len(one), PIECE):
        mine, theirs = one[at : at + PIECE], other[at : at + PIECE]
        if mine != theirs:
            yield Differing(position + at, _exclusive(mine, theirs))


class Changes:
    """Where two windows differ: found once, as far as both reach; `complete` is False where there is too much."""

    def __init__(self, one: Part, other: Part, offsets: Sequence[int] | None = None) -> None:
        """`offsets` are those of the pieces that differ, where they are known already."""
        self.one, self.other = one, other
        self._seen: Recent[int, bytes] = Recent(REMEMBERED, self._changed)
        found = offsets
        if found is None:
            found = [offset for offset, _ in islice(differing(one, other), MOST_PIECES + 1)]
        self.offsets = found[:MOST_PIECES]
        self.complete = len(found) <= MOST_PIECES

    def __bool__(self) -> bool:
        return bool(self.offsets)

    def window(self, one: Part, other: Part) -> Changes | None:
        """What differs within two windows at one place, without reading; None where that cannot be told."""
        if not self.complete or one.start % PIECE or one.start != other.start:
            return None
        end = one.start + min(one.size, other.size)
        first, last = bisect_left(self.offsets, one.start), bisect_left(self.offsets, end)
        return Changes(one, other, [offset - one.start for offset in self.offsets[first:last]])

    def touch(self, ranges: Iterable[tuple[int, int]]) -> bool:
        """Whether a byte of these ranges differs; True where that is not known."""
        return not self.complete or any(self._touches(start, end) for start, end in ranges)

    def _touches(self, start: int, end: int) -> bool:
        first = max(0, bisect_right(self.offsets, start) - 1)
        for offset in self.offsets[first : bisect_left(self.offsets, end)]:
            if any(self._seen[offset][max(0, start - offset) : end - offset]):
                return True
        return False

    def left(self, explained: Iterable[tuple[int, int]] = (), mask: Mask | None = None) -> Iterator[Differing]:
        """What differs outside the `explained` ranges (start, end), and is not masked."""
        ranges = merged(explained)
        starts = [start for start, _ in ranges]
        for offset in self.offsets:
            left = bytearray(self._seen[offset])
            first, last = max(0, bisect_right(starts, offset) - 1), bisect_left(starts, offset + len(left))
            for start, end in ranges[first:last]:
                inside = slice(max(0, start - offset), max(0, min(len(left), end - offset)))
                left[inside] = bytes(len(left[inside]))
            if mask is not None and any(left):
                mask(offset, left)
            if any(left):
                yield Differing(offset, bytes(left))

    def told(self, left: Iterable[Differing]) -> str:
        """How many bytes are left, where the first is and what stands there on both sides; or nothing."""
        total, first = 0, -1
        for offset, changed in left:
            total += len(changed) - changed.count(0)
            if first < 0:
                first = offset + len(changed) - len(changed.lstrip(b"\0"))
        if not total:
            return ""
        number = f"{'' if self.complete else 'more than '}{total:,} byte{'' if total == 1 else 's'}"
        verb = "differs" if total == 1 and self.complete else "differ"
        length = min(SHOWN_BYTES, self.one.size - first, self.other.size - first)
        shown = " / ".join(part.read(first, length).hex(" ") for part in (self.one, self.other))
        return f"{number} {verb}, the first at {first:,}: {shown}"

    def _changed(self, offset: int) -> bytes:
        length = min(PIECE, self.one.size - offset, self.other.size - offset)
        return _exclusive(self.one.read(offset, length), self.other.read(offset, length))


def _exclusive(mine: bytes, theirs: bytes) -> bytes:
    return (int.from_bytes(mine, "big") ^ int.from_bytes(theirs, "big")).to_bytes(len(mine), "big")


def merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same bytes in ranges that are sorted and do not touch."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(each for each in ranges if each[0] < each[1]):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def gaps(taken: Iterable[tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    """The ranges up to `end` that no taken one covers."""
    for (_, stop), (start, _) in pairwise([(0, 0), *merged(taken), (end, end)]):
        if stop < min(start, end):
            yield stop, min(start, end)
