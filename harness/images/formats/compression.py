"""gzip, xz and zstd around an image file: recognised by magic, unpacked in one pass to a sparse file.

The pass also gives the SHA-256 of what comes out, which is the identity that CoreOS metadata calls
`uncompressed-sha256`. Output is bounded, memory too; a bomb, a truncated stream or bytes after the end are one error.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from harness.errors import BadInput, DamagedImage, StoreError
from harness.images.extents import sha256_of
from harness.images.formats.raw import FileBlock

if TYPE_CHECKING:
    from harness.store import Store

Compression = Literal["gz", "xz", "zst"]
KIND = "unpacked"  # of the store's entries
DEFAULT_LIMIT = 64 * 2**30  # bytes of output
XZ_MEMORY = 2**30  # bytes; xz -9 needs 65 MiB
STEP = 2**17  # bytes read at a time
PIECE = 2**20  # bytes unpacked at a time
GRAIN = 2**16  # bytes: zeroes of this size become a hole
ZEROES = bytes(GRAIN)
MOST_STREAMS = 1_000_000  # in one file; bgzip makes one for every 64 KiB
LONGEST_MAGIC = 6  # bytes
SPARE_DISK = 2**28  # bytes left free on the disk that we unpack to
MAGICS: tuple[tuple[bytes, Compression], ...] = (
    (b"\x1f\x8b\x08", "gz"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x28\xb5\x2f\xfd", "zst"),
    *((bytes([0x50 + number]) + b"\x2a\x4d\x18", "zst") for number in range(16)),  # skippable frame, as pzstd begins
)


@dataclass(frozen=True, slots=True)
class Unpacked:
    """An uncompressed image file with its size in bytes and SHA-256 in hex."""

    path: Path
    size: int
    sha256: str


class Packed(Protocol):
    """A compressed file as far as it is needed: who wants more of its bytes than we do reads along."""

    def read(self, length: int, /) -> bytes: ...
    def tell(self) -> int: ...


class _Stream(Protocol):
    """One compressed stream or frame; a file may hold several in a row."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Gzip:
    """zlib's decompressor with the interface of the other two: it keeps its own unconsumed input."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(31)  # 31: gzip header and CRC

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def detect(head: bytes) -> Compression | None:
    """The compression of a file that begins like this."""
    return next((kind for magic, kind in MAGICS if head.startswith(magic)), None)


def first_bytes(path: Path, kind: Compression, length: int) -> bytes:
    """The beginning of what is inside, to see what it is before unpacking all of it."""
    found = b""
    for piece in _pieces(path, kind):
        found += piece
        if len(found) >= length:
            break
    return found[:length]


def unpack(path: Path, target: Path, kind: Compression, *, limit: int = DEFAULT_LIMIT) -> Unpacked:
    """Write what is inside `path` to the new sparse file `target`.

    Raises DamagedImage for a corrupt or truncated stream, bytes after its end, or more than `limit` bytes of output,
    and StoreError when the disk of `target` would fill up.
    """
    digest = hashlib.sha256()
    size = written = 0
    room = shutil.disk_usage(target.parent).free - SPARE_DISK
    try:
        with target.open("xb") as out:
            for piece in _pieces(path, kind):
                size += len(piece)
                if size > limit:
                    raise DamagedImage(
                        f"unpacks to more than {limit:,} bytes",
                        where=str(path),
                        next_step="a decompression bomb? if not, unpack it yourself and name the result",
                    )
                digest.update(piece)
                written += _write_sparsely(out.fileno(), piece, size - len(piece))
                if written > room:
                    raise _disk_full(target, size)
            out.truncate(size)
    except OSError as cause:
        raise _disk_full(target, size) from cause
    return Unpacked(target, size, digest.hexdigest())


@contextmanager
def unpacked(
    path: Path, kind: Compression, *, store: Store | None = None, limit: int = DEFAULT_LIMIT
) -> Iterator[Unpacked]:
    """The uncompressed file for as long as the block lasts: from the store, or from a folder that is then removed."""
    if store is None:
        with tempfile.TemporaryDirectory(prefix="image-harness-", dir=scratch_parent()) as folder:
            yield unpack(path, Path(folder) / "image", kind, limit=limit)
        return
    with FileBlock(path) as packed:
        key = sha256_of(packed)

    def build(folder: Path) -> None:
        made = unpack(path, folder / "image", kind, limit=limit)
        (folder / "facts.json").write_text(json.dumps({"size": made.size, "sha256": made.sha256}))

    entry = store.entry(KIND, key, build)
    yield _remembered(entry)


def _remembered(entry: Path) -> Unpacked:
    try:
        facts = json.loads((entry / "facts.json").read_text())
        found = Unpacked(entry / "image", int(facts["size"]), str(facts["sha256"]))
        complete = found.path.stat().st_size == found.size
    except (OSError, ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise StoreError("is not what it claims", where=str(entry), next_step="remove this folder and try again")
    return found


def scratch_parent() -> str | None:
    """Where images have room: $TMPDIR, else /var/tmp, because /tmp is often kept in memory."""
    return None if "TMPDIR" in os.environ or not Path("/var/tmp").is_dir() else "/var/tmp"  # noqa: S108 - mkdtemp


def _pieces(path: Path, kind: Compression) -> Iterator[bytes]:
    try:
        with path.open("rb") as packed:
            yield from pieces(packed, path, kind)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path)) from cause


def pieces(packed: Packed, path: Path, kind: Compression) -> Iterator[bytes]:
    """What is inside an opened file, in pieces of at most PIECE bytes; raises DamagedImage at the first fault."""
    pending = packed.read(STEP)
    streams = 0
    while pending:
        streams += 1
        if streams > MOST_STREAMS:
            raise _damaged(packed, path, kind, f"is cut into more than {MOST_STREAMS:,} streams")
        stream = _stream(kind)
        yield from _stream_pieces(stream, pending, packed, path, kind)
        pending = _next_stream(stream.unused_data, packed, path, kind)


def _stream_pieces(stream: _Stream, pending: bytes, packed: Packed, path: Path, kind: Compression) -> Iterator[bytes]:
    is_stuck = False
    while not stream.eof:
        if not pending and (stream.needs_input or is_stuck):
            pending = packed.read(STEP)
            if not pending:
                raise _damaged(packed, path, kind, "ends in the middle")
        try:
            piece = stream.decompress(pending, PIECE)
        except _failures(kind) as cause:
            raise _damaged(packed, path, kind, f"is corrupt ({cause})") from cause
        pending = b""
        # After a piece that filled PIECE exactly, zstd claims to hold more, then gives nothing: it wants input.
        is_stuck = not piece
        if piece:
            yield piece


def _next_stream(rest: bytes, packed: Packed, path: Path, kind: Compression) -> bytes:
    """What follows a stream: nothing, another stream, or padding with zeroes (gzip and xz allow that)."""
    more = b"?"
    while more:
        if kind != "zst":
            rest = rest.lstrip(b"\0")
        if len(rest) >= LONGEST_MAGIC:
            break
        more = packed.read(STEP)
        rest += more
    if rest and detect(rest) != kind:
        raise _damaged(packed, path, kind, f"is followed by something else, starting with {rest[:8]!r}")
    return rest


def _stream(kind: Compression) -> _Stream:
    if kind == "gz":
        return _Gzip()
    if kind == "xz":
        import lzma  # noqa: PLC0415 - only images that wear it pay for it

        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    from backports import zstd  # noqa: PLC0415 - only images that wear it pay for it

    return zstd.ZstdDecompressor()


def _failures(kind: Compression) -> tuple[type[Exception], ...]:
    if kind == "gz":
        return (zlib.error,)
    if kind == "xz":
        import lzma  # noqa: PLC0415 - only images that wear it pay for it

        return (lzma.LZMAError,)
    from backports import zstd  # noqa: PLC0415 - only images that wear it pay for it

    return (zstd.ZstdError,)


def _damaged(packed: Packed, path: Path, kind: Compression, what: str) -> DamagedImage:
    return DamagedImage(
        f"the {kind} stream {what}, before byte {packed.tell():,}",
        where=str(path),
        next_step="download it again and compare its checksum",
    )


def _disk_full(target: Path, size: int) -> StoreError:
    return StoreError(
        f"no room to unpack: stopped after {size:,} bytes",
        where=str(target.parent),
        next_step="free some space, or choose another place with IMAGE_HARNESS_STORE or TMPDIR",
    )


def _write_sparsely(descriptor: int, piece: bytes, offset: int) -> int:
    """Write a piece, leaving holes where it is zero; returns the bytes written."""
    written = start = 0
    while start < len(piece):
        end = start
        while end < len(piece) and (grain := piece[end : end + GRAIN]) != ZEROES[: len(grain)]:
            end += len(grain)
        while start < end:
            done = os.pwrite(descriptor, piece[start:end], offset + start)
            start += done
            written += done
        start = end + GRAIN
    return written
