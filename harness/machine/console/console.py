"""The serial console: always drained, recorded with time stamps, watched for bad lines, and driven like a person would.

A thread of its own reads the socket, because a guest whose console nobody reads stands still. Every line goes into the
log file as `<seconds since start> <line>`; kernel messages are taken out before prompts are matched (see stream.py).
"""

from __future__ import annotations

import re
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.deadline import Deadline, overdue
from harness.errors import BootFailed, GuestLost, HarnessError, MachineFailed
from harness.machine.console import bootmenu
from harness.machine.console.badness import Finding, Watcher
from harness.machine.console.log import Log
from harness.machine.console.screen import Screen
from harness.machine.console.stream import KernelLineFilter, LineCutter, TextCleaner
from harness.machine.console.tap import Tap
from harness.machine.console.timeline import Timeline
from harness.machine.console.typist import Typist
from harness.pulse import Pulse

CHUNK = 256 * 1024  # bytes a read may take
IDLE = 0.5  # seconds without output after which half a kernel line is no longer waited for
REMEMBERED_LINES = 2000
MOST_UNREAD = 16 * 2**20  # characters of user-space text kept for the typist; the oldest go first
PIECE = 4096  # characters; smaller pieces of it are joined, because a string has fifty bytes of its own
SEND_TIMEOUT = 10.0  # seconds a guest may refuse what is typed


@dataclass(slots=True)
class _Awaited:
    regex: re.Pattern[str]
    line: str | None = None

    def look(self, lines: Iterable[str]) -> None:
        if self.line is None:
            self.line = next((line for line in lines if self.regex.search(line)), None)


