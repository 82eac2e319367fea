"""Making a file from its recipe and bases: streaming, with its SHA-256 in the same pass.

The file takes its name only when its SHA-256 is that of the recipe. Memory: one buffer, one chunk of operations, what
unpacks one group of literals (at most GROUP bytes), and its dictionary where it has one.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Protocol

from harness.delta.bases import GivenBase, checked
from harness.delta.coding import Dictionary
from harness.delta.errors import DamagedRecipe
from harness.delta.ops import BASE, LITERAL, SELF, ZERO
from harness.delta.recipe import Identity, Recipe, Section
from harness.delta.reflink import share, shareable
from harness.delta.residue import BLOCK, Residue
from harness.delta.sparse import STEP, ZEROES, Content
from harness.errors import BadInput, DamagedImage
from harness.images.formats.raw import FileBlock
from harness.store import check_replaceable, replacing

BUFFER = 2**18  # bytes: fits the second-level cache, so that hashing finds what reading brought
ZERO_BUFFER = bytes(BUFFER)
CHANGED_OR_DAMAGED = "get it again; if it is whole, a base changed while it was read"
Told = Callable[[int], None]
ShareRange = Callable[[Content, int, int], bool]  # of a base: offset, length -> whether the output has it now
Rebuild = Callable[[bytes, FileBlock], Iterator[bytes]]  # plan, content -> the container, in pieces


class Output(Protocol):
    """Where the target goes, in order."""

    def data(self, view: memoryview) -> None: ...
    def zeroes(self, length: int) -> None: ...
    def again(self, view: memoryview, offset: int) -> None:
        """Fill a buffer with what was put out before."""
        ...


class _File:
    """An output into an open, empty file; zeroes become holes."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._position = 0
        self._cannot: set[int] = set()  # descriptors of bases whose blocks cannot be shared

    def shared(self, source: Content, offset: int, length: int) -> bool:
        if source.descriptor in self._cannot:
            return False
        if not share(source.descriptor, offset, self._descriptor, self._position, length):
            self._cannot.add(source.descriptor)
            return False
        self._position += length
        return True

    def data(self, view: memoryview) -> None:
        while view:
            done = os.pwrite(self._descriptor, view, self._position)
            view, self._position = view[done:], self._position + done

    def zeroes(self, length: int) -> None:
        self._position += length

    def again(self, view: memoryview, offset: int) -> None:
        while view:
            done = os.preadv(self._descriptor, [view], offset)
            if not done:  # a hole at the end of what was written
                view[:] = bytes(len(view))
                return
            view, offset = view[done:], offset + done


def untold(_more: int) -> None:
    """For callers who do not want to know how far it is."""


def decode(recipe: Recipe, bases: Sequence[GivenBase], target: Path, *, progress: Told = untold) -> Identity:
    """Write the recipe's target, replacing the file of that name; what a failure leaves is the old file.

    `bases` are those of the header, in its order; each is hashed before anything is written unless its identity is
    known (bases.py). Of a recipe with a plan this is the container's content; `decode_container` makes the container.
    `progress` is told how many more bytes are done. Raises WrongBase, DamagedRecipe, BadInput.
    """
    check_replaceable(target)
    with checked(recipe, bases) as contents, _written(target) as file:
        output = _File(file.fileno())
        made = _make(recipe, contents, output, progress, output.shared)
        file.truncate(made.size)
    return made


def decode_into(recipe: Recipe, bases: Sequence[GivenBase], output: Output) -> Identity:
    """The same for an output of one's own (memory, a block device), which holds wrong bytes when this raises.

    Raises what `decode` raises, and what the output raises.
    """
    with checked(recipe, bases) as contents:
        return _make(recipe, contents, output, untold)


def _make(
    recipe: Recipe, bases: Sequence[Content], output: Output, progress: Told, share_range: ShareRange | None = None
) -> Identity:
    digest = hashlib.sha256()
    size = _Maker(recipe, bases, output, digest.update, progress, share_range).make()
    made = Identity(size, digest.hexdigest())
    _check_made(recipe, made)
    return made


def _make_content(recipe: Recipe, bases: Sequence[GivenBase], content: Path, progress: Told) -> None:
    """Write what a container is made of. It is not hashed: the container's own SHA-256 says whether it was right."""
    try:
        with checked(recipe, bases) as contents, content.open("x+b", buffering=0) as file:
            output = _File(file.fileno())
            size = _Maker(recipe, contents, output, _unhashed, progress, output.shared).make()
            file.truncate(size)
    except OSError as cause:
        raise BadInput(f"cannot be written: {cause.strerror}", where=str(content)) from cause


def _unhashed(_piece: memoryview) -> None:
    """In the place of a digest."""


def decode_container(
    recipe: Recipe, bases: Sequence[GivenBase], target: Path, rebuild: Rebuild, *, progress: Told = untold
) -> Identity:
    """Write the container of a recipe with a plan; its content lies in a temporary file beside it meanwhile.

    Raises what `decode` raises, DamagedRecipe for a plan that cannot be followed too, and what else `rebuild` raises.
    """
    plan, wanted = recipe.header.plan, recipe.header.wrapped
    if plan is None or wanted is None:
        return decode(recipe, bases, target, progress=progress)
    check_replaceable(target)
    with _folder_beside(target) as folder:
        content = folder / "content"
        _make_content(recipe, bases, content, progress)
        digest, size = hashlib.sha256(), 0
        with FileBlock(content) as block, _written(target) as file:
            output = _File(file.fileno())
            for piece in _rebuilt(recipe, plan, block, rebuild):
                size += len(piece)
                if size > wanted.size:
                    break
                digest.update(piece)
                if piece.count(0) == len(piece):
                    output.zeroes(len(piece))
                else:
                    output.data(memoryview(piece))
                progress(len(piece))
            file.truncate(size)
            made = Identity(size, digest.hexdigest())
            if made != wanted:
                raise DamagedRecipe(
                    f"rebuilds a container with SHA-256 {made.sha256} and claims {wanted.sha256}",
                    where=recipe.name,
                    next_step=CHANGED_OR_DAMAGED,
                )
    return made


