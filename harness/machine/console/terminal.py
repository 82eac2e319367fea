"""The user's own terminal, lent to a guest's console until Ctrl-] is typed.

Every key goes to the guest, Ctrl-C too. The window stays as it is: title, size and scroll-back are not the guest's to
change, and modes that it leaves behind (no line wrap, hidden cursor) are set right at the end.
"""

from __future__ import annotations

import os
import re
import select
import socket
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

LEAVE = b"\x1d"  # Ctrl-], as telnet and virsh have it
CHUNK = 64 * 1024  # bytes
LOOK = 1000  # milliseconds after which `meanwhile` is asked again
# Full reset (clears the scroll-back), resizing, and setting the title.
UNWANTED = re.compile(rb"\x1bc|\x1b\[8;\d{0,5};\d{0,5}t|\x1b\][012];[^\x07\x1b]{0,256}(?:\x07|\x1b\\)")
UNFINISHED = re.compile(rb"\x1b(?:\[(?:8[;\d]{0,11})?|\](?:[012](?:;[^\x07\x1b]{0,256}\x1b?)?)?)?\Z")
SET_RIGHT = b"\x1b[0m\x1b[?7h\x1b[?25h\x1b[?2004l"  # colours off, line wrap and cursor on, paste as ever

HowItEnded = Literal["left", "ended"]


class WindowGuard:
    """Takes out of a guest's output what would change the user's window, across the borders of chunks."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """What may be shown now; an unfinished sequence that may be unwanted is kept for the next call.

        >>> guard = WindowGuard()
        >>> guard.feed(b"SeaBIOS" + bytes([27])), guard.feed(b"c ready")
        (b'SeaBIOS', b' ready')
        """
        text = UNWANTED.sub(b"", self._held + chunk)
        unfinished = UNFINISHED.search(text, max(0, len(text) - 300))
        self._held = unfinished[0] if unfinished else b""
        return text[: len(text) - len(self._held)]


@contextmanager
def raw_mode(terminal: int) -> Iterator[None]:
    """Hand every key over as it is typed; the terminal's settings come back however the block ends."""
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def attend(
    connection: socket.socket, keyboard: int = 0, screen: int = 1, *, meanwhile: Callable[[], None] = lambda: None
) -> HowItEnded:
    """Connect keyboard and screen (descriptors) with a console's tap until the user leaves or the guest has ended.

    `meanwhile` is called at least once a second. What is typed after Ctrl-] is nobody's.
    """
    guard = WindowGuard()
    poll = select.poll()
    poll.register(keyboard, select.POLLIN)
    poll.register(connection, select.POLLIN)
    with raw_mode(keyboard):
        try:
            while True:
                ready = dict(poll.poll(LOOK))
                if connection.fileno() in ready:
                    if not (chunk := connection.recv(CHUNK)):
                        return "ended"
                    _show(guard.feed(chunk), screen)
                if keyboard in ready:
                    typed, leave, _ = _read(keyboard).partition(LEAVE)
                    with suppress(OSError):  # the guest has just ended: the next look says so
                        connection.sendall(typed)
                    if leave or not typed:
                        return "left"
                meanwhile()
        finally:
            if os.isatty(screen):
                _show(SET_RIGHT, screen)


def _read(keyboard: int) -> bytes:
    """What was typed; nothing once the terminal is gone."""
    try:
        return os.read(keyboard, CHUNK)
    except OSError:
        return b""


def _show(text: bytes, screen: int) -> None:
    while text:
        text = text[os.write(screen, text) :]
