"""One machine under watch while checks use it: what it has shown since somebody last looked, and whether it is gone."""

from __future__ import annotations

import threading

from harness.deadline import Deadline
from harness.errors import GuestBroken, HarnessError
from harness.machine.console.badness import Finding
from harness.machine.machine import Machine

CATCH_UP = 2.0  # seconds a console that never falls silent may keep us from looking
LAST_WORDS = 2.0  # seconds a kernel that stopped may go on to say why, before the machine is ended


class Watched:
    """Remembers what was told of a machine, so that each bad line is told once. `news` may be asked after its end.

    A machine whose kernel has stopped is ended, so that ssh and everyone else who waits for it hears of it at once.
    """

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._ending = threading.Timer(LAST_WORDS, machine.process.kill)
        self._ending.daemon = True
        machine.console.at_final = self._ending.start
        self._told = 0
        self._told_journal = 0
        self._end: HarnessError | None = None
        self._is_closed = False
        self._is_final = False

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def news(self) -> list[Finding]:
        """Bad lines nobody was told of yet, those of the console first."""
        if not self._is_closed:
            self.machine.console.catch_up(Deadline(CATCH_UP))
        console, journal = self.machine.console.findings, self.machine.journal_findings
        fresh = [*console[self._told :], *journal[self._told_journal :]]
        self._told, self._told_journal = len(console), len(journal)
        self.machine.console.watcher.told()
        if self._is_final:
            return []  # a kernel that stopped says so more than once
        end = next((number for number, finding in enumerate(fresh) if finding.pattern.is_final), len(fresh))
        self._is_final = end < len(fresh)
        return fresh[: end + 1]

    def loss(self) -> HarnessError | None:
        """Why nobody can use it any more: its kernel stopped, or QEMU is gone. None while it goes on."""
        if (final := self.machine.console.watcher.final) is not None:
            return GuestBroken(final.describe(), where="console")
        if self._is_closed:
            return self._end
        if self.machine.console.has_ended or not self.machine.process.is_running:
            return self.machine.process.obituary()
        return None

    def accident(self) -> HarnessError | None:
        """As `loss`, but only what nobody can have wanted: one's own machine may well be told to power off."""
        loss = self.loss()
        if isinstance(loss, GuestBroken) or self._is_closed:
            return loss
        return loss if self.machine.process.has_died else None

    def close(self) -> None:
        """To be called before the machine is thrown away: from then on nothing new is seen of it."""
        self.machine.console.catch_up(Deadline(CATCH_UP))
        self._end = self.accident()
        self._is_closed = True
        self.machine.console.at_final = None
        self._ending.cancel()
