"""A read-only view of files: what the checks of this room need, and that view of a folder on this host.

`View` is the part of `harness.images.filesystems.files` that is used here, so that a store inside an image and one in
a folder are read alike. Paths are absolute within the view; nothing follows a symlink, so nothing leads out of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from harness.errors import DamagedImage

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
MOST_REMEMBERED = 10_000  # directories known to be such


class Status(Protocol):
    """What is known of one path; `mode` is the permission bits, `size` in bytes, `device` major and minor."""

    @property
    def kind(self) -> str: ...
    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def device(self) -> tuple[int, int] | None: ...


class View(Protocol):
    """Files by path. Every method raises a HarnessError for a path that it cannot answer for."""

    def exists(self, path: str) -> bool: ...
    def stat(self, path: str) -> Status: ...
    def listdir(self, path: str) -> Sequence[str]: ...
    def readlink(self, path: str) -> str: ...
    def chunks(self, path: str, size: int) -> Iterator[bytes]: ...
    def xattrs(self, path: str) -> Mapping[str, bytes]: ...


@dataclass(frozen=True, slots=True)
class FolderEntry:
    """The status of one path in a folder."""

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    device: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """The files below `folder`, as a `View`. Needs the rights to read them: usually root's.

    What was once seen to be a directory is taken for one from then on: the folder must not change under the view.
    """

    folder: Path
    _directories: dict[str, str] = field(default_factory=dict, init=False, repr=False, compare=False)

    def exists(self, path: str) -> bool:
        """Whether there is anything at `path`, a broken symlink included."""
        try:
            self._status(path)
        except DamagedImage:
            return False
        return True

    def stat(self, path: str) -> FolderEntry:
        """The status of `path` itself, never of what a symlink points to."""
        status = self._status(path)
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        is_device = kind in {"character", "block"}
        return FolderEntry(
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            size=status.st_size,
            device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else None,
        )

    def listdir(self, path: str) -> Sequence[str]:
        """The names in a directory, sorted."""
        try:
            return sorted(os.listdir(self._place(path)))  # noqa: PTH208 - by string: a store has 100,000 files
        except (OSError, ValueError) as cause:
            raise _told(path, cause) from cause

    def readlink(self, path: str) -> str:
        """Where a symlink points, as written."""
        try:
            return os.readlink(self._place(path))  # noqa: PTH115 - as above
        except (OSError, ValueError) as cause:
            raise _told(path, cause) from cause

    def chunks(self, path: str, size: int) -> Iterator[bytes]:
        """A file's content in order, at most `size` bytes a piece."""
        try:
            descriptor = os.open(self._place(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                while piece := os.read(descriptor, size):
                    yield piece
            finally:
                os.close(descriptor)
        except (OSError, ValueError) as cause:
            raise _told(path, cause) from cause

    def xattrs(self, path: str) -> Mapping[str, bytes]:
        """Extended attributes by full name."""
        try:
            place = self._place(path)
            names = os.listxattr(place, follow_symlinks=False)
            return {name: os.getxattr(place, name, follow_symlinks=False) for name in names}
        except (OSError, ValueError) as cause:
            raise _told(path, cause) from cause

    def _status(self, path: str) -> os.stat_result:
        try:
            return os.lstat(self._place(path))
        except (OSError, ValueError) as cause:
            raise _told(path, cause) from cause

    def _place(self, path: str) -> str:
        """Where `path` is on this host; its last part may be missing. Raises DamagedImage if it would lead out."""
        above, _, name = path.rstrip("/").rpartition("/")
        if name in {"", ".."}:
            return self._directory(path)
        return f"{self._directory(above)}/{name}"

    def _directory(self, path: str) -> str:
        """Where a directory is on this host. Raises DamagedImage unless it is one, whichever way leads there."""
        if known := self._directories.get(path):
            return known
        place = str(self.folder)
        for part in path.split("/"):
            if part in {"", "."}:
                continue
            place = f"{place}/{part}"
            try:
                is_directory = stat.S_ISDIR(os.lstat(place).st_mode)
            except (OSError, ValueError) as cause:
                raise _told(path, cause) from cause
            if part == ".." or not is_directory:
                raise DamagedImage("leads out of the folder", where=path)
        if len(self._directories) >= MOST_REMEMBERED:
            self._directories.clear()
        self._directories[path] = place
        return place


def _told(path: str, cause: Exception) -> DamagedImage:
    """The host's error about a path, in words."""
    return DamagedImage(f"cannot be read: {getattr(cause, 'strerror', None) or cause}", where=path)
