"""One file over HTTP to a name of its own, which it gets when it is whole and has been verified.

Until then its bytes lie in `<name>.part` beside it, with the server's word for which version they are of in
`<name>.part.json`: a later try goes on where this one broke off, if the file there is still the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from harness.deadline import Deadline
from harness.errors import BadInput, DownloadFailed, StoreError
from harness.images.formats.compression import DEFAULT_LIMIT, SPARE_DISK
from harness.release.transport import UNSATISFIABLE, Answer, Interrupted, ask, shown

Progress = Callable[[int, int | None], None]  # bytes done, their total if known
HASHED = 2**20  # bytes hashed at a time
PROGRESS_MADE = 2**20  # bytes after which a broken transfer counts as a new one
LONGEST_NOTE = 2**14  # bytes of a .part.json that are read


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a broken transfer is taken up again, and for how long in all; pauses double each time."""

    tries: int = 5
    pause: float = 1.0  # seconds before the second try
    seconds: float = 6 * 3600.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to download, and what is known of it beforehand; None where nothing is."""

    url: str
    sha256: str | None = None
    size: int | None = None
    limit: int = DEFAULT_LIMIT  # bytes


@dataclass(frozen=True, slots=True)
class Download:
    """A file that lies under its own name."""

    path: Path
    sha256: str
    size: int


def download(
    wanted: Wanted,
    target: Path,
    *,
    part: Path | None = None,
    check: Callable[[Path], None] | None = None,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Download:
    """Download to `target`; `part` is where the unfinished file lies (on the same file system), else beside it.

    `check(path)` may look into the complete file and raise, before it gets its name. Raises DownloadFailed, and
    StoreError where there is no room.
    """
    part = part or target.with_name(f"{target.name}.part")
    transfer = _Transfer(wanted, part, progress or (lambda _done, _total: None), patience or Patience())
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with transfer:
            done = transfer.run()
            if wanted.sha256 not in {None, done} and transfer.went_on:
                transfer.begin_anew()  # two halves of different files?
                done = transfer.run()
            if wanted.sha256 not in {None, done}:
                raise _other_file(wanted, done, transfer.size)
            if check:
                check(part)
            transfer.flush()
        part.rename(target)
        _flush_folder(target.parent)
        transfer.note.unlink(missing_ok=True)
    except OSError as cause:
        raise StoreError(
            f"cannot be written: {cause.strerror}", where=str(part), next_step="is there room and permission?"
        ) from cause
    except (DownloadFailed, BadInput) as wrong:
        if not transfer.worth_keeping(wrong):
            transfer.forget()
        raise
    return Download(target, done, transfer.size)


class WrongContent(DownloadFailed):
    """What came is whole, but not what was published: nothing of it can be used again."""


class _Transfer:
    """The unfinished file, from wherever it stands to its end."""

    def __init__(self, wanted: Wanted, part: Path, progress: Progress, patience: Patience) -> None:
        self.wanted = wanted
        self.part = part
        self.note = part.with_name(f"{part.name}.json")
        self.size = 0
        self.went_on = False  # whether any of it was there before
        self._digest = hashlib.sha256()
        self._validator = ""
        self._progress = progress
        self._patience = patience
        self._deadline = Deadline(patience.seconds)
        self._stack = ExitStack()
        self._file = -1

    def __enter__(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(self.part, flags, 0o644)
        self._stack.callback(os.close, self._file)
        self._session = self._stack.enter_context(requests.Session())
        self._take_up()

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self) -> str:
        """Transfer what is missing; returns the SHA-256 of it all."""
        failures = 0
        while True:
            before = self.size
            try:
                self._attempt()
            except Interrupted as broken:
                failures = 1 if self.size - before >= PROGRESS_MADE else failures + 1
                self._wait(broken, failures)
            else:
                return self._digest.hexdigest()

    def begin_anew(self) -> None:
        """Drop what is there."""
        os.ftruncate(self._file, 0)
        self.size, self.went_on, self._validator = 0, False, ""
        self._digest = hashlib.sha256()

    def flush(self) -> None:
        os.fsync(self._file)

    def forget(self) -> None:
        for path in (self.part, self.note):
            path.unlink(missing_ok=True)

    def worth_keeping(self, wrong: Exception) -> bool:
        """Whether a later try can go on from here."""
        return not isinstance(wrong, WrongContent) and self.size > 0 and bool(self._validator or self.wanted.sha256)

    def _take_up(self) -> None:
        """Go on with what an earlier run left, if we can know that it belongs to the same file."""
        note = self._read_note()
        same = note.get("address") == self._address
        self._validator = str(note.get("validator", "")) if same else ""
        same_content = self.wanted.sha256 is not None and note.get("sha256") == self.wanted.sha256
        if not self._validator and not same_content:
            self.begin_anew()
            return
        while piece := os.pread(self._file, HASHED, self.size):
            self._digest.update(piece)
            self.size += len(piece)
        self.went_on = self.size > 0

    def _attempt(self) -> None:
        if self.size and not self._validator and self.wanted.sha256 is None:
            self.begin_anew()
        headers = {"Range": f"bytes={self.size}-"} if self.size else {}
        if self.size and self._validator:
            headers["If-Range"] = self._validator
        with ask(self._session, self.wanted.url, headers) as answer:
            if answer.status == UNSATISFIABLE:
                self._at_end(answer)
                return
            self._begin(answer)
            for piece in answer.pieces():
                self._append(piece)
                self._progress(self.size, answer.total)
                if self._deadline.expired:
                    raise self._failed(f"took longer than {self._patience.seconds:.0f} s")
            if answer.total is not None and self.size != answer.total:
                raise Interrupted(f"broke off after {self.size:,} of {answer.total:,} bytes")

    def _begin(self, answer: Answer) -> None:
        """See that what comes fits to what is there, and that there is room for it."""
        changed = bool(self._validator) and answer.validator != self._validator
        if self.size and (answer.start != self.size or (changed and answer.status == 206)):
            self.begin_anew()
            if answer.status == 206:
                raise Interrupted("has changed on the server")
        self.went_on = self.size > 0
        self._validator = answer.validator
        total, limit = answer.total, self.wanted.limit
        if self.wanted.size is not None and total not in {None, self.wanted.size}:
            raise WrongContent(
                f"has {total:,} bytes; {self.wanted.size:,} were published", where=shown(self.wanted.url)
            )
        if total is not None and total > limit:
            raise self._too_large(f"{total:,} bytes")
        room = shutil.disk_usage(self.part.parent).free - SPARE_DISK
        if total is not None and total - self.size > room:
            raise StoreError(f"no room for {total - self.size:,} bytes", where=str(self.part.parent))
        self._write_note()

    def _append(self, piece: bytes) -> None:
        if self.size + len(piece) > self.wanted.limit:
            raise self._too_large("more bytes")
        written = 0
        while written < len(piece):
            written += os.pwrite(self._file, piece[written:], self.size + written)
        self.size += len(piece)
        self._digest.update(piece)

    def _at_end(self, answer: Answer) -> None:
        """There is nothing after what we have: it is complete, or of another file."""
        if answer.total != self.size:
            self.begin_anew()
            raise Interrupted("has changed on the server")

    def _wait(self, broken: Interrupted, failures: int) -> None:
        pause = max(broken.pause, self._patience.pause * 2 ** (failures - 1))
        if failures >= self._patience.tries or pause > self._deadline.left:
            raise self._failed(f"{broken}, {failures} times in a row") from broken
        time.sleep(pause)

    def _failed(self, what: str) -> DownloadFailed:
        kept = f"{self.size:,} bytes are kept: try again" if self.size and self._validator else "try again later"
        return DownloadFailed(what, where=shown(self.wanted.url), next_step=kept)

    def _too_large(self, found: str) -> DownloadFailed:
        limit = f"has {found} where {self.wanted.limit:,} are allowed"
        return WrongContent(limit, where=shown(self.wanted.url), next_step="raise the limit if you want it")

    @property
    def _address(self) -> str:
        """The URL as it may lie around in a file: it can hold a password."""
        return hashlib.sha256(self.wanted.url.encode()).hexdigest()

    def _read_note(self) -> dict[str, Any]:
        with suppress(OSError, ValueError, RecursionError), self.note.open("rb") as file:
            note = json.loads(file.read(LONGEST_NOTE))
            return note if isinstance(note, dict) else {}
        return {}

    def _write_note(self) -> None:
        note = {"address": self._address, "validator": self._validator, "sha256": self.wanted.sha256}
        self.note.write_text(json.dumps(note))


def _other_file(wanted: Wanted, found: str, size: int) -> WrongContent:
    return WrongContent(
        f"SHA-256: expected {wanted.sha256}, found {found} ({size:,} bytes)",
        where=shown(wanted.url),
        next_step="is the checksum of this very file?",
    )


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
