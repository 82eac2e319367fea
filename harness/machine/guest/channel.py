"""Commands in the guest without ssh: framed lines over a virtio-serial port, answered by a bash loop in the guest.

The host sends the line `<id> =<a bash script, escaped>`, the guest answers `<id> <exit code> <stdout> <stderr>`, each
output either `=<escaped text>` or base64, and says `ready` when its loop starts. The guest's side comes by Ignition
(harness.ignition.access). What arrives is the guest's and may be anything: lines that are not an answer we wait for
are dropped, and no line may exceed 64 MiB.
"""

from __future__ import annotations

import base64
import binascii
import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from harness.deadline import Deadline, overdue
from harness.errors import HarnessError, MachineFailed
from harness.pulse import Pulse

CHUNK = 256 * 1024  # bytes
LONGEST_ANSWER = 64 * 2**20  # bytes of one line
SEND_TIMEOUT = 30.0  # seconds; a guest in its firmware reads nothing yet
ANSWER = re.compile(rb"(\d{1,12}) (-?\d{1,4}) (=[^ ]*|[A-Za-z0-9+/=]*) (=[^ ]*|[A-Za-z0-9+/=]*)")
ESCAPED = re.compile(rb"\\([\\nsr])")
MEANING = {b"\\": b"\\", b"n": b"\n", b"s": b" ", b"r": b"\r"}
READY = b"ready"


@dataclass(frozen=True, slots=True)
class Completed:
    """What a script did: exit code and output."""

    rc: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        """Standard output, decoded and without the last line end."""
        return self.out.decode(errors="replace").rstrip("\n")


class Channel:
    """The host's end of the channel on a connected socket; a thread of its own reads it.

    `obituary` is asked for the error to raise when the socket ends while somebody waits.
    """

    def __init__(
        self,
        connection: socket.socket,
        pulse: Pulse | None = None,
        obituary: Callable[[], HarnessError] = lambda: MachineFailed("the channel was closed"),
    ) -> None:
        self.pulse = pulse or Pulse()
        self.obituary = obituary
        self.greetings = 0  # how often the guest's loop has started
        self.has_ended = False
        self._next_id = 1
        self._awaited: str | None = None
        self._answer: Completed | None = None
        self._socket = connection
        self._socket.settimeout(None)
        self._thread = threading.Thread(target=self._read, name="channel", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. May be called more than once."""
        with suppress(OSError):  # the other end may have gone first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=10)
        self._socket.close()

    def await_ready(self, deadline: Deadline, greetings: int = 1, check: Callable[[], None] = lambda: None) -> None:
        """Wait until the guest's loop has started `greetings` times; `check` may raise to end the wait."""

        def look() -> bool | None:
            if self.greetings >= greetings:
                return True
            check()
            if self.has_ended:
                raise self.obituary()
            return None

        if self.pulse.wait_until(look, deadline) is None:
            raise overdue(f"waited {deadline.seconds:.0f} s for the guest's channel to speak")

    def run(
        self, script: str, deadline: Deadline, check: Callable[[], None] = lambda: None, *, is_inline: bool = False
    ) -> Completed:
        """Run a bash script as root in the guest. Not for two threads at once.

        With `is_inline` the loop itself runs it instead of a subshell: what it defines stays, and it must not exit.

        A non-zero exit code is a result, not an error. Raises DeadlinePassed, or MachineFailed if the guest is lost.
        An answer that comes after its deadline is dropped, so the channel stays usable once the script has ended.
        `check` may raise to end the wait.
        """
        text = script.encode().replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
        frame = b"%d %s%s\n" % (self._next_id, b"!" if is_inline else b"=", text)
        with self.pulse.still():
            self._awaited, self._answer = str(self._next_id), None
            self._next_id += 1
        try:
            self._socket.sendall(frame)
        except OSError as cause:
            raise self.obituary() from cause

        def look() -> Completed | None:
            if self._answer is None:
                check()
                if self.has_ended:
                    raise self.obituary()
            return self._answer

        if (answer := self.pulse.wait_until(look, deadline)) is None:
            first_line = script.strip().partition("\n")[0][:120]
            raise overdue(f"waited {deadline.seconds:.0f} s for the guest to run {first_line!r}")
        return answer

    def _read(self) -> None:
        pending = bytearray()
        while True:
            try:
                chunk = self._socket.recv(CHUNK)
            except OSError:
                chunk = b""
            if not chunk:
                break
            pending += chunk
            if b"\n" not in chunk:
                if len(pending) > LONGEST_ANSWER:
                    pending.clear()
                continue
            *lines, rest = pending.split(b"\n")
            pending = bytearray(rest)
            for line in lines:
                self._take(bytes(line))
        with self.pulse.beat():
            self.has_ended = True

    def _take(self, line: bytes) -> None:
        line = line.strip(b"\r\0")  # not spaces: empty fields are part of the frame
        if line == READY:
            with self.pulse.beat():
                self.greetings += 1
        elif (answer := ANSWER.fullmatch(line)) is not None:
            try:
                out, err = map(_decoded, answer.group(3, 4))
            except binascii.Error:
                return
            with self.pulse.beat():
                if answer[1].decode() == self._awaited:
                    self._answer = Completed(int(answer[2]), out, err)


def _decoded(field: bytes) -> bytes:
    """One output. Raises binascii.Error."""
    if field.startswith(b"="):
        return ESCAPED.sub(lambda found: MEANING[found[1]], field[1:])
    return base64.b64decode(field, validate=True)
