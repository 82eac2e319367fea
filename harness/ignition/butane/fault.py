"""Where in a Butane config something stands, and what is wrong there.

A `Fault` never reaches a user: `translate` turns it into InvalidIgnition with the file's name.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a text, both numbers counted from 1."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Remark:
    """Something doubtful that does not keep a config from being translated."""

    at: Mark
    message: str


class Fault(Exception):
    """Why a config cannot be translated: one cause at one place."""

    def __init__(self, what: str, at: Mark, next_step: str = "") -> None:
        super().__init__(what)
        self.what, self.at, self.next_step = what, at, next_step
