"""The folder that a config's `local` paths are relative to, and out of which no path leads.

Butane refuses paths that climb out of it by `..`; here a symlink that leads out is refused as well, because what it
names could be anybody's.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from harness.ignition.butane.fault import Fault, Mark
from harness.ignition.config import SIZE_LIMIT

NEEDED: Final = "give the folder that local paths are relative to: --files-dir"


@dataclass(slots=True)
class FilesDir:
    """The folder of local files, or none (`root` is None): then nothing can be read.

    One translation reads at most `left` bytes, however often it names a file.
    """

    root: Path | None
    left: int = SIZE_LIMIT

    def read(self, name: str, at: Mark) -> bytes:
        """A file's contents. Raises Fault where there is no folder, no such regular file, or it lies outside."""
        return self.read_found(self.find(name, at), name, at)

    def read_found(self, path: Path, name: str, at: Mark) -> bytes:
        """The contents of a regular file that lies in the folder; `name` is what messages call it."""
        content = _read(path, name, self.left, at)
        self.left -= len(content)
        return content

    def find(self, name: str, at: Mark) -> Path:
        """The real path of something in the folder. Raises Fault where it is not there, or lies outside."""
        if self.root is None:
            raise Fault("local files cannot be read", at, NEEDED)
        root = os.path.realpath(self.root)
        try:
            wanted = os.path.normpath(f"{root}/{name}")
            if not _is_within(wanted, root):
                raise Fault(f'"{name}" leads out of the folder of local files', at)
            found = os.path.realpath(wanted, strict=True)
        except (OSError, ValueError) as cause:
            reason = getattr(cause, "strerror", None) or str(cause)
            raise Fault(f'"{name[:200]}" cannot be read: {reason}', at, f"looked in {self.root}") from cause
        if not _is_within(found, root):
            raise Fault(f'"{name}" leads out of the folder of local files through a symlink', at)
        return Path(found)

    def holds_target(self, link: Path, target: str) -> bool:
        """Whether a link inside the folder points inside it too; absolute targets are of the guest, never followed."""
        if target.startswith("/"):
            return True
        root = os.path.realpath(self.root or "/")
        return _is_within(os.path.normpath(f"{link.parent}/{target}"), root)


def _read(path: Path, name: str, limit: int, at: Mark) -> bytes:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise Fault(f'"{name}" is not a regular file', at)
        # What is swapped for something else after this look can neither lead away nor make us wait.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            content = stream.read(limit + 1)
    except OSError as cause:
        raise Fault(f'"{name}" cannot be read: {cause.strerror}', at) from cause
    if len(content) > limit:
        words = f"local files hold more than {SIZE_LIMIT:,} bytes"
        raise Fault(f'{words} with "{name}"', at, "fetch large contents by source")
    return content


def _is_within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
