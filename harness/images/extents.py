"""What a block really holds: runs of data, zeroes and holes, so that nobody reads or hashes what is not there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Literal, NamedTuple, Protocol

from harness.images.block import Block

ExtentKind = Literal["data", "zero", "hole"]
HASH_STEP = 2**20  # bytes read at a time while hashing
ZEROES = bytes(HASH_STEP)


class Extent(NamedTuple):
    """A run of bytes of one kind; only those of a `data` extent have to be read, the others are zeroes."""

    offset: int
    length: int
    kind: ExtentKind


class SparseBlock(Block, Protocol):
    """A block that knows where its holes are."""

    def extents(self) -> Iterator[Extent]:
        """The whole block in order, without gaps."""
        ...


def extents_of(block: Block) -> Iterator[Extent]:
    """The extents of any block: one of data where it does not know better."""
    known = getattr(block, "extents", None)
    if known is not None:
        yield from known()
    elif block.size:
        yield Extent(0, block.size, "data")


def sha256_of(block: Block) -> str:
    """SHA-256 in hex of all bytes of a block; holes cost no reading."""
    digest = hashlib.sha256()
    for offset, length, kind in extents_of(block):
        for start in range(offset, offset + length, HASH_STEP):
            step = min(HASH_STEP, offset + length - start)
            digest.update(block.read(start, step) if kind == "data" else memoryview(ZEROES)[:step])
    return digest.hexdigest()
