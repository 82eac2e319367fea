"""The files that a recipe's operations copy from: are they the right ones, and what is to be seen in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from harness.delta.errors import WrongBase
from harness.delta.identity import identify
from harness.delta.recipe import MOST_SIZE, Base, Identity, Recipe, View, ViewKind
from harness.delta.sparse import Content
from harness.images.block import Block


@dataclass(frozen=True, slots=True)
class BaseFile:
    """A file handed over as a base.

    `identity` is what it is known to be: whoever has just written and hashed a file need not have it hashed again.
    `view` says, where a recipe is made, what to copy from: a recipe that is followed says it itself.
    """

    block: Block
    identity: Identity | None = None
    view: ViewKind | None = None


GivenBase = Block | BaseFile


def base_file(given: GivenBase) -> BaseFile:
    """A base about which nothing else was said."""
    return given if isinstance(given, BaseFile) else BaseFile(given)


class Opened(NamedTuple):
    """A base that can be read: the file, and what operations copy from, which may be the same."""

    file: Content
    seen: Content


def open_base(given: BaseFile, kind: ViewKind | None, stack: ExitStack, most: int = MOST_SIZE) -> Opened:
    """Open a base for as long as the stack; a view has at most `most` bytes. Raises what reading it raises."""
    file = Content(given.block)
    stack.callback(file.close)
    if kind is None:
        return Opened(file, file)
    from harness.delta.views import viewed  # noqa: PLC0415 - brings all readers of images; most recipes need none

    seen = Content(stack.enter_context(viewed(given.block, kind, most=most)))
    stack.callback(seen.close)
    return Opened(file, seen)


def describe(given: BaseFile, opened: Opened) -> Base:
    """What a recipe says of a base."""
    whole = given.identity or identify(opened.file)
    if given.view is None:
        return Base(whole.size, whole.sha256)
    seen = identify(opened.seen)
    return Base(whole.size, whole.sha256, View(seen.size, seen.sha256, given.view))


@contextmanager
def checked(recipe: Recipe, given: Sequence[GivenBase]) -> Iterator[list[Content]]:
    """What the operations of a recipe copy from, in its order.

    Raises WrongBase for a file that is not the one wanted, which takes reading all of it unless its identity is known.
    """
    wanted = recipe.header.bases
    if len(given) != len(wanted):
        needed = ", ".join(base.sha256 for base in wanted) or "none"
        raise WrongBase(
            f"needs {len(wanted)} bases and got {len(given)}", where=recipe.name, next_step=f"name these: {needed}"
        )
    files = [base_file(each) for each in given]
    for file, base in zip(files, wanted, strict=True):
        _check(file, base, recipe.name)
    with ExitStack() as stack:
        yield [_seen(file, base, recipe.name, stack) for file, base in zip(files, wanted, strict=True)]


def _check(file: BaseFile, wanted: Base, recipe: str) -> None:
    found = file.identity
    if found is None:
        with ExitStack() as stack:
            found = identify(open_base(file, None, stack).file)
    if found != Identity(wanted.size, wanted.sha256):
        raise WrongBase(
            f"is not the base of {recipe}: expected SHA-256 {wanted.sha256} ({wanted.size:,} bytes), "
            f"found {found.sha256} ({found.size:,} bytes)",
            where=file.block.name,
            next_step="name the file that the recipe was made from",
        )


def _seen(file: BaseFile, wanted: Base, recipe: str, stack: ExitStack) -> Content:
    if wanted.view is None:
        return open_base(file, None, stack).seen
    seen = open_base(file, wanted.view.kind, stack, wanted.view.size).seen
    if seen.size != wanted.view.size:
        raise WrongBase(
            f"is seen as {seen.size:,} bytes of its {wanted.view.kind}, and {recipe} copies from {wanted.view.size:,}",
            where=file.block.name,
            next_step="use the harness that made the recipe",
        )
    return seen
