"""What lies around the units of a file, as far as it can be predicted: zeroes, tables, and patches.

Tables of entries, refcounts, grain directories, bitmaps and the log of a VHDX follow from where the units came to lie;
the rest is patched over.
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

from harness.delta.containers import vhdx_log
from harness.delta.containers.dialects import GRAMMARS
from harness.delta.containers.layout import Layout, Units, positions
from harness.delta.containers.plan import WHERE, Mapped, Series, Tables
from harness.errors import DamagedImage
from harness.images.block import Block

MOST_AREAS = 2**19
STEP = 2**18  # bytes of skeleton made at a time


class Area(NamedTuple):
    """A part of the file that is predicted by `make`, which gives exactly `length` bytes."""

    offset: int
    length: int
    make: Callable[[], bytes]


class Skeleton:
    """The bytes of the file that are not units. `predicted` gives them without patches."""

    def __init__(self, mapped: Mapped, units: Units, layout: Layout) -> None:
        self._areas = sorted(_areas(mapped, units, layout), key=lambda area: area.offset)
        if any(area.offset + area.length > after.offset for area, after in pairwise(self._areas)):
            raise DamagedImage("has tables that overlap", where=WHERE)
        self._starts = [area.offset for area in self._areas]
        self._made: tuple[int, bytes] = (-1, b"")  # the last area looked at, which is often the next as well

    def predicted(self, start: int, end: int) -> bytearray:
        """The bytes of a window as they would be without patches."""
        found = bytearray(end - start)
        first = max(0, bisect_right(self._starts, start) - 1)  # areas lie apart: those before it end before it
        for index in range(first, bisect_left(self._starts, end)):
            area = self._areas[index]
            begin, stop = max(start, area.offset), min(end, area.offset + area.length)
            if begin < stop:
                found[begin - start : stop - start] = self._bytes(index)[begin - area.offset : stop - area.offset]
        return found

    def _bytes(self, index: int) -> bytes:
        if self._made[0] != index:
            self._made = index, self._areas[index].make()
        return self._made[1]


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


def _areas(mapped: Mapped, units: Units, layout: Layout) -> Iterator[Area]:
    grammar = GRAMMARS[mapped.entries]
    lead = grammar.bitmap(mapped.unit)
    bitmaps = len(layout.offsets) if lead else 0
    if sum(each.count for each in (*mapped.tables, *mapped.counts)) + len(mapped.series) + bitmaps > MOST_AREAS:
        raise DamagedImage("has more tables than a file can hold", where=WHERE)
    found = positions(mapped, units, layout)
    for tables in mapped.tables:
        make = partial(_table, found.entries, mapped.per_table, grammar.order, grammar.filler)
        yield from _numbered(tables, mapped.per_table * found.entries.itemsize, make, mapped.size)
    for tables in mapped.counts:
        make = partial(_table, found.counts, mapped.unit // 2, "big", b"\0")
        yield from _numbered(tables, mapped.unit, make, mapped.size, may_be_cut=True)
    for series in mapped.series:
        if series.offset + series.count * 4 > mapped.size or series.start + series.count * series.step >= 2**32:
            raise DamagedImage("has a grain directory beyond the end of the file", where=WHERE)
        yield Area(series.offset, series.count * 4, partial(_counting, series))
    if lead:
        for offset in layout.offsets:
            yield Area(max(0, offset - lead), min(offset, lead), partial(_ones, min(offset, lead)))
    for offset, entry in vhdx_log.predicted(mapped, units, layout):
        yield Area(offset, len(entry), partial(bytes, entry))


def _counting(series: Series) -> bytes:
    return _numbers(array("I", (series.start + index * series.step for index in range(series.count))), "little")


def _ones(length: int) -> bytes:
    return b"\xff" * length


def _numbered(
    tables: Tables, length: int, make: Callable[[int], bytes], size: int, *, may_be_cut: bool = False
) -> Iterator[Area]:
    if tables.count > size // length + 1:  # said before any is made: they may be half a million
        raise DamagedImage(f"has {tables.count:,} tables of {length:,} bytes in {size:,}", where=WHERE)
    for index in range(tables.count):
        offset = tables.offset + index * tables.stride
        if offset + length > size and not (may_be_cut and offset < size):
            raise DamagedImage(f"has a table at {offset:,}, beyond the end of the file", where=WHERE)
        yield Area(offset, length, partial(make, tables.first + index))


def _table(numbers: array[int], per_table: int, order: Literal["little", "big"], filler: bytes, number: int) -> bytes:
    part = numbers[number * per_table : (number + 1) * per_table]
    return _numbers(part, order).ljust(per_table * numbers.itemsize, filler)


def _numbers(numbers: array[int], order: Literal["little", "big"]) -> bytes:
    if sys.byteorder != order:
        numbers.byteswap()
    return numbers.tobytes()
