"""The files that go onto a disk: a flat folder, its names and sizes checked before anything is written.

The bytes of a file are read once: whoever writes them takes its SHA-256 on the way, and a folder that has SHA256SUMS
is held to it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from harness.containers.folder import FolderFiles
from harness.errors import BadInput, DamagedArtifact
from harness.images.filesystems.files import shown
from harness.prestage.archives.folder import SUMS, read_sums
from harness.prestage.archives.journal import NAME as JOURNAL

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=,~%-]*")  # what needs no quoting in any of the tools' scripts
LONGEST_NAME = 255  # bytes, in ext4 and XFS
MOST_FILES = 10_000
RESERVED = frozenset({"lost+found"})
STEP = 2**20  # bytes read at a time
NAMESPACE = UUID("6f3c1f5e-3a39-5d0c-9a51-0d6d2f8a3b57")  # of all identifiers that follow from content
TIME = 1793491200  # 2026-11-01, the time of every file and of everything that a tool would date


@dataclass(frozen=True, slots=True)
class Item:
    """One file: its name, where it lies here, and its bytes when it was looked at."""

    name: str
    path: Path
    size: int

    @property
    def mode(self) -> int:
        """By its name, for a folder's own modes depend on whoever filled it."""
        return 0o755 if self.name.endswith(".sh") else 0o644


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes onto a disk, sorted by name; `sums` is what SHA256SUMS says of it, empty without that file."""

    folder: Path
    items: tuple[Item, ...]
    sums: Mapping[str, str]

    @property
    def size(self) -> int:
        return sum(item.size for item in self.items)

    def blocks(self, block_size: int) -> int:
        """How many blocks of a filesystem the files' bytes fill."""
        return sum(-(-item.size // block_size) for item in self.items)


def read_contents(folder: Path) -> Contents:
    """Look at a folder. Raises BadInput for one that is empty, is no folder, or holds what cannot go onto a disk."""
    try:
        with os.scandir(folder) as entries:
            wanted = (
                entry for entry in entries if entry.name != JOURNAL
            )  # says what was pulled, and concerns pull alone
            found = sorted(wanted, key=lambda entry: os.fsencode(entry.name))
        items = tuple(_item(Path(entry.path)) for entry in found)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(folder)) from cause
    if not items:
        raise BadInput("is empty", where=str(folder), next_step="fill it with harness prestage pull")
    if len(items) > MOST_FILES:
        raise BadInput(f"holds {len(items):,} files; at most {MOST_FILES:,} go onto a disk", where=str(folder))
    sums = read_sums(FolderFiles(folder)) if any(item.name == SUMS for item in items) else {}
    missing = sorted(set(sums) - {item.name for item in items})
    if missing:
        raise BadInput(f"lacks {shown(missing[0])}, which {SUMS} lists", where=str(folder), next_step="pull it again")
    return Contents(folder, items, sums)


def _item(path: Path) -> Item:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        kind = "folder" if stat.S_ISDIR(status.st_mode) else "link" if stat.S_ISLNK(status.st_mode) else "special file"
        raise BadInput(f"is a {kind}; only files go onto a disk", where=shown(str(path)), next_step="move it elsewhere")
    fits = NAME.fullmatch(path.name) and len(path.name) <= LONGEST_NAME and path.name not in RESERVED
    if not fits:
        why = "begins with a dot; is a pull still running?" if path.name.startswith(".") else "is not a name for a disk"
        raise BadInput(
            why, where=shown(str(path)), next_step="letters, digits and _.@+=,~%- without blanks; rename or remove it"
        )
    return Item(path.name, path, status.st_size)


def pieces(item: Item, done: Callable[[int], None]) -> Iterator[bytes]:
    """A file's bytes, exactly as many as it had. Raises BadInput where that changed or it cannot be read."""
    left = item.size
    try:
        with item.path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while left and (piece := file.read(min(STEP, left))):
                left -= len(piece)
                yield piece
                done(len(piece))
            if left or file.read(1):
                raise BadInput("changed while it was read", where=str(item.path), next_step="try again")
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(item.path)) from cause


class Digests:
    """The SHA-256 of every file as its bytes pass, held to SHA256SUMS."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._found: dict[str, str] = {}

    def passing(self, item: Item, done: Callable[[int], None]) -> Iterator[bytes]:
        """As `pieces`. Raises DamagedArtifact behind the last one for a file that is not what SHA256SUMS says."""
        digest = hashlib.sha256()
        for piece in pieces(item, done):
            digest.update(piece)
            yield piece
        found, wanted = digest.hexdigest(), self._contents.sums.get(item.name)
        if wanted is not None and found != wanted:
            raise DamagedArtifact(
                f"has SHA-256 {found}, but {SUMS} says {wanted}", where=str(item.path), next_step="pull it again"
            )
        self._found[item.name] = found

    def identifier(self, purpose: str) -> UUID:
        """What follows from the names and contents of all files, once they have passed; another for each purpose."""
        digest = hashlib.sha256()
        for item in self._contents.items:
            digest.update(f"{self._found[item.name]}  {item.name}\n".encode())
        return uuid5(NAMESPACE, f"{purpose}:{digest.hexdigest()}")
