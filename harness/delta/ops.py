"""What a recipe tells to do, one row an operation, kept and stored as packed columns (docs/recipe.md).

A chunk holds at most CHUNK rows, so that millions of operations need no more memory than one chunk.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple

from harness.delta.errors import DamagedRecipe

ZERO, LITERAL, SELF, BASE = 0, 1, 2, 3  # kinds; BASE + i copies from base i
MOST_BASES = 128
CHUNK = 2**15  # rows
MOST_OPS = 2**24  # of a recipe: a stranger's kilobytes could unpack to hours of them
ROW_SIZE = 1 + 8 + 8  # bytes: kind, length, turn
WORD = 8  # bytes


class Op(NamedTuple):
    """`length` bytes of the target; `source` is an offset in the base or in the target, 0 for zeroes and literals."""

    kind: int
    length: int
    source: int


def chunked(ops: Iterable[Op]) -> Iterator[list[Op]]:
    """Operations in order, as lists of at most CHUNK."""
    iterator = iter(ops)
    while rows := list(islice(iterator, CHUNK)):
        yield rows


class Packer:
    """Packs chunk after chunk of one recipe: where a source lies is told relative to the last of the same kind."""

    def __init__(self) -> None:
        self._position = 0
        self._shift: dict[int, int] = {}

    def pack(self, ops: list[Op]) -> bytes:
        """One chunk: kinds, lengths and turns, each number's bytes sorted by significance, the lowest first."""
        kinds, lengths, turns = bytearray(), array("Q"), array("q")
        for kind, length, source in ops:
            turn = 0
            if kind >= SELF:
                shift = source - self._position
                turn = shift - self._shift.get(kind, 0)
                self._shift[kind] = shift
            kinds.append(kind)
            lengths.append(length)
            turns.append(turn)
            self._position += length
        return bytes(kinds) + _planes(lengths) + _planes(turns)


class Unpacker:
    """The inverse of Packer, which believes nothing.

    `sizes` are those of the bases, `target` that of the target, `literals` how many literal bytes there are.
    """

    def __init__(self, sizes: list[int], target: int, literals: int) -> None:
        self._sizes, self._target, self._literals = sizes, target, literals
        self._position = self._taken = 0
        self._shift: dict[int, int] = {}

    def unpack(self, packed: bytes) -> Iterator[Op]:
        """The operations of the next chunk. Raises DamagedRecipe naming the operation that cannot be."""
        count = len(packed) // ROW_SIZE
        kinds = packed[:count]
        lengths = _words("Q", packed[count : count * (1 + WORD)])
        turns = _words("q", packed[count * (1 + WORD) :])
        for kind, length, turn in zip(kinds, lengths, turns, strict=True):
            source = 0
            if kind >= SELF:
                shift = self._shift.get(kind, 0) + turn
                self._shift[kind] = shift
                source = self._position + shift
            self._check(kind, length, turn, source)
            yield Op(kind, length, source)
            self._position += length

    def _check(self, kind: int, length: int, turn: int, source: int) -> None:
        if not 0 < length <= self._target - self._position:
            raise self._damaged(f"is {length:,} bytes long, of a target of {self._target:,}")
        if kind < SELF:
            self._taken += length if kind == LITERAL else 0
            if turn or self._taken > self._literals:
                raise self._damaged(f"needs more literals than the {self._literals:,} bytes there are")
            return
        if kind - BASE >= len(self._sizes):
            raise self._damaged(f"copies from base {kind - BASE} of {len(self._sizes)}")
        limit = self._position if kind == SELF else self._sizes[kind - BASE]
        if source < 0 or source + length > limit:
            raise self._damaged(f"copies {length:,} bytes from {source:,}, beyond the end at {limit:,}")

    def finish(self) -> None:
        """Raise DamagedRecipe unless all of the target is told and all literals are used."""
        if self._position != self._target or self._taken != self._literals:
            raise DamagedRecipe(
                f"its operations make {self._position:,} of {self._target:,} bytes "
                f"and use {self._taken:,} of {self._literals:,} literal bytes"
            )

    def _damaged(self, what: str) -> DamagedRecipe:
        return DamagedRecipe(f"its operation at byte {self._position:,} of the target {what}")


def _planes(numbers: array[int]) -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    plain = numbers.tobytes()
    return b"".join(plain[index::WORD] for index in range(WORD))


def _words(code: str, planes: bytes) -> array[int]:
    count = len(planes) // WORD
    plain = bytearray(len(planes))
    for index in range(WORD):
        plain[index::WORD] = planes[index * count : (index + 1) * count]
    numbers = array(code, bytes(plain))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
