"""The residue of bases: the 4 KiB blocks that no operation copies whole, without those that are all zeroes, in order.

What a new version changed lies there, so it is the best dictionary for what could not be copied. It follows from the
operations and the content alone: encoder and decoder find the same, whatever holes their copies of a base have.
"""

from __future__ import annotations

from array import array
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
        view, index, at = memoryview(result), 0, 0
        for number in numbers:
            while index + 1 < len(self._first) and number >= self._first[index + 1]:
                index += 1
            base, position = self._bases[index], (number - self._first[index]) * BLOCK
            size = min(BLOCK, base.size - position)
            base.read_into(view[at : at + size], position)
            at += BLOCK
        return result
