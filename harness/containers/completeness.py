"""Does a store hold every image of a list, whole, where it will be looked for? And what does it hold besides?

Whoever asks gets the image that bears the very name asked for. For a reference by digest that may also be one of that
digest with any name of the same repository (containers/image, storage_reference.go: resolveImage). One of another
repository is not found: skopeo 1.9.3 says so; podman 4.3.1 happens to find it, which is nothing to rely on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from harness.containers.records import StoredImage
from harness.containers.verify import Problem, StorageReport

MOST_CAUSES = 5  # told of one image
MOST_NAMES = 3  # told where another name was meant
DEFAULT_TAG = "latest"


class State(StrEnum):
    """How a store stands to one reference of a list."""

    COMPLETE = "complete"
    DAMAGED = "damaged"
    OTHER = "other"  # the name stands for another image, or the image bears another name
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Sought:
    """One reference of a list: `causes` are sentences, none if it is complete."""

    reference: str
    state: State
    image: StoredImage | None = None  # what is found, or would have to be
    causes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.state:8} {self.reference}" + (f": {'; '.join(self.causes)}" if self.causes else "")


@dataclass(frozen=True, slots=True)
class Completeness:
    """A store against a list, in the order of the list."""

    sought: tuple[Sought, ...]
    extra: tuple[StoredImage, ...]  # whole or not, that no reference of the list finds
    problems: tuple[Problem, ...]  # that concern no image of the list
    leftovers: tuple[Problem, ...]

    @property
    def is_complete(self) -> bool:
        """Whether every image of the list is found, and whole. What is there besides is no hindrance."""
        is_usable = all(problem.image or problem.layer for problem in self.problems)
        return is_usable and all(each.state is State.COMPLETE for each in self.sought)

    def count(self, state: State) -> int:
        """How many references are in this state."""
        return sum(each.state is state for each in self.sought)

    def lines(self) -> Iterator[str]:
        """What to print: all that is not as it should be, a line each, then a line that sums up."""
        yield from (str(each) for each in self.sought if each.state is not State.COMPLETE)
        yield from (f"{'problem':8} {problem}" for problem in self.problems)
        yield from (f"{'extra':8} {', '.join(image.names) or image.id[:12]} ({image.digest})" for image in self.extra)
        yield from (f"{'leftover':8} {problem}" for problem in self.leftovers)
        yield self.summary

    @property
    def summary(self) -> str:
        """One line; zeros are left out."""
        counts = [(self.count(state), state.value) for state in State if state is not State.COMPLETE]
        rest = [(len(self.problems), "problems"), (len(self.extra), "extra"), (len(self.leftovers), "leftovers")]
        told = [f"{number} {what}" for number, what in (*counts, *rest) if number]
        return ", ".join((f"{self.count(State.COMPLETE)} of {len(self.sought)} images complete", *told))


@dataclass(frozen=True, slots=True)
class _Name:
    repository: str
    tag: str
    digest: str


def completeness(
    report: StorageReport, references: Iterable[str], digests: Mapping[str, str] | None = None
) -> Completeness:
    """Compare what `verify_storage` found with a list of references, as pull specs.

    `digests` maps references by tag to the digest that they must stand for (`sha256:<hex>`), where that is known.
    """
    shelf = _Shelf(report.images)
    damage: dict[str, list[str]] = {}
    for problem in report.problems:
        for each in problem.ids:
            damage.setdefault(each, []).append(_cause(problem))
    sought = tuple(_seek(reference, shelf, damage, (digests or {}).get(reference, "")) for reference in references)
    listed = {each.image.id for each in sought if each.image}
    return Completeness(
        sought,
        tuple(image for image in report.images if image.id not in listed),
        tuple(problem for problem in report.problems if listed.isdisjoint(problem.ids)),
        report.leftovers,
    )


class _Shelf:
    """The images of a report by name, digest and repository."""

    def __init__(self, images: Iterable[StoredImage]) -> None:
        self.by_name: dict[str, StoredImage] = {}
        self.by_digest: dict[str, list[StoredImage]] = {}
        self.names_of: dict[str, list[str]] = {}
        for image in images:
            for name in image.names:
                self.by_name.setdefault(name, image)
                self.names_of.setdefault(_parsed(name).repository, []).append(name)
            for digest in image.digests:
                self.by_digest.setdefault(digest, []).append(image)


def _seek(reference: str, shelf: _Shelf, damage: Mapping[str, list[str]], digest: str) -> Sought:
    name = _parsed(reference)
    wanted = name.digest or digest
    image = shelf.by_name.get(_full(name))
    if image and wanted and wanted not in image.digests:
        what = f"the name stands for {image.digest or 'an image without a digest'}, not {wanted}"
        return Sought(reference, State.OTHER, image, (what,))
    same = shelf.by_digest.get(wanted, []) if wanted else []
    if image is None and name.digest:
        image = next((each for each in same if _has_repository(each, name.repository)), None)
    if image is None and same:
        names = ", ".join(same[0].names[:MOST_NAMES]) or "no name"
        return Sought(
            reference, State.OTHER, same[0], (f"the image is there, but as {names}: by this reference it is not found",)
        )
    if image is None:
        others = [] if name.digest else shelf.names_of.get(name.repository, [])
        told = f"the store has {', '.join(others[:MOST_NAMES])}" if others else "the store has no such image"
        return Sought(reference, State.MISSING, None, (told,))
    if causes := damage.get(image.id):
        more = (f"and {len(causes) - MOST_CAUSES} more",) if len(causes) > MOST_CAUSES else ()
        return Sought(reference, State.DAMAGED, image, (*causes[:MOST_CAUSES], *more))
    return Sought(reference, State.COMPLETE, image)


def _cause(problem: Problem) -> str:
    """A problem without the images that it concerns."""
    return str(Problem("", problem.layer, problem.path, problem.what, store=problem.store))


def _has_repository(image: StoredImage, repository: str) -> bool:
    return any(_parsed(name).repository == repository for name in image.names)


def _parsed(reference: str) -> _Name:
    """A reference in parts; of one with both, the digest counts (containers/image drops the tag).

    >>> _parsed("localhost:5000/a/b:1@sha256:0f")
    _Name(repository='localhost:5000/a/b', tag='', digest='sha256:0f')
    >>> _parsed("quay.io/a/b")
    _Name(repository='quay.io/a/b', tag='latest', digest='')
    """
    name, _, digest = reference.partition("@")
    folder, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return _Name(f"{folder}{slash}{last}", "" if digest else tag or DEFAULT_TAG, digest)


def _full(name: _Name) -> str:
    return f"{name.repository}@{name.digest}" if name.digest else f"{name.repository}:{name.tag}"
