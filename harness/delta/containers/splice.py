"""Pieces of a file between bytes that a plan keeps: what tar, OVA and fixed VHD have in common.

A piece comes from the content, which is one file inside (the disk); what lies around it is literal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from harness.delta.containers.plan import WHERE, Splice
from harness.errors import DamagedImage
from harness.images.block import Block
from harness.images.extents import Extent, extents_of
from harness.release.digests import PIECE, ZEROES

MOST_LITERALS = 2**20  # bytes around the disk


class Source(Protocol):
    """Content from its start to its end: `skip` what is not wanted, `take` what is."""

    def skip(self, length: int) -> None: ...
    def take(self, length: int) -> Iterator[bytes]: ...
    def finish(self) -> None:
        """Raise DamagedImage if a source that has an end has not come to it."""
        ...


class OfBlock:
    """A block as a source; what it does not store is not read, and is the object ZEROES where it fills a piece."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._at = 0
        self._data = (extent for extent in extents_of(block) if extent.kind == "data")
        self._beyond = Extent(block.size, 1, "hole")
        self._now = next(self._data, self._beyond)

    def skip(self, length: int) -> None:
        self._at += length

    def take(self, length: int) -> Iterator[bytes]:
        end = self._at + length
        while self._at < end:
            step = min(PIECE - self._at % PIECE, end - self._at)
            yield self._piece(self._at, step)
            self._at += step

    def _piece(self, at: int, length: int) -> bytes:
        while self._now is not self._beyond and self._now.offset + self._now.length <= at:
            self._now = next(self._data, self._beyond)
        if self._now is not self._beyond and self._now.offset < at + length:
            return self._block.read(at, length)
        return ZEROES if length == PIECE else bytes(length)

    def finish(self) -> None:
        """Nothing: what is left is not wanted."""


class OfPieces:
    """What another layer writes, as a source; it is known to be as long as its plan says."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def skip(self, length: int) -> None:
        for _ in self.take(length):
            pass

    def take(self, length: int) -> Iterator[bytes]:
        while length:
            piece = self._rest or next(self._pieces, b"")
            if not piece:
                raise DamagedImage("has a layer that ends too early", where=WHERE)
            self._rest = piece[length:]
            yield piece if len(piece) <= length else piece[:length]
            length -= min(length, len(piece))

    def finish(self) -> None:
        if self._rest or next(self._pieces, b""):
            raise DamagedImage("has a layer that is longer than it says", where=WHERE)


def spliced(file: Block, parts: Sequence[tuple[int, int, int]]) -> Splice | None:
    """The plan of a file that has parts (offset in the file, offset in the content, length) in rising order.

    None where what is left of the file is too much for a plan.
    """
    if file.size - sum(length for _, _, length in parts) > MOST_LITERALS:
        return None
    literals, pieces, at, inside = [], [], 0, 0
    for offset, content, length in parts:
        literals.append(file.read(at, offset - at))
        pieces.append((content - inside, length))
        at, inside = offset + length, content + length
    return Splice(size=file.size, literals=[*literals, file.read(at, file.size - at)], pieces=pieces)


def check(splice: Splice, content: int) -> None:
    """Raise DamagedImage unless the pieces lie within `content` bytes and give a file of the size named."""
    total = sum(map(len, splice.literals)) + sum(length for _, length in splice.pieces)
    inside = sum(gap + length for gap, length in splice.pieces)
    if splice.is_sparse or len(splice.literals) != len(splice.pieces) + 1 or total != splice.size or inside > content:
        raise DamagedImage("has pieces that do not make up its file", where=WHERE)


def rebuild(splice: Splice, source: Source) -> Iterator[bytes]:
    """The file again."""
    for index, (gap, length) in enumerate(splice.pieces):
        if splice.literals[index]:
            yield splice.literals[index]
        source.skip(gap)
        yield from source.take(length)
    if splice.literals[-1]:
        yield splice.literals[-1]
    source.finish()


def cut(source: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of PIECE, as packers want them; zeroes are the object they know."""
    rest, total = bytearray(), 0
    for piece in source:
        total += len(piece)
        if piece is ZEROES and not rest:
            yield piece
            continue
        rest += piece
        while len(rest) >= PIECE:
            full = bytes(rest[:PIECE])
            del rest[:PIECE]
            yield ZEROES if full == ZEROES else full
    if total != size:
        raise DamagedImage(f"packs {total:,} bytes, not {size:,}", where=WHERE)
    if rest:
        yield bytes(rest)
