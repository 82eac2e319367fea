"""The store: content-keyed folders that are built once and shared by every process on this host.

An entry's key is the SHA-256 of all that went into it. One lock per key; the entry is built in a sibling folder,
flushed and renamed, so a reader sees all of it or nothing and a `kill -9` leaves nothing that a later run trusts.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from harness.errors import BadInput, StoreError

ENVIRONMENT_VARIABLE = "IMAGE_HARNESS_STORE"
DEFAULT_LIMIT = 40 * 2**30  # bytes
USED_MARK = ".used"


def content_key(inputs: Mapping[str, Any]) -> str:
    """SHA-256 in hex over the sorted inputs; values must be JSON-able.

    >>> content_key({"a": 1, "b": 2}) == content_key({"b": 2, "a": 1})
    True
    """
    canonical = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


class Store:
    """A folder of entries, `<root>/<kind>/<key>/`, and of scratch folders that die with their process."""

    def __init__(self, root: Path, limit: int = DEFAULT_LIMIT) -> None:
        self.root = root.absolute()
        self.limit = limit
        try:
            (self.root / "scratch").mkdir(parents=True, exist_ok=True)
            (self.root / "locks").mkdir(exist_ok=True)
        except OSError as cause:
            raise StoreError(
                f"cannot be created: {cause.strerror}",
                where=str(root),
                next_step=f"choose another place with {ENVIRONMENT_VARIABLE}",
            ) from cause

    @classmethod
    def default(cls) -> Store:
        """The store of this user: $IMAGE_HARNESS_STORE, else the XDG cache folder."""
        chosen = os.environ.get(ENVIRONMENT_VARIABLE)
        return cls(Path(chosen) if chosen else user_cache_path("image-harness"))

    def find(self, kind: str, key: str) -> Path | None:
        """The finished entry, or None; finding it counts as a use."""
        entry = self.root / kind / key
        if not entry.is_dir():
            return None
        with contextlib.suppress(OSError):
            (entry / USED_MARK).touch()
        return entry

    def entry(self, kind: str, key: str, build: Callable[[Path], None]) -> Path:
        """The entry, built by `build(folder)` if it is not there yet.

        Whoever asks while another process builds it waits and gets the other's result. An exception in `build`
        leaves no entry and is passed on.
        """
        if found := self.find(kind, key):
            return found
        with self.lock(f"{kind}-{key}"):
            if found := self.find(kind, key):
                return found
            entry = self.root / kind / key
            aside = entry.with_name(f".{key}.building")
            _remove(aside)
            aside.mkdir(parents=True)
            try:
                build(aside)
                (aside / USED_MARK).touch()
                _flush(aside)
                aside.rename(entry)
            except BaseException:
                _remove(aside)
                raise
            _flush_folder(entry.parent)
        return entry

    def discard(self, kind: str, key: str, is_wrong: Callable[[Path], bool] = lambda _: True) -> None:
        """Forget an entry that turned out to be wrong, unless another process has put a right one in its place."""
        with self.lock(f"{kind}-{key}"):
            if is_wrong(self.root / kind / key):
                _remove(self.root / kind / key)

    @contextlib.contextmanager
    def scratch(self, purpose: str) -> Iterator[Path]:
        """A folder that is removed at the end; one left by a killed process is removed by the next caller."""
        with self.lock("scratch"):  # nobody may sweep a folder whose owner has not locked it yet
            self._sweep_scratch()
            folder = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=self.root / "scratch"))
            lock = FileLock(_mark_of(folder))
            lock.acquire()
        try:
            yield folder
        finally:
            _remove(folder)
            lock.release()
            _mark_of(folder).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove the scratch folders of processes that were killed."""
        with self.lock("scratch"):
            self._sweep_scratch()

    def _sweep_scratch(self) -> None:
        found = list((self.root / "scratch").iterdir())
        for folder in {path.with_suffix("") if path.suffix == ".lock" else path for path in found}:
            mark = _mark_of(folder)
            with contextlib.suppress(Timeout, OSError), FileLock(mark, timeout=0):
                _remove(folder)
                mark.unlink(missing_ok=True)

    def lock(self, name: str) -> FileLock:
        """A lock of this name between all processes that use the store; `with` it."""
        return FileLock(self.root / "locks" / name)

    def prune(self) -> list[Path]:
        """Remove the least recently used entries until the store is within its limit; returns what went."""
        self._sweep_leftovers()
        entries = [entry for entry in self.root.glob("*/[!.]*") if (entry / USED_MARK).exists()]
        entries.sort(key=lambda entry: (entry / USED_MARK).stat().st_mtime)
        sizes = {entry: _disk_usage(entry) for entry in entries}
        total = sum(sizes.values())
        gone = []
        for entry in entries:
            if total <= self.limit:
                break
            with (
                contextlib.suppress(Timeout),
                FileLock(self.root / "locks" / f"{entry.parent.name}-{entry.name}", timeout=0),
            ):
                _remove(entry)
                total -= sizes[entry]
                gone.append(entry)
        return gone

    def _sweep_leftovers(self) -> None:
        """Remove what killed processes left of entries: half-built and half-removed ones."""
        for folder in self.root.glob("*/.*.building"):
            name = f"{folder.parent.name}-{folder.name[1:].removesuffix('.building')}"
            with contextlib.suppress(Timeout), FileLock(self.root / "locks" / name, timeout=0):
                _remove(folder)
        for folder in self.root.glob("*/.*.doomed"):
            shutil.rmtree(folder, ignore_errors=True)


