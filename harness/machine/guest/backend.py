"""testinfra without ssh: its commands run through the channel, or whatever else runs scripts as root in the guest."""

from __future__ import annotations

from typing import Any, Protocol

from testinfra.backend.base import BaseBackend, CommandResult

from harness.deadline import Deadline
from harness.machine.guest.channel import Completed
from harness.machine.guest.outcome import outcome

COMMAND_TIME = 120.0  # seconds a command may take unless the caller says otherwise


class RunsScripts(Protocol):
    """What the backend needs of a way into the guest: Channel, Agent and Machine have it."""

    def run(self, script: str, deadline: Deadline) -> Completed: ...


class ScriptBackend(BaseBackend):  # type: ignore[misc]  # testinfra ships no types
    """`Host(ScriptBackend(channel))` is a testinfra host; what runs is bash, as root, without standard input.

    `host.run("sleep 9", within=5)` gives one command its own time in seconds. A command that is late raises
    DeadlinePassed, a guest that is lost MachineFailed, as everywhere; testinfra would raise neither. By the channel a
    command that never ends keeps those after it waiting, for one script runs at a time.
    """

    NAME = "channel"

    def __init__(self, way: RunsScripts, name: str = "guest") -> None:
        super().__init__(name)
        self._way = way

    def run(self, command: str, *args: str, within: float = COMMAND_TIME, **_: Any) -> CommandResult:
        """Run a command; each of `args` takes the place of a `%s`, quoted."""
        script = self.get_command(command, *args)
        done = self._way.run(script, Deadline(within))
        return outcome(self, done.rc, self.encode(script), done.out, done.err)

    def get_encoding(self) -> str:
        """testinfra would ask for python3 in the guest, which CoreOS does not have."""
        return "UTF-8"
