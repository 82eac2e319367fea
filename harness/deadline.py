"""A point in time that is passed down, so that nested waits share one limit (see labgrid's Timeout)."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field

from harness.errors import DeadlinePassed, HostTooBusy

MOST_LOAD = 4.0  # waiting processes for each core, beyond which a guest may be late for no fault of its own


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
            raise overdue(f"waited {self.seconds:.0f} s for {awaited}{last}")

    def at_most(self, seconds: float) -> Deadline:
        """A shorter deadline within this one."""
        return Deadline(min(seconds, self.left))


def overdue(what: str, *, where: str = "", next_step: str = "") -> DeadlinePassed:
    """The error for something late: HostTooBusy where the host's load (a minute's average) explains it."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load <= MOST_LOAD * cores:
        return DeadlinePassed(what, where=where, next_step=next_step)
    busy = f"{what}, on a host with a load of {load:.0f} for {cores} cores"
    return HostTooBusy(busy, where=where, next_step=next_step or "run it again when less is going on")
