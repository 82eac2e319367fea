"""The guest as a test sees it: testinfra's vocabulary, and verbs for what a person at the machine could do to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from testinfra.backend.base import BaseBackend
from testinfra.host import Host

from harness.deadline import Deadline
from harness.machine.guest.channel import Completed
from harness.machine.guest.filesystems import LOOK, Filesystem, read_filesystems

REBOOT_TIME = 600.0  # seconds; a guest that cannot come back is known by its console long before


class Restarts(Protocol):
    """What a guest needs of its machine."""

    def run(self, script: str, deadline: Deadline | None = None) -> Completed: ...
    def reboot(self, deadline: Deadline) -> None: ...
    def soft_reboot(self, deadline: Deadline) -> None: ...
    def cut_power(self, deadline: Deadline) -> None: ...


class Guest(Host):  # type: ignore[misc]  # testinfra ships no types
    """testinfra's Host, which goes on after a reboot as if nothing had happened.

    `backend` is called for testinfra's way in whenever one is needed, because a connection does not outlive a reboot.
    """

    def __init__(self, machine: Restarts, backend: Callable[[], BaseBackend]) -> None:
        self._machine = machine
        self._way_in = backend
        self._own = frozenset((*self.__dict__, "_own"))

    def __repr__(self) -> str:
        return "<guest>"  # testinfra's would connect, and so fail, where a failing test is explained

    @property
    def backend(self) -> BaseBackend:
        """testinfra's backend of this moment."""
        return self._way_in()

    def reboot(self, within: float = REBOOT_TIME) -> None:
        """Reboot and wait until it is up again. Raises BootFailed, MachineFailed, DeadlinePassed."""
        self._machine.reboot(Deadline(within))
        self._forget()

    def soft_reboot(self, within: float = REBOOT_TIME) -> None:
        """Restart user space only; the kernel goes on. Raises NotInGuest where systemd is older than 254."""
        self._machine.soft_reboot(Deadline(within))
        self._forget()

    def cut_power(self, within: float = REBOOT_TIME) -> None:
        """Reset the machine without a word to the guest: what was not on its disk is lost. Waits until it is up."""
        self._machine.cut_power(Deadline(within))
        self._forget()

    def kernel_argument(self, name: str) -> str | None:
        """The value of an argument on the kernel's command line, the last one of several; a bare word is its own value.

        None where the argument is not there.
        """
        words = self._machine.run("cat /proc/cmdline").text.split()
        for word in reversed(words):
            key, equals, value = word.partition("=")
            if key == name:
                return value if equals else key
        return None

    def filesystems(self) -> tuple[Filesystem, ...]:
        """The mounted filesystems that have a journal: was it replayed at this boot, is anything damaged?"""
        return read_filesystems(self._machine.run(LOOK))

    def _forget(self) -> None:
        """testinfra remembers modules, and they what they learnt of a system that is no longer the running one."""
        for name in self.__dict__.keys() - self._own:
            del self.__dict__[name]
