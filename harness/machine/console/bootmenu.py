"""GRUB's menu, driven as a person does: look at the screen, press one key, look again.

GRUB often draws everything twice on a serial line, once by its own driver and once through the firmware, and it takes
keys from both sides too. So no keys are counted beforehand: each is pressed with a picture of the screen at hand, and
the edited line is read back before it is booted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from harness.deadline import Deadline, overdue
from harness.errors import MachineFailed
from harness.machine.console.screen import Screen

END_OF_LINE, NEXT_LINE, LINE_BEFORE, BOOT, ESCAPE = "\x05", "\x0e", "\x10", "\x18", "\x1b"
MENU, EDITOR = "Press enter to boot", "discard edits"
LINUX_LINE = re.compile(r"\s*linux(?:16|efi)?\s")
INSIDE = slice(2, 78)  # the columns inside the editor's frame; the last one holds a backslash where a line goes on
TRIES = 3
KEY_TIME = 5.0  # seconds GRUB may need to draw what a key did
REST = 0.3  # seconds without output after which a screen counts as drawn


class Terminal(Protocol):
    """What the menu's driver needs of a console."""

    def send(self, text: str) -> None: ...
    def expect(self, patterns: str | list[str], deadline: Deadline) -> int: ...
    def watched(self) -> AbstractContextManager[Screen]: ...
    def await_screen(self, look: Callable[[], bool], deadline: Deadline) -> bool: ...
    def await_rest(self, seconds: float, deadline: Deadline) -> None: ...


def add_kernel_arguments(terminal: Terminal, arguments: str, deadline: Deadline) -> None:
    """Edit the menu's chosen entry: append `arguments` to its `linux` line and boot it.

    Raises DeadlinePassed if no menu appears, MachineFailed if the edit cannot be seen on the screen in three tries.
    """
    terminal.expect(MENU, deadline)
    with terminal.watched() as screen:
        for _ in range(TRIES):
            terminal.send("e")
            if _edit(terminal, screen, arguments, deadline):
                terminal.send(BOOT)
                return
            terminal.send(ESCAPE)
            terminal.await_screen(lambda: MENU in "\n".join(screen.rows), deadline)
    raise MachineFailed(f"GRUB's editor did not take {arguments!r}; it shows {_shown(screen)}", where="console")


def _edit(terminal: Terminal, screen: Screen, arguments: str, deadline: Deadline) -> bool:
    """In the editor: append to the linux line; True once the screen shows exactly that."""
    if not terminal.await_screen(lambda: EDITOR in "\n".join(screen.rows) and _linux_row(screen) is not None, deadline):
        raise overdue(f"waited {deadline.seconds:.0f} s for GRUB's editor; the screen shows {_shown(screen)}")
    terminal.await_rest(REST, deadline)
    line = _linux_line(screen)
    if not _walk_to_linux_line(terminal, screen, deadline):
        return False
    terminal.send(END_OF_LINE)
    terminal.await_rest(REST, deadline)
    typed = line
    for key in f" {arguments}":
        typed += key
        terminal.send(key)
        if not _await_line(terminal, screen, " ".join(typed.split()), deadline):
            return False
    return True


def _walk_to_linux_line(terminal: Terminal, screen: Screen, deadline: Deadline) -> bool:
    for _ in range(len(screen.rows)):
        row = _linux_row(screen)
        if row is None:
            return False
        if screen.row == row:
            return True
        terminal.send(NEXT_LINE if screen.row < row else LINE_BEFORE)
        terminal.await_rest(REST, deadline)
    return False


def _await_line(terminal: Terminal, screen: Screen, line: str, deadline: Deadline) -> bool:
    return terminal.await_screen(lambda: _linux_line(screen) == line, deadline.at_most(KEY_TIME))


def _linux_row(screen: Screen) -> int | None:
    return next((number for number, row in enumerate(screen.rows) if LINUX_LINE.match(row[INSIDE])), None)


def _linux_line(screen: Screen) -> str:
    """The linux line as GRUB holds it, joined from the rows it is broken into, with single blanks."""
    start = _linux_row(screen)
    text = ""
    for row in screen.rows[start:] if start is not None else []:
        piece = row[INSIDE]
        if not piece.endswith("\\"):
            return " ".join((text + piece).split())
        text += piece[:-1]
    return " ".join(text.split())


def _shown(screen: Screen) -> str:
    lines = [row.strip() for row in screen.rows if any(map(str.isalnum, row))]
    return " | ".join(lines)[:400] or "nothing"
