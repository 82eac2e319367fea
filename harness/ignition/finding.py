"""What a check of an Ignition config found: one place, one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]
Origin = Literal["schema", "type", "rule"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong or doubtful, at a JSON path such as `$.storage.files[0].mode`.

    `origin` says who objects: the published schema (a required key is missing), the parser (a value has the wrong
    type, so nothing else could be judged) or a rule of Ignition itself. `line` is 1-based, 0 where unknown.
    """

    path: str
    message: str
    severity: Severity = "error"
    origin: Origin = "rule"
    line: int = 0

    def __str__(self) -> str:
        line = f" (line {self.line})" if self.line else ""
        return f"{self.path}{line}: {self.message}"


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of one config, in the order of its lines."""

    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]

    @property
    def is_valid(self) -> bool:
        return not self.errors
