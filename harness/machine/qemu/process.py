"""One QEMU process: it dies with us, whatever kills us, and its last words become the error message.

`setpriv --pdeathsig KILL` asks the kernel to kill QEMU when the thread that started it ends, so start machines from
a thread that outlives them (in pytest, the main thread).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from harness.deadline import Deadline
from harness.errors import MachineFailed
from harness.tools import find_tool

LAST_WORDS = 2000  # characters of QEMU's error output that are quoted
# We may have died before the kernel was asked to tell: then nobody would.
UNLESS_ORPHANED = '[ "$PPID" = "$0" ] && exec "$@"'
FAREWELL = 15.0  # seconds a process that has closed its connections may need to be gone
DEATH_TIME = 60.0  # seconds a killed one may: on a host with a load of 40, five were too few to give its memory back


class Process:
    """A running program with its error output in a file. Use it as a context manager: at the end it is dead."""

    def __init__(self, argv: Sequence[str], scratch: Path, keep_open: Sequence[int] = ()) -> None:
        """Start `argv`; `keep_open` are file descriptors it inherits. Raises MissingTool."""
        self.argv = (find_tool(argv[0]), *argv[1:])
        self._was_ended_by_us = False
        self._words: str | None = None
        self._errors = scratch / f"{Path(argv[0]).name}.stderr"
        tied = [find_tool("setpriv"), "--pdeathsig", "KILL", "--", find_tool("sh"), "-c", UNLESS_ORPHANED]
        with self._errors.open("wb") as errors:
            self._child = subprocess.Popen(
                [*tied, str(os.getpid()), *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=keep_open,
                cwd=scratch,
                process_group=0,  # Ctrl-C is for us: QEMU goes when we have saved what it can still tell
                env={**os.environ, "LC_ALL": "C.UTF-8"},
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._words = self.last_words  # its scratch folder goes next

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def is_running(self) -> bool:
        return self._child.poll() is None

    @property
    def last_words(self) -> str:
        """The end of what it wrote to standard error."""
        if self._words is not None:
            return self._words
        with self._errors.open("rb") as errors:
            errors.seek(max(0, errors.seek(0, os.SEEK_END) - LAST_WORDS))
            return errors.read().decode(errors="replace").strip()

    def wait(self, deadline: Deadline) -> int | None:
        """The exit code (negative: the signal that killed it), or None if it still runs at the deadline."""
        try:
            return self._child.wait(max(0.001, deadline.left))
        except subprocess.TimeoutExpired:
            return None

    @property
    def has_died(self) -> bool:
        """True if it ended badly and not by us: killed by somebody, or gone with an exit code."""
        return not self.is_running and self._child.returncode != 0 and not self._was_ended_by_us

    def kill(self) -> None:
        """Kill it if it still runs, and wait until it is gone. Raises MachineFailed if the kernel keeps it."""
        if self.is_running:
            self._was_ended_by_us = True
            self._child.kill()
        if self.wait(Deadline(DEATH_TIME)) is None:
            raise MachineFailed(f"{Path(self.argv[0]).name} was killed but does not end", where=f"pid {self.pid}")

    def obituary(self) -> MachineFailed:
        """The error to raise when it has gone although somebody still needed it."""
        code = self.wait(Deadline(FAREWELL))
        name = Path(self.argv[0]).name
        if code is None:
            return MachineFailed(f"{name} closed its connections but still runs", where=f"pid {self.pid}")
        how = f"was killed by signal {-code}" if code < 0 else f"exited with {code}"
        words = self.last_words.replace("\n", " | ")
        return MachineFailed(f"{name} {how}: {words or 'it said nothing'}", next_step="the guest is lost")
