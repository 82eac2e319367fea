"""One blob of a container image, read once: what it is, and what is packed in it.

Layers are tars, as they are or in gzip or zstd (image-spec 1.1, layer.md); by whichever of them a blob begins, it is
unpacked on the way, so that its diff_id is known without a second pass. Output is bounded, and so is memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.containers.manifest import LARGEST_MANIFEST
from harness.errors import HarnessError
from harness.images.formats.compression import LONGEST_MAGIC, detect, pieces

Packing = Literal["", "gz", "zst", "xz"]  # xz is none that a layer may have

SMALL = 4096  # bytes: more than the file needs that says what kind of folder it is in
LARGEST_LAYER = 32 * 2**30  # bytes of a layer's tar
FREE = 2**30  # bytes of tar that may be packed as small as they like
LARGEST_RATIO = 1000  # beyond, packing better than this is an attack; gzip cannot do better than 1,032


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob as it was found: sizes in bytes, digests as `sha256:<hex>`."""

    name: str  # path in its folder
    size: int
    digest: str
    packing: Packing
    diff_id: str  # digest of what is packed in it, its own if nothing is; empty where it cannot be unpacked
    inner_size: int
    damage: str = ""  # why it cannot be unpacked
    content: bytes | None = None  # of a blob that may be a manifest or a config: of braces, or very small


def read_blob(name: str, given: Iterable[bytes]) -> Blob:
    """What the bytes of a blob come to. Errors of whoever gives them pass through."""
    source = _Source(given)
    head = source.peek(LONGEST_MAGIC)
    packing = detect(head)
    content, most = bytearray(), LARGEST_MANIFEST if head[:1] == b"{" else SMALL
    inner, inner_size, damage = hashlib.sha256(), 0, ""
    if packing:
        try:
            for piece in pieces(source, Path(name), packing):
                inner.update(piece)
                inner_size += len(piece)
                _check_bounds(inner_size, source.taken)
        except (_BombError, HarnessError) as cause:
            if source.failure:
                raise source.failure from cause
            damage = cause.what if isinstance(cause, HarnessError) else str(cause)
    while piece := source.read(2**20):
        if len(content) <= most:
            content += piece
    digest = f"sha256:{source.digest.hexdigest()}"
    diff_id = "" if damage else f"sha256:{inner.hexdigest()}" if packing else digest
    size = source.taken
    return Blob(
        name,
        size,
        digest,
        packing or "",
        diff_id,
        inner_size if packing else size,
        damage,
        bytes(content) if not packing and len(content) <= most else None,
    )


class _BombError(Exception):
    """What is packed is more than anyone would pack."""


def _check_bounds(inner: int, taken: int) -> None:
    if inner > LARGEST_LAYER:
        raise _BombError(f"unpacks to more than {LARGEST_LAYER:,} bytes")
    if inner > FREE and inner > taken * LARGEST_RATIO:
        raise _BombError(f"unpacks to more than {LARGEST_RATIO:,} times its size: a decompression bomb?")


class _Source:
    """Bytes in pieces as something to read from, hashed as they are taken."""

    def __init__(self, given: Iterable[bytes]) -> None:
        self._given = iter(given)
        self._piece, self._at = b"", 0
        self.digest = hashlib.sha256()
        self.taken = 0
        self.failure: HarnessError | None = None  # of whoever gives the bytes

    def tell(self) -> int:
        return self.taken

    def peek(self, length: int) -> bytes:
        """The first bytes, without taking them; for the beginning only."""
        while len(self._piece) < length and (more := self._next()):
            self._piece += more
        return self._piece[:length]

    def read(self, length: int) -> bytes:
        """Up to `length` bytes, and none only at the end."""
        if self._at >= len(self._piece):
            self._piece, self._at = self._next(), 0
        found = self._piece[self._at : self._at + length]
        self._at += len(found)
        self.digest.update(found)
        self.taken += len(found)
        return found

    def _next(self) -> bytes:
        try:
            return next((piece for piece in self._given if piece), b"")
        except HarnessError as cause:
            self.failure = cause
            raise
