"""A point in time that is passed down, so that nested waits share one limit (see labgrid's Timeout)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from harness.errors import DeadlinePassed


@dataclass(frozen=True, slots=True)
class Deadline:
    """A limit in seconds that starts to run when it is made.

    >>> Deadline(60).expired
    False
    """

    seconds: float
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds left, never negative."""
        return max(0.0, self.started + self.seconds - time.monotonic())

    @property
    def expired(self) -> bool:
        return self.left == 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    def check(self, awaited: str, seen: str = "") -> None:
        """Raise DeadlinePassed naming what was awaited, once no time is left."""
        if self.expired:
            last = f"; last seen: {seen}" if seen else ""
            raise DeadlinePassed(f"waited {self.seconds:.0f} s for {awaited}{last}")

    def at_most(self, seconds: float) -> Deadline:
        """A shorter deadline within this one."""
        return Deadline(min(seconds, self.left))
