"""Packing into gzip, xz and zstd so that the same input and setting give the same bytes, whatever the number of cores.

gzip and xz in blocks are cut into pieces of fixed size that are packed side by side; libzstd cuts by itself, into the
same jobs for any number of workers from one on. zlib and liblzma are those of Python, libzstd that of backports.zstd:
what they write depends on their versions.
"""

from __future__ import annotations

import lzma
import os
import zlib
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from backports import zstd

from harness.images.formats.compression import Compression
from harness.release.digests import PIECE, ZEROES
from harness.release.xzblocks import BLOCK_SIZE, Block, XzBlocks, pack_block

Done = TypeVar("Done")
WINDOW = 2**15  # bytes: how far back deflate refers
GZIP_HEADER = b"\x1f\x8b\x08" + bytes(5) + b"\x02\x03"  # as gzip -9n: no name, no time, most thorough, Unix
MEMORY_OF_BLOCK = 384 * 2**20  # bytes that packing one xz block takes (measured: 320 MiB)
GZIP_END = b"\x03\0"  # deflate's empty last block


@dataclass(frozen=True, slots=True)
class Setting:
    """How thoroughly to pack.

    `in_blocks` cuts xz into blocks of 16 MiB that can be packed side by side. `window_log` lets zstd look for what it
    has seen that far back (2^27 bytes is what any zstd unpacks unasked, with as much memory); 0 is the level's own.
    """

    level: int
    in_blocks: bool = False
    window_log: int = 0


# cosa compress: gzip -9, xz -9 in one block, zstd -10. fast-vm-image export: gzip (6), xz --best in blocks, zstd -19.
COSA: Mapping[Compression, Setting] = {"gz": Setting(9), "xz": Setting(9), "zst": Setting(10)}
FAST_VM: Mapping[Compression, Setting] = {"gz": Setting(6), "xz": Setting(9, in_blocks=True), "zst": Setting(19)}


class Packer(Protocol):
    """Takes pieces of PIECE bytes (the last may be shorter) and gives what is packed so far."""

    def pack(self, piece: bytes) -> bytes: ...
    def finish(self) -> bytes: ...
    def close(self) -> None:
        """End its threads, also in the middle."""
        ...


