"""Pull the images of a release into a prestage folder: several skopeos, every archive verified before it is there.

A run that was interrupted goes on where it was (`harness.prestage.archives.journal`); what a killed one left is swept.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, TypeVar

from filelock import FileLock, Timeout

from harness.containers.folder import FolderFiles
from harness.containers.skopeo import Access, Skopeo, Stopped
from harness.errors import BadInput, HarnessError, RegistryFailed, StoreError
from harness.prestage.archives.archive import SUFFIX, Archived, write_archive
from harness.prestage.archives.archive_check import check_archive
from harness.prestage.archives.folder import (
    DIGESTS,
    LIST_NAMES,
    MAPPING,
    SCRATCH,
    SCRIPT,
    SUMS,
    PrestageFolder,
    archive_name,
    write_texts,
)
from harness.prestage.archives.journal import Done, Journal
from harness.prestage.archives.wanted import Retries, Wanted, ask, host_architecture
from harness.prestage.lists.lists import ImageList
from harness.prestage.lists.reference import Reference

JOBS: Final = 4
LOCK: Final = ".pull.lock"
TOLD: Final = 5  # of the failures, each in words
TEXTS: Final = (*LIST_NAMES.values(), MAPPING, DIGESTS, SCRIPT, SUMS)

Thing = TypeVar("Thing")
Result = TypeVar("Result")


class Watch:
    """Hears how a pull goes on, from one thread at a time; does nothing. Sizes are bytes."""

    def begun(self, *, total: int, kept: int, size: int) -> None:
        """Of `total` archives `kept` are there already; the others will have `size` together."""

    def moved(self, size: int) -> None:
        """So much more is here; less, where something is tried again."""

    def done(self, number: int, total: int, reference: Reference, size: int) -> None:
        """The `number`th archive of all is complete."""

    def said(self, reference: Reference, what: str) -> None:
        """Something happened that a user may want to know."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull did: how many archives it kept and pulled, the bytes of what it pulled.

    `stale` are archives of no listed image: removed, if that was asked for.
    """

    kept: int
    pulled: int
    size: int
    stale: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Options:
    """How to pull; `architecture` is Go's name of it, this host's if empty."""

    access: Access = field(default_factory=Access)
    jobs: int = JOBS
    with_all: bool = False
    architecture: str = ""
    removes_stale: bool = False
    retries: Retries = field(default_factory=Retries)


def pull(images: ImageList, folder: Path, options: Options | None = None, watch: Watch | None = None) -> Pulled:
    """Make `folder` the prestage folder of `images`.

    Raises BadInput for what cannot be asked for, RegistryFailed and DamagedArtifact for what the registries give,
    StoreError where it does not fit; what was complete by then stays and is not pulled again.
    """
    options = options or Options()
    options.access.check()
    _check_names(images)
    with _opened(folder) as scratch:
        return _Pull(images, folder, scratch, options, watch or Watch()).run()


class _Pull:
    def __init__(self, images: ImageList, folder: Path, scratch: Path, options: Options, watch: Watch) -> None:
        self._images, self._folder, self._scratch, self._options, self._watch = images, folder, scratch, options, watch
        self._skopeo = Skopeo(options.access)
        self._retries = replace(options.retries, tell=self._tell_retry)
        self._journal = Journal(folder)
        self._lock = threading.Lock()
        self._finished: dict[str, Done] = {}

    def run(self) -> Pulled:
        references = list(dict.fromkeys(each.reference for each in self._images.images))
        with _room(self._folder):
            self._keep(references)
            missing = [each for each in references if archive_name(each) not in self._finished]
            kept = len(references) - len(missing)
            wanted = self._all(self._ask, missing)
            self._check_room(wanted)
            size = sum(each.size for each in wanted)
            self._watch.begun(total=len(references), kept=kept, size=size)
            pulled = self._all(lambda each: self._pull(each, len(references)), wanted)
            self._write(references)
            return Pulled(kept, len(missing), sum(each.size for each in pulled), self._stale(references))

    def _keep(self, references: list[Reference]) -> None:
        """Find out what is complete already."""
        known = self._journal.read()
        self._journal.rewrite(known)  # without lines that were torn
        there = [each for each in references if (self._folder / archive_name(each)).is_file()]
        for reference, done in zip(there, self._all(lambda each: self._kept(each, known), there), strict=True):
            if done:
                self._finished[archive_name(reference)] = done

    def _kept(self, reference: Reference, known: dict[str, Done]) -> Done | None:
        done = known.get(archive_name(reference))
        if done is None:
            name = archive_name(reference)
            check = check_archive(FolderFiles(self._folder), f"/{name}", reference)
            if not check.is_whole:
                self._say(reference, f"its archive is not whole and is pulled again: {check.findings[0]}")
                return None
            with self._lock:
                done = self._journal.note(
                    self._folder / name, sha256=check.sha256, digest=check.digest, with_all=check.is_list
                )
        if reference.digest:
            return done if done.digest == reference.digest else None
        return done if done.with_all or not self._options.with_all else None

    def _ask(self, reference: Reference) -> Wanted:
        architecture = self._options.architecture or host_architecture()
        return ask(self._skopeo, reference, self._retries, with_all=self._options.with_all, architecture=architecture)

    def _check_room(self, wanted: list[Wanted]) -> None:
        """All archives, and the folders of those that are being pulled, have to fit."""
        sizes = sorted((each.size for each in wanted), reverse=True)
        needed, free = sum(sizes) + sum(sizes[: self._options.jobs]), shutil.disk_usage(self._folder).free
        if free < needed:
            raise StoreError(f"{needed:,} bytes do not fit, {free:,} are free", where=str(self._folder))

    def _pull(self, wanted: Wanted, total: int) -> Archived:
        reference = wanted.reference
        place = Path(tempfile.mkdtemp(dir=self._scratch))
        seen = 0

        def look() -> int:
            nonlocal seen
            now = _bytes_in(place / "dir")
            self._moved(now - seen)
            seen = now
            return now

        def attempt() -> None:
            shutil.rmtree(place / "dir", ignore_errors=True)
            self._skopeo.copy(wanted.pinned, place / "dir", with_all=wanted.with_all, largest=wanted.largest, look=look)

        try:
            self._retries(self._skopeo, reference, attempt)
            archived = self._archive(wanted, place)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        self._moved(wanted.size - seen)
        with self._lock:
            name = archive_name(reference)
            self._finished[name] = self._journal.note(
                self._folder / name, sha256=archived.sha256, digest=archived.digest, with_all=wanted.with_all
            )
            self._watch.done(len(self._finished), total, reference, archived.size)
        return archived

    def _archive(self, wanted: Wanted, place: Path) -> Archived:
        aside = place / "archive"
        with _room(self._folder):
            with aside.open("wb") as out:
                archived = write_archive(
                    place / "dir", wanted.reference.archive, out, digest=wanted.digest, look=self._skopeo.check
                )
                out.flush()
                os.fsync(out.fileno())
            aside.rename(self._folder / archive_name(wanted.reference))
        return archived

    def _write(self, references: list[Reference]) -> None:
        self._journal.rewrite(self._finished)
        sums = {name: done.sha256 for name, done in self._finished.items()}
        digests = {each: self._finished[archive_name(each)].digest for each in references if not each.digest}
        write_texts(self._folder, PrestageFolder(self._images, sums, digests))
        descriptor = os.open(self._folder, os.O_RDONLY)  # the names of the archives, too
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _stale(self, references: list[Reference]) -> tuple[str, ...]:
        listed = {archive_name(each) for each in references}
        found = [path for path in self._folder.glob(f"*{SUFFIX}") if path.name not in listed and path.is_file()]
        if self._options.removes_stale:
            for path in found:
                path.unlink()
        return tuple(sorted(path.name for path in found))

    def _all(self, work: Callable[[Thing], Result], things: Iterable[Thing]) -> list[Result]:
        """What `work` returns for each, in order; all of them are tried before their failures are raised as one."""
        with ThreadPoolExecutor(self._options.jobs) as pool:
            futures = [pool.submit(work, thing) for thing in things]
            failures: list[HarnessError] = []
            try:
                for future in as_completed(futures):
                    failures += _failure(future)
            except BaseException:
                self._skopeo.stop()
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        if failures:
            raise _united(failures, len(futures), self._folder)
        return [future.result() for future in futures]

    def _tell_retry(self, reference: Reference, why: str, pause: float) -> None:
        self._say(reference, f"{why}; again in {pause:.0f} s")

    def _say(self, reference: Reference, what: str) -> None:
        with self._lock:
            self._watch.said(reference, what)

    def _moved(self, size: int) -> None:
        with self._lock:
            self._watch.moved(size)


def _failure(future: Future[Result]) -> list[HarnessError]:
    """Why one image failed, if it did. Raises what the others would fail from as well."""
    try:
        future.result()
    except StoreError:
        raise
    except HarnessError as cause:
        return [cause]
    return []


def _united(failures: list[HarnessError], total: int, folder: Path) -> HarnessError:
    """One error for all of them, of the kind of the first."""
    failures = sorted(failures, key=str)
    if len(failures) == 1 and total == 1:
        return failures[0]
    words = "; ".join(str(each) for each in failures[:TOLD])
    more = f"; and {len(failures) - TOLD} more" if len(failures) > TOLD else ""
    kind = type(failures[0]) if len({type(each) for each in failures}) == 1 else RegistryFailed
    return kind(
        f"{len(failures)} of {total} images failed: {words}{more}",
        where=str(folder),
        next_step="what is complete there is kept: run it again",
    )


def _check_names(images: ImageList) -> None:
    if not images.images:
        raise BadInput("no images are listed", next_step="name a list with pull specs, one a line")
    taken: dict[str, Reference] = {}
    for each in images.images:
        other = taken.setdefault(archive_name(each.reference), each.reference)
        if other != each.reference:
            raise BadInput(f"{other} and {each.reference} would have one archive", where=archive_name(each.reference))


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Path]:
    """The folder, locked and swept of what killed runs left, and a scratch folder in it."""
    with _room(folder):
        if folder.exists() and not folder.is_dir():
            raise BadInput("is no folder", where=str(folder), next_step="choose another name")
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as cause:
            raise BadInput("is being filled by another pull", where=str(folder), next_step="wait for it") from cause
        try:
            _sweep(folder)
            with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=folder, ignore_cleanup_errors=True) as scratch:
                yield Path(scratch)
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            lock.release()


def _sweep(folder: Path) -> None:
    for left in folder.glob(f"{SCRATCH}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
    for name in TEXTS:
        for left in folder.glob(f".{name}.*"):
            left.unlink(missing_ok=True)


def _bytes_in(folder: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except OSError:  # files come and go under their copier's hands
        return 0


@contextlib.contextmanager
def _room(folder: Path) -> Iterator[None]:
    """Say in words where the host cannot write."""
    try:
        yield
    except (OSError, Stopped) as cause:
        if isinstance(cause, Stopped):
            raise
        raise StoreError(f"cannot be written: {cause.strerror}", where=str(folder), next_step="make room") from cause
