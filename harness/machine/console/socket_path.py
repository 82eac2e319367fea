"""Addresses of Unix sockets whose paths are longer than the 107 bytes that fit into one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 107  # bytes: sun_path of unix(7), with its final zero


@contextmanager
def at_socket(path: Path) -> Iterator[str]:
    """What to bind or connect to for `path`: a shorter way through /proc where it is too long. Raises OSError."""
    if len(os.fsencode(path)) <= LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
