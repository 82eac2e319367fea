"""A squashfs, alone or in a live rootfs.img or ISO, as the contents of its files and its metadata unpacked.

Format from Linux' Documentation/filesystems/squashfs.rst. mksquashfs packs each block, each fragment and each 8 KiB of
metadata on its own, with parameters that the superblock tells: who has the same library packs them again. A frame
counts only after that gave the bytes of the file; any other, and what lies around the squashfs, is content as it is.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import NamedTuple

from harness.delta.containers.codecs import STORED, Codec, Pack, block_codecs, packer_of
from harness.delta.containers.frames import ALIGNMENT, Frame, Piece, aligned, described, framed, frames_of, read_frame
from harness.delta.containers.plan import Frames
from harness.delta.contents import LENGTH, Layout, laid_out, unpacked
from harness.delta.views import squashfs_in
from harness.errors import DamagedImage
from harness.images.block import Block, Memory, Part
from harness.images.extents import Extent, extents_of
from harness.images.filesystems.squashfs import ABSENT, CODECS, FRAGMENT, SUPERBLOCK, Squashfs
from harness.images.filesystems.squashfs import STORED as NOT_PACKED
from harness.images.filesystems.squashfs_metadata import BLOCK
from harness.images.filesystems.squashfs_metadata import STORED as PLAIN
from harness.images.formats.compression import DEFAULT_LIMIT

OPTIONS_FLAG = 0x400  # of the superblock: the compressor's options stand behind it, as a block of metadata
EXPORT, ID, PLACE = 8, 4, 8  # bytes in tables, and in the list of a table's blocks
USUAL_LEVEL = {"zlib": 9, "zstd": 15}  # of mksquashfs, where there are none
TRIED_FIRST = 32  # blocks, to see whether it is worth trying all
MOST_METADATA = 2**26  # bytes unpacked that are held in memory; FCOS has 5 MB
BATCH = 4  # frames given to a thread at a time


class Found(NamedTuple):
    """A frame that may be packed again: where it lies in the file, its bytes there, what it is made of."""

    at: int
    stored: int  # bytes, the two of its length included
    is_packed: bool
    is_headed: bool
    pieces: tuple[Piece, ...]


class Assembled:
    """Blocks at bounds of 4 KiB, one behind the other, with holes between."""

    def __init__(self, name: str) -> None:
        self.name, self.size = name, 0
        self._starts: list[int] = []
        self._parts: list[Block] = []

    def add(self, part: Block, turn: int = 0) -> int:
        """Lay a block behind those before, `turn` bytes behind a bound, and say where."""
        start = aligned(self.size) + turn
        self._starts.append(start)
        self._parts.append(part)
        self.size = start + part.size
        return start

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes. Raises DamagedImage beyond the end."""
        end = offset + length
        if offset < 0 or length < 0 or end > self.size:
            raise DamagedImage(f"read of {length:,} bytes at {offset:,} lies beyond its end", where=self.name)
        index = max(0, bisect_right(self._starts, offset) - 1)
        found, at = list[bytes](), offset
        while at < end:
            start, part = self._starts[index], self._parts[index]
            first, last = max(at, start), min(end, start + part.size)
            if first < last:
                found += [bytes(first - at), part.read(first - start, last - first)]
                at = last
            index += 1
            if index == len(self._starts) or self._starts[index] >= end:
                break
        return b"".join([*found, bytes(end - at)])

    def extents(self) -> Iterator[Extent]:
        """Those of the blocks, and holes."""
        at = 0
        for start, part in zip(self._starts, self._parts, strict=True):
            if start > at:
                yield Extent(at, start - at, "hole")
            for offset, length, kind in extents_of(part):
                yield Extent(start + offset, length, kind)
            at = start + part.size


def recognises(file: Block) -> bool:
    """Whether a file is or holds a squashfs. Raises DamagedImage for a broken archive or ISO."""
    return squashfs_in(file) is not None


