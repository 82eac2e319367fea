"""A journal as a guest in trouble can give it, and the failure that explains the others.

Two forms are read: `journalctl -o json`, which CoreOS itself writes to a virtio-serial port when its initramfs fails,
and `journalctl -o short`, which is what fits through a console. Anything else is passed over: a guest may send
anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MOST_ENTRIES = 200_000
LONGEST_WORDS = 600  # characters of a unit's words that go into a message
SHORT = re.compile(r"\w{3} [ \d]\d (?P<at>[\d:.]{8,15}) \S+ (?P<source>[^\s\[:]+)(?:\[(?P<pid>\d+)])?: (?P<message>.*)")
UNIT_FAILED = re.compile(r"(?P<unit>[\w@\\.:-]+\.\w+): (?:Failed with result '|Job \S+ (?P<late>timed out))")
MAIN_PROCESS = re.compile(r"Main process exited, (?P<how>code=\w+, status=\S+)")
STAGE = re.compile(r"ignition-(?P<stage>[a-z-]+)\.service")
LEVEL = re.compile(r"(?P<level>CRITICAL|EMERGENCY|ERR(?:OR)?)\s*:\s*")
OPERATION = re.compile(r"(?:\w+: )*(?:op\([0-9a-f]+\): )*\[failed\]\s+")
IGNITION_FAILED = "Ignition failed: "


@dataclass(frozen=True, slots=True)
class Entry:
    """One message. `at` is what the journal shows as its time; `pid` and `unit` are empty where it does not tell."""

    at: str
    source: str
    pid: str
    unit: str
    message: str

    @property
    def line(self) -> str:
        """As journalctl's short forms show it."""
        return f"{self.at} {self.source}{f'[{self.pid}]' if self.pid else ''}: {self.message}"


@dataclass(frozen=True, slots=True)
class Failure:
    """The unit that failed first. `stage` is Ignition's, empty for another unit; `words` are what the unit said."""

    unit: str
    stage: str
    words: str

    def describe(self) -> str:
        """What a person wants to know first, to be put behind the unit's name."""
        what = f"Ignition failed in its {self.stage} stage" if self.stage else "failed"
        return f"{what}: {self.words}" if self.words else what


def read_entries(journal: bytes) -> tuple[Entry, ...]:
    """The entries of either form, oldest first."""
    lines = (line for line in journal.split(b"\n")[:MOST_ENTRIES] if line.strip())
    return tuple(entry for line in lines if (entry := _entry(line)) is not None)


def first_failure(entries: Sequence[Entry]) -> Failure | None:
    """The first unit that failed, and what it said last; None where no unit did."""
    for index, entry in enumerate(entries):
        if entry.source == "systemd" and (failed := UNIT_FAILED.match(entry.message)) is not None:
            unit, before = failed["unit"], entries[:index]
            stage = STAGE.fullmatch(unit)
            words = _words_of_ignition(before) if stage else failed["late"] or _words_of(unit, before)
            return Failure(unit, stage["stage"] if stage else "", words[:LONGEST_WORDS])
    return None


def _words_of_ignition(entries: Sequence[Entry]) -> str:
    """The operation that failed where Ignition names one: what it says of the whole does not always have the path."""
    said = [e.message for e in entries if e.source == "ignition" and LEVEL.match(e.message)]
    plain = [LEVEL.sub("", message, count=1) for message in said]
    for message in plain:
        if (operation := OPERATION.match(message)) is not None:
            return message[operation.end() :]
    for message in plain:
        if message.startswith(IGNITION_FAILED):
            return _without_echo(message.removeprefix(IGNITION_FAILED))
    return plain[-1] if plain else ""


def _without_echo(message: str) -> str:
    """Each function of Ignition puts its own words before those it was told, often the same ones."""
    parts = message.split(": ")
    return ": ".join(part for index, part in enumerate(parts) if index == 0 or part != parts[index - 1])


def _words_of(unit: str, entries: Sequence[Entry]) -> str:
    """The last thing a unit's own processes said, else what systemd says of their end."""
    own = [entry.message for entry in entries if entry.unit == unit and entry.source != "systemd"]
    if own:
        return own[-1]
    ends = [MAIN_PROCESS.search(e.message) for e in entries if e.message.startswith(f"{unit}: ")]
    return next((end["how"] for end in reversed(ends) if end is not None), "")


def _entry(line: bytes) -> Entry | None:
    if line.lstrip().startswith(b"{"):
        return _from_json(line)
    short = SHORT.match(line.decode(errors="replace").strip())
    return short and Entry(short["at"], short["source"], short["pid"] or "", "", short["message"])


def _from_json(line: bytes) -> Entry | None:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or "MESSAGE" not in fields:
        return None  # `{}` ends CoreOS's stream
    source = _text(fields, "SYSLOG_IDENTIFIER") or _text(fields, "_COMM") or "unknown"
    pid = _text(fields, "_PID") or _text(fields, "SYSLOG_PID")
    stamp = _text(fields, "__MONOTONIC_TIMESTAMP")
    at = f"[{int(stamp) / 1e6:12.6f}]" if stamp.isdecimal() and len(stamp) < 18 else ""
    return Entry(at, source, pid, _text(fields, "_SYSTEMD_UNIT"), " ".join(_text(fields, "MESSAGE").split("\n")))


def _text(fields: dict[str, Any], name: str) -> str:
    """A field as text: what is no UTF-8 comes as a list of bytes, a field given twice as a list of texts."""
    value = fields.get(name)
    if isinstance(value, list):
        if all(isinstance(byte, int) and 0 <= byte < 256 for byte in value):
            return bytes(value).decode(errors="replace")
        value = value[0] if value else ""
    return value if isinstance(value, str) else ""


def lines_of(entries: Sequence[Entry]) -> Iterator[str]:
    """The lines of a journal file."""
    return (f"{entry.line}\n" for entry in entries)
