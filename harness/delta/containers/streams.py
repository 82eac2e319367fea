"""gzip, xz and zstd around a file, where one of the encoders here gives the same stream again.

Tried are zlib and GNU gzip at each level (RFC 1952), and what `harness export` writes (harness/release/packing.py):
deflate in pieces, xz in one block or many, zstd. An attempt ends at the first byte that differs.
"""

from __future__ import annotations

import hashlib
import lzma
import subprocess
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, NamedTuple

from backports import zstd

from harness.delta.containers.codecs import SAMPLE_DIGEST, sample
from harness.delta.containers.plan import WHERE, Stream
from harness.delta.containers.splice import cut
from harness.errors import BadInput, DamagedImage, HarnessError
from harness.images.block import Block
from harness.images.formats.compression import Compression
from harness.release.digests import pieces_of
from harness.release.packing import Packer, Setting, packer
from harness.tools import find_tool, run

GZIP_TRAILER = 8  # bytes: CRC-32 and size
LONGEST_HEADER = 2**16  # bytes of a gzip header: it can carry a name, a comment and extra fields
LEVELS = (9, 6, 1, 8, 7, 5, 4, 3, 2)
READ = 2**16


class Method(NamedTuple):
    """A way to pack: the compression it gives, the levels to try, and the packer for a level and a size."""

    kind: Compression
    levels: tuple[int, ...]
    packer: Callable[[int, int], Packer]
    library: Callable[[], str]
    headless: bool = False  # the header is the plan's
    bare: bool = False  # gives deflate alone: so is the trailer


def _zlib() -> str:
    return f"zlib {zlib.ZLIB_RUNTIME_VERSION}"


def _liblzma() -> str:
    return "liblzma"


def _libzstd() -> str:
    return f"libzstd {zstd.zstd_version}"


def _gnu_gzip() -> str:
    return run(["gzip", "--version"]).decode(errors="replace").split("\n", 1)[0][:80]


class Deflate:
    """One deflate stream by zlib."""

    def __init__(self, level: int) -> None:
        self._inner = zlib.compressobj(level, zlib.DEFLATED, -15)

    def pack(self, piece: bytes) -> bytes:
        return self._inner.compress(piece)

    def finish(self) -> bytes:
        return self._inner.flush()

    def close(self) -> None:
        """Nothing."""


class GnuGzip:
    """The stream of GNU gzip, whose search for matches is its own; the program's header is left away."""

    def __init__(self, level: int) -> None:
        argv = [str(find_tool("gzip")), f"-{level}", "-n", "-c"]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._found: list[bytes] = []
        self._header = 10
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        while piece := _of(self._process.stdout).read(READ):
            self._found.append(piece)

    def pack(self, piece: bytes) -> bytes:
        _of(self._process.stdin).write(piece)
        return self._taken()

    def finish(self) -> bytes:
        _of(self._process.stdin).close()
        self._reading.join()
        if self._process.wait():
            raise BadInput(f"gzip exited with {self._process.returncode}", where=WHERE)
        return self._taken()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._reading.join()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                _of(pipe).close()
            except OSError:
                continue
        self._process.wait()

    def _taken(self) -> bytes:
        count = len(self._found)
        piece = b"".join(self._found[:count])
        del self._found[:count]
        skipped = min(self._header, len(piece))
        self._header -= skipped
        return piece[skipped:]


def _of(pipe: IO[bytes] | None) -> IO[bytes]:
    if pipe is None:
        raise BadInput("gzip has no pipe", where=WHERE)
    return pipe


METHODS: dict[str, Method] = {
    "gz": Method("gz", LEVELS, lambda level, _: Deflate(level), _zlib, headless=True, bare=True),
    "gnu-gzip": Method("gz", LEVELS, lambda level, _: GnuGzip(level), _gnu_gzip, headless=True),
    "gz-pieces": Method("gz", (9, 6), lambda level, size: packer("gz", Setting(level), size), _zlib),
    "xz": Method("xz", (9, 6), lambda level, size: packer("xz", Setting(level), size), _liblzma),
    "xz-blocks": Method("xz", (9,), lambda _, size: packer("xz", Setting(9, in_blocks=True), size), _liblzma),
    "zst": Method("zst", (10, 19, 3), lambda level, size: packer("zst", Setting(level), size), _libzstd),
}


