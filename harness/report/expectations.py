"""The expectations file: failures that are known, who minds them, and until when. kola's denylist, grown up.

    [[expectation]]
    pattern = "suites/rhcos/test_first_boot.py::test_backup_gpt*"   # node id; * and ? are wild, [ is itself
    tracker = "https://issues.example.com/77"
    owner = "storage team"
    expires = 2026-12-31          # the last day on which it holds (UTC)
    reason = "growpart leaves the backup table behind"              # these are optional
    cause = "backup header"       # only failures whose cause line contains this
    warn = true                   # it fails now and then: a failure is a warning, a pass no news
    arch = ["aarch64"]            # scope: any of the patterns given; also stream, profile, machine
    profile = ["rhcos-4*"]

A pattern means what it means to pytest: a file stands for its tests, a test for all its parameters. Failures of class
`infra` are never expected: they say nothing of what the entry is about.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from harness.errors import BadInput
from harness.report.verdict import CheckResult, ExpectationNote, Standing

FILE = "expectations.toml"
LARGEST = 4 * 2**20  # bytes
TABLE = "expectation"
SCOPES = ("arch", "stream", "profile", "machine")
URL = re.compile(r"https?://[^\s/]+\S*")


class Expectation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One entry; see the head of this module. `number` counts from 1 and is not in the file."""

    pattern: str
    tracker: str
    owner: str
    expires: date
    reason: str = ""
    cause: str = ""
    warn: bool = False
    arch: tuple[str, ...] = ()
    stream: tuple[str, ...] = ()
    profile: tuple[str, ...] = ()
    machine: tuple[str, ...] = ()
    number: int = 0

    @property
    def summary(self) -> str:
        """Whom to ask, and how long it is good for."""
        return f"{self.tracker}, owner {self.owner}, until {self.expires}"

    def names(self, nodeid: str) -> bool:
        """Whether this is one of its tests.

        >>> one = Expectation(pattern="a.py::test_x", tracker="", owner="", expires=date.max)
        >>> one.names("a.py::test_x[/usr]"), one.names("a.py::test_xy")
        (True, False)
        """
        return _glob(self.pattern, r"(?:(?:/|::|\[|@).*)?").fullmatch(nodeid) is not None

    def is_expired(self, today: date) -> bool:
        return today > self.expires


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a run is about, in the words that scopes are matched with; empty where nothing is known."""

    arch: Collection[str] = ()
    stream: Collection[str] = ()
    profile: Collection[str] = ()
    machine: Collection[str] = ()

    def are_in_scope_of(self, entry: Expectation) -> bool:
        """Each scope that the entry gives must match something here; what is not known is out of scope."""
        for scope in SCOPES:
            wanted: Sequence[str] = getattr(entry, scope)
            if wanted and not any(_glob(one).fullmatch(word) for one in wanted for word in getattr(self, scope)):
                return False
        return True


def read_expectations(path: Path) -> tuple[Expectation, ...]:
    """The entries of a file, in its order. Raises BadInput naming entry and key."""
    try:
        with path.open("rb") as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise BadInput(f"is larger than {LARGEST} bytes", where=str(path))
        document = tomllib.loads(text.decode())
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path), next_step="see --expectations") from cause
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as cause:
        raise BadInput(f"is not TOML: {str(cause).splitlines()[0]}", where=str(path)) from cause
    rows = document.get(TABLE, [])
    if unknown := [name for name in document if name != TABLE]:
        raise BadInput(f"unknown key {unknown[0]!r}", where=str(path), next_step=f"entries are [[{TABLE}]]")
    if not isinstance(rows, list):
        raise BadInput(f"{TABLE} is not a list", where=str(path), next_step=f"begin each entry with [[{TABLE}]]")
    return tuple(_entry(row, number, path) for number, row in enumerate(rows, 1))


def foretold(
    entries: Sequence[Expectation], nodeid: str, cause: str, circumstances: Circumstances, today: date
) -> Expectation | None:
    """The first entry that holds today and expects this failure."""
    for entry in entries:
        is_meant = entry.names(nodeid) and entry.cause in cause and not entry.is_expired(today)
        if is_meant and circumstances.are_in_scope_of(entry):
            return entry
    return None


@dataclass(frozen=True, slots=True)
class Census:
    """What a run knows when it ends: the tests it found and was asked to look at, what became of them, and when."""

    results: Mapping[str, CheckResult]
    named: Collection[int]  # numbers of entries that name a test which was collected, even if it was not run
    asked: Sequence[str] = ("",)  # node ids or folders that pytest was given
    circumstances: Circumstances = field(default_factory=Circumstances)
    today: date = date.min


def note_of(entry: Expectation, census: Census) -> ExpectationNote:
    """How one entry stands at the end of a run."""
    told = {
        "expired": f"expired on {entry.expires}, owner {entry.owner}, tracker {entry.tracker}",
        "no longer fails": f"no longer fails: remove it (owner {entry.owner}, tracker {entry.tracker})",
        "matches no test": f"matches no test (owner {entry.owner}, tracker {entry.tracker})",
        "holds": f"holds until {entry.expires}: {entry.tracker}, owner {entry.owner}",
        "did not run": "its tests were not run",
        "elsewhere": "is about other circumstances",
    }
    standing = _standing(entry, census)
    words = told[standing]
    if standing == "no longer fails" and entry.warn:
        words = f"did not fail this time ({entry.summary})"
    return ExpectationNote(standing, f"expectation {entry.number} ({entry.pattern}) {words}")


def _standing(entry: Expectation, census: Census) -> Standing:
    if not census.circumstances.are_in_scope_of(entry):
        return "elsewhere"
    if entry.number not in census.named:
        if not _was_asked_for(entry.pattern, census.asked):
            return "did not run"
        return "expired" if entry.is_expired(census.today) else "matches no test"
    if entry.is_expired(census.today):
        return "expired"
    outcomes = {result.outcome for nodeid, result in census.results.items() if entry.names(nodeid)}
    if outcomes & {"expected", "warned", "failed", "error"}:
        return "holds"
    return "no longer fails" if "passed" in outcomes else "did not run"


def _was_asked_for(pattern: str, asked: Sequence[str]) -> bool:
    """Whether a pattern's tests, if there were any, lie where pytest was told to look."""
    start = re.split(r"[*?]", pattern, maxsplit=1)[0]
    return any(start.startswith(place) or place.startswith(start) for place in asked)


