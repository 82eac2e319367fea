"""The map of a sparse member in an old GNU archive, predicted from the disk: `tar --sparse --hole-detection=raw`.

GNU tar stores runs of sectors that are not zero (its manual, "Storing Sparse Files" and "Old GNU Format"). A disk of
10 GiB has thousands of them; a plan that knows where they come from needs none.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.delta.containers.plan import WHERE, Splice
from harness.delta.containers.skeleton import xor
from harness.errors import DamagedImage
from harness.images.block import Block
from harness.images.extents import extents_of
from harness.images.formats.tar_sparse import EXTENSION_SLOTS, HEADER_SLOTS, MOST_PARTS

SECTOR = 512
WINDOW = 2**20
MAP_IN_HEADER, MAP_IN_EXTENSION = len(HEADER_SLOTS), len(EXTENSION_SLOTS)


def folded(splice: Splice, content: Block) -> Splice:
    """The plan without its pieces, where they are those that are predicted; else the plan as it is."""
    parts = list(_bounded(content))
    at = end = 0
    for (gap, length), (offset, predicted) in zip(splice.pieces, parts, strict=False):
        at = end + gap
        if (at, length) != (offset, predicted):
            return splice
        end = at + length
    if not parts or len(splice.pieces) != len(parts) or len(parts) > MOST_PARTS or any(splice.literals[1:-1]):
        return splice
    head = _over(splice.literals[0], parts, content.size)
    if head is None:
        return splice
    return Splice(splice.size, [head, splice.literals[-1]], [], is_sparse=True)


def unfolded(splice: Splice, content: Block) -> Splice:
    """The plan with its pieces. Raises DamagedImage for one that cannot have any."""
    parts = list(_bounded(content))
    if len(splice.literals) != 2 or splice.pieces or not parts or len(parts) > MOST_PARTS:
        raise DamagedImage("has a sparse map that does not fit its disk", where=WHERE)
    head = _over(splice.literals[0], parts, content.size)
    if head is None:
        raise DamagedImage("has no room for the sparse map of its disk", where=WHERE)
    pieces, end = [], 0
    for offset, length in parts:
        pieces.append((offset - end, length))
        end = offset + length
    return Splice(splice.size, [head, *[b""] * (len(parts) - 1), splice.literals[-1]], pieces, is_sparse=False)


def _bounded(content: Block) -> Iterator[tuple[int, int]]:
    for count, part in enumerate(_parts(content)):
        yield part
        if count >= MOST_PARTS:
            return


def _parts(content: Block) -> Iterator[tuple[int, int]]:
    """Offset and length of each run of sectors that are not zero."""
    start = end = -1
    for offset in _sectors(content):
        if offset != end:
            if start >= 0:
                yield start, end - start
            start = offset
        end = min(offset + SECTOR, content.size)
    if start >= 0:
        yield start, end - start


def _sectors(content: Block) -> Iterator[int]:
    """Where sectors begin that are not zero, in order; what is a hole is not read."""
    zeroes, done = bytes(SECTOR), 0
    for offset, length, kind in extents_of(content):
        at, end = max(done, offset - offset % SECTOR), min(content.size, -(-(offset + length) // SECTOR) * SECTOR)
        while at < end and kind == "data":
            data = content.read(at, min(WINDOW, end - at))
            for first in range(0, len(data), SECTOR):
                if data[first : first + SECTOR] != zeroes[: len(data) - first]:
                    yield at + first
            at += len(data)
            done = at


def _over(head: bytes, parts: list[tuple[int, int]], size: int) -> bytes | None:
    """The bytes before the first part, XOR with the map as tar writes it; None if there is no room for it."""
    ends_in_hole = not parts or sum(parts[-1]) < size
    entries = [*parts, (size, 0)] if ends_in_hole else parts
    extensions = -(-max(0, len(entries) - MAP_IN_HEADER) // MAP_IN_EXTENSION)
    at = len(head) - SECTOR * (1 + extensions)
    if at < 0:
        return None
    predicted = bytearray(len(head))
    texts = iter(f"{offset:011o}\0{length:011o}\0".encode() for offset, length in entries)
    for block in range(1 + extensions):
        begin = at + block * SECTOR
        slots, more = (EXTENSION_SLOTS, 504) if block else (HEADER_SLOTS, 482)
        for slot in slots:
            if text := next(texts, b""):
                predicted[begin + slot : begin + slot + len(text)] = text
        predicted[begin + more] = block < extensions
    return xor(head, predicted)
