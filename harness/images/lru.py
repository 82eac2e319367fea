"""A mapping that forgets what was not asked for longest: tables and unpacked clusters of image files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """At most `limit` values, each made by `make(key)` when it is asked for and not remembered.

    >>> squares = Recent(2, lambda number: number * number)
    >>> squares[3]
    9
    """

    def __init__(self, limit: int, make: Callable[[Key], Value]) -> None:
        self.limit = max(1, limit)
        self._make = make
        self._kept: OrderedDict[Key, Value] = OrderedDict()

    def __getitem__(self, key: Key) -> Value:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        value = self._make(key)
        self._kept[key] = value
        if len(self._kept) > self.limit:
            self._kept.popitem(last=False)
        return value

    def __len__(self) -> int:
        return len(self._kept)
