"""Digests of a disk or a file, all of them in one pass, and for a compressed file also those of what is inside it.

fast-vm's digests are SHA-512 of each GiB, and one more of nothing at the end: its loop counts from 0 to the size
inclusive (fast-vm-image, gen_checksums).
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.errors import BadInput, DamagedImage, HarnessError
from harness.images.block import Block
from harness.images.extents import extents_of
from harness.images.formats.compression import DEFAULT_LIMIT, LONGEST_MAGIC, detect, pieces
from harness.images.formats.raw import FileBlock

Progress = Callable[[int], None]  # is told how many more bytes are done
PIECE = 2**20  # bytes; divides GIB
GIB = 2**30
ZEROES = bytes(PIECE)
ZIP_MAGIC = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Digest:
    """`size` in bytes and SHA-256 in hex."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class FileDigest:
    """A file, and what is inside where it is compressed; `fault` says why that could not be read to its end."""

    file: Digest
    inside: Digest | None = None
    fault: str = ""


class Sha512Parts:
    """SHA-512 of each GiB of what passes, as fast-vm wants it; a GiB of nothing but holes costs nothing."""

    def __init__(self) -> None:
        self._done: list[str] = []
        self._current = hashlib.sha512()
        self._filled = 0
        self._pending = 0  # bytes of zeroes at the start of this GiB that were not hashed yet

    def update(self, piece: bytes) -> None:
        """Take the next piece, which does not reach into the next GiB."""
        if piece is ZEROES and self._pending == self._filled:
            self._pending += len(piece)
        else:
            self._hash_pending()
            self._current.update(piece)
        self._filled += len(piece)
        if self._filled == GIB:
            self._done.append(_sha512_of_empty_gib() if self._pending == GIB else self._current.hexdigest())
            self._current, self._filled, self._pending = hashlib.sha512(), 0, 0

    def finish(self) -> tuple[str, ...]:
        """All digests: N for N GiB, begun ones counted, and the one of nothing."""
        self._hash_pending()
        last = [self._current.hexdigest()] if self._filled else []
        return (*self._done, *last, hashlib.sha512().hexdigest())

    def _hash_pending(self) -> None:
        for _ in range(self._pending // PIECE):
            self._current.update(ZEROES)
        self._pending = 0


def pieces_of(block: Block, progress: Progress | None = None) -> Iterator[bytes]:
    """All bytes of a block in pieces of PIECE bytes, the last one shorter; a piece in a hole is the object ZEROES."""
    beyond = (block.size, block.size + 1)
    data = ((extent.offset, extent.offset + extent.length) for extent in extents_of(block) if extent.kind == "data")
    start, end = next(data, beyond)
    for offset in range(0, block.size, PIECE):
        length = min(PIECE, block.size - offset)
        while end <= offset:
            start, end = next(data, beyond)
        if start < offset + length:
            yield block.read(offset, length)
        else:
            yield ZEROES if length == PIECE else bytes(length)
        if progress:
            progress(length)


def sha512_parts(block: Block, progress: Progress | None = None) -> tuple[str, ...]:
    """fast-vm's digests of a disk."""
    parts = Sha512Parts()
    for piece in pieces_of(block, progress):
        parts.update(piece)
    return parts.finish()


def digest_file(path: Path, *, limit: int = DEFAULT_LIMIT, progress: Progress | None = None) -> FileDigest:
    """Digests of a file and of what gzip, xz, zstd or zip put into it, read once (zip twice).

    A damaged stream is no error but a `fault`: the file's own digest still tells whether it is what was published.
    Raises BadInput where the file cannot be read.
    """
    with FileBlock(path) as file:
        head = file.read(0, min(LONGEST_MAGIC, file.size))
        kind = detect(head)
        if kind is None:
            digest = hashlib.sha256()
            for piece in pieces_of(file, progress):
                digest.update(piece)
            whole = Digest(file.size, digest.hexdigest())
            return _inside_zip(path, whole, limit) if head.startswith(ZIP_MAGIC) else FileDigest(whole)
        passing = _Passing(file, progress)
        try:
            inside = _digest_of(pieces(passing, path, kind), limit, path)
        except HarnessError as fault:
            passing.skip_rest()
            return FileDigest(passing.digest, None, fault.what)
        return FileDigest(passing.digest, inside)


def _digest_of(content: Iterator[bytes], limit: int, path: Path) -> Digest:
    digest, size = hashlib.sha256(), 0
    for piece in content:
        size += len(piece)
        if size > limit:
            raise DamagedImage(f"unpacks to more than {limit:,} bytes", where=str(path))
        digest.update(piece)
    return Digest(size, digest.hexdigest())


def _inside_zip(path: Path, whole: Digest, limit: int) -> FileDigest:
    """cosa zips a single file (hyperv)."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) != 1:
                return FileDigest(whole, None, f"holds {len(members)} files instead of one")
            with archive.open(members[0]) as member:
                return FileDigest(whole, _digest_of(iter(lambda: member.read(PIECE), b""), limit, path))
    except DamagedImage as fault:
        return FileDigest(whole, None, fault.what)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path)) from cause
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as fault:
        return FileDigest(whole, None, f"the zip archive is corrupt ({fault})")


@cache
def _sha512_of_empty_gib() -> str:
    digest = hashlib.sha512()
    for _ in range(GIB // PIECE):
        digest.update(ZEROES)
    return digest.hexdigest()


class _Passing:
    """A file that hashes what is read from it."""

    def __init__(self, file: FileBlock, progress: Progress | None) -> None:
        self._file = file
        self._position = 0
        self._progress = progress
        self._digest = hashlib.sha256()

    def read(self, length: int, /) -> bytes:
        piece = self._file.read(self._position, min(length, self._file.size - self._position))
        self._position += len(piece)
        self._digest.update(piece)
        if self._progress:
            self._progress(len(piece))
        return piece

    def tell(self) -> int:
        return self._position

    def skip_rest(self) -> None:
        while self.read(PIECE):
            pass

    @property
    def digest(self) -> Digest:
        return Digest(self._position, self._digest.hexdigest())
