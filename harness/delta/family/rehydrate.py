"""Images of a family made again: those asked for, with what they are made from, side by side on all cores.

An image is handed over only when its SHA-256 is the one that the index lists. What is only needed on the way lies in a
scratch folder that is removed in any case.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os import sched_getaffinity
from pathlib import Path
from threading import Event
from typing import Protocol

from harness.delta.errors import DamagedRecipe, WrongBase
from harness.delta.family.listing import INDEX, Index, Listed, family_file, read_index
from harness.delta.family.making import Made, Progress, Watch, Work, silent
from harness.delta.family.wrapping import readings
from harness.delta.identity import identity_of
from harness.delta.recipe import Identity, Recipe, Section, open_recipe
from harness.errors import BadInput, DamagedImage, StoreError
from harness.images.formats.compression import scratch_parent

Identify = Callable[[Path], Identity]


class Delivery(Protocol):
    """Where images go: `place` is where one is to be written at once, None for a scratch file; `take` gets it then.

    What `take` gets was compared with its SHA-256 and belongs to nobody else. `finish` comes when all were taken.
    """

    def scratch(self) -> Path | None:
        """A folder on the same disk as what is delivered."""
        ...

    def place(self, image: Listed) -> Path | None: ...
    def take(self, image: Listed, made: Path) -> None: ...
    def finish(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """`names` of images, none for all; `given` are files of images that the folder lacks, or that need not be made."""

    names: tuple[str, ...] = ()
    given: tuple[Path, ...] = ()
    jobs: int = 0  # images made at the same time, 0 for one a core


class Discard:
    """A delivery of nothing: the images were only to be compared."""

    def scratch(self) -> Path | None:
        return None

    def place(self, image: Listed) -> Path | None:
        del image
        return None

    def take(self, image: Listed, made: Path) -> None:
        """Nothing: that it was made says all."""

    def finish(self) -> None:
        """Nothing."""


def check_family(folder: Path, wish: Wish, progress: Progress = silent) -> list[Listed]:
    """Make images and compare them, keeping none. Raises what `rehydrate` raises."""
    return rehydrate(folder, wish, Discard(), progress)


def rehydrate(
    folder: Path, wish: Wish, delivery: Delivery, progress: Progress = silent, identify: Identify = identity_of
) -> list[Listed]:
    """Make images of a family and deliver them in the order wished for; `identify` says what the files given are.

    Raises BadInput for a name that is not in the family, WrongBase for a file given that is of no use or missing,
    DamagedRecipe for a folder that is not whole, StoreError where there is no room.
    """
    index = read_index(folder)
    names = list(dict.fromkeys(wish.names)) or [image.name for image in index.images if image.file]
    if not names:
        raise BadInput("has no images", where=str(folder))
    with ExitStack() as stack:
        given = _given(index, wish.given, identify, stack)
        needed = _needed(index, names, given)
        for image in needed:
            if image.is_recipe and image.name not in given:
                _check_recipe(folder, image, index)
        scratch = stack.enter_context(_scratch(delivery.scratch()))
        stop = Event()
        makers = stack.enter_context(_pool(wish.jobs, stop))
        made: dict[str, Future[Made]] = {}
        for image in needed:
            is_wanted = image.name in names
            target = (delivery.place(image) if is_wanted else None) or scratch / image.name
            work = Work(folder, image, target, is_wanted, given.get(image.name), made, Watch(progress, stop))
            made[image.name] = makers.submit(work.make)  # in this order: its bases are made, or being made
        for name in names:
            delivery.take(index.image(name), made[name].result().path)
        delivery.finish()
    return [index.image(name) for name in names]


def _given(index: Index, paths: Sequence[Path], identify: Identify, stack: ExitStack) -> dict[str, Made]:
    """Which images the given files are, or what is inside of packed ones."""
    given = {}
    for path in paths:
        for file in readings(path, stack):
            found = identify(file) if file == path else identity_of(file)
            names = [image.name for image in index.images if image.identity == found]
            if names:
                break
        else:
            wanted = "; ".join(f"{image.name} {image.sha256}" for image in index.images if not image.file)
            raise WrongBase(
                f"is no image of this family: found SHA-256 {found.sha256} ({found.size:,} bytes)",
                where=str(path),
                next_step=f"expected {wanted}" if wanted else "leave it away: the folder has all that is needed",
            )
        given.update(dict.fromkeys(names, Made(file, found)))
    return given


def _needed(index: Index, names: list[str], given: dict[str, Made]) -> list[Listed]:
    """The images to make, bases first; of those given, what they are made from is not needed."""
    wanted = {index.image(name).name for name in names}
    for image in reversed(index.images):
        if image.name in wanted and image.name not in given:
            wanted.update(image.bases)
            if not image.file:
                raise WrongBase(
                    f"is not in this folder: expected SHA-256 {image.sha256} ({image.size:,} bytes)",
                    where=image.name,
                    next_step="name its file with --base",
                )
    return [image for image in index.images if image.name in wanted]


def _check_recipe(folder: Path, image: Listed, index: Index) -> None:
    """Raise DamagedRecipe unless the recipe is whole and makes this image of those that the index says."""
    with open_recipe(family_file(folder, image.file)) as recipe:
        header = recipe.header
        if (header.wrapped or header.target) != image.identity:
            raise DamagedRecipe(f"is no recipe of {image.name}", where=recipe.name, next_step="get the folder again")
        if header.plan:
            _check_plan(recipe, header.plan, image)
        bases = {index.image(name).sha256 for name in image.bases}
        if missing := next((base.sha256 for base in header.bases if base.sha256 not in bases), None):
            raise DamagedRecipe(
                f"wants a base {missing} that {INDEX} does not name",
                where=recipe.name,
                next_step="get the folder again",
            )


def _check_plan(recipe: Recipe, plan: Section, image: Listed) -> None:
    from harness.delta.containers.dissection import check_plan  # noqa: PLC0415 - 30 ms that a plain recipe need not pay

    try:
        check_plan(b"".join(recipe.content(plan)), recipe.header.target.size, image.size, image.sha256)
    except DamagedImage as cause:
        raise DamagedRecipe(f"its plan {cause.what}", where=recipe.name, next_step="get the folder again") from cause


@contextmanager
def _scratch(beside: Path | None) -> Iterator[Path]:
    parent = beside or scratch_parent()
    try:
        folder = tempfile.TemporaryDirectory(prefix=".rehydrate-", dir=parent)
    except OSError as cause:
        where = str(parent or tempfile.gettempdir())
        raise StoreError(
            f"cannot be written: {cause.strerror}", where=where, next_step="choose another place"
        ) from cause
    with folder as name:
        yield Path(name)


@contextmanager
def _pool(jobs: int, stop: Event) -> Iterator[ThreadPoolExecutor]:
    """Threads that end soon when this block ends early."""
    pool = ThreadPoolExecutor(jobs or len(sched_getaffinity(0)))
    try:
        yield pool
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