def dissect(file: Block, stack: ExitStack) -> tuple[Frames, Assembled] | None:
    """The plan and the content, which is there as long as the stack; None where too few blocks can be packed again.

    Raises what the reader of squashfs does, StoreError where there is no room to unpack it.
    """
    inner = squashfs_in(file)
    base = _place(inner, file)
    if inner is None or base is None:
        return None
    squashfs = Squashfs(inner)
    codecs = [STORED, *_codecs(squashfs, inner)]
    if len(codecs) == 1:
        return None
    layout = laid_out(squashfs, DEFAULT_LIMIT)
    contents = Assembled(file.name)
    contents.add(stack.enter_context(unpacked(squashfs, layout)))
    trial = _Trial(file, contents, codecs)
    blocks = list(_apart(sorted(_blocks(squashfs, layout, base))))
    if not trial.is_worth_it(blocks):
        return None
    found = [(each, use) for each, use in trial.fits(blocks) if use is not None]
    metadata = _Metadata(squashfs, inner, base, trial)
    end = max((each.at + each.stored for each, _ in found), default=base)
    tables = list(metadata.frames(end))
    return _laid(file, codecs, contents, [*found, *tables], bytes(metadata.plain))


def _place(inner: Block | None, file: Block) -> int | None:
    """Where a part of a file begins; None for one that is not seen as it lies there."""
    at = 0
    while inner is not None and inner is not file:
        if not isinstance(inner, Part):
            return None
        at, inner = at + inner.start, inner.whole
    return at


def _codecs(squashfs: Squashfs, inner: Block) -> list[Codec]:
    """Candidates, by what the superblock says of its compression."""
    fields = SUPERBLOCK.unpack(inner.read(0, SUPERBLOCK.size))
    kind, flags = CODECS.get(fields[5], ""), fields[7]
    level, window = USUAL_LEVEL.get(kind, 0), 15
    if flags & OPTIONS_FLAG:
        options = squashfs.metadata_at(SUPERBLOCK.size)[0]
        level = int.from_bytes(options[:4], "little")
        window = int.from_bytes(options[4:6], "little") if kind == "zlib" else window
    return block_codecs(kind, level, window)


def _blocks(squashfs: Squashfs, layout: Layout, base: int) -> Iterator[Found]:
    """Blocks of files, and fragments whose every byte is the end of some file."""
    for at, packed, to, length in zip(layout.at, layout.packed, layout.to, layout.length, strict=True):
        yield _block(base + at, packed, (Piece(to, length),))
    for number, tails in layout.tails.items():
        at, packed = squashfs.fragment(number)
        ends = sorted(zip(tails[::3], tails[1::3], tails[2::3], strict=True))
        filled, pieces = 0, []
        for place, length, to in ends:
            if place != filled:
                break
            filled += length
            pieces.append(Piece(to, length))
        else:
            yield _block(base + at, packed, tuple(pieces))


def _block(at: int, packed: int, pieces: tuple[Piece, ...]) -> Found:
    return Found(at, packed & LENGTH, not packed & NOT_PACKED, is_headed=False, pieces=pieces)


def _apart(found: Iterable[Found]) -> Iterator[Found]:
    """Those that do not begin within one before."""
    end = 0
    for each in found:
        if each.at >= end:
            yield each
            end = each.at + each.stored


