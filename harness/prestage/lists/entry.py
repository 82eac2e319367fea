"""One entry of a list as its file has it, before anything is believed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """A pull spec as written, and what its file says of it.

    `path` is the JSON path of a value, `name` an operator's, `tag` one to give; `line` is 1-based.
    """

    text: str
    line: int
    path: str = ""
    name: str = ""
    tag: str = ""
    is_release: bool = False