def _entry(row: Any, number: int, path: Path) -> Expectation:
    where = f"{path}: entry {number}"
    if not isinstance(row, dict):
        raise BadInput("is not a table", where=where)
    if "number" in row:
        raise BadInput("unknown key 'number'", where=where)
    try:
        entry = msgspec.convert({**row, "number": number}, Expectation)
    except msgspec.ValidationError as cause:
        raise BadInput(_in_words(str(cause)), where=where) from cause
    for key in ("pattern", "owner"):
        value: str = getattr(entry, key)
        if not value.strip() or not value.isprintable():
            raise BadInput("is not a line of text", where=f"{where}: {key}")
    if not URL.fullmatch(entry.tracker):
        raise BadInput(f"{entry.tracker!r} is no http(s) address", where=f"{where}: tracker")
    return entry


def _in_words(complaint: str) -> str:
    """What msgspec says, with the key first.

    >>> _in_words("Expected `bool`, got `str` - at `$.warn`")
    'warn: Expected `bool`, got `str`'
    >>> _in_words("Object missing required field `owner`")
    "the key 'owner' is missing"
    """
    said, _, at = complaint.partition(" - at `$")
    if missing := re.fullmatch(r"Object missing required field `(\w+)`", said):
        return f"the key {missing[1]!r} is missing"
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", said):
        return f"unknown key {unknown[1]!r}"
    key = at.strip("`").lstrip(".")
    return f"{key}: {said}" if key else said


def _glob(pattern: str, tail: str = "") -> re.Pattern[str]:
    wild = {"*": ".*", "?": "."}
    letters = re.sub(r"\*+", "*", pattern)
    return re.compile("".join(wild.get(letter) or re.escape(letter) for letter in letters) + tail, re.DOTALL)
