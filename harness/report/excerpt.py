"""The twenty lines of a console log that show a failure's cause."""

from __future__ import annotations

import re
from pathlib import Path

LINES = 20
READ_LIMIT = 8 * 2**20  # bytes from the end of a log; a guest that talks more has said the cause more than once
LONGEST_LINE = 400  # characters
SHORTEST_CLUE = 12  # characters; shorter lines are found in any cause by accident
CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f]")
TIME_STAMP = re.compile(r"^\s*\d+\.\d+ ")  # what harness.machine.console.console puts before each line


def console_excerpt(log: Path, cause: str, lines: int = LINES, *, only_quoted: bool = False) -> tuple[str, ...]:
    """The lines around the one that the cause quotes, or the last ones. Empty where there is no log to read.

    With `only_quoted` it is empty, too, where the cause quotes none.
    """
    try:
        with log.open("rb") as stream:
            stream.seek(max(0, log.stat().st_size - READ_LIMIT))
            text = stream.read(READ_LIMIT).decode(errors="replace")
    except OSError:
        return ()
    return excerpt(text, cause, lines, only_quoted=only_quoted)


def excerpt(text: str, cause: str, lines: int = LINES, *, only_quoted: bool = False) -> tuple[str, ...]:
    """As `console_excerpt`, of a text.

    >>> excerpt("1.0 booting", "the cause quotes no line")
    ('1.0 booting',)
    """
    rows = [plain(row) for row in text.splitlines()]
    while rows and not rows[-1].strip():
        rows.pop()
    quoted = [index for index, row in enumerate(rows) if _is_quoted(row, cause)]
    if only_quoted and not quoted:
        return ()
    end = len(rows) if not quoted else min(len(rows), quoted[-1] + 1 + lines // 4)
    return tuple(row[:LONGEST_LINE] for row in rows[max(0, end - lines) : end])


def plain(text: str) -> str:
    """Text without colours, cursor movements and other control characters, tabs and line ends kept."""
    return CONTROL.sub("", text)


def _is_quoted(row: str, cause: str) -> bool:
    said = TIME_STAMP.sub("", row, count=1).strip()
    return len(said) >= SHORTEST_CLUE and said in cause
