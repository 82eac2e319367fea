"""A few thousandths of an image, chosen by content, by which it is seen how much two images have in common.

A sector is chosen by what is in it, so the same sector is chosen wherever it lies: in an ISO 2 KiB further on, in an
OVA behind its header, in another file system. Of 61 sectors one is taken, more or less: enough to choose a base by, in
0.5 s a gigabyte.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from backports import zstd

from harness.delta.sparse import STEP, ZEROES, Content
from harness.images.block import Block

SECTOR = 512  # bytes
WORDS = SECTOR // 8
LOOKED_AT = (3, 24, 45)  # words of a sector that decide whether it is chosen
ONE_OF = 61
REMAINDER = 17  # not 0: a sector of zeroes is nothing that images have in common
MARK_SIZE = 8  # bytes of BLAKE2b
TASTE = 2**16  # bytes of each mebibyte that are compressed to see how well the image packs
SMALL = 2**24  # bytes: an image up to this is compressed whole
SEEN_MORE = 0.7  # of a taste: what higher levels, which see more than that at once, leave (measured on two systems)
INCOMPRESSIBLE = 0.95  # of its size: what compressed data is left with, by whatever level


@dataclass(frozen=True, slots=True)
class Sketch:
    """`marks` of the chosen sectors; `stored` is how many bytes are not in holes, `density` what zstd leaves.

    `chosen` is how many sectors they are of: more than marks where the image has something twice.
    """

    marks: frozenset[bytes]
    stored: int
    density: float
    chosen: int

    def missing_from(self, known: frozenset[bytes]) -> int:
        """About how many bytes of this image are not in those with these marks, packed, each but once."""
        if not self.marks:
            return 0
        return int(self.stored * self.density * len(self.marks - known) / self.chosen)


def sketch(block: Block) -> Sketch:
    """Look at all of a block that is not a hole. Raises what reading it raises."""
    content = Content(block)
    try:
        data = [piece for piece in content.pieces(0, content.size) if not piece.is_hole]
        stored = sum(piece.length for piece in data)
        taste = TASTE if stored > SMALL else STEP
        marks: set[bytes] = set()
        tasted, packed, chosen = 0, 0.0, 0
        for offset, length, _ in data:
            for start in range(offset, offset + length, STEP):
                piece = content.read(start, min(STEP, offset + length - start))
                if piece == ZEROES[: len(piece)]:
                    stored -= len(piece)
                    continue
                found = _marks(piece, -start % SECTOR)
                marks.update(found)
                chosen += len(found)
                tasted += len(piece[:taste])
                packed += _packed(piece[:taste])
    finally:
        content.close()
    return Sketch(frozenset(marks), stored, min(1.0, packed / tasted) if tasted else 0.0, chosen)


def _marks(piece: bytes, first: int) -> set[bytes]:
    """Marks of the chosen sectors of a piece whose first whole sector begins at `first`."""
    count = (len(piece) - first) // SECTOR
    words = memoryview(piece)[first : first + count * SECTOR].cast("Q")
    columns = (words[word::WORDS].tolist() for word in LOOKED_AT)
    return {
        hashlib.blake2b(piece[first + at * SECTOR : first + (at + 1) * SECTOR], digest_size=MARK_SIZE).digest()
        for at, (one, two, three) in enumerate(zip(*columns, strict=True))
        if (one ^ two ^ three) % ONE_OF == REMAINDER
    }


def _packed(piece: bytes) -> float:
    """About how many bytes are left of a piece of a large image that is packed well."""
    size = len(zstd.compress(piece, 3))
    return min(size, len(piece)) if size > INCOMPRESSIBLE * len(piece) else SEEN_MORE * size
