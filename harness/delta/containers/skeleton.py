"""What lies around the units of a qcow2 or VMDK file, as far as it can be predicted: zeroes, tables, and patches.

Tables of entries, refcounts and grain directories follow from where the units came to lie; the rest is patched over.
Read as a window that moves forward: nothing is held but the entries of the disk's units and the list of areas.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Literal, NamedTuple

from harness.delta.containers.plan import WHERE, Mapped, Series, Tables
from harness.errors import DamagedImage
from harness.images.block import Block

SECTOR = 512
COPIED, COMPRESSED = 1 << 63, 1 << 62  # flags of a qcow2 L2 entry: cluster used once, cluster packed
MOST_AREAS = 2**19
STEP = 2**18  # bytes of skeleton made at a time


class Area(NamedTuple):
    """A part of the file that is predicted by `make`, which gives exactly `length` bytes."""

    offset: int
    length: int
    make: Callable[[], bytes]


class Positions(NamedTuple):
    """Where units lie, as `entries` of all of the disk's units, and for qcow2 `counts` of the file's clusters."""

    entries: array[int]
    counts: array[int]


class Skeleton:
    """The bytes of the file that are not units. `predicted` gives them without patches."""

    def __init__(self, mapped: Mapped, positions: Positions) -> None:
        self._areas = sorted(_areas(mapped, positions), key=lambda area: area.offset)
        if any(area.offset + area.length > after.offset for area, after in pairwise(self._areas)):
            raise DamagedImage("has tables that overlap", where=WHERE)
        self._starts = [area.offset for area in self._areas]
        self._longest = max((area.length for area in self._areas), default=0)

    def predicted(self, start: int, end: int) -> bytearray:
        """The bytes of a window as they would be without patches."""
        found = bytearray(end - start)
        first = bisect_left(self._starts, start - self._longest)
        for area in self._areas[first : bisect_right(self._starts, end)]:
            begin, stop = max(start, area.offset), min(end, area.offset + area.length)
            if begin < stop:
                found[begin - start : stop - start] = area.make()[begin - area.offset : stop - area.offset]
        return found


class Patched:
    """A skeleton with its patches, read from the file's start to its end. Patches lie in the plan, or in `tail`."""

    def __init__(self, mapped: Mapped, skeleton: Skeleton, tail: Block, tail_start: int) -> None:
        self._skeleton = skeleton
        self._literals = mapped.literals
        self._tail, self._tail_start = tail, tail_start
        self._starts: list[int] = []
        self._ends: list[int] = []
        at = 0
        for gap, length in mapped.patches:
            self._starts.append(at + gap)
            at += gap + length
            self._ends.append(at)
        sources = 0
        self._sources = []
        for start, end in zip(self._starts, self._ends, strict=True):
            self._sources.append(sources)
            sources += end - start
        if at > mapped.size or (self._literals and sources != len(self._literals)):
            raise DamagedImage("has patches beyond the end of the file", where=WHERE)
        self.in_tail = 0 if self._literals else sources

    def window(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`, a step at a time."""
        for at in range(start, end, STEP):
            yield self._piece(at, min(end, at + STEP))

    def _piece(self, start: int, end: int) -> bytes:
        found = self._skeleton.predicted(start, end)
        index = bisect_right(self._ends, start)
        while index < len(self._starts) and self._starts[index] < end:
            begin, stop = max(start, self._starts[index]), min(end, self._ends[index])
            source = self._sources[index] + begin - self._starts[index]
            window = slice(begin - start, stop - start)
            if self._literals:
                found[window] = xor(found[window], self._literals[source : source + stop - begin])
            else:
                found[window] = self._tail.read(self._tail_start + source, stop - begin)
            index += 1
        return bytes(found)


def xor(left: bytes | bytearray, right: bytes | bytearray) -> bytes:
    """The difference of two pieces of the same length: zeroes where they agree."""
    number = int.from_bytes(left, "little") ^ int.from_bytes(right, "little")
    return number.to_bytes(len(left), "little")


def entry_of(mapped: Mapped, offset: int, length: int, *, packed: bool) -> int:
    """What a table says of a unit at `offset` (of its marker, for a VMDK), which takes `length` bytes of the file."""
    if mapped.entries == "vmdk":
        return offset // SECTOR & 0xFFFF_FFFF
    if not packed:
        return offset | COPIED
    shift = 62 - (mapped.unit.bit_length() - 1 - 8)
    sectors = (offset + length - 1) // SECTOR - offset // SECTOR
    return (offset | COMPRESSED | sectors << shift) & (2**64 - 1)


def _areas(mapped: Mapped, positions: Positions) -> Iterator[Area]:
    if sum(each.count for each in (*mapped.tables, *mapped.counts)) + len(mapped.series) > MOST_AREAS:
        raise DamagedImage("has more tables than a file can hold", where=WHERE)
    is_vmdk = mapped.entries == "vmdk"
    width: Literal["I", "Q"] = "I" if is_vmdk else "Q"
    for tables in mapped.tables:
        yield from _numbered(tables, positions.entries, mapped.per_table, width, mapped.size)
    for tables in mapped.counts:
        yield from _numbered(tables, positions.counts, mapped.unit // 2, "H", mapped.size)
    for series in mapped.series:
        if series.offset + series.count * 4 > mapped.size or series.start + series.count * series.step >= 2**32:
            raise DamagedImage("has a grain directory beyond the end of the file", where=WHERE)
        yield Area(series.offset, series.count * 4, partial(_counting, series))


def _counting(series: Series) -> bytes:
    return _numbers(array("I", (series.start + index * series.step for index in range(series.count))), "little")


def _numbered(
    tables: Tables, numbers: array[int], per_table: int, width: Literal["H", "I", "Q"], size: int
) -> Iterator[Area]:
    length = per_table * array(width).itemsize
    order: Literal["little", "big"] = "little" if width == "I" else "big"

    def make(number: int) -> bytes:
        part = numbers[number * per_table : (number + 1) * per_table]
        return _numbers(array(width, part), order).ljust(length, b"\0")

    for index in range(tables.count):
        offset = tables.offset + index * tables.stride
        if offset + length > size and (width != "H" or offset >= size):
            raise DamagedImage(f"has a table at {offset:,}, beyond the end of the file", where=WHERE)
        yield Area(offset, length, partial(make, tables.first + index))


def _numbers(numbers: array[int], order: Literal["little", "big"]) -> bytes:
    if sys.byteorder != order:
        numbers.byteswap()
    return numbers.tobytes()
