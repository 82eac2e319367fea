"""Badness: console and journal lines that prove a guest is broken, as data (badness.toml), and what finds them.

A `Watcher` is fed whole lines and remembers what it found; it raises nothing, because the thread that feeds it must
go on draining the guest's console.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from harness.errors import BadInput

Stream = Literal["console", "journal"]
Severity = Literal["fail", "warn"]

TABLE = Path(__file__).with_name("badness.toml")
MOST_FINDINGS = 200  # remembered of each severity: a guest that repeats itself must not fill our memory
LONGEST_LINE = 400  # characters of a line that are kept as evidence
# What systemd says of a unit that failed: the first of these usually explains an emergency shell that comes later.
FAILURE = re.compile(r"\[FAILED\]|\[ TIME \] Timed out|systemd\[1\]: Failed to start |: Failed with result ")
STAMP = re.compile(r"^ *\d+\.\d{3} ")  # what the console log puts before each line
FAILURE_HINTS = ("FAILED", "Failed ", "Timed out")


@dataclass(frozen=True, slots=True)
class Pattern:
    """One kind of bad line; see the head of badness.toml for the fields."""

    id: str
    regex: re.Pattern[str]
    contains: tuple[str, ...]
    reason: str
    where: frozenset[Stream]
    severity: Severity
    times: int = 1
    is_final: bool = False

    def matches(self, line: str) -> bool:
        return any(hint in line for hint in self.contains) and self.regex.search(line) is not None


@dataclass(frozen=True, slots=True)
class Finding:
    """One bad line: which pattern it met, and the line itself. `earlier` is the first failure reported before it."""

    pattern: Pattern
    line: str
    stream: Stream
    earlier: str = ""

    @property
    def is_fatal(self) -> bool:
        return self.pattern.severity == "fail"

    def describe(self) -> str:
        """The cause line of a report."""
        after = f", after: {self.earlier}" if self.earlier and self.earlier != self.line else ""
        return f"{self.pattern.reason} [{self.pattern.id}]: {self.line}{after}"


@cache
def known_patterns() -> tuple[Pattern, ...]:
    """The patterns of badness.toml, in its order."""
    rows = tomllib.loads(TABLE.read_text(encoding="utf-8"))["pattern"]
    return tuple(
        Pattern(
            id=row["id"],
            regex=re.compile(row["regex"]),
            contains=tuple(row["contains"]),
            reason=row["reason"],
            where=frozenset(row["where"]),
            severity=row["severity"],
            times=row.get("times", 1),
            is_final=row.get("final", False),
        )
        for row in rows
    )


def check_ids(ids: Iterable[str]) -> None:
    """Raise BadInput for an id that no pattern has."""
    known = [pattern.id for pattern in known_patterns()]
    if unknown := [name for name in ids if name not in known]:
        raise BadInput(f"no badness pattern is called {unknown[0]!r}", next_step=f"known: {', '.join(known)}")


class Watcher:
    """Finds bad lines in one stream. Patterns named in `allowed` are expected here and never reported."""

    def __init__(
        self, stream: Stream, *, allowed: Iterable[str] = (), patterns: Sequence[Pattern] | None = None
    ) -> None:
        self.allowed = frozenset(allowed)
        candidates = known_patterns() if patterns is None else patterns
        self.stream = stream
        self.findings: list[Finding] = []
        self._fatal: Finding | None = None
        self._final: Finding | None = None
        self._kept: dict[Severity, int] = {"fail": 0, "warn": 0}
        self._patterns = tuple(p for p in candidates if stream in p.where and p.id not in self.allowed)
        self._hits: dict[str, int] = {}
        self._first_failure = ""
        self._peeked: set[str] = set()  # patterns already counted for the unfinished line

    @property
    def fatal(self) -> Finding | None:
        """The first finding that ends a boot, or None."""
        return self._fatal

    @property
    def final(self) -> Finding | None:
        """The first finding after which the guest runs nothing any more, or None."""
        return self._final

    def told(self) -> None:
        """Somebody was told of all that was found: it stays found, but no longer ends a wait."""
        self._fatal = None

    def start_over(self) -> None:
        """Another boot begins: what was found stays found, but it no longer ends a wait."""
        self._fatal, self._final, self._first_failure = None, None, ""

    def feed(self, lines: Sequence[str], unfinished: str = "") -> None:
        """Look at complete lines and at the one that has no end yet (a prompt); nothing is counted twice.

        A pattern whose words are nowhere in the batch costs one substring search.
        """
        batch = "\n".join((*lines, unfinished))
        if not self._first_failure and any(hint in batch for hint in FAILURE_HINTS):
            self._first_failure = next((line.strip() for line in lines if FAILURE.search(line)), "")[:LONGEST_LINE]
        peeked, self._peeked = self._peeked, set()
        candidates = [p for p in self._patterns if any(hint in batch for hint in p.contains)]
        for number, line in enumerate(lines if candidates else ()):
            for pattern in candidates:
                if pattern.matches(line) and not (number == 0 and pattern.id in peeked):
                    self._count(pattern, line)
        for pattern in candidates:
            if pattern.matches(unfinished):
                self._peeked.add(pattern.id)
                if lines or pattern.id not in peeked:
                    self._count(pattern, unfinished)
        if not lines:
            self._peeked |= peeked

    def _count(self, pattern: Pattern, line: str) -> None:
        hits = self._hits[pattern.id] = self._hits.get(pattern.id, 0) + 1
        if hits < pattern.times:
            return
        finding = Finding(pattern, line.strip()[:LONGEST_LINE], self.stream, self._first_failure)
        if self._kept[pattern.severity] < MOST_FINDINGS:
            self._kept[pattern.severity] += 1
            self.findings.append(finding)
        if finding.is_fatal and self._fatal is None:
            self._fatal = finding
        if pattern.is_final and self._final is None:
            self._final = finding


def findings_in(log: Path, stream: Stream) -> tuple[Finding, ...]:
    """Bad lines of a console log or journal that was recorded earlier; time stamps at the line's start are left out."""
    watcher = Watcher(stream)
    with log.open(encoding="utf-8", errors="replace") as recorded:
        for line in recorded:
            watcher.feed([STAMP.sub("", line.rstrip("\n"))])
    return tuple(watcher.findings)