def _mark_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove(folder: Path) -> None:
    """Rename first, so that nobody finds a half-removed entry."""
    if not folder.exists():
        return
    doomed = folder.with_name(f".{folder.name}.{os.getpid()}.doomed")
    with contextlib.suppress(FileNotFoundError):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _disk_usage(folder: Path) -> int:
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_replaceable(target: Path) -> None:
    """Raise BadInput for a device, a pipe or a folder: a file must not take their place."""
    try:
        is_other = target.exists() and not target.is_file()
    except OSError as cause:
        raise BadInput(f"cannot be written: {cause.strerror or cause}", where=str(target)) from cause
    if is_other:
        raise BadInput("is no file that could be replaced", where=str(target), next_step="name a file")


@contextlib.contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Write a file beside `target`; it takes the place of `target` only when the block ends well.

    Raises BadInput where `target` is there and no file.
    """
    check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(descriptor)
    aside = Path(name)
    try:
        yield aside
        with aside.open("rb") as written:
            os.fsync(written.fileno())
        aside.chmod(0o644)
        aside.rename(target)
        _flush_folder(target.parent)
    finally:
        aside.unlink(missing_ok=True)


def check_new(target: Path) -> None:
    """Raise BadInput unless `target` can become a new folder: it is not there, or empty."""
    try:
        is_taken = target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir())))
    except OSError as cause:
        raise BadInput(
            f"cannot be used: {cause.strerror}", where=str(target), next_step="choose another name"
        ) from cause
    if is_taken:
        raise _taken(target)


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Fill a folder beside `target`, which takes that name only when the block ends well.

    Raises BadInput where `target` already holds something, StoreError where it cannot be written.
    """
    try:
        check_new(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield aside
            _flush(aside)
            aside.chmod(0o755)
            try:
                aside.rename(target)  # over an empty folder, but over nothing else
            except OSError as cause:
                if cause.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                    raise
                raise _taken(target) from cause
            _flush_folder(target.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as cause:
        raise StoreError(
            f"cannot be written: {cause.strerror}", where=str(target), next_step="is there room and permission?"
        ) from cause


def _taken(target: Path) -> BadInput:
    return BadInput("is there already", where=str(target), next_step="choose another name, or remove it")
