"""One image of a family being made: from its recipe and its bases, or unpacked where it is stored whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import NamedTuple, Protocol

from harness.delta.bases import BaseFile
from harness.delta.decode import decode_container
from harness.delta.family.listing import PACKED_SUFFIX, Listed, family_file
from harness.delta.family.whole import restore, wrong
from harness.delta.identity import identity_of
from harness.delta.recipe import Identity, open_recipe
from harness.images.extents import Extent
from harness.images.formats.raw import FileBlock

Told = Callable[[int], None]  # how many more bytes are done


class Progress(Protocol):
    """Told which image is being made, and of how many bytes."""

    def __call__(self, name: str, total: int) -> Told: ...


def silent(name: str, total: int) -> Told:
    """For callers who do not want to be told."""
    del name, total
    return lambda _more: None


class Made(NamedTuple):
    """An image's file, and what it was found to be."""

    path: Path
    identity: Identity


class StoppedError(Exception):
    """Another image failed, or the user wants to end: nobody asks for this one any more."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Tells how far an image is, and stops making it when nobody wants it any more."""

    progress: Progress
    stop: Event

    def of(self, name: str, total: int) -> Told:
        """What is to be told of the bytes that are done."""
        told = self.progress(name, total)

        def watched(more: int) -> None:
            if self.stop.is_set():
                raise StoppedError
            told(more)

        return watched


class _Watched:
    """The content that a container is made of; reading it ends where nobody wants the container any more."""

    def __init__(self, block: FileBlock, stop: Event) -> None:
        self.name, self.size = block.name, block.size
        self._block, self._stop = block, stop

    def read(self, offset: int, length: int) -> bytes:
        if self._stop.is_set():
            raise StoppedError
        return self._block.read(offset, length)

    def extents(self) -> Iterator[Extent]:
        return self._block.extents()


@dataclass(frozen=True, slots=True)
class Work:
    """One image to be made: at `target`, or where it lies if nobody else is to have it and it needs no unpacking.

    `given` is a file that the image was found to be; it may have changed since, so a copy of it is compared again.
    """

    folder: Path
    image: Listed
    target: Path
    is_wanted: bool
    given: Made | None
    made: dict[str, Future[Made]]
    watch: Watch

    def make(self) -> Made:
        """The image's file. Raises what went wrong with it or with a base."""
        image = self.image
        if self.given and not self.is_wanted:
            return self.given
        source = self.given.path if self.given else family_file(self.folder, image.file)
        if image.is_recipe and not self.given:
            return self._follow(source)
        is_packed = not self.given and source.name.endswith(PACKED_SUFFIX)
        if not self.is_wanted and not is_packed:
            if (found := identity_of(source)) != image.identity:
                raise wrong(source, image, found)
            return Made(source, found)
        told = self.watch.of(image.name, image.size)
        return Made(self.target, restore(source, image, self.target, told, is_packed=is_packed))

    def _follow(self, path: Path) -> Made:
        with open_recipe(path) as recipe, ExitStack() as stack:
            header = recipe.header
            bases = dict(self._base(name, stack) for name in self.image.bases)
            total = header.target.size + (header.wrapped.size if header.wrapped else 0)
            files = [bases[each.sha256] for each in header.bases]
            told = self.watch.of(self.image.name, total)
            return Made(self.target, decode_container(recipe, files, self.target, self._rebuild, progress=told))

    def _rebuild(self, plan: bytes, content: FileBlock) -> Iterator[bytes]:
        from harness.delta.containers.dissection import rebuild  # noqa: PLC0415 - 30 ms that a plain recipe need not pay

        return rebuild(plan, _Watched(content, self.watch.stop))

    def _base(self, name: str, stack: ExitStack) -> tuple[str, BaseFile]:
        path, identity = self.made[name].result()
        return identity.sha256, BaseFile(stack.enter_context(FileBlock(path)), identity)
