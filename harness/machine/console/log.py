"""The file a console is recorded in: bounded, and never in the guest's way.

A disk that fills up ends the recording, not the machine: a guest whose console nobody reads stands still.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

LIMIT = 128 * 2**20  # bytes; what comes later is watched but not kept
FULL = "[log is full, later lines are not kept]"


class Log:
    """Lines as `<seconds since start> <line>`; empty ones are left out, because menus draw many.

    `trouble` says why recording has ended early; a disk that cannot be written is no reason to raise anything here.
    """

    def __init__(self, path: Path) -> None:
        self.trouble = ""
        self._size = 0
        self._file = -1
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        except OSError as cause:
            self.trouble = str(cause)

    def record(self, lines: Sequence[str], elapsed: float) -> None:
        """Append lines that came `elapsed` seconds after the machine's start."""
        stamp = f"{elapsed:10.3f} "
        text = "".join(f"{stamp}{line}\n" for line in lines if line)
        if not text or self.trouble:
            return
        if self._size + len(text) > LIMIT:
            text, self.trouble = f"{stamp}{FULL}\n", FULL
        written = text.encode(errors="replace")
        self._size += len(written)
        try:
            while written:
                written = written[os.write(self._file, written) :]
        except OSError as cause:
            self.trouble = str(cause)

    def close(self) -> None:
        """May be called more than once."""
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
            self._file = -1
