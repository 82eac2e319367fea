"""QEMU's monitor protocol, one command at a time with a time limit each: a thin layer over qemu.qmp.

A thread of its own listens, so that QEMU's bad news (a guest stopped because the host's disk is full) reach whoever
waits for the guest, and not only whoever asks QEMU next.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

from qemu.qmp import ExecuteError, Message, QMPClient, QMPError
from qemu.qmp.events import EventListener

from harness.deadline import Deadline
from harness.errors import DeadlinePassed, HarnessError, MachineFailed
from harness.machine.hardware.spec import SSH_PORT
from harness.pulse import Pulse

ANSWER_TIME = 30.0  # seconds; QEMU answers in milliseconds unless the host is starved
RING_PIECE = 2**20  # bytes an answer may carry; the client takes lines of ten times that
FORWARD = re.compile(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+(\d+)\b")

logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # what it logs as errors, we raise

T = TypeVar("T")


class Qmp:
    """QMP on a connected socket. `obituary` is asked for the error to raise once QEMU is gone."""

    def __init__(
        self, connection: socket.socket, obituary: Callable[[], HarnessError], pulse: Pulse | None = None
    ) -> None:
        """Negotiate capabilities. Raises MachineFailed."""
        self.standstill = ""  # why QEMU has stopped the guest, if it has: the host could not write its disk
        self._obituary = obituary
        self._pulse = pulse or Pulse()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="qmp", daemon=True)
        self._client = QMPClient("machine")
        self._client.events.event_filter = self._hear  # which keeps nothing: it would remember every event
        self._migration = EventListener(names={"MIGRATION"})
        self._client.register_listener(self._migration)
        self._thread.start()
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
            self._finish(self._client.disconnect(), 5)
        except (QMPError, OSError, EOFError, TimeoutError):
            pass  # QEMU went first
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
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

    def forwarded(self) -> dict[int, int]:
        """Ports of 127.0.0.1 that lead into the guest, by the guest's port. Raises MachineFailed."""
        return {int(guest): int(host) for host, guest in FORWARD.findall(self.hmp("info usernet"))}

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
        ports = self.forwarded()
        if SSH_PORT not in ports:
            raise MachineFailed(f"QEMU forwards no port to the guest's ssh, only to {sorted(ports) or 'nothing'}")
        return ports[SSH_PORT]

    def allow_shared_memory(self) -> None:
        """Leave memory that lies in a file out of the state that is saved or loaded."""
        capabilities = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
        self.execute("migrate-set-capabilities", {"capabilities": capabilities})

    def migrate(self, command: str, uri: str, deadline: Deadline) -> None:
        """Run `migrate` or `migrate-incoming` to its end. Raises MachineFailed with QEMU's reason."""
        self._loop.call_soon_threadsafe(self._migration.clear)
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
            return self._finish(work, max(0.01, deadline.left))
        except TimeoutError as slow:
            raise DeadlinePassed(f"waited {deadline.seconds:.0f} s for {awaited}") from slow
        except ExecuteError:
            raise
        except (QMPError, OSError, EOFError) as gone:
            raise self._obituary() from gone

    def _finish(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """Let the listening thread do something and wait for it."""
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, seconds), self._loop)
        try:
            return future.result()
        finally:
            future.cancel()  # where Ctrl-C ended the wait; else it is done

    def _hear(self, event: Message) -> bool:
        """Note why the guest stands still; False because nobody fetches what the client would keep."""
        data: dict[str, Any] = event.get("data", {})  # type: ignore[assignment]
        if event["event"] == "BLOCK_IO_ERROR" and data["action"] == "stop":
            with self._pulse.beat():
                is_full = data.get("nospace", False)
                what = "is full" if is_full else f"refuses to {data['operation']} ({data.get('reason', 'no reason')})"
                self.standstill = self.standstill or f"the host's disk {what}"
        return False
