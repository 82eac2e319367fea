"""A person at the serial console, played by pexpect: prompts, passwords and shells.

The text comes from the console's reading thread, already without kernel messages, so a driver that is slow or busy
never keeps the guest waiting.
"""

from __future__ import annotations

import re
import secrets
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import pexpect
from pexpect.spawnbase import SpawnBase

from harness.deadline import Deadline, overdue
from harness.errors import BadInput, MachineFailed

if TYPE_CHECKING:
    Expecting = SpawnBase[str]
else:
    Expecting = SpawnBase  # generic only in its stubs

WINDOW = 16 * 1024  # characters at the end of the unread text in which a pattern is searched
MOST_TEXT = 64 * 2**20  # characters one wait may swallow before we call it a flood
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
        self._is_undeterred = False

    @contextmanager
    def undeterred(self) -> Iterator[None]:
        """Inside this block no bad line ends a wait: whoever reads a broken guest's journal will see many."""
        self._is_undeterred = True
        try:
            yield
        finally:
            self._is_undeterred = False

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
        self._known = sys.maxsize if self._is_undeterred else len(self._line.findings)
        self._swallowed = 0
        try:
            return int(self.expect([*patterns], timeout=max(0.05, deadline.left)))
        except pexpect.TIMEOUT as slow:
            seen = str(self.buffer).strip().splitlines()[-1:] or ["nothing"]
            wanted = " or ".join(map(repr, patterns))
            raise overdue(
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