def dissect(file: Block, kind: Compression, plain: Block) -> Stream | None:
    """The plan of a compressed file, or None where no encoder here gives it again."""
    for name, method in METHODS.items():
        if method.kind != kind:
            continue
        around = _around(file) if method.headless else (b"", b"")
        if around is None:
            continue
        head, tail = around if method.bare else (around[0], b"")
        for level in method.levels:
            if _gives(method, level, file, plain, len(head), len(tail)):
                return Stream(file.size, name, level, method.library(), _digest(method, level), plain.size, head, tail)
    return None


def check(stream: Stream) -> None:
    """Raise BadInput where this host has not the encoder, or it gives other bytes; DamagedImage for no such method."""
    method = METHODS.get(stream.method)
    if method is None or stream.level not in method.levels:
        raise DamagedImage(f"names the method {stream.method[:40]!r} at level {stream.level}", where=WHERE)
    if _digest(method, stream.level) != stream.sample:
        raise BadInput(
            f"relies on the exact bytes of {stream.library[:80]}; {method.library()} here packs differently",
            next_step="rebuild it on a host like the one that took it apart",
        )


def rebuild(stream: Stream, source: Iterator[bytes]) -> Iterator[bytes]:
    """The file again, from the pieces of what is inside."""
    method = METHODS[stream.method]
    size = len(stream.head) + len(stream.tail)
    if stream.head:
        yield stream.head
    for piece in _packed(method, stream.level, cut(source, stream.content), stream.content):
        size += len(piece)
        if size > stream.size:
            break
        if piece:
            yield piece
    if size != stream.size:
        raise DamagedImage(f"gives a stream of {size:,} bytes, not {stream.size:,}", where=WHERE)
    if stream.tail:
        yield stream.tail


def _around(file: Block) -> tuple[bytes, bytes] | None:
    """Header and trailer of a file of one gzip member; what follows the member breaks the attempt, not this."""
    head = file.read(0, min(LONGEST_HEADER, file.size))
    end = _end_of_header(head)
    if end is None or end + GZIP_TRAILER > file.size:
        return None
    return head[:end], file.read(file.size - GZIP_TRAILER, GZIP_TRAILER)


def _end_of_header(head: bytes) -> int | None:
    if len(head) < 10:
        return None
    flags, at = head[3], 10
    if flags & 4:
        at += 2 + int.from_bytes(head[at : at + 2], "little")
    for bit in (8, 16):  # name, comment: each ends with a zero
        if flags & bit:
            found = head.find(b"\0", at)
            if found < 0:
                return None
            at = found + 1
    at += 2 if flags & 2 else 0
    return at if at <= len(head) else None


def _gives(method: Method, level: int, file: Block, plain: Block, at: int, tail: int) -> bool:
    """Whether a method gives the file between its header and its trailer."""
    end = file.size - tail
    try:
        for piece in _packed(method, level, pieces_of(plain), plain.size):
            if at + len(piece) > end or file.read(at, len(piece)) != piece:
                return False
            at += len(piece)
    except (HarnessError, OSError, lzma.LZMAError, zstd.ZstdError):
        return False
    return at == end


def _packed(method: Method, level: int, pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    inner = method.packer(level, size)
    try:
        for piece in pieces:
            yield inner.pack(piece)
        yield inner.finish()
    except (OSError, lzma.LZMAError, zstd.ZstdError, ValueError) as cause:
        raise DamagedImage(f"cannot be packed: {cause}", where=WHERE) from cause
    finally:
        inner.close()


def _digest(method: Method, level: int) -> bytes:
    """What the encoder makes of a sample, as a short digest."""
    content = sample()
    made = b"".join(_packed(method, level, [content], len(content)))
    return hashlib.sha256(made).digest()[:SAMPLE_DIGEST]
