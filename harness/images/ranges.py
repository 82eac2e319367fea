"""Ranges of bytes in order, and what is left of some when others are taken out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Range(NamedTuple):
    """Bytes from `start` up to, not including, `end`."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same bytes in order, with neighbours and overlaps made one and empty ranges dropped.

    >>> merged([Range(4, 6), Range(0, 2), Range(2, 3), Range(9, 9)])
    [Range(start=0, end=3), Range(start=4, end=6)]
    """
    result: list[Range] = []
    for start, end in sorted(ranges):
        if start >= end:
            continue
        if result and start <= result[-1].end:
            result[-1] = Range(result[-1].start, max(end, result[-1].end))
        else:
            result.append(Range(start, end))
    return result


def without(ranges: Iterable[Range], holes: list[Range]) -> Iterator[Range]:
    """What is left of ranges in order when others are taken out; both merged.

    >>> list(without([Range(0, 10)], [Range(2, 3), Range(5, 20)]))
    [Range(start=0, end=2), Range(start=3, end=5)]
    """
    index = 0
    for start, end in ranges:
        position = start
        while index < len(holes) and holes[index].end <= position:
            index += 1
        ahead = index
        while ahead < len(holes) and holes[ahead].start < end:
            if holes[ahead].start > position:
                yield Range(position, holes[ahead].start)
            position = max(position, holes[ahead].end)
            ahead += 1
        if position < end:
            yield Range(position, end)


def shared(ranges: Iterable[Range], window: Range) -> int:
    """How many bytes of some ranges lie within a window.

    >>> shared([Range(0, 4), Range(6, 8)], Range(3, 7))
    2
    """
    return sum(max(0, min(each.end, window.end) - max(each.start, window.start)) for each in ranges)
