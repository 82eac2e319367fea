"""QEMU's monitor protocol, one command at a time with a time limit each: a thin layer over qemu.qmp."""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError
from qemu.qmp.events import EventListener

from harness.deadline import Deadline
from harness.errors import DeadlinePassed, HarnessError, MachineFailed

ANSWER_TIME = 30.0  # seconds; QEMU answers in milliseconds unless the host is starved
RING_PIECE = 2**20  # bytes an answer may carry; the client takes lines of ten times that
FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b")

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what it logs as errors, we raise

T = TypeVar("T")


class Qmp:
    """QMP on a connected socket. `obituary` is asked for the error to raise once QEMU is gone.

    It runs an event loop of its own and so belongs to one thread at a time.
    """

    def __init__(self, connection: socket.socket, obituary: Callable[[], HarnessError]) -> None:
        """Negotiate capabilities. Raises MachineFailed."""
        self._obituary = obituary
        self._loop = asyncio.new_event_loop()
        self._client = QMPClient("machine")
        self._migration = EventListener(names={"MIGRATION"})
        self._client.register_listener(self._migration)
        connection.setblocking(False)  # noqa: FBT003  the socket module's signature
        try:
            self._wait(self._client.connect(connection), Deadline(ANSWER_TIME), "QEMU's greeting")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up; QEMU goes on. May be called more than once."""
        if self._loop.is_closed():
            return
        try:
            self._loop.run_until_complete(asyncio.wait_for(self._client.disconnect(), 5))
        except (QMPError, OSError, EOFError, TimeoutError):
            pass  # QEMU went first
        finally:
            self._loop.close()

    def execute(self, command: str, arguments: dict[str, object] | None = None, within: float = ANSWER_TIME) -> Any:
        """The answer to one command. Raises MachineFailed when QEMU refuses it, is gone or does not answer."""
        try:
            return self._wait(self._client.execute(command, arguments), Deadline(within), f"QEMU to answer {command}")
        except ExecuteError as refusal:
            raise MachineFailed(f"QEMU refuses {command}: {refusal}") from refusal

    def hmp(self, line: str) -> str:
        """The answer to a line typed at the human monitor."""
        return str(self.execute("human-monitor-command", {"command-line": line}))

    def read_ring(self, chardev: str, limit: int) -> bytes:
        """Take what a guest wrote to a character device of kind `ringbuf`, at most `limit` bytes and then some."""
        taken = bytearray()
        while len(taken) < limit:
            piece = {"device": chardev, "size": RING_PIECE, "format": "base64"}
            if not (answer := base64.b64decode(self.execute("ringbuf-read", piece))):
                break
            taken += answer
        return bytes(taken)

    def ssh_port(self) -> int:
        """The port on 127.0.0.1 that leads to the guest's port 22. Raises MachineFailed if there is none."""
        listing = self.hmp("info usernet")
        if (forward := FORWARD.search(listing)) is None:
            raise MachineFailed(f"QEMU forwards no port to the guest's ssh: {listing.strip()!r}")
        return int(forward[1])

    def allow_shared_memory(self) -> None:
        """Leave memory that lies in a file out of the state that is saved or loaded."""
        capabilities = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
        self.execute("migrate-set-capabilities", {"capabilities": capabilities})

    def migrate(self, command: str, uri: str, deadline: Deadline) -> None:
        """Run `migrate` or `migrate-incoming` to its end. Raises MachineFailed with QEMU's reason."""
        self._migration.clear()
        self.execute(command, {"uri": uri})
        while True:
            event: Message = self._wait(self._migration.get(), deadline, f"{command} to finish")
            status = event["data"]["status"]  # type: ignore[index]
            if status == "completed":
                return
            if status in {"failed", "cancelled"}:
                reason = self.execute("query-migrate").get("error-desc", "no reason given")
                raise MachineFailed(f"{command} {status}: {reason}")

    def _wait(self, work: Coroutine[Any, Any, T], deadline: Deadline, awaited: str) -> T:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(work, max(0.01, deadline.left)))
        except TimeoutError as slow:
            raise DeadlinePassed(f"waited {deadline.seconds:.0f} s for {awaited}") from slow
        except ExecuteError:
            raise
        except (QMPError, OSError, EOFError) as gone:
            raise self._obituary() from gone
