"""Memory for machines: whoever starts one waits until the host can bear it, over all processes of this user.

A claim is a file that its owner keeps locked, so the kernel gives it back when the owner dies, whatever killed it. The
files lie in a folder of the host, not of a store: two stores share one memory. A claim is granted when it fits into
what is available now, less what those who were granted theirs have not come to use yet. First come, first served.

Never a deadlock: who waits first in line goes on anyway once all others that hold memory wait too, or once nothing
has changed for so long that they must be waiting for something else of ours. Sizes are MiB.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from harness.errors import StoreError
from harness.machine.hardware.spec import MachineSpec

RESERVE = 256  # for everybody else
POLL = 0.25  # seconds; the kernel tells nobody that memory has become free
PATIENCE_HOLDING = 60.0  # seconds without change until one goes on that holds memory others may be waiting for
PATIENCE = 600.0  # the same for one that holds none: it may hold a lock
# Measured: a booted guest of 1 GiB makes QEMU 1.3 to 1.4 GiB large; a restored one 60 to 150 MiB of its own.
COLD_EXTRA = 384
RESTORED = 128

CLAIM, TICKET = "claim", "ticket"

log = logging.getLogger(__name__)


def memory_to_boot(spec: MachineSpec) -> int:
    """What a machine takes that boots from cold: all of its memory, and QEMU's."""
    return spec.memory + COLD_EXTRA


def memory_to_restore(spec: MachineSpec) -> int:
    """What a restored machine is expected to take for itself; the rest it shares with the file of the snapshot."""
    return RESTORED + spec.memory // 16


def available_memory() -> int:
    """What new programs can have before something must be swapped or killed: of the host, and of our control group."""
    host = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemAvailable:"))
    return min([host // 1024, *_left_in_groups()])


@dataclass(frozen=True, slots=True)
class Pool:
    """The memory of a host, shared by all that use the same folder. `reserve` is left to others."""

    folder: Path
    available: Callable[[], int] = available_memory
    reserve: int = RESERVE

    @classmethod
    def of_host(cls) -> Pool:
        """The pool of this user. Raises StoreError where its place is taken."""
        shared = Path("/dev/shm")  # noqa: S108  gone when the host starts anew, as claims should be
        folder = (shared if shared.is_dir() else Path("/tmp")) / f"image-harness-{os.getuid()}"  # noqa: S108
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not folder.is_dir() or folder.is_symlink() or found.st_uid != os.getuid():
            raise StoreError("is not a folder of ours", where=str(folder), next_step="remove it")
        return cls(folder)

    @contextmanager
    def claim(self, need: int, purpose: str) -> Iterator[None]:
        """Have `need` MiB for the time of the block; waits for them as long as it takes."""
        ticket: _Note | None = None
        try:
            while (claim := self._ask(need, ticket)) is None:
                if ticket is None:
                    with self._alone():
                        ticket = _Note.write(self.folder, TICKET, need)
                    log.warning(
                        "waiting for memory: %s needs %d MiB, %d are available", purpose, need, self.available()
                    )
                time.sleep(POLL)
        finally:
            if ticket is not None:
                ticket.remove()
        try:
            yield
        finally:
            claim.remove()

    def _ask(self, need: int, ticket: _Note | None) -> _Note | None:
        """The claim, if it is granted now."""
        with self._alone():
            claims, tickets = self._notes(CLAIM), self._notes(TICKET)
            is_first = not tickets if ticket is None else tickets[0].path == ticket.path
            if not is_first or not (self._fits(need, claims) or _must_go_on(claims, tickets, ticket)):
                return None
            return _Note.write(self.folder, CLAIM, need)

    def _fits(self, need: int, claims: list[_Note]) -> bool:
        granted: dict[int, int] = {}
        for claim in claims:
            granted[claim.owner] = granted.get(claim.owner, 0) + claim.need
        used = _used_by_children(granted)
        growing = sum(max(0, most - used[owner]) for owner, most in granted.items())
        return need + growing <= self.available() - self.reserve

    def _notes(self, kind: str) -> list[_Note]:
        """Those whose owner lives, oldest first; the others are swept."""
        notes = [_Note.read(path) for path in sorted(self.folder.glob(f"{kind}-*"))]
        return [note for note in notes if note is not None]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


@dataclass(frozen=True, slots=True)
class _Note:
    """A locked file `<kind>-<time>-<owner>-<need>`; `lock` is our descriptor where it is ours."""

    path: Path
    since: float  # seconds of the monotonic clock, which all processes share
    owner: int
    need: int
    lock: int = -1

    @classmethod
    def write(cls, folder: Path, kind: str, need: int) -> _Note:
        now, owner = time.monotonic_ns(), os.getpid()
        path = folder / f"{kind}-{now:020d}-{owner}-{need}"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        return cls(path, now / 1e9, owner, need, lock)

    @classmethod
    def read(cls, path: Path) -> _Note | None:
        """None, and no such file any more, when its owner has gone."""
        try:
            since, owner, need = map(int, path.name.split("-")[1:])
            lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except (OSError, ValueError):
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
        except BlockingIOError:
            return cls(path, since / 1e9, owner, need)
        finally:
            os.close(lock)
        return None

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.lock)


def _must_go_on(claims: list[_Note], tickets: list[_Note], ticket: _Note | None) -> bool:
    """Whether nobody is left who could be expected to give memory back."""
    waiting = {os.getpid(), *(other.owner for other in tickets)}
    if all(claim.owner in waiting for claim in claims):
        return True
    if ticket is None:
        return False
    quiet_since = max([ticket.since, *(claim.since for claim in claims)])
    is_holding = any(claim.owner == os.getpid() for claim in claims)
    return time.monotonic() - quiet_since > (PATIENCE_HOLDING if is_holding else PATIENCE)


def _used_by_children(owners: Collection[int]) -> dict[int, int]:
    """Memory that each process's children have to themselves: what they wrote, and memory they share as files."""
    used = dict.fromkeys(owners, 0)
    for status in Path("/proc").glob("[0-9]*/status") if used else ():
        facts = dict(line.split(":", 1) for line in _lines(status) if ":" in line)
        parent = int(facts.get("PPid", 0))
        if parent in used:
            kilobytes = (facts.get(name, "0").split()[0] for name in ("RssAnon", "RssShmem"))
            used[parent] += sum(map(int, kilobytes)) // 1024
    return used


def _left_in_groups() -> Iterator[int]:
    """What the limits of our control group and of those above it leave (cgroup v2); file caches can be taken back."""
    place = next((line.removeprefix("0::") for line in _lines("/proc/self/cgroup") if line.startswith("0::")), "/")
    group = Path("/sys/fs/cgroup") / place.strip().lstrip("/")
    for folder in (group, *group.parents):
        limit, used = _lines(folder / "memory.max"), _lines(folder / "memory.current")
        if limit and used and limit[0].isdigit():
            rows = (line.split() for line in _lines(folder / "memory.stat"))
            cached = sum(int(row[1]) for row in rows if row[0] in {"active_file", "inactive_file"})
            yield max(0, int(limit[0]) - int(used[0]) + cached) // 2**20


def _lines(path: str | Path) -> list[str]:
    """A file of the kernel; nothing where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
