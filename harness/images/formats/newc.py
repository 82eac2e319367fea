"""Writes cpio archives of the newc kind (driver-api/early-userspace/buffer-format.rst of Linux), always the same bytes.

Members belong to root and have no time; their numbers are their places. The reader is harness.images.formats.cpio.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

END = "TRAILER!!!"
FILE, PROGRAM, FOLDER, LINK = 0o100644, 0o100755, 0o040755, 0o120777
ALIGNED = 4  # bytes: to what names, contents and, between archives, the whole are filled


@dataclass(frozen=True, slots=True)
class Entry:
    """A member to be written; a link's content is what it leads to, and a path stands for that file's content."""

    name: str
    content: bytes | Path = b""
    mode: int = FILE


def write_archive(target: IO[bytes], entries: Iterable[Entry]) -> None:
    """An archive of the entries in their order, at the present place of `target`, which must be a multiple of four.

    The folders that one lies in are put before it unless they are there, since the kernel makes none by itself.
    """
    number, known = 0, set[str]()
    for entry in entries:
        for folder in reversed(Path(entry.name).parents[:-1]):
            if str(folder) not in known:
                known.add(str(folder))
                number += 1
                _write(target, Entry(str(folder), mode=FOLDER), number)
        known.add(entry.name)
        number += 1
        _write(target, entry, number)
    _write(target, Entry(END, mode=0), 0)


def filled(size: int) -> int:
    """The next multiple of four."""
    return -(-size // ALIGNED) * ALIGNED


def _write(target: IO[bytes], entry: Entry, number: int) -> None:
    content = entry.content
    size = content.stat().st_size if isinstance(content, Path) else len(content)
    name = entry.name.encode("utf-8", "surrogateescape") + b"\0"
    fields = (number, entry.mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
    target.write(head.ljust(filled(len(head)), b"\0"))
    if isinstance(content, Path):
        with content.open("rb") as source:
            shutil.copyfileobj(source, target, 2**20)
    else:
        target.write(content)
    target.write(bytes(filled(size) - size))
