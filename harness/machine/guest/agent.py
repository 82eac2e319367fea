"""Commands in a guest whose image runs qemu-guest-agent: JSON, one object a line, on a virtio-serial port of its own.

It needs no Ignition config, so it is a way into machines that we could give none. Images may forbid `guest-exec` (RHEL
does by default); a ping still tells that the guest lives. Protocol: QEMU's qga/qapi-schema.json. What arrives is the
guest's and may be anything; no answer may exceed 64 MiB.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import socket
import time
from collections.abc import Callable
from typing import Any

from harness.deadline import Deadline, overdue
from harness.errors import HarnessError, MachineFailed
from harness.machine.guest.channel import Completed

CHUNK = 256 * 1024  # bytes
LONGEST_ANSWER = 64 * 2**20  # bytes of one line
PING_TIME = 2.0  # seconds in which an agent that runs has answered, a slow host's too
SENTINEL = b"\xff"  # in no UTF-8 text: throws away what was half said before, on both sides
BETWEEN_LOOKS = (0.02, 0.5)  # seconds, the first and the longest: the agent tells an end only to those who ask
# The script is standard input, because an argument may have but 128 KiB; what it runs shall have none.
READ_SCRIPT = 'script=$(cat); exec </dev/null; eval "$script"'
SIGNALLED = 128  # what a shell adds to the number of a signal that killed a program


class Agent:
    """The host's end of an agent's port on a connected socket. For one thread at a time.

    `obituary` is asked for the error to raise when the socket ends while somebody waits.
    """

    def __init__(
        self,
        connection: socket.socket,
        obituary: Callable[[], HarnessError] = lambda: MachineFailed("the guest agent's port was closed"),
    ) -> None:
        self._socket = connection
        self._obituary = obituary
        self._pending = bytearray()

    def answers(self, deadline: Deadline | None = None) -> bool:
        """Whether an agent runs in the guest: it answers within two seconds, unless the caller gives it longer."""
        try:
            self._synchronise(deadline or Deadline(PING_TIME))
        except HarnessError:
            return False
        return True

    def run(self, script: str, deadline: Deadline) -> Completed:
        """Run a bash script as root in the guest.

        A non-zero exit code is a result, not an error. Raises DeadlinePassed, or MachineFailed where the agent
        refuses, says nonsense, cuts the output (at 16 MiB) or is gone.
        """
        self._synchronise(deadline)
        arguments = {
            "path": "bash",
            "arg": ["-c", READ_SCRIPT],
            "input-data": base64.b64encode(script.encode()).decode(),
            "capture-output": True,
        }
        started = self._ask("guest-exec", arguments, deadline)
        status = self._await_end(_field(started, "pid", int), script, deadline)
        if status.get("out-truncated") or status.get("err-truncated"):
            raise MachineFailed("the guest agent cut the output", where="guest", next_step="write less, or to a file")
        rc = SIGNALLED + _field(status, "signal", int) if "signal" in status else _field(status, "exitcode", int)
        return Completed(rc, _decoded(status, "out-data"), _decoded(status, "err-data"))

    def _await_end(self, pid: int, script: str, deadline: Deadline) -> dict[str, Any]:
        pause, longest = BETWEEN_LOOKS
        while True:
            status = self._ask("guest-exec-status", {"pid": pid}, deadline)
            if _field(status, "exited", bool):
                return status
            if deadline.expired:
                first_line = script.strip().partition("\n")[0][:120]
                raise overdue(f"waited {deadline.seconds:.0f} s for the guest to run {first_line!r}")
            time.sleep(min(pause, deadline.left))
            pause = min(2 * pause, longest)

    def _synchronise(self, deadline: Deadline) -> None:
        """Agree on where the next answer starts: either side may have been cut off in mid-sentence."""
        number = secrets.randbits(31)
        self._say(SENTINEL + _command("guest-sync-delimited", {"id": number}), deadline)
        while True:
            heard = self._hear(deadline, "the guest agent to answer")
            _, mark, answer = heard.rpartition(SENTINEL)
            if mark and _parsed(answer).get("return") == number:
                return

    def _ask(self, command: str, arguments: dict[str, object], deadline: Deadline) -> dict[str, Any]:
        self._say(_command(command, arguments), deadline)
        answer = _parsed(self._hear(deadline, f"the guest agent to answer {command}"))
        if isinstance(answer.get("return"), dict):
            return dict(answer["return"])
        error = answer.get("error")
        reason = error.get("desc", "it gives no reason") if isinstance(error, dict) else "it said something else"
        raise MachineFailed(f"the guest agent refuses {command}: {str(reason)[:200]}", where="guest")

    def _say(self, line: bytes, deadline: Deadline) -> None:
        self._socket.settimeout(max(0.01, deadline.left))
        try:
            self._socket.sendall(line)
        except TimeoutError as slow:
            raise overdue(f"waited {deadline.seconds:.0f} s for the guest agent to listen") from slow
        except OSError as cause:
            raise self._obituary() from cause

    def _hear(self, deadline: Deadline, awaited: str) -> bytes:
        """One line, without its end."""
        while (end := self._pending.find(b"\n")) < 0:
            if len(self._pending) > LONGEST_ANSWER:
                self._pending.clear()
                raise MachineFailed("the guest agent's answer does not end", where="guest")
            self._socket.settimeout(max(0.01, deadline.left))
            try:
                chunk = self._socket.recv(CHUNK)
            except TimeoutError as slow:
                raise overdue(f"waited {deadline.seconds:.0f} s for {awaited}") from slow
            except OSError:
                chunk = b""
            if not chunk:
                raise self._obituary()
            self._pending += chunk
        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        return line


def _command(name: str, arguments: dict[str, object]) -> bytes:
    return json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    """The object in a line; an empty one where there is none."""
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _field(answer: dict[str, Any], name: str, kind: type[int]) -> int:
    value = answer.get(name)
    if not isinstance(value, kind):
        raise MachineFailed(f"the guest agent's answer has no {name}", where="guest")
    return value


def _decoded(status: dict[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(str(status.get(name, "")), validate=True)
    except (binascii.Error, ValueError) as cause:
        raise MachineFailed(f"the guest agent's {name} is not base64", where="guest") from cause
