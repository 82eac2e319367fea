"""What survives an edit in place that is cut short: `.NAME.undo` beside the ISO, with the bytes before and after.

It is on the disk before the first byte of the ISO changes, and goes away when the last one is there. Found later it
means a cut; taking back needs each byte to be either as before or as after, so that it never touches another ISO of
that name. Who has to do with an ISO in place holds a lock on it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.errors import BadInput, DamagedImage

LARGEST_UNDO = 2**28  # bytes
MOST_PATCHES = 64


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes to be written at `offset` in place of `old`, which has as many."""

    offset: int
    old: bytes
    new: bytes


class _Said(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    offset: int
    old: str
    new: str


class _Undo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    undo: int  # version of the format
    patches: list[_Said]


def undo_path(iso: Path) -> Path:
    """Where the undo file of an ISO lies, itself found through symlinks."""
    real = iso.resolve()
    return real.with_name(f".{real.name}.undo")


def is_cut(iso: Path) -> bool:
    """Whether an edit in place was cut short, or goes on right now."""
    return undo_path(iso).exists()


@contextlib.contextmanager
def locked(iso: Path) -> Iterator[int]:
    """An ISO opened for writing, by nobody else of us, with what a cut left taken back. Raises BadInput."""
    try:
        descriptor = os.open(iso, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as cause:
        raise _unwritable(iso, cause) from cause
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as cause:
            raise BadInput("is being changed by another process", where=str(iso), next_step="wait for it") from cause
        recover(iso, descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def write_in_place(iso: Path, descriptor: int, patches: Sequence[Patch]) -> None:
    """Write all patches or, whatever happens, none. Raises BadInput where the ISO or its folder cannot be written."""
    note = undo_path(iso)
    said = [_Said(each.offset, _text(each.old), _text(each.new)) for each in patches]
    try:
        _remember(note, msgspec.json.encode(_Undo(1, said)))
        try:
            for each in patches:
                _write(descriptor, each.new, each.offset)
            os.fsync(descriptor)
        except BaseException:
            recover(iso, descriptor)
            raise
        _forget(note)
    except OSError as cause:
        raise _unwritable(iso, cause) from cause


def recover(iso: Path, descriptor: int) -> bool:
    """Take back what a cut left half-done; whether there was any. Raises DamagedImage for one of another ISO."""
    note = undo_path(iso)
    if not note.exists():
        return False
    patches = _read(note)
    for each in patches:
        found = os.pread(descriptor, len(each.old), each.offset)
        pairs = zip(found, each.old, each.new, strict=False)
        if len(found) != len(each.old) or any(now not in (old, new) for now, old, new in pairs):
            raise _foreign(note, "the ISO is another than when it was written")
    try:
        for each in patches:
            _write(descriptor, each.old, each.offset)
        os.fsync(descriptor)
        _forget(note)
    except OSError as cause:
        raise _unwritable(iso, cause) from cause
    return True


def _read(note: Path) -> list[Patch]:
    try:
        if note.is_symlink() or not note.is_file() or note.stat().st_size > LARGEST_UNDO:
            raise _foreign(note, "is no undo file")
        known = msgspec.json.decode(note.read_bytes(), type=_Undo)
        found = [Patch(each.offset, _bytes(each.old), _bytes(each.new)) for each in known.patches]
    except (msgspec.DecodeError, ValueError, RecursionError) as cause:
        raise _foreign(note, "is no undo file") from cause
    except OSError as cause:
        raise _unwritable(note, cause) from cause
    sound = all(0 <= each.offset < 2**62 and len(each.old) == len(each.new) for each in found)
    if known.undo != 1 or len(found) > MOST_PATCHES or not sound:
        raise _foreign(note, "is no undo file that we know")
    return found


def _remember(note: Path, content: bytes) -> None:
    """Put an undo file on the disk, whole or not at all; only its owner may read it, as configs hold secrets."""
    descriptor, name = tempfile.mkstemp(prefix=f"{note.name}.", dir=note.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).rename(note)
    finally:
        Path(name).unlink(missing_ok=True)
    _flush_folder(note.parent)


def _forget(note: Path) -> None:
    note.unlink(missing_ok=True)
    _flush_folder(note.parent)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, content: bytes, offset: int) -> None:
    rest = memoryview(content)
    while rest:
        done = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[done:], offset + done


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _foreign(note: Path, what: str) -> DamagedImage:
    return DamagedImage(what, where=str(note), next_step="remove it if the ISO is as it should be")


def _unwritable(path: Path, cause: OSError) -> BadInput:
    return BadInput(
        f"cannot be written: {cause.strerror or cause}", where=str(path), next_step="write a new ISO with -o FILE"
    )