def packer(kind: Compression, setting: Setting, size: int, threads: int = 0) -> Packer:
    """A packer for `size` bytes. `threads` is the number of cores to use, 0 for all; it does not change the bytes."""
    threads = threads or len(os.sched_getaffinity(0))
    if kind == "gz":
        return GzipPacker(setting.level, threads)
    if kind == "zst":
        return ZstdPacker(setting, size, threads)
    if setting.in_blocks:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return XzBlockPacker(max(1, min(threads, memory // 2 // MEMORY_OF_BLOCK)))
    return XzPacker(setting.level)


class GzipPacker:
    """One gzip member whose pieces were deflated apart, each knowing the end of the one before (as pigz does)."""

    def __init__(self, level: int, threads: int) -> None:
        self._level = level
        self._row = _Row[bytes](threads)
        self._previous = b""
        self._crc = self._size = 0
        self._more_zeroes: bytes | None = None
        self._start = GZIP_HEADER

    def pack(self, piece: bytes) -> bytes:
        self._crc = zlib.crc32(piece, self._crc)
        self._size += len(piece)
        if piece is ZEROES and self._previous is ZEROES:  # what follows zeroes is always the same
            self._more_zeroes = self._more_zeroes or _deflate(piece, piece, self._level)
            self._row.add_done(self._more_zeroes)
        else:
            self._row.add(_deflate, piece, self._previous, self._level)
        self._previous = piece
        return self._taken(self._row.take())

    def finish(self) -> bytes:
        trailer = self._crc.to_bytes(4, "little") + (self._size % 2**32).to_bytes(4, "little")
        return self._taken(self._row.take_all()) + GZIP_END + trailer

    def close(self) -> None:
        self._row.close()

    def _taken(self, pieces: list[bytes]) -> bytes:
        taken, self._start = self._start + b"".join(pieces), b""
        return taken


class XzPacker:
    """One xz stream of one block: what xz -T1 writes, on one core."""

    def __init__(self, level: int) -> None:
        self._inner = lzma.LZMACompressor(lzma.FORMAT_XZ, lzma.CHECK_CRC64, preset=level)

    def pack(self, piece: bytes) -> bytes:
        return self._inner.compress(piece)

    def finish(self) -> bytes:
        return self._inner.flush()

    def close(self) -> None:
        pass


class XzBlockPacker:
    """One xz stream of blocks of BLOCK_SIZE: what xz -9 --block-size=16MiB -T0 writes."""

    def __init__(self, threads: int) -> None:
        self._row = _Row[Block](threads)
        self._blocks = XzBlocks()
        self._pending: list[bytes] = []
        self._zeroes: Block | None = None
        self._start = self._blocks.header

    def pack(self, piece: bytes) -> bytes:
        self._pending.append(piece)
        if len(self._pending) == BLOCK_SIZE // PIECE:
            self._add_block()
        return self._placed(self._row.take())

    def finish(self) -> bytes:
        if self._pending:
            self._add_block()
        return self._placed(self._row.take_all()) + self._blocks.finish()

    def close(self) -> None:
        self._row.close()

    def _add_block(self) -> None:
        pieces, self._pending = self._pending, []
        if len(pieces) == BLOCK_SIZE // PIECE and all(piece is ZEROES for piece in pieces):
            self._zeroes = self._zeroes or pack_block(bytes(BLOCK_SIZE))
            self._row.add_done(self._zeroes)
        else:
            self._row.add(pack_block, b"".join(pieces))

    def _placed(self, blocks: list[Block]) -> bytes:
        placed, self._start = self._start + b"".join(map(self._blocks.place, blocks)), b""
        return placed


class ZstdPacker:
    """One zstd frame with its content size and checksum, as the zstd program writes."""

    def __init__(self, setting: Setting, size: int, threads: int) -> None:
        parameter = zstd.CompressionParameter
        options: dict[int, int] = {
            parameter.compression_level: setting.level,
            parameter.checksum_flag: 1,
            parameter.nb_workers: threads,
        }
        if setting.window_log:
            options |= {parameter.window_log: setting.window_log, parameter.enable_long_distance_matching: 1}
        self._inner = zstd.ZstdCompressor(options=options)
        self._inner.set_pledged_input_size(size)

    def pack(self, piece: bytes) -> bytes:
        return self._inner.compress(piece)

    def finish(self) -> bytes:
        return self._inner.flush()

    def close(self) -> None:
        pass


class _Row(Generic[Done]):
    """Work done side by side whose results come in order; at most two for each core wait to be taken."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._limit = 2 * threads
        self._waiting: deque[Future[Done]] = deque()

    def add(self, work: Callable[..., Done], *arguments: object) -> None:
        self._waiting.append(self._pool.submit(work, *arguments))

    def add_done(self, result: Done) -> None:
        future: Future[Done] = Future()
        future.set_result(result)
        self._waiting.append(future)

    def take(self) -> list[Done]:
        """What is ready, waiting only where too much is under way."""
        taken = []
        while self._waiting and (self._waiting[0].done() or len(self._waiting) > self._limit):
            taken.append(self._waiting.popleft().result())
        return taken

    def take_all(self) -> list[Done]:
        taken = [future.result() for future in self._waiting]
        self._waiting.clear()
        return taken

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _deflate(piece: bytes, previous: bytes, level: int) -> bytes:
    """A piece as deflate blocks that end at a byte and are not the last."""
    memory = zlib.DEF_MEM_LEVEL
    strategy = zlib.Z_DEFAULT_STRATEGY
    window = previous[-WINDOW:]
    inner = zlib.compressobj(level, zlib.DEFLATED, -15, memory, strategy, *([window] if window else []))
    return inner.compress(piece) + inner.flush(zlib.Z_SYNC_FLUSH)
