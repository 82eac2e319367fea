"""miniso.dat: the recipe by which a minimal ISO, one without root filesystem, comes out of a full one.

Facts: coreos-installer's src/miniso.rs, in the variable-length form of bincode. After the header: a table of the files
that both ISOs have (sector in the minimal one, sector in the full one, bytes), the SHA-256 of the minimal ISO, and,
packed by xz, all its bytes that belong to none of those files. Everything is bounded by the full ISO.
"""

from __future__ import annotations

import hashlib
import lzma
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.system.live_recipes import MINISO, Fields

SECTOR = 2048
LARGEST = 2**20  # bytes of miniso.dat, as coreos-installer has it
MOST_FILES = 10_000
STEP = 2**20  # bytes
XZ_MEMORY = 2**28  # bytes


class Shared(NamedTuple):
    """A file of both ISOs; offsets and size in bytes."""

    minimal: int
    full: int
    size: int


@dataclass(frozen=True, slots=True)
class MinimalIso:
    """The recipe. `packed` is xz; `sha256` in hex is that of what comes out."""

    app_version: str
    shared: tuple[Shared, ...]
    sha256: str
    packed: bytes


def read_recipe(block: Block) -> MinimalIso:
    """Read it. Raises DamagedImage for a broken one, UnsupportedImage for one of another version or too large."""
    if block.size > LARGEST:
        raise UnsupportedImage(f"has {block.size:,} bytes, more than the {LARGEST:,} we read", where=block.name)
    fields = Fields(block, MINISO, LARGEST)
    app_version, count = fields.text(), fields.number()
    if not 0 < count <= MOST_FILES:
        raise DamagedImage(f"lists {count:,} files", where=block.name)
    shared, end = [], 0
    for _ in range(count):
        minimal, full, size = (fields.number() for _ in range(3))
        each = Shared(minimal * SECTOR, full * SECTOR, size)
        if each.minimal < end:
            raise DamagedImage(f"lists files that overlap at {each.minimal:,}", where=block.name)
        shared.append(each)
        end = each.minimal + size
    return MinimalIso(app_version, tuple(shared), fields.raw(32).hex(), fields.raw(fields.number()))


def unpack(recipe: MinimalIso, full: Block, out: BinaryIO) -> None:
    """Write the minimal ISO. Raises DamagedImage where the ISO is not the one that the recipe was made for."""
    last = recipe.shared[-1]
    if last.minimal + last.size > full.size:
        raise DamagedImage("the minimal ISO would be larger than the full one", where=full.name)
    digest = hashlib.sha256()
    at = 0
    rest = _Packed(recipe.packed, full)
    for each in recipe.shared:
        for piece in rest.read(each.minimal - at):
            digest.update(piece)
            out.write(piece)
        for start in range(0, each.size, STEP):
            piece = full.read(each.full + start, min(STEP, each.size - start))
            digest.update(piece)
            out.write(piece)
        at = each.minimal + each.size
    for piece in rest.remaining():
        digest.update(piece)
        out.write(piece)
    if digest.hexdigest() != recipe.sha256:
        raise DamagedImage(
            f"what came out has SHA-256 {digest.hexdigest()}, not {recipe.sha256}",
            where=full.name,
            next_step="is it pristine? harness iso reset",
        )


class _Packed:
    """The packed bytes in order, never more than the full ISO has."""

    def __init__(self, packed: bytes, full: Block) -> None:
        self._stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        self._input = packed
        self._name = full.name
        self._left = full.size

    def read(self, count: int) -> Iterator[bytes]:
        """Exactly so many bytes. Raises DamagedImage where there are fewer."""
        if count > self._left:
            raise DamagedImage("the minimal ISO would be larger than the full one", where=self._name)
        while count:
            piece = self._next(min(count, STEP))
            if not piece:
                raise DamagedImage("the packed part of the minimal ISO is cut", where=self._name)
            count -= len(piece)
            yield piece

    def remaining(self) -> Iterator[bytes]:
        while piece := self._next(STEP):
            yield piece
        if not self._stream.eof:
            raise DamagedImage("the packed part of the minimal ISO is cut", where=self._name)

    def _next(self, most: int) -> bytes:
        if self._stream.eof:
            return b""
        try:
            piece = self._stream.decompress(self._input, most)
        except lzma.LZMAError as cause:
            raise DamagedImage(f"the packed part of the minimal ISO is damaged: {cause}", where=self._name) from cause
        self._input = b""
        self._left -= len(piece)
        if self._left < 0:
            raise DamagedImage("the minimal ISO would be larger than the full one", where=self._name)
        return piece
