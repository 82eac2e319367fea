"""What a filesystem reader offers: inodes by number. Paths, symlinks and mounts are the business of `files`.

Sizes are bytes, times are whole seconds since the epoch. Every reader promises to answer hostile input with
DamagedImage or UnsupportedImage in bounded time and memory.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from harness.errors import DamagedImage
from harness.images.block import Block

Kind = Literal["file", "directory", "symlink", "character", "block", "fifo", "socket"]

KINDS: Final[Mapping[int, Kind]] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "character",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
MOST_LINK_BYTES = 4096  # PATH_MAX of Linux
MOST_DIRECTORY_BYTES = 256 * 2**20  # millions of names; more than that is an attack


@dataclass(frozen=True, slots=True)
class Inode:
    """One file, whatever its names are."""

    number: int
    kind: Kind
    mode: int  # the twelve permission bits
    uid: int
    gid: int
    size: int
    mtime: int
    mtime_ns: int  # the part below a second
    links: int
    immutable: bool = False  # chattr +i
    device: tuple[int, int] | None = None  # major, minor


class Inodes(Protocol):
    """One filesystem, read-only. A number is valid only if `root` or `entries` gave it."""

    @property
    def filesystem(self) -> str:
        """Its type as blkid names it."""
        ...

    @property
    def name(self) -> str:
        """What error messages call it."""
        ...

    @property
    def root(self) -> int: ...

    @property
    def ignores_case(self) -> bool: ...

    def inode(self, number: int) -> Inode: ...

    def entries(self, number: int) -> Mapping[str, int]:
        """The names in a directory, without `.` and `..`. Undecodable bytes are surrogate escapes."""
        ...

    def target(self, number: int) -> str:
        """Where a symlink points, as written."""
        ...

    def chunks(self, number: int, size: int) -> Iterator[bytes]:
        """A file's content in order, at most `size` bytes a piece; holes come as zeros."""
        ...

    def xattrs(self, number: int) -> Mapping[str, bytes]:
        """Extended attributes by full name, with their bytes as stored."""
        ...


class Remembering:
    """A block whose recently read pieces stay in memory; for metadata, which is read in small bites."""

    PIECE = 65536
    PIECES = 128

    def __init__(self, block: Block) -> None:
        self._block = block
        self._pieces: OrderedDict[int, bytes] = OrderedDict()

    @property
    def name(self) -> str:
        return self._block.name

    @property
    def size(self) -> int:
        return self._block.size

    def read(self, offset: int, length: int) -> bytes:
        """As `Block.read`."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DamagedImage(
                f"metadata at {offset:,} (+{length:,}) lies beyond its end at {self.size:,}", where=self.name
            )
        first, skip = divmod(offset, self.PIECE)
        if skip + length <= self.PIECE:
            return self._piece(first)[skip : skip + length]
        last = (offset + length - 1) // self.PIECE
        if last - first > self.PIECES // 2:
            return self._block.read(offset, length)
        return b"".join(self._piece(index) for index in range(first, last + 1))[skip : skip + length]

    def _piece(self, index: int) -> bytes:
        piece = self._pieces.get(index)
        if piece is None:
            start = index * self.PIECE
            piece = self._block.read(start, min(self.PIECE, self.size - start))
            self._pieces[index] = piece
            if len(self._pieces) > self.PIECES:
                self._pieces.popitem(last=False)
        else:
            self._pieces.move_to_end(index)
        return piece


@dataclass(frozen=True, slots=True)
class Run:
    """A stretch of a file: `length` bytes at `offset` of the filesystem, or zeros where `offset` is None."""

    length: int
    offset: int | None


def read_runs(block: Block, runs: Iterator[Run], total: int, size: int) -> Iterator[bytes]:
    """The first `total` bytes of a chain of runs, at most `size` bytes a piece; zeros where the chain ends early."""
    left = total
    for run in runs:
        done, length = 0, min(run.length, left)
        while done < length:
            bite = min(size, length - done)
            yield bytes(bite) if run.offset is None else block.read(run.offset + done, bite)
            done += bite
        left -= length
        if not left:
            return
    while left > 0:
        bite = min(size, left)
        yield bytes(bite)
        left -= bite


def linux_device(packed: int) -> tuple[int, int]:
    """Major and minor of a device number as Linux writes it to disk in 32 bits (include/linux/kdev_t.h)."""
    return packed >> 8 & 0xFFF, packed & 0xFF | packed >> 12 & 0xFFF00


def decode_name(raw: bytes, where: str) -> str:
    """A file name; raises DamagedImage for one that no filesystem allows."""
    if not raw or b"/" in raw or b"\0" in raw or raw in {b".", b".."}:
        raise DamagedImage(f"a directory holds the impossible name {raw[:40]!r}", where=where)
    return raw.decode("utf-8", "surrogateescape")
