"""The two ends of a serial line: a connection on which nothing gets lost while we are busy.

QEMU writes what its UART is given byte by byte, and a byte in a pair of Unix sockets takes the room of a message: 278
of them fill it, a fraction of a screen of firmware. From then on the UART is not ready, and whoever waits for it no
longer than a moment loses what it says: OVMF, and Linux after 10 ms a byte. TCP joins what was written, so that
megabytes wait until somebody reads them.
"""

from __future__ import annotations

import socket
from contextlib import ExitStack

STRANGERS = 100  # that connect in our place before we give up: any process of the host may


def serial_line() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets. Where the host has no loopback network it is a pair that holds less."""
    try:
        return _by_loopback()
    except OSError:
        return socket.socketpair()


def _by_loopback() -> tuple[socket.socket, socket.socket]:
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0), backlog=1) as listening:
        theirs = stack.enter_context(socket.create_connection(listening.getsockname(), timeout=5))
        listening.settimeout(5)
        for _ in range(STRANGERS):
            ours, who = listening.accept()
            if who == theirs.getsockname():
                break
            ours.close()
        else:
            raise ConnectionError("others connect in our place")
        for end in (ours, theirs):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stack.pop_all()
        return ours, theirs
