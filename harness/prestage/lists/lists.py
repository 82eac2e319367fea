"""Lists of the images of a release: which there are, and in which stage of an installation each is needed.

What kind a file is says its content: JSON of a release, lines that map, or lines of pull specs. A short list that names
an agent of assisted-installer is one of the discovery stage, for only that stage knows it; every other is one of a
release. All problems of all files are collected; harness/prestage/lists/problem.py says which are errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import BadInput
from harness.prestage.lists.listchecks import collisions, problems_of, strangers
from harness.prestage.lists.listfile import ListFile, ListKind, Row, read_file
from harness.prestage.lists.problem import Problem
from harness.prestage.lists.reference import Reference
from harness.prestage.lists.stages import Stage

__all__ = ["Checked", "ImageList", "Listed", "Stage", "check_lists", "read_list"]


@dataclass(frozen=True, slots=True)
class Listed:
    """One image of a list.

    `name` is the operator's in its release (`must-gather`), where the list says it. `tag` is one that a by-digest
    image shall have as well (`4.11.0-x86_64-must-gather`, of mapping.txt). `line` is 1-based, in `file`.
    """

    reference: Reference
    stages: frozenset[Stage]
    name: str = ""
    tag: str = ""
    line: int = 0
    file: str = ""


@dataclass(frozen=True, slots=True)
class ImageList:
    """Images in the order of their lists, each pull spec once, no two with one archive."""

    images: tuple[Listed, ...]

    def of(self, stage: Stage) -> tuple[Listed, ...]:
        """The images that a stage needs."""
        return tuple(each for each in self.images if stage in each.stages)


@dataclass(frozen=True, slots=True)
class Checked:
    """What some files list together, and what is wrong with them; `kinds` says what each file was taken for."""

    images: ImageList
    problems: tuple[Problem, ...]
    kinds: tuple[tuple[str, ListKind], ...]

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(each for each in self.problems if each.severity == "error")


def read_list(*paths: Path, discovery: Sequence[Path] = (), mixed: bool = False) -> ImageList:
    """The images of lists, and of lists of the discovery stage beside them. Raises BadInput where any has an error."""
    checked = check_lists(paths, discovery=discovery, mixed=mixed)
    if checked.errors:
        first, more = checked.errors[0], len(checked.errors) - 1
        rest = f" (and {more:,} more errors)" if more else ""
        raise BadInput(f"{first}{rest}", next_step="harness prestage list tells them all")
    return checked.images


def check_lists(paths: Sequence[Path], *, discovery: Sequence[Path] = (), mixed: bool = False) -> Checked:
    """Read lists and judge them, each alone and all together; images whose line has an error are left out.

    All images of the `discovery` lists are of that stage, whatever they look like. `mixed` says that images of several
    repositories are meant (operators, additional images). Raises BadInput for a file that is no list at all.
    """
    lists = [read_file(path) for path in paths] + [read_file(path, "discovery") for path in discovery]
    rows = [(found, row) for found in lists for row in found.rows]
    told = [(found, problem) for found in lists for problem in found.problems]
    told += [(found, problem) for found in lists for problem in problems_of(found, mixed=mixed)]
    told += [*strangers(lists), *collisions(rows)]
    images = _united(rows)
    if images and not any(Stage.DISCOVERY in each.stages for each in images):
        what, remedy = "names no image of the discovery stage", "give the list of assisted-installer by --discovery"
        told.append((lists[0], Problem("no-discovery", what, remedy=remedy)))
    problems = [replace(problem, file=found.file) for found, problem in told]
    problems.sort(key=lambda each: (each.severity, each.file, each.kind, each.line))
    return Checked(ImageList(images), tuple(problems), tuple((found.file, found.kind) for found in lists))


def _united(rows: Sequence[tuple[ListFile, Row]]) -> tuple[Listed, ...]:
    """Every image once: an image of several lists is needed wherever one of them needs it."""
    images: dict[Reference, Listed] = {}
    archives: dict[str, Reference] = {}
    for found, row in rows:
        if not row.is_sound or archives.setdefault(row.reference.archive, row.reference) != row.reference:
            continue
        entry = row.entry
        tag = entry.tag if row.reference.digest else ""
        new = Listed(row.reference, row.stages, entry.name, tag, entry.line, found.file)
        old = images.get(row.reference, new)
        images[row.reference] = replace(
            old, stages=old.stages | new.stages, name=old.name or new.name, tag=old.tag or new.tag
        )
    return tuple(images.values())
