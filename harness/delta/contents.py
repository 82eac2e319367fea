"""A squashfs seen as the contents of its files and the names in its directories, unpacked once.

docs/recipe.md, "Views", says which bytes those are. A layout tells where each block goes, and follows from the inodes
alone: the size is known, and bounded, before anything is unpacked. Then each stored block and each fragment is read and
unpacked once, in the order of the inodes, on all processors.
"""

from __future__ import annotations

import os
import struct
import tempfile
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from harness.errors import DamagedImage, StoreError, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.squashfs import PHANTOM, Squashfs
from harness.images.filesystems.squashfs_inode import RawInode
from harness.images.formats.compression import SPARE_DISK, scratch_parent
from harness.images.formats.raw import FileBlock

ALIGNMENT = 4096  # bytes: where filesystems lay files, and what recipes copy
LENGTH = 0xFFFFFF  # of a stored block: the bits above are flags
MOST_INODES = 2**22
MOST_BLOCKS = 2**22  # that are not zeroes: 512 GiB with the usual blocks
MOST_NAMES = 2**28  # bytes of all directories
AT_ONCE = 16  # blocks that a thread takes
IDENTITY = struct.Struct("<QQII")  # start of the blocks, size, fragment, place in it
ZEROES = bytes(2**20)  # the largest block of a squashfs


class Layout:
    """Where the bytes of a view come from. Columns, because a filesystem may have millions of blocks."""

    def __init__(self) -> None:
        self.size = 0
        self.stored = 0  # bytes that are not holes
        self.at, self.packed = array("Q"), array("I")  # of each block: where it is stored, its length with its flags
        self.to, self.length = array("Q"), array("I")  # and where it goes
        self.tails: dict[int, array[int]] = {}  # by fragment: place in it, length, where it goes; the next three ...
        self.listings = array("Q")  # of each directory: metadata block and byte in the directory table, length
        self.names = 0  # bytes of them
        self.names_at = 0  # where they go, one behind the other

    def add_file(self, inode: RawInode, packed: array[int], block_size: int) -> None:
        """Lay a file's content behind those before."""
        content, left = inode.content, inode.public.size
        if content is None:
            return
        at, to = content.start, self.size
        for stored in packed:
            length = min(block_size, left)
            if stored:
                self.at.append(at)
                self.packed.append(stored)
                self.to.append(to)
                self.length.append(length)
                self.stored += length
                at += stored & LENGTH
            to += length
            left -= length
        if left:
            self.tails.setdefault(content.fragment, array("Q")).extend((content.offset, left, to))
            self.stored += left
        self.size += _aligned(inode.public.size)

    def add_directory(self, start: int, offset: int, length: int) -> None:
        """Remember what a directory's inode leads to: it goes behind the files."""
        self.listings.extend((start, offset, length))
        self.names += length

    def close(self) -> None:
        """Lay the directories behind all files."""
        self.names_at = self.size
        self.size += _aligned(self.names)
        self.stored += self.names


def laid_out(squashfs: Squashfs, most: int) -> Layout:
    """Where everything goes; files that share their stored blocks are laid out once.

    Raises DamagedImage where the inodes are broken, UnsupportedImage for more than `most` bytes or too many files.
    """
    layout, known = Layout(), set[bytes]()
    if squashfs.count > MOST_INODES:
        raise _too_large(squashfs, f"{squashfs.count:,} inodes")
    for inode, packed in squashfs.table():
        content, size = inode.content, inode.public.size
        if content is not None and size:
            identity = IDENTITY.pack(content.start, size, content.fragment, content.offset)
            if identity not in known:
                known.add(identity)
                layout.add_file(inode, packed, squashfs.block_size)
        elif inode.listing is not None and size > PHANTOM:
            layout.add_directory(*inode.listing, size - PHANTOM)
        if layout.size + _aligned(layout.names) > most:
            raise _too_large(squashfs, f"more than {most:,} bytes")
        if layout.names > MOST_NAMES or len(layout.at) > MOST_BLOCKS:
            raise _too_large(squashfs, f"{layout.names:,} bytes of names and {len(layout.at):,} blocks")
    layout.close()
    return layout


