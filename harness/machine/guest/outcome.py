"""What came of a command that testinfra ran, told in one line where a check stops over it."""

from __future__ import annotations

import shlex

from testinfra.backend.base import BaseBackend, CommandResult

LONGEST_COMMAND, LONGEST_SAID = 160, 300  # characters
SHELL = "/bin/sh -c"  # what testinfra puts around a command for ssh


class Outcome(CommandResult):  # type: ignore[misc]  # testinfra ships no types
    """`Unexpected exit code 125 for podman run x: Error: no such image`, not the dump of an object."""

    def __str__(self) -> str:
        said = (_last_line(self.stderr) or _last_line(self.stdout) or "it said nothing")[:LONGEST_SAID]
        asked = " ".join(_asked(self.command.decode(errors="replace")).split())
        if len(asked) > LONGEST_COMMAND:
            asked = asked[: LONGEST_COMMAND - 1] + "…"
        return f"{asked}: {said}"


def outcome(backend: BaseBackend, rc: int, command: bytes, out: bytes, err: bytes) -> Outcome:
    """As BaseBackend.result."""
    return Outcome(backend=backend, exit_status=rc, command=command, _stdout=out, _stderr=err)


def _asked(command: str) -> str:
    """The command as the check wrote it, without the shell and the sudo around it."""
    try:
        words = shlex.split(command) if SHELL in command else []
    except ValueError:
        words = []
    return words[-1] if words else command


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""
