"""Frames one behind the other, made of pieces of the content: how a plan says so, and the file again from it.

A frame is a block or fragment of a squashfs, a block of its metadata, or a stretch of the file as it is. What a plan
says of all frames is in columns, and is held against the content before the first byte comes out.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby, islice
from typing import NamedTuple

from harness.delta.containers.codecs import Pack, check_codec, packer_of
from harness.delta.containers.plan import WHERE, Frames
from harness.delta.containers.rows import equal_runs, expanded, flip, runs_of_flags
from harness.errors import DamagedImage
from harness.images.block import Block

ALIGNMENT = 4096  # bytes: where filesystems lay files, so pieces of the content begin there
LARGEST_PACKED = 2**20  # bytes of a frame that is packed: the largest block of a squashfs
LARGEST_HEADED = 2**13  # bytes of metadata behind one length
STORED = 2**15  # of that length: what follows is not packed
MOST_CODECS = 32
MOST_FRAMES = 2**22
MOST_PIECES = 2**18  # of a frame: ends of files in a fragment
WINDOW = 2**20  # bytes of content read at a time
BATCH, MOST_IN_BATCH = 2**18, 256  # bytes and frames given to a thread at a time


class Piece(NamedTuple):
    """Bytes of the content."""

    start: int
    length: int


class Frame(NamedTuple):
    """One frame: its codec's index, whether its length stands before it, and what it is made of."""

    use: int
    is_headed: bool
    pieces: tuple[Piece, ...]

    @property
    def length(self) -> int:
        """Bytes that go in."""
        return sum(piece.length for piece in self.pieces)


def described(frames: Sequence[Frame], layer: Frames) -> Frames:
    """The layer with these frames in its columns."""
    gaps, lengths, at = [], [], 0
    for frame in frames:
        for start, length in frame.pieces:
            gaps.append(start - aligned(at))
            lengths.append(length)
            at = start + length
    return Frames(
        size=layer.size,
        codecs=layer.codecs,
        uses=equal_runs(frame.use for frame in frames),
        headed=runs_of_flags(bytes(frame.is_headed for frame in frames)),
        counts=equal_runs(len(frame.pieces) for frame in frames),
        gaps=gaps,
        lengths=lengths,
    )


def aligned(at: int) -> int:
    """The next multiple of 4 KiB."""
    return -(-at // ALIGNMENT) * ALIGNMENT


def check(layer: Frames, content: int) -> None:
    """What can be known to be wrong, or beyond this host, without looking at the content of that many bytes.

    Raises DamagedImage, and BadInput where this host's codecs give other bytes.
    """
    if len(layer.codecs) > MOST_CODECS or any(codec.kind == "verbatim" for codec in layer.codecs):
        raise _damaged("has codecs that frames cannot have")
    for frame in frames_of(layer, content):
        length = frame.length
        if layer.codecs[frame.use].packs and length > LARGEST_PACKED:
            raise _damaged(f"packs a frame of {length:,} bytes")
        if frame.is_headed and length > LARGEST_HEADED:
            raise _damaged(f"has {length:,} bytes of metadata behind one length")
    for codec in layer.codecs:
        check_codec(codec)


def frames_of(layer: Frames, content: int) -> Iterator[Frame]:
    """The frames of a plan in order. Raises DamagedImage where it contradicts itself, or leaves the content."""
    total = sum(length for _, length in layer.uses)
    if total > MOST_FRAMES or len(layer.gaps) != len(layer.lengths) or sum(layer.lengths) > content:
        raise _damaged(f"has {total:,} frames that cannot be of {content:,} bytes of content")
    if any(use >= len(layer.codecs) for use, length in layer.uses if length):
        raise _damaged("names a codec that it does not describe")
    if any(not 0 < count <= MOST_PIECES for count, _ in layer.counts) or sum(
        count * length for count, length in layer.counts
    ) != len(layer.lengths):
        raise _damaged("does not say which piece is of which frame")
    headed = bytearray(total)
    flip(headed, layer.headed)
    uses = expanded(layer.uses, total, rising=False)
    counts = expanded(layer.counts, total, rising=False)
    pieces = _pieces(layer, content)
    for use, is_headed, count in zip(uses, headed, counts, strict=True):
        yield Frame(use, bool(is_headed), tuple(islice(pieces, count)))


def _pieces(layer: Frames, content: int) -> Iterator[Piece]:
    at = 0
    for gap, length in zip(layer.gaps, layer.lengths, strict=True):
        start = aligned(at) + gap
        at = start + length
        if start < 0 or not length or at > content:
            raise _damaged(f"wants {length:,} bytes at {start:,} of {content:,}")
        yield Piece(start, length)


def rebuild_frames(layer: Frames, content: Block) -> Iterator[bytes]:
    """The file again, of a plan that `check` has let pass.

    All cores pack; reading is this thread's, in the file's order, and at most a few batches wait for the others.
    """
    packs = [packer_of(codec) if codec.packs else None for codec in layer.codecs]
    threads = len(os.sched_getaffinity(0))
    waiting: deque[Future[list[bytes]] | Frame] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for frame, batch in _batches(frames_of(layer, content.size), packs):
                if frame:
                    waiting.append(frame)
                else:
                    plain = [read_frame(content, each) for each in batch]
                    waiting.append(pool.submit(_packed, batch, plain, packs))
                while len(waiting) > 2 * threads:
                    yield from _done(waiting.popleft(), content)
            while waiting:
                yield from _done(waiting.popleft(), content)
        finally:
            for each in waiting:
                if isinstance(each, Future):
                    each.cancel()


def _batches(frames: Iterator[Frame], packs: list[Pack | None]) -> Iterator[tuple[Frame | None, list[Frame]]]:
    """Frames that are as they are one by one, those to be packed or headed as many as a thread takes."""
    for is_plain, group in groupby(frames, lambda frame: not packs[frame.use] and not frame.is_headed):
        batch, size = list[Frame](), 0
        for frame in group:
            if is_plain:
                yield frame, []
                continue
            batch.append(frame)
            size += frame.length
            if size >= BATCH or len(batch) == MOST_IN_BATCH:
                yield None, batch
                batch, size = [], 0
        if batch:
            yield None, batch


def read_frame(content: Block, frame: Frame) -> bytes:
    """What goes into a frame."""
    return b"".join(content.read(*piece) for piece in frame.pieces)


def _packed(batch: list[Frame], plain: list[bytes], packs: list[Pack | None]) -> list[bytes]:
    return [framed(frame, data, packs[frame.use]) for frame, data in zip(batch, plain, strict=True)]


def framed(frame: Frame, data: bytes, pack: Pack | None) -> bytes:
    """A frame's bytes in the file."""
    made = pack(data) if pack else data
    if not frame.is_headed:
        return made
    return (len(made) if pack else len(made) | STORED).to_bytes(2, "little") + made


def _done(each: Future[list[bytes]] | Frame, content: Block) -> Iterator[bytes]:
    if isinstance(each, Future):
        yield from each.result()
        return
    for start, length in each.pieces:
        for done in range(0, length, WINDOW):
            yield content.read(start + done, min(WINDOW, length - done))


def _damaged(what: str) -> DamagedImage:
    return DamagedImage(what, where=WHERE, next_step="get it again and compare its checksum")