def _rebuilt(recipe: Recipe, plan: Section, content: FileBlock, rebuild: Rebuild) -> Iterator[bytes]:
    try:
        yield from rebuild(b"".join(recipe.content(plan)), content)
    except DamagedImage as cause:
        raise DamagedRecipe(f"cannot rebuild its container: {cause.what}", where=recipe.name) from cause


@contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent)
    except OSError as cause:
        raise BadInput(f"cannot be written: {cause.strerror or cause}", where=str(target)) from cause
    with folder as name:
        yield Path(name)


@contextmanager
def _written(target: Path) -> Iterator[FileIO]:
    try:
        with replacing(target) as aside, aside.open("r+b", buffering=0) as file:
            yield file
    except OSError as cause:
        raise BadInput(f"cannot be written: {cause.strerror or cause}", where=str(target)) from cause


def _check_made(recipe: Recipe, made: Identity) -> None:
    if made != recipe.header.target:
        raise DamagedRecipe(
            f"makes a file with SHA-256 {made.sha256} and claims {recipe.header.target.sha256}",
            where=recipe.name,
            next_step=CHANGED_OR_DAMAGED,
        )


class _Maker:
    """Puts out the target, operation by operation, and hashes it."""

    def __init__(
        self,
        recipe: Recipe,
        bases: Sequence[Content],
        output: Output,
        digest: Callable[[memoryview], None],
        progress: Told,
        share_range: ShareRange | None,
    ) -> None:
        self._recipe, self._bases, self._output = recipe, bases, output
        self._digest, self._progress, self._share = digest, progress, share_range
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._size = 0
        self._literals = _literals(recipe, bases)
        self._rest = memoryview(b"")  # of the piece of literals that was unpacked last

    def make(self) -> int:
        """Do all operations and return how many bytes came out."""
        for op in self._recipe.ops():
            if op.kind == ZERO:
                self._put_zeroes(op.length)
            elif op.kind == LITERAL:
                self._put_literals(op.length)
            elif op.kind == SELF:
                self._copy(op.source, op.length, self._output.again)
            else:
                base = self._bases[op.kind - BASE]
                for offset, length, is_hole in base.pieces(op.source, op.length):
                    if is_hole:
                        self._put_zeroes(length)
                    else:
                        self._take(base, offset, length)
        return self._size

    def _take(self, base: Content, offset: int, length: int) -> None:
        """Copy from a base, sharing its blocks where that is possible."""
        before, inside = shareable(offset, self._size, length) if base.descriptor >= 0 and self._share else (0, 0)
        self._copy(offset, before, base.read_into)
        if inside and self._share and self._share(base, offset + before, inside):
            self._pass(inside)
            before += inside
        self._copy(offset + before, length - before, base.read_into)

    def _pass(self, length: int) -> None:
        """Hash what the output has already: as it is there, for the base may have changed since or meanwhile."""
        for done in range(0, length, BUFFER):
            view = self._view[: min(BUFFER, length - done)]
            self._output.again(view, self._size)
            self._digest(view)
            self._size += len(view)
            self._progress(len(view))

    def _copy(self, offset: int, length: int, read_into: Callable[[memoryview, int], None]) -> None:
        for start in range(offset, offset + length, BUFFER):
            view = self._view[: min(BUFFER, offset + length - start)]
            read_into(view, start)
            if len(view) == BUFFER and self._buffer == ZERO_BUFFER:
                self._put_zeroes(BUFFER)
            else:
                self._put(view)

    def _put(self, view: memoryview) -> None:
        self._digest(view)
        self._output.data(view)
        self._size += len(view)
        self._progress(len(view))

    def _put_zeroes(self, length: int) -> None:
        for done in range(0, length, STEP):
            self._digest(memoryview(ZEROES)[: length - done])
        self._output.zeroes(length)
        self._size += length
        self._progress(length)

    def _put_literals(self, length: int) -> None:
        while length:
            if not self._rest:
                self._rest = memoryview(next(self._literals))
            view = self._rest[:length]
            self._rest = self._rest[len(view) :]
            self._put(view)
            length -= len(view)


def _literals(recipe: Recipe, bases: Sequence[Content]) -> Iterator[bytes]:
    """All literals in order, in pieces that are not empty; recipe.ops() has checked that they suffice."""
    residue: Residue | None = None
    for section in recipe.header.literals:
        dictionary: Dictionary | None = None
        if section.dictionary:
            residue = residue or Residue(bases, recipe.ops())
            dictionary = _dictionary(residue, section.dictionary, recipe.name)
        yield from recipe.content(section, dictionary)


def _dictionary(residue: Residue, place: tuple[int, int], recipe: str) -> Dictionary:
    start, length = place
    if start % BLOCK or length % BLOCK or start + length > residue.size:
        raise DamagedRecipe(f"takes {length:,} bytes at {start:,} of {residue.size:,} for a dictionary", where=recipe)
    return Dictionary(length, lambda offset, size: bytes(residue.read(start + offset, size)))
