"""A read-only view of files: what the checks of this room need, and that view of a folder on this host.

`View` is the part of `harness.images.filesystems.files` that is used here, so that a store inside an image and one in
a folder are read alike. Paths are absolute within the view; nothing follows a symlink, so nothing leads out of it.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
    """The files below `folder`, as a `View`. Needs the rights to read them: usually root's."""

    folder: Path

    def exists(self, path: str) -> bool:
        """Whether there is anything at `path`, a broken symlink included."""
        try:
            self._place(path)
        except DamagedImage:
            return False
        return True

    def stat(self, path: str) -> FolderEntry:
        """The status of `path` itself, never of what a symlink points to."""
        status = self._place(path).lstat()
        device = (os.major(status.st_rdev), os.minor(status.st_rdev))
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        return FolderEntry(
            kind=kind,
            mode=stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            size=status.st_size,
            device=device if kind in {"character", "block"} else None,
        )

    def listdir(self, path: str) -> Sequence[str]:
        """The names in a directory, sorted."""
        with _told(path):
            return sorted(entry.name for entry in self._place(path).iterdir())

    def readlink(self, path: str) -> str:
        """Where a symlink points, as written."""
        with _told(path):
            return str(self._place(path).readlink())

    def chunks(self, path: str, size: int) -> Iterator[bytes]:
        """A file's content in order, at most `size` bytes a piece."""
        with _told(path), os.fdopen(os.open(self._place(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as f:
            while piece := f.read(size):
                yield piece

    def xattrs(self, path: str) -> Mapping[str, bytes]:
        """Extended attributes by full name."""
        place = self._place(path)
        with _told(path):
            names = os.listxattr(place, follow_symlinks=False)
            return {name: os.getxattr(place, name, follow_symlinks=False) for name in names}

    def _place(self, path: str) -> Path:
        """Where `path` is on this host. Raises DamagedImage if it is not there or would lead out of the folder."""
        place = self.folder
        parts = [part for part in path.split("/") if part]
        with _told(path):
            for number, part in enumerate(parts, 1):
                place /= part
                is_last = number == len(parts)
                if part == ".." or (not stat.S_ISDIR(place.lstat().st_mode) and not is_last):
                    raise DamagedImage("leads out of the folder", where=path)
        return place


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """Turn the host's errors about a path into words."""
    try:
        yield
    except (OSError, ValueError) as cause:
        raise DamagedImage(f"cannot be read: {getattr(cause, 'strerror', cause)}", where=path) from cause
