"""The residue of bases: the 4 KiB blocks that no operation copies whole, without those that are all zeroes, in order.

What a new version changed lies there, so it is the best dictionary for what could not be copied. It follows from the
operations and the content alone: encoder and decoder find the same, whatever holes their copies of a base have.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence

from harness.delta.ops import BASE, Op
from harness.delta.sparse import STEP, ZEROES, Content

BLOCK = 4096


class Residue:
    """Bytes of bases nobody copied. Memory: a byte for each block of the bases, and eight for each of the residue."""

    def __init__(self, bases: Sequence[Content], ops: Iterable[Op]) -> None:
        self._bases = bases
        self._first: list[int] = []  # number of each base's first block, counted through all of them
        blocks = 0
        for base in bases:
            self._first.append(blocks)
            blocks += -(-base.size // BLOCK)
        copied = bytearray(blocks)
        for kind, length, source in ops:
            if kind >= BASE:
                base = bases[kind - BASE]
                first, last = -(-source // BLOCK), (source + length) // BLOCK
                if source + length == base.size:
                    last = -(-base.size // BLOCK)
                if last > first:
                    start = self._first[kind - BASE]
                    copied[start + first : start + last] = b"\1" * (last - first)
        self._blocks = array("Q")
        for index in range(len(bases)):
            self._blocks.extend(self._left(index, copied))

    def _left(self, index: int, copied: bytearray) -> Iterator[int]:
        """The numbers of one base's blocks that were not copied and are not zero."""
        base, start = self._bases[index], self._first[index]
        end = start + -(-base.size // BLOCK)
        block = copied.find(0, start, end)
        while block >= 0:
            upto = copied.find(1, block, end)
            upto = end if upto < 0 else upto
            yield from self._not_zero(base, start, block, upto)
            block = copied.find(0, upto, end)

    @staticmethod
    def _not_zero(base: Content, start: int, block: int, upto: int) -> Iterator[int]:
        for first in range(block, upto, STEP // BLOCK):
            offset = (first - start) * BLOCK
            piece = base.read(offset, min(STEP, (upto - first) * BLOCK, base.size - offset))
            if piece == ZEROES[: len(piece)]:
                continue
            for at in range(0, len(piece), BLOCK):
                if piece[at : at + BLOCK].count(0) != min(BLOCK, len(piece) - at):
                    yield first + at // BLOCK

    @property
    def size(self) -> int:
        """Bytes; the last block of a base counts as a whole one."""
        return len(self._blocks) * BLOCK

    def read(self, offset: int, length: int) -> bytearray:
        """A part of the residue, on block bounds; a base's short last block is filled up with zeroes."""
        numbers = self._blocks[offset // BLOCK : (offset + length) // BLOCK]
        result = bytearray(len(numbers) * BLOCK)
        view = memoryview(result)
        for at, number, count in _runs(numbers):
            index = bisect_right(self._first, number) - 1
            for base_index, first, upto in self._by_base(index, number, number + count):
                base, position = self._bases[base_index], (first - self._first[base_index]) * BLOCK
                size = min((upto - first) * BLOCK, base.size - position)
                start = (at + first - number) * BLOCK
                base.read_into(view[start : start + size], position)
        return result

    def _by_base(self, index: int, number: int, end: int) -> Iterator[tuple[int, int, int]]:
        """A run of blocks cut where one base ends and the next begins."""
        while number < end:
            upto = self._first[index + 1] if index + 1 < len(self._first) else end
            if number < upto:
                yield index, number, min(end, upto)
            number, index = max(number, upto), index + 1


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Numbers that follow each other: where in the sequence, the first, how many."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield start, numbers[start], at - start
            start = at
