"""Whose bytes are whose in FAT12, FAT16 and FAT32: an exact account (Microsoft, FAT specification 1.03)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence

from harness.images.block import Part
from harness.images.difference.accounts import Account, Moment, Range
from harness.images.difference.superblocks import Told, ranges, superblock_of
from harness.images.filesystems.vfat import Vfat, seconds_of

ENTRY = 32
CREATED, ACCESSED = 13, 18  # in a record: tenths, time and date of creation; date of the last access
FIRST_CLUSTER_HIGH, FIRST_CLUSTER_LOW = slice(20, 22), slice(26, 28)


class VfatAccount(Account):
    """Two FAT filesystems. A file's number is the place of its record, so that one in another place has moved."""

    is_exact = True
    time_knob = "vfat time"

    def __init__(self, one: Part, other: Part, inodes: tuple[Vfat, Vfat], told: Sequence[Told]) -> None:
        super().__init__(inodes)
        self._parts, self._vfat, self._told = (one, other), inodes, bool(told)

    def footprints(self, mine: int | None, theirs: int | None) -> list[Range]:
        found: list[Range] = []
        for side, number in enumerate((mine, theirs)):
            if number is not None:
                found += self._vfat[side].footprint(number)
        return found

    def is_moved(self, mine: int, theirs: int) -> bool:
        if mine != theirs:
            return True
        one, other = (vfat.raw_record(mine) for vfat in self._vfat)
        return any(one[cut] != other[cut] for cut in (FIRST_CLUSTER_HIGH, FIRST_CLUSTER_LOW))

    def times(self, mine: int, theirs: int) -> Iterator[tuple[str, Moment, Moment]]:
        one, other = (vfat.raw_record(number) for vfat, number in zip(self._vfat, (mine, theirs), strict=True))
        if not one or not other:
            return
        for name, read in (("creation time", _created), ("last access", _accessed)):
            if (first := read(one)) != (second := read(other)):
                yield name, first, second

    def label_times(self) -> tuple[int, int] | None:
        """When the labels in the root directory were made, where that differs."""
        places = [vfat.label_record() for vfat in self._vfat]
        if places[0] is None or places[0] != places[1]:
            return None
        mine, theirs = (vfat.raw_record(places[0]) for vfat in self._vfat)
        first, second = _modified(mine), _modified(theirs)
        return (first, second) if first != second else None

    def consequences(self, *, found: bool, may_move: bool) -> Iterable[Range]:
        for side, vfat in enumerate(self._vfat):
            start, end = vfat.tables()
            if may_move:
                yield start, end
            if self._told and (shape := superblock_of("vfat", self._parts[side])):
                yield from ranges(shape, 0)
                yield from ranges(shape, 6 * 512)  # FAT32's copy
            if may_move:
                yield 512, min(start, 1024)  # FAT32's count of free clusters
            if found and (label := vfat.label_record()) is not None:
                yield label, label + ENTRY

    def place_of(self, offset: int) -> tuple[str, str]:
        start, end = self._vfat[0].tables()
        if offset < start:
            return "in front of its tables", ""
        return ("in the allocation table" if offset < end else "in its data area"), ""


def _created(raw: bytes) -> Moment:
    tenths, time, date = struct.unpack_from("<BHH", raw, CREATED)
    return seconds_of(date, time) + tenths // 100, tenths % 100 * 10_000_000


def _accessed(raw: bytes) -> Moment:
    return seconds_of(struct.unpack_from("<H", raw, ACCESSED)[0], 0), 0


def _modified(raw: bytes) -> int:
    time, date = struct.unpack_from("<HH", raw, 22)
    return seconds_of(date, time)
