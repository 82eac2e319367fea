"""Bytes in which two blocks differ, found without reading the holes of either; and the shape of an explanation."""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Literal, NamedTuple

from harness.images.block import Part
from harness.images.extents import extents_of
from harness.images.filesystems.files import shown

Cause = Literal[
    "content", "mode", "owner", "mtime", "xattr", "kind", "missing", "timestamp", "UUID", "label", "metadata",
    "partition table", "container",
]  # fmt: skip
STEP = 2**20  # bytes compared at a time
PIECE = 4096  # bytes: what differs is handed out in pieces of this size
MOST_PIECES = 65536  # of which the differing bytes are counted; two strangers differ everywhere


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference of two images and its cause; `partition` and `path` are empty where there is none."""

    partition: str
    path: str
    cause: Cause
    detail: str

    def __str__(self) -> str:
        where = " ".join(shown(word) for word in (self.partition, self.path) if word) or "disk"
        return f"{where}: {self.cause}: {self.detail}"


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
            changed = int.from_bytes(mine, "big") ^ int.from_bytes(theirs, "big")
            yield Differing(position + at, changed.to_bytes(len(mine), "big"))


def count_differing(one: Part, other: Part, explained: Iterable[tuple[int, int]] = ()) -> str:
    """How many bytes differ outside the `explained` ranges (start, end), and where the first is; or nothing."""
    ranges = _merged(explained)
    starts = [start for start, _ in ranges]
    total, first = 0, -1
    for number, (offset, changed) in enumerate(differing(one, other)):
        if number >= MOST_PIECES:
            return f"more than {total:,} bytes differ, the first at {first:,}" if total else "too much to count"
        left = bytearray(changed)
        for start, end in ranges[max(0, bisect_right(starts, offset) - 1) : bisect_right(starts, offset + PIECE)]:
            inside = slice(max(0, start - offset), max(0, min(len(left), end - offset)))
            left[inside] = bytes(len(left[inside]))
        if any(left):
            total += len(left) - left.count(0)
            if first < 0:
                first = offset + len(left) - len(left.lstrip(b"\0"))
    return f"{total:,} byte{'s differ' if total > 1 else ' differs'}, the first at {first:,}" if total else ""


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for start, end in sorted(each for each in ranges if each[0] < each[1]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def gaps(taken: Iterable[tuple[int, int]], end: int) -> Iterator[tuple[int, int]]:
    """The ranges up to `end` that no taken one covers."""
    for (_, stop), (start, _) in pairwise([(0, 0), *_merged(taken), (end, end)]):
        if stop < min(start, end):
            yield stop, min(start, end)


def moment(seconds: int, nanoseconds: int = 0) -> str:
    """A time stamp for people: UTC, or the number where no calendar reaches."""
    fraction = f".{nanoseconds:09}" if nanoseconds else ""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"
    except (ValueError, OverflowError, OSError):
        return f"{seconds}{fraction}"
