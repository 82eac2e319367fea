"""What a run found, as values, and the one sentence it comes to.

Only the class of a failure decides what may be said: `image` and `boot` speak against the image, `infra` and `test`
speak against us and leave the image unjudged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from harness.errors import VerdictClass

Outcome = Literal["passed", "failed", "skipped", "error", "expected", "warned"]
Standing = Literal["holds", "expired", "no longer fails", "matches no test", "did not run", "elsewhere"]
State = Literal["good", "bad", "undecided"]

AGAINST_THE_IMAGE: frozenset[VerdictClass] = frozenset({"image", "boot"})


@dataclass(frozen=True, slots=True)
class Attempt:
    """A first try that was given a second; fields as in CheckResult."""

    verdict_class: VerdictClass
    cause: str
    evidence: tuple[str, ...] = ()
    console: tuple[str, ...] = ()
    console_log: str = ""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check's result. `error` is a failure outside the check itself: in a fixture, in collection, of a worker.

    `expected` and `warned` are failures that the expectations file foretold (harness.report.expectations).
    """

    nodeid: str
    outcome: Outcome
    duration: float = 0.0  # seconds, fixtures included
    verdict_class: VerdictClass | None = None  # of failures only
    cause: str = ""  # one line; the reason, for skips
    evidence: tuple[str, ...] = ()  # lines
    console: tuple[str, ...] = ()  # at most twenty lines around the cause
    console_log: str = ""  # where those lines come from, relative to the run folder
    replay: str = ""  # a shell command
    sections: tuple[tuple[str, str], ...] = ()  # title and text captured while it ran
    lost_by: str = ""  # the check that lost the machine this one needed
    expectation: str = ""  # tracker, owner and last day of the entry that foretold this failure
    first_try: Attempt | None = None  # what failed before this, where this is the second try
    warnings: tuple[str, ...] = ()  # suspect lines of its machines that are no failure

    @property
    def is_failure(self) -> bool:
        return self.outcome in {"failed", "error"}

    @property
    def file(self) -> str:
        return self.nodeid.partition("::")[0]

    @property
    def name(self) -> str:
        return self.nodeid.partition("::")[2] or self.nodeid


@dataclass(frozen=True, slots=True)
class PartitionFacts:
    """One partition for the picture; bytes."""

    number: int
    label: str
    start: int
    size: int
    filesystem: str = ""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image under test. Digests are SHA-256 in hex, empty where nobody computed them."""

    name: str
    profile: str
    path: str = ""
    disk_sha256: str = ""
    file_sha256: str = ""
    disk_size: int = 0  # bytes
    is_unlocked: bool = False  # built from packages resolved anew, not from the committed lock
    partitions: tuple[PartitionFacts, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """A milestone of a boot and when it was reached, in seconds since power-on."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class MachineLogs:
    """What a machine left in the run folder: files relative to it, and its boot's milestones in order of time.

    `kept_from` says when an earlier run booted it, where this one only restored it.
    """

    name: str
    files: tuple[str, ...]
    stages: tuple[Stage, ...] = ()
    kept_from: str = ""


@dataclass(frozen=True, slots=True)
class ExpectationNote:
    """How an entry of the expectations file stands after a run, and that as one line."""

    standing: Standing
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sentence on top of the report."""

    state: State
    headline: str  # two or three words
    sentence: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the checks: everything a report shows."""

    started: datetime  # UTC
    seconds: float
    command: str
    results: tuple[CheckResult, ...]
    images: tuple[ImageFacts, ...] = ()
    machines: tuple[MachineLogs, ...] = ()
    host: Mapping[str, str] = field(default_factory=dict)
    selection: str = ""  # the options that left checks out; "" when all were asked for
    interrupted: str = ""  # why it ended early; "" when it did not
    expectations: tuple[ExpectationNote, ...] = ()

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        return tuple(result for result in self.results if result.is_failure)

    @property
    def counts(self) -> Counter[Outcome]:
        return Counter(result.outcome for result in self.results)


def judge(run: Run) -> Verdict:
    """The verdict of a run. Without an image under test it speaks of checks only."""
    failures = most_telling_first(run.failures)
    against = [result for result in failures if result.verdict_class in AGAINST_THE_IMAGE]
    foretold = run.counts["expected"] + run.counts["warned"]
    asked = len(run.results) - run.counts["skipped"] - foretold
    if run.images and against:
        lost = [result for result in failures if result.lost_by]
        return Verdict("bad", "MUST NOT SHIP", _failed([*against, *lost], asked))
    if failures and not run.images:
        return Verdict("bad", "FAILED", _failed(failures, asked))
    if failures:
        return Verdict("undecided", "UNDECIDED", f"the image was not fully judged: {_failed(failures, asked)}")
    if run.interrupted:
        return Verdict("undecided", "UNDECIDED", f"the run ended early: {run.interrupted}")
    if not asked:
        left = "skipped or failed as expected" if foretold else "skipped"
        return Verdict("undecided", "UNDECIDED", f"nothing was checked, of {_checks(len(run.results))} all were {left}")
    passed = f"all {_checks(asked)} passed" if asked > 1 else "the one check passed"
    if foretold:
        passed += f", {foretold} failed as expected"
    if skipped := run.counts["skipped"]:
        passed += f", {skipped} skipped"
    if not run.images:
        return Verdict("good", "PASSED", passed)
    if run.selection:
        return Verdict("undecided", "UNDECIDED", f"{passed}, but only a part was asked for ({run.selection})")
    return Verdict("good", "MAY SHIP", passed)


def most_telling_first(failures: Sequence[CheckResult]) -> list[CheckResult]:
    """Boot failures explain the rest, then come the image's own; our own failures last. Stable within a class.

    Checks that were never made because an earlier one lost their machine come after everything.
    """
    order: Mapping[VerdictClass | None, int] = {"boot": 0, "image": 1, "infra": 2, "test": 3, None: 4}
    return sorted(failures, key=lambda result: (bool(result.lost_by), order[result.verdict_class]))


def _failed(failures: Sequence[CheckResult], asked: int) -> str:
    lost = sum(bool(result.lost_by) for result in failures)
    beside = f", {lost} could not be made" if lost else ""
    return f"{len(failures) - lost} of {_checks(asked)} failed{beside}; first cause: {failures[0].cause}"


def _checks(count: int) -> str:
    return f"{count} check" if count == 1 else f"{count} checks"