class Console:
    """One guest's serial console on a connected socket.

    `obituary` is asked for the error to raise when the socket ends while somebody waits; `allowed` are ids of
    badness patterns that are expected; `tap` sees everything from the first byte on. Close it, or use it as a context
    manager.
    """

    def __init__(
        self,
        connection: socket.socket,
        log: Path,
        *,
        pulse: Pulse | None = None,
        allowed: Iterable[str] = (),
        obituary: Callable[[], HarnessError] = lambda: MachineFailed("the console was closed"),
        tap: Tap | None = None,
    ) -> None:
        self.log_path = log
        self.timeline = Timeline()
        self.watcher = Watcher("console", allowed=allowed)
        self.started = time.monotonic()
        self.has_ended = False
        self.pulse = pulse or Pulse()
        self.obituary = obituary
        self.typist = Typist(self)
        self.at_final: Callable[[], None] | None = None  # called once, by the reading thread; it must not wait
        self._lines: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._unread: deque[str] = deque()
        self._unread_size = 0
        self._awaited: list[_Awaited] = []
        self._cleaner, self._raw, self._quiet = TextCleaner(), LineCutter(), LineCutter()
        self._filter = KernelLineFilter()
        self._is_judged = True  # whether the line that has no end yet has been looked at
        self._screen: Screen | None = None
        self._taps: tuple[Tap, ...] = () if tap is None else (tap,)
        self._chunks = 0  # received so far
        self._is_reading = False  # true from before a read until what it brought has been digested
        self._log = Log(log)
        self._socket = connection
        self._socket.settimeout(SEND_TIMEOUT)
        self._thread = threading.Thread(target=self._drain, name="console", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading and finish the log. May be called more than once."""
        with suppress(OSError):  # the other end may have gone first
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=10)
        self._socket.close()
        self._log.close()

    # -- what is seen ------------------------------------------------------------------------------------------------

    @property
    def elapsed(self) -> float:
        """Seconds since the machine was started, the time base of log and timeline."""
        return time.monotonic() - self.started

    def start_over(self) -> None:
        """Another boot begins: lines and stages of the one before are no answer to what is asked from now on."""
        with self.pulse.still():
            self._lines.clear()
            self._unread.clear()
            self.watcher.start_over()
            self.timeline.restart()

    @property
    def findings(self) -> Sequence[Finding]:
        """Bad lines so far."""
        return tuple(self.watcher.findings)

    def catch_up(self, deadline: Deadline) -> bool:
        """Wait until all that has arrived is digested, so that the findings are complete; False if it keeps coming."""
        if self.has_ended:
            return True
        waiting = select.poll()
        waiting.register(self._socket, select.POLLIN)

        def look() -> bool | None:
            return self.has_ended or (not waiting.poll(0) and not self._is_reading) or None  # in this order

        return bool(self.pulse.wait_until(look, deadline))

    def tail(self, count: int = 20) -> list[str]:
        """The last lines, with the unfinished one."""
        with self.pulse.still():
            lines = [*self._lines, self._raw.rest] if self._raw.rest else list(self._lines)
        return lines[-count:]

    def check(self) -> None:
        """Raise BootFailed if a bad line has been seen, or the machine's obituary if the console has ended."""
        if self.watcher.fatal is not None:
            raise BootFailed(self.watcher.fatal.describe(), where="console", next_step=f"see {self.log_path}")
        if self.has_ended:
            raise self.obituary()

    def check_life(self) -> None:
        """Raise GuestLost if a line has said that the guest runs no more, or the obituary if the console has ended.

        For those who use a guest that has come up: `check`, which is for boots, takes offence at every bad line.
        """
        if self.watcher.final is not None:
            died = f"died after it had come up: {self.watcher.final.describe()}"
            raise GuestLost(died, where="guest", next_step=f"see {self.log_path}")
        if self.has_ended:
            raise self.obituary()

    def wait_for(self, pattern: str | re.Pattern[str], deadline: Deadline) -> str:
        """The first line, finished or not, in which `pattern` is found, among those still remembered and all to come.

        Kernel messages are lines of their own and never interrupt another. Raises BootFailed at the first bad
        line (which may be an old one), MachineFailed if the machine ends, DeadlinePassed with the last line seen.
        """
        awaited = _Awaited(re.compile(pattern))
        with self.pulse.still():
            awaited.look([*self._lines, self._quiet.rest])
            self._awaited.append(awaited)
        try:
            return self._wait(lambda: awaited.line, deadline, f"{awaited.regex.pattern!r} on the console")
        finally:
            with self.pulse.still():
                self._awaited.remove(awaited)

    def _wait(self, look: Callable[[], str | None], deadline: Deadline, awaited: str) -> str:
        def look_or_fail() -> str | None:
            if (seen := look()) is None:
                self.check()
            return seen

        if (line := self.pulse.wait_until(look_or_fail, deadline)) is not None:
            return line
        seen = " | ".join(line for line in self.tail(3) if line.strip()) or "nothing"
        raise overdue(
            f"waited {deadline.seconds:.0f} s for {awaited}; last seen: {seen}", next_step=f"see {self.log_path}"
        )

    def mirror_to(self, tap: Tap) -> None:
        """Show this tap everything from now on."""
        with self.pulse.still():
            self._taps = (*self._taps, tap)

    def mirror_no_more(self, tap: Tap) -> None:
        """Show this tap nothing any more."""
        with self.pulse.still():
            self._taps = tuple(other for other in self._taps if other is not tap)

    # -- what is typed -----------------------------------------------------------------------------------------------

    def send(self, text: str | bytes) -> None:
        """Type `text` as it is. Raises MachineFailed if the guest takes no input or is gone."""
        try:
            self._socket.sendall(text.encode() if isinstance(text, str) else text)
        except OSError as cause:
            raise MachineFailed(f"the console takes no input: {cause}", where=str(self.log_path)) from cause

    def sendline(self, text: str = "") -> None:
        """Type `text` and Enter."""
        self.send(text + "\r")

    def expect(self, patterns: str | list[str], deadline: Deadline) -> int:
        """Wait for one of `patterns` in what user space prints and consume the text up to its end.

        Returns the index of the pattern; `typist.match`, `.before` and `.after` are pexpect's. Stops at a bad line
        that is printed meanwhile, as `wait_for` does.
        """
        return self.typist.await_one_of([patterns] if isinstance(patterns, str) else patterns, deadline)

    def login(self, user: str, password: str, deadline: Deadline) -> None:
        """Log in at a getty and wait for a shell prompt. Raises BadInput if the password is refused."""
        self.sendline()
        self.typist.log_in(user, password, deadline)

    def run(self, command: str, deadline: Deadline) -> tuple[int, str]:
        """Run one shell command at a prompt: its exit code and what it printed, with Unix line ends."""
        return self.typist.run(command, deadline)

    def add_kernel_arguments(self, arguments: str, deadline: Deadline) -> None:
        """Append to the kernel's command line in GRUB's menu, for this boot only."""
        bootmenu.add_kernel_arguments(self, arguments, deadline)

    @contextmanager
    def watched(self) -> Iterator[Screen]:
        """The screen of a terminal on this line, drawn from now on; look at it in `await_screen`."""
        screen = Screen()
        with self.pulse.still():
            self._screen = screen
        try:
            yield screen
        finally:
            with self.pulse.still():
                self._screen = None

    def await_screen(self, look: Callable[[], bool], deadline: Deadline) -> bool:
        """Wait until `look` likes the screen; False once the deadline has passed. Raises as `wait_for` does."""

        def look_or_fail() -> bool | None:
            if look():
                return True
            self.check()
            return None

        return bool(self.pulse.wait_until(look_or_fail, deadline))

    def await_rest(self, seconds: float, deadline: Deadline) -> None:
        """Wait until nothing has come for so long: what was being drawn is there."""

        def has_come_since(seen: int) -> bool:
            return bool(self.pulse.wait_until(lambda: self._chunks > seen or None, deadline.at_most(seconds)))

        while has_come_since(self._chunks):
            pass

    def take_text(self, deadline: Deadline, known: int) -> str | None:
        """User-space text nobody has taken yet; None once the deadline passes.

        `known` is how many findings are old news: a newer one that is fatal raises BootFailed.
        """

        def look() -> str | None:
            if self._unread:
                text = "".join(self._unread)
                self._unread.clear()
                self._unread_size = 0
                return text
            if fresh := [finding for finding in self.watcher.findings[known:] if finding.is_fatal]:
                raise BootFailed(fresh[0].describe(), where="console", next_step=f"see {self.log_path}")
            if self.has_ended:
                raise self.obituary()
            return None

        return self.pulse.wait_until(look, deadline)

    # -- the reading thread ------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while True:
            is_waiting = self._filter.is_holding or not self._is_judged
            is_silent = not poll.poll(IDLE * 1000 if is_waiting else None)
            self._is_reading = True
            try:
                chunk = b"" if is_silent else self._socket.recv(CHUNK)
            except OSError:
                chunk = b""
            if not chunk and not is_silent:
                break
            with self.pulse.beat():
                self._take(chunk)
                self._is_reading = False
            for tap in self._taps if chunk else ():
                tap.see(chunk)
        with self.pulse.beat():
            self._take(b"")
            self._record(self._raw.finish(), is_silent=True)
            self.has_ended = True
        for tap in self._taps:
            tap.end()

    def _take(self, chunk: bytes) -> None:
        """Digest what arrived; an empty chunk means that nothing came for a while."""
        self._chunks += bool(chunk)
        if self._screen is not None:
            self._screen.feed(chunk)
        text = self._cleaner.feed(chunk)
        lines = self._raw.feed(text)
        self._record(lines, is_silent=not chunk)
        if self.at_final is not None and self.watcher.final is not None:
            at_final, self.at_final = self.at_final, None
            at_final()
        spoken = self._filter.feed(text) if chunk else self._filter.flush()
        quiet = self._quiet.feed(spoken)
        if spoken:
            self._keep_for_typist(spoken)
        for awaited in self._awaited:
            awaited.look([*lines, *quiet, self._quiet.rest])

    def _keep_for_typist(self, spoken: str) -> None:
        self._unread_size += len(spoken)
        if self._unread and len(self._unread[-1]) < PIECE:
            self._unread[-1] += spoken
        else:
            self._unread.append(spoken)
        while self._unread_size > MOST_UNREAD:
            self._unread_size -= len(self._unread.popleft())

    def _record(self, lines: list[str], *, is_silent: bool) -> None:
        """A line without an end is judged when nothing more comes: half a line would be quoted as the cause."""
        self._is_judged = is_silent or not self._raw.rest
        if lines or self._raw.rest:
            self.watcher.feed(lines, self._raw.rest if is_silent else "")
            self.timeline.feed([*lines, self._raw.rest], self.elapsed)
        self._lines.extend(lines)
        self._log.record(lines, self.elapsed)
