"""Lists of numbers as runs: flags, and numbers that count up, so that what is regular takes no room in a plan."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from harness.delta.containers.plan import WHERE, Tables
from harness.errors import DamagedImage


def runs_of_flags(flags: bytes | bytearray) -> list[int]:
    """Lengths of runs of 0, of 1, of 0, ... as long as there is a 1 to come.

    >>> runs_of_flags(bytes([0, 0, 1, 0])), runs_of_flags(bytes([1, 1])), runs_of_flags(bytes(9))
    ([2, 1], [0, 2], [])
    """
    found: list[int] = []
    at, value = 0, 1
    while (start := flags.find(value, at)) >= 0 or not value:
        if start < 0:
            found.append(len(flags) - at)
            break
        found.append(start - at)
        at, value = start, 1 - value
    return found


def flip(flags: bytearray, runs: Iterable[int]) -> None:
    """Change the flags in every second run. Raises DamagedImage for runs beyond the end."""
    at, is_wrong = 0, False
    for length in runs:
        if at + length > len(flags):
            raise DamagedImage("speaks of units beyond the end of the disk", where=WHERE)
        if is_wrong:
            flags[at : at + length] = flags[at : at + length].translate(_OTHER)
        at, is_wrong = at + length, not is_wrong


_OTHER = bytes([1, 0, *range(2, 256)])


def rising_runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """First and length of runs that count up by one.

    >>> rising_runs([3, 4, 5, 0, 1, 9])
    [(3, 3), (0, 2), (9, 1)]
    """
    found: list[tuple[int, int]] = []
    for _, group in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        members = [number for _, number in group]
        found.append((members[0], len(members)))
    return found


def equal_runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Value and length of runs of the same number."""
    return [(value, sum(1 for _ in group)) for value, group in groupby(numbers)]


def expanded(runs: Iterable[tuple[int, int]], total: int, *, rising: bool) -> Iterator[int]:
    """The numbers of runs again. Raises DamagedImage, before the first, unless there are `total` of them."""
    known = list(runs)
    if sum(length for _, length in known) != total:
        raise DamagedImage(f"does not speak of each of its {total:,} units once", where=WHERE)
    return (first + index * rising for first, length in known for index in range(length))


def table_runs(places: Sequence[tuple[int, int]]) -> list[Tables]:
    """Numbered tables at offsets, as runs of equal distance.

    >>> [(run.first, run.count, run.offset, run.stride) for run in table_runs([(0, 10), (1, 14), (2, 18), (7, 50)])]
    [(0, 3, 10, 4), (7, 1, 50, 0)]
    """
    found: list[Tables] = []
    for number, offset in places:
        last = found[-1] if found else None
        if last and number == last.first + last.count:
            distance = offset - (last.offset + (last.count - 1) * last.stride)
            if distance > 0 and (last.count == 1 or distance == last.stride):
                found[-1] = Tables(last.first, last.count + 1, last.offset, distance)
                continue
        found.append(Tables(number, 1, offset, 0))
    return found