class _Trial:
    """Packs frames again and compares. Codecs are tried in the same order by all threads: plans are to be the same."""

    def __init__(self, file: Block, content: Assembled, codecs: Sequence[Codec]) -> None:
        self._file, self._content = file, content
        self._packs: list[Pack | None] = [packer_of(codec) if codec.packs else None for codec in codecs]
        self._likely = list(range(1, len(codecs)))

    def is_worth_it(self, found: Sequence[Found]) -> bool:
        """Whether most of some packed blocks come back; from now on the codec that gives most is tried first."""
        packed = [each for each in found if each.is_packed]
        sampled = packed[:: max(1, len(packed) // TRIED_FIRST)][:TRIED_FIRST]
        fits = Counter(self.fit(each) for each in sampled)
        self._likely.sort(key=lambda use: -fits[use])
        return fits.total() - fits[None] > len(sampled) / 2

    def fits(self, found: Sequence[Found]) -> Iterator[tuple[Found, int | None]]:
        """The codec of each, by all cores."""
        threads = len(os.sched_getaffinity(0))
        waiting: deque[tuple[Sequence[Found], Future[list[int | None]]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            for first in range(0, len(found), BATCH):
                batch = found[first : first + BATCH]
                waiting.append((batch, pool.submit(lambda some: [self.fit(each) for each in some], batch)))
                if len(waiting) > 2 * threads:
                    done, future = waiting.popleft()
                    yield from zip(done, future.result(), strict=True)
            for done, future in waiting:
                yield from zip(done, future.result(), strict=True)

    def fit(self, each: Found, plain: bytes | None = None) -> int | None:
        """The codec that makes a frame of what goes in, which is read from the content if it is not given."""
        frame = Frame(0, each.is_headed, each.pieces)
        data = read_frame(self._content, frame) if plain is None else plain
        wanted = self._file.read(each.at, each.stored)
        tried = self._likely if each.is_packed else [0]
        return next((use for use in tried if framed(frame, data, self._packs[use]) == wanted), None)


class _Metadata:
    """Blocks of metadata as they follow each other behind the files, up to the first that is none; `plain` unpacked.

    Pieces count from the start of `plain`.
    """

    def __init__(self, squashfs: Squashfs, inner: Block, base: int, trial: _Trial) -> None:
        self._squashfs, self._inner, self._base, self._trial = squashfs, inner, base, trial
        self.plain = bytearray()

    def frames(self, end: int) -> Iterator[tuple[Found, int]]:
        """Those behind `end`, which is where the last block ends in the file."""
        for start, stop in self._areas():
            at = start
            while at + 2 < stop and self._base + at >= end and len(self.plain) < MOST_METADATA:
                try:
                    data, after = self._squashfs.metadata_at(at)
                except DamagedImage:
                    break
                is_packed = not int.from_bytes(self._inner.read(at, 2), "little") & PLAIN
                piece = Piece(len(self.plain), len(data))
                each = Found(self._base + at, after - at, is_packed, is_headed=True, pieces=(piece,))
                if after > stop or len(data) > BLOCK:
                    break
                use = self._trial.fit(each, data)
                if use is not None:
                    self.plain += data
                    yield each, use
                at = after

    def _areas(self) -> Iterator[tuple[int, int]]:
        """Stretches of blocks: a table of inodes, one of directories, then others, each before a list of its blocks."""
        fields = SUPERBLOCK.unpack(self._inner.read(0, SUPERBLOCK.size))
        inodes, directories, fragments, exports = fields[15:19]
        lists = (
            (fragments, fields[4] * FRAGMENT.size),
            (exports, fields[1] * EXPORT),
            (fields[13], fields[8] * ID),
            (fields[14], 0),
        )
        start = directories
        yield inodes, directories
        for at, size in sorted(each for each in lists if each[0] != ABSENT):
            yield start, min(at, self._inner.size)
            start = at + -(-size // BLOCK) * PLACE


def _laid(
    file: Block, codecs: list[Codec], content: Assembled, found: list[tuple[Found, int]], metadata: bytes
) -> tuple[Frames, Assembled] | None:
    """The plan of a file with these frames, whatever is between them kept as it is; None where it says otherwise."""
    tables = content.add(Memory(metadata, f"{file.name}: metadata")) if metadata else 0
    frames: list[Frame] = []
    at = 0
    for each, use in sorted(found):
        if each.at > at:
            frames.append(_kept(file, content, at, each.at))
        shift = tables if each.is_headed else 0
        pieces = tuple(Piece(start + shift, length) for start, length in each.pieces)
        frames.append(Frame(use, each.is_headed, pieces))
        at = each.at + each.stored
    if at < file.size:
        frames.append(_kept(file, content, at, file.size))
    used = sorted({0, *(frame.use for frame in frames)})
    renamed = [frame._replace(use=used.index(frame.use)) for frame in frames]
    empty = Frames(file.size, [codecs[use] for use in used], [], [], [], [], [])
    layer = described(renamed, empty)
    return (layer, content) if list(frames_of(layer, content.size)) == renamed else None


def _kept(file: Block, content: Assembled, start: int, end: int) -> Frame:
    """A stretch of the file, which lies in the content as far from a bound as in the file: so files in an ISO match."""
    at = content.add(Part(file, start, end - start, file.name), start % ALIGNMENT)
    return Frame(0, is_headed=False, pieces=(Piece(at, end - start),))
