"""Where in its text a JSON document says what: line numbers by JSON path, and keys that are written twice.

Reads text that a JSON parser has already accepted, so it only has to follow the punctuation.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from dataclasses import dataclass, field

TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


@dataclass(slots=True)
class _Level:
    path: str
    is_object: bool
    index: int = 0
    key: str | None = None
    seen: set[str] = field(default_factory=set)

    def here(self) -> str:
        if self.is_object:
            return f"{self.path}.{self.key}"
        return f"{self.path}[{self.index}]"


@dataclass(frozen=True, slots=True)
class Places:
    """`lines` maps a JSON path to the 1-based line of its value; `twice` lists the paths of repeated keys."""

    lines: dict[str, int]
    twice: tuple[str, ...]

    def line(self, path: str) -> int:
        """The line of a path, or of its nearest parent that is in the text; 0 where there is none."""
        while path:
            if path in self.lines:
                return self.lines[path]
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return 0


def locate(text: str) -> Places:
    """Find every value of a valid JSON document."""
    line_ends = [match.start() for match in re.finditer("\n", text)]
    lines: dict[str, int] = {}
    twice: list[str] = []
    stack: list[_Level] = []
    expects_key = False
    for token in TOKEN.finditer(text):
        word = token[0]
        if word in "}]":
            stack.pop()
            expects_key = False
        elif word == ",":
            stack[-1].index += 1
            expects_key = stack[-1].is_object
        elif word == ":":
            expects_key = False
        elif expects_key:
            level = stack[-1]
            level.key = json.loads(word, strict=False)
            if level.key in level.seen:
                twice.append(level.here())
            level.seen.add(str(level.key))
        else:
            path = stack[-1].here() if stack else "$"
            lines[path] = bisect_left(line_ends, token.start()) + 1
            if word in "{[":
                stack.append(_Level(path, is_object=word == "{"))
                expects_key = word == "{"
    return Places(lines, tuple(twice))
