"""What may be wrong with a list of images, and how bad that is.

Errors are what makes an installation without a network fail, or what says that the list is not what somebody thinks it
is. Warnings are what our own reader understands and other people's scripts may not, or what nobody can check.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of problem; `title` is what several of them are called together."""

    severity: Severity
    title: str


KINDS = {
    "archive-name": Kind("error", "names of archives instead of pull specs"),
    "bad-reference": Kind("error", "not pull specs"),
    "bad-json": Kind("error", "not what a release has there"),
    "bad-mapping": Kind("error", "not <pull spec>=<name>:<tag>"),
    "collision": Kind("error", "images that want the same archive"),
    "duplicate": Kind("error", "images that are listed before"),
    "empty": Kind("error", "lists without an image"),
    "mixed": Kind("error", "images of other repositories than the rest of the release"),
    "not-in-release": Kind("error", "images of the release's repository that the release does not list"),
    "too-long": Kind("error", "lines that are too long"),
    "unpublished": Kind("error", "images that are not published there"),
    "by-tag": Kind("warning", "images by tag, which nothing can verify"),
    "carriage-return": Kind("warning", "lines that end as on Windows"),
    "extra-words": Kind("warning", "lines with more than a pull spec"),
    "no-discovery": Kind("warning", "lists that name no image of the discovery stage"),
    "two-names": Kind("warning", "images with two names"),
    "two-tags": Kind("warning", "images with two tags"),
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of one list: `line` is 1-based, 0 for the whole list; `path` is a JSON path where there is one."""

    kind: str
    what: str
    line: int = 0
    remedy: str = ""
    path: str = ""
    file: str = ""

    @property
    def severity(self) -> Severity:
        return KINDS[self.kind].severity

    def __str__(self) -> str:
        line = f":{self.line}" if self.line else ""
        path = f" {self.path}" if self.path else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{self.file}{line}:{path} {self.what}{remedy}"


def summed_up(problems: Iterable[Problem]) -> Iterator[str]:
    """One line for all problems of a kind in a list, with the lines they stand on: 164 of a kind are one mistake."""
    for (file, kind), found in groupby(problems, key=lambda each: (each.file, each.kind)):
        alike = list(found)
        if len(alike) == 1:
            yield str(alike[0])
            continue
        where = f"{file}:{_ranges([each.line for each in alike])}"
        remedy = f" ({alike[0].remedy})" if alike[0].remedy else ""
        yield f"{where}: {len(alike)} {KINDS[kind].title}; the first {alike[0].what}{remedy}"


def _ranges(lines: Sequence[int]) -> str:
    """`1-3,7` of 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for line in sorted(set(lines)):
        if runs and line == runs[-1][-1] + 1:
            runs[-1][1:] = [line]
        else:
            runs.append([line])
    return ",".join("-".join(map(str, run)) for run in runs)
