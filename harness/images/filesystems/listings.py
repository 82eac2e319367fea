"""Directories that were read: the latest stay in memory, and all together are bounded.

A hostile image may let a thousand directories share one long list of names. No sound image comes near the limits here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

from harness.errors import DamagedImage

MOST_NAMES = 2**21  # in one directory
MOST_READ = 2**24  # in all directories that were read
KEPT = 2**19  # names in memory; a single longer directory is kept too


class Listings:
    """What `read(number)` says is in a directory, as mappings from name to inode number.

    Raises DamagedImage for a name that a directory has twice, and where the limits are passed.
    """

    def __init__(self, read: Callable[[int], Iterable[tuple[str, int]]], where: str) -> None:
        self._read = read
        self._where = where
        self._kept: OrderedDict[int, Mapping[str, int]] = OrderedDict()
        self._seen: set[int] = set()
        self._names = self._total = 0

    def __getitem__(self, number: int) -> Mapping[str, int]:
        known = self._kept.get(number)
        if known is not None:
            self._kept.move_to_end(number)
            return known
        found = self._list(number)
        self._kept[number] = found
        self._names += len(found)
        while self._names > KEPT and len(self._kept) > 1:
            self._names -= len(self._kept.popitem(last=False)[1])
        while len(self._kept) > KEPT // 64:  # empty ones cost memory too
            self._names -= len(self._kept.popitem(last=False)[1])
        return found

    def _list(self, number: int) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for name, inode in self._read(number):
            if name in found:
                raise DamagedImage(f"a directory has the name {name!r} twice", where=self._where)
            found[name] = inode
            if len(found) > MOST_NAMES or self._total + len(found) > MOST_READ:
                raise DamagedImage("its directories are impossibly long", where=self._where)
        if number not in self._seen:
            self._seen.add(number)
            self._total += len(found)
        return found
