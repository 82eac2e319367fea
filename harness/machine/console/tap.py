"""A second pair of hands on a console: a connected socket that is shown what the guest sends and may type.

Watching, logging and matching go on beside it. Whoever sits at the other end may be slow or gone: the guest never
waits for it, so what it does not take in time is left out, and said to be.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from harness.errors import MachineFailed
from harness.machine.console.socket_path import at_socket

BUFFER = 2**20  # bytes the other end may be behind, where the kernel grants so much
CHUNK = 4096  # bytes typed at a time


class Line(Protocol):
    """What a tap needs of a console."""

    def send(self, text: str | bytes) -> None: ...
    def tail(self, count: int = 20) -> list[str]: ...
    def mirror_to(self, tap: Tap) -> None: ...
    def mirror_no_more(self, tap: Tap) -> None: ...


class Tap:
    """The console's end of such a connection. Nothing here raises: a broken connection shows and types nothing."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        self._missed = 0

    def see(self, chunk: bytes) -> None:
        """Show `chunk`. Never blocks."""
        if self._missed:
            chunk = f"\r\n[{self._missed} bytes are not shown; the log has them]\r\n".encode() + chunk
        taken = 0
        with suppress(OSError):  # full, or gone
            while taken < len(chunk):
                taken += self._connection.send(chunk[taken:], socket.MSG_DONTWAIT)
        self._missed = len(chunk) - taken

    def end(self) -> None:
        """Tell the other end that nothing more will come: the guest is gone."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)

    def type_into(self, line: Line) -> threading.Thread:
        """From now on, type whatever comes from the other end, in a thread that ends with the connection."""
        thread = threading.Thread(target=self._type, args=(line,), name="tap", daemon=True)
        thread.start()
        return thread

    def _type(self, line: Line) -> None:
        while True:
            try:
                typed = self._connection.recv(CHUNK)
            except OSError:
                return
            if not typed:
                return
            with suppress(MachineFailed):  # a guest that takes no input now may take some later
                line.send(typed)


@contextmanager
def served(line: Line, path: Path) -> Iterator[Path]:
    """Let whoever connects to the Unix socket `path` see the console and type, one visitor after the other.

    The socket is gone at the end. Raises OSError where it cannot be made.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener, at_socket(path) as address:
        listener.bind(address)
        path.chmod(0o600)
        listener.listen()
        present: list[socket.socket] = []
        thread = threading.Thread(target=_receive, args=(listener, line, present), name="console-server", daemon=True)
        thread.start()
        try:
            yield path
        finally:
            for end in (listener, *present):  # wakes accept() and recv()
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            thread.join(timeout=10)
            path.unlink(missing_ok=True)


def _receive(listener: socket.socket, line: Line, present: list[socket.socket]) -> None:
    while True:
        try:
            visitor, _ = listener.accept()
        except OSError:
            return
        with visitor:
            present[:] = [visitor]
            tap = Tap(visitor)
            tap.see("\r\n".join([*line.tail(), ""]).encode())
            line.mirror_to(tap)
            tap.type_into(line).join()
            line.mirror_no_more(tap)
