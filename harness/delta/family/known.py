"""What files were found to be, remembered as long as they do not change: a base is hashed once, not for every image.

A file is known again by device, inode, size and both times to the nanosecond, as git knows those of its index. Who
changes a file and sets all of that back deceives us here; the image's own SHA-256 is compared in any case.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from harness.delta.identity import identity_of
from harness.delta.recipe import Identity
from harness.errors import StoreError
from harness.store import Store, content_key

SETTLED = 2.0  # seconds since the last change: what changes within a file system's clock tick shows no new time
KIND = "identity"  # of the store's entries


def remembering(store: Store) -> Callable[[Path], Identity]:
    """`identity_of`, which looks into the store first."""

    def identity(path: Path) -> Identity:
        stamp = _stamp(path)
        if stamp is None:
            return identity_of(path)
        try:
            entry = store.entry(KIND, stamp, lambda folder: _remember(path, folder))
            found = msgspec.json.decode((entry / "identity.json").read_bytes(), type=Identity)
        except (StoreError, OSError, msgspec.DecodeError):
            return identity_of(path)
        return found if _stamp(path) == stamp else identity_of(path)

    return identity


def _remember(path: Path, folder: Path) -> None:
    (folder / "identity.json").write_bytes(msgspec.json.encode(identity_of(path)))


def _stamp(path: Path) -> str | None:
    """What the file is known by; None where it may change without showing it."""
    try:
        found = path.stat()
    except OSError:
        return None
    if time.time() - found.st_ctime < SETTLED:
        return None
    return content_key({"file": [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]})
