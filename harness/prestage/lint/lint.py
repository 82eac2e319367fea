"""Judging other people's pre-staging configs: each rule is a function in a table (harness/prestage/lint/rules.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from harness.prestage.lint.subject import Place, Subject

Release = tuple[int, int]  # of OpenShift, as (4, 10)


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a rule fires: `line` is 1-based in the unit or script at the place, 0 where it has no lines."""

    place: Place
    what: str
    line: int = 0
    remedy: str = ""  # where one can be more exact than the rule


@dataclass(frozen=True, slots=True)
class Context:
    """What else a rule may want to know: all subjects of the run, and the release if somebody said."""

    subjects: tuple[Subject, ...]
    release: Release | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One defect: `reason` says what it does to a host, `remedy` what to write instead."""

    id: str
    reason: str
    remedy: str
    find: Callable[[Subject, Context], Iterable[Spot]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One defect that a file has."""

    rule: str
    place: Place
    line: int
    what: str
    reason: str
    remedy: str

    @property
    def where(self) -> str:
        """`file: $.path, line 3`, as far as there is something to say."""
        path = f": {self.place.path}" if self.place.path else ""
        return f"{self.place.file}{path}{f', line {self.line}' if self.line else ''}"


def lint(subjects: Sequence[Subject], rules: Iterable[Rule], release: Release | None = None) -> tuple[Finding, ...]:
    """All findings, in the order of the subjects and of the table."""
    context = Context(tuple(subjects), release)
    return tuple(
        Finding(rule.id, spot.place, spot.line, spot.what, rule.reason, spot.remedy or rule.remedy)
        for subject in subjects
        for rule in rules
        for spot in rule.find(subject, context)
    )
