"""A person at the serial console, played by pexpect: prompts, passwords, shells, menus.

The text comes from the console's reading thread, already without kernel messages, so a driver that is slow or busy
never keeps the guest waiting.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import pexpect
from pexpect.spawnbase import SpawnBase

from harness.deadline import Deadline
from harness.errors import BadInput, DeadlinePassed, MachineFailed

if TYPE_CHECKING:
    Expecting = SpawnBase[str]
else:
    Expecting = SpawnBase  # generic only in its stubs

WINDOW = 16 * 1024  # characters at the end of the unread text in which a pattern is searched
MOST_TEXT = 64 * 2**20  # characters one wait may swallow before we call it a flood
# In GRUB's editor: end of line, next line, line before, boot.
CONTROL_E, CONTROL_N, CONTROL_P, CONTROL_X = "\x05", "\x0e", "\x10", "\x18"
# Where the linux line may be, seen from where the screen says it is: there, one up, one down, two up, two down.
NEARBY = ("", CONTROL_P, CONTROL_N * 2, CONTROL_P * 3, CONTROL_N * 4)
LINUX_LINE = re.compile(r"^\s*linux(?:16|efi)?\s", re.MULTILINE)
FIRST_ECHO = 1.0  # seconds a boot loader may need to show a key
SILENCE = 0.05  # seconds without output after which its screen is at rest
SHELL_PROMPT = r"[#$] $"


class Line(Protocol):
    """What the typist needs of a console."""

    def send(self, text: str) -> None: ...
    def take_text(self, deadline: Deadline, known: int) -> str | None: ...
    @property
    def findings(self) -> Sequence[object]: ...


class Typist(Expecting):
    """pexpect's expectations on one console; `match`, `before` and `after` are as pexpect documents them."""

    def __init__(self, line: Line) -> None:
        super().__init__(timeout=None, searchwindowsize=WINDOW, encoding="utf-8", codec_errors="replace")
        self._line = line
        self._known = 0
        self._swallowed = 0

    def send(self, text: str) -> int:
        """Type `text`; the name and result are pexpect's."""
        self._line.send(text)
        return len(text)

    def read_nonblocking(self, size: int = 1, timeout: float | None = None) -> str:  # noqa: ARG002  pexpect's signature
        """The hook pexpect reads through. Raises pexpect.TIMEOUT, or the reason why no more text can come."""
        text = self._line.take_text(Deadline(3600.0 if timeout is None else timeout), self._known)
        if text is None:
            raise pexpect.TIMEOUT("no output")
        self._swallowed += len(text)
        if self._swallowed > MOST_TEXT:
            raise MachineFailed("the console floods: 64 MiB without the text that was awaited")
        return text

    def await_one_of(self, patterns: list[str], deadline: Deadline) -> int:
        """Index of the first of `patterns` to appear; the text up to its end is consumed."""
        self._known = len(self._line.findings)
        self._swallowed = 0
        try:
            return int(self.expect([*patterns], timeout=max(0.05, deadline.left)))
        except pexpect.TIMEOUT as slow:
            seen = str(self.buffer).strip().splitlines()[-1:] or ["nothing"]
            wanted = " or ".join(map(repr, patterns))
            raise DeadlinePassed(
                f"waited {deadline.seconds:.0f} s for {wanted} on the console; last seen: {seen[0][:200]}"
            ) from slow

    def log_in(self, user: str, password: str, deadline: Deadline) -> None:
        """Answer login and password prompts until a shell prompt appears."""
        self.await_one_of([r"login: ?"], deadline)
        self.send(f"{user}\r")
        if self.await_one_of([r"[Pp]assword: ?", SHELL_PROMPT], deadline) == 0:
            self.send(f"{password}\r")
            if self.await_one_of([SHELL_PROMPT, r"Login incorrect"], deadline) == 1:
                raise BadInput(f"the console refuses user {user} with this password")

    def add_kernel_arguments(self, arguments: str, deadline: Deadline) -> None:
        """At GRUB's menu: open the first entry, append to its `linux` line and boot it.

        GRUB wraps long lines on the screen (marked by a backslash) but moves the cursor by whole ones.
        """
        self.await_one_of([r"Press enter to boot"], deadline)
        self.send("e")
        self.await_one_of([r"discard edits"], deadline)
        self.await_one_of([r"\n\s*linux(?:16|efi)?\s"], deadline)
        screen = str(self.before).rpartition("discard edits")[2]
        rows = [row for row in screen.split("\n")[1:] if row]
        above = sum(not row.rstrip("\r").endswith("\\") for row in rows)
        for key in CONTROL_N * above:
            self._press(key)
        self._find_linux_line()
        for key in arguments:
            self._press(key)
        self.send(CONTROL_X)

    def _find_linux_line(self) -> None:
        """Stand at the end of the `linux` line: a screen drawn twice makes the count one too many.

        GRUB draws the line anew for every key, so typing a space (which changes nothing) shows where the cursor is.
        """
        for move in NEARBY:
            for key in (*move, CONTROL_E):
                self._press(key)
            if LINUX_LINE.search(self._press(" ")):
                return
        raise MachineFailed("GRUB's editor shows no linux line near the cursor", where="console")

    def _press(self, key: str) -> str:
        """Type one key, let the screen come to rest and return what was drawn: GRUB takes 16 bytes while it draws."""
        self.send(key)
        drawn, patience = "", FIRST_ECHO
        while (text := self._line.take_text(Deadline(patience), self._known)) is not None:
            drawn += text
            patience = SILENCE
        return drawn

    def run(self, command: str, deadline: Deadline) -> tuple[int, str]:
        """Run one command line (a terminal takes 4,095 bytes) at a shell prompt: exit code, and what it printed."""
        mark = secrets.token_hex(6)
        # The mark is typed in two halves, so that the echo of the command line cannot be mistaken for it.
        echo = f"echo {mark[:6]}''{mark[6:]}"
        self.send(f"{echo}; eval {shlex.quote(command)}; {echo}:$?:\r")
        self.await_one_of([rf"{mark}\n"], deadline)
        self.await_one_of([rf"{mark}:(\d+):"], deadline)
        match = self.match
        if not isinstance(match, re.Match):
            raise MachineFailed("the shell on the console gave no exit code")
        return int(match[1]), str(self.before)