def _too_large(squashfs: Squashfs, what: str) -> UnsupportedImage:
    return UnsupportedImage(f"has {what}, too many to be seen as its files", where=squashfs.name)


@contextmanager
def contents_of(block: Block, most: int) -> Iterator[FileBlock]:
    """The contents of all files in a squashfs, in a temporary file without a name.

    Raises what `laid_out` does, DamagedImage for a broken block, StoreError where the disk has no room.
    """
    squashfs = Squashfs(block)
    with unpacked(squashfs, laid_out(squashfs, most)) as contents:
        yield contents


@contextmanager
def unpacked(squashfs: Squashfs, layout: Layout) -> Iterator[FileBlock]:
    """What a layout says, in a temporary file without a name. Raises what `contents_of` does."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(tempfile.TemporaryFile(dir=scratch_parent(), buffering=0))
            _check_room(file.fileno(), layout, squashfs.name)
            file.truncate(layout.size)
            _Unpacking(squashfs, layout, file.fileno()).unpack()
        except OSError as cause:
            raise _no_room(layout, squashfs.name, f" ({cause.strerror})") from cause
        path = Path(f"/proc/self/fd/{file.fileno()}")  # it has no other name
        yield stack.enter_context(FileBlock(path, f"{squashfs.name}: the contents of its files"))


def _check_room(descriptor: int, layout: Layout, where: str) -> None:
    found = os.fstatvfs(descriptor)
    if layout.stored + SPARE_DISK > found.f_bavail * found.f_frsize:
        raise _no_room(layout, where, "")


def _no_room(layout: Layout, where: str, why: str) -> StoreError:
    return StoreError(
        f"no room to unpack its files, {layout.stored:,} bytes{why}",
        where=where,
        next_step="free some space, or choose another place with TMPDIR",
    )


class _Unpacking:
    """Writes what a layout says to a file; memory is a few blocks for each thread."""

    def __init__(self, squashfs: Squashfs, layout: Layout, descriptor: int) -> None:
        self._squashfs, self._layout, self._descriptor = squashfs, layout, descriptor

    def unpack(self) -> None:
        """Do all of it."""
        threads = os.cpu_count() or 1
        waiting: deque[Future[None]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            try:
                for job in self._jobs():
                    waiting.append(pool.submit(job))
                    if len(waiting) > 2 * threads:
                        waiting.popleft().result()
                self._names()
                while waiting:
                    waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def _jobs(self) -> Iterator[Callable[[], None]]:
        for first in range(0, len(self._layout.at), AT_ONCE):
            yield partial(self._blocks, first)
        for number, tails in self._layout.tails.items():
            yield partial(self._tails, self._squashfs.fragment(number), tails)

    def _blocks(self, first: int) -> None:
        layout = self._layout
        for index in range(first, min(first + AT_ONCE, len(layout.at))):
            length = layout.length[index]
            found = self._squashfs.unpack((layout.at[index], layout.packed[index]))
            if len(found) != length:
                raise DamagedImage(
                    f"a block at {layout.at[index]:,} holds {len(found):,} bytes instead of {length:,}",
                    where=self._squashfs.name,
                )
            if found != ZEROES[:length]:
                self._write(found, layout.to[index])

    def _tails(self, place: tuple[int, int], tails: array[int]) -> None:
        whole = memoryview(self._squashfs.unpack(place))
        for at in range(0, len(tails), 3):
            offset, length, to = tails[at : at + 3]
            if offset + length > len(whole):
                raise DamagedImage("the end of a file lies outside its fragment", where=self._squashfs.name)
            self._write(whole[offset : offset + length], to)

    def _names(self) -> None:
        to, listings = self._layout.names_at, self._layout.listings
        for at in range(0, len(listings), 3):
            for piece in self._squashfs.listing(*listings[at : at + 3]):
                self._write(piece, to)
                to += len(piece)

    def _write(self, found: bytes | memoryview, to: int) -> None:
        view = memoryview(found)
        while view:
            done = os.pwrite(self._descriptor, view, to)
            view, to = view[done:], to + done


def _aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT
