"""A virtual disk cut into equal blocks, each stored somewhere in a file, packed, or nowhere: VMDK, VHD and VHDX.

A format reads its tables and says what an entry means; reading, extents, bounds and memory are the same for all.
Tables are read when they are needed and remembered within a fixed budget; no offset is followed before it was held
against the file's length and against the places where the format keeps its own tables. All sizes are bytes.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple, Self, TypeVar

from harness.errors import DamagedImage
from harness.images.block import Block
from harness.images.extents import Extent, extents_of
from harness.images.formats.disk import Disk, Fact, Opening
from harness.images.formats.raw import FileBlock
from harness.images.lru import Recent

CACHE_BYTES = 16 * 2**20  # budget of tables, and again of unpacked blocks
TABLES_CHECKED_ON_OPENING = 1024  # the last of the disk: a truncated file misses their blocks first
MOST_FILE_EXTENTS = 2**18  # of the file itself; a file in more pieces counts as stored from end to end
AGAIN = "truncated download? get it again and compare its checksum"

PlaceKind = Literal["data", "zero", "hole", "packed"]
HOLE: tuple[PlaceKind, int] = ("hole", 0)
ZERO: tuple[PlaceKind, int] = ("zero", 0)
AnyDisk = TypeVar("AnyDisk", bound=Disk)


class Run(NamedTuple):
    """Bytes of the disk that lie together; `source` is where in the file they begin, or the packed block does."""

    kind: PlaceKind
    offset: int
    length: int
    source: int


@dataclass(frozen=True, slots=True)
class Area:
    """A part of the file that holds the format's own tables, where no data can be."""

    what: str
    start: int
    size: int


class MappedDisk(ABC):
    """What VMDK, VHD and VHDX have in common: `size` bytes in blocks of `step`, `per_table` of them in a table.

    The disk owns `file`: closing it closes the file, where a file can be closed.
    """

    def __init__(self, file: Block, name: str, *, size: int, step: int, per_table: int, areas: Sequence[Area]) -> None:
        self._file = file
        self._name = name
        self._size = size
        self._step = step
        self._per_table = per_table
        self._areas = areas
        self._tables: Recent[int, array[int] | None] = Recent(CACHE_BYTES // (8 * per_table), self._read_table)

    @abstractmethod
    def _read_table(self, index: int) -> array[int] | None:
        """The entries of a table; None where the disk has a hole instead of a table."""

    @abstractmethod
    def _place(self, entry: int) -> tuple[PlaceKind, int]:
        """What an entry says of its block, and where in the file it begins."""

    @abstractmethod
    def facts(self) -> Mapping[str, Fact]:
        """What the headers say beyond the disk's size."""

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self._size:
            raise DamagedImage(
                f"read of {length:,} bytes at {offset:,} lies beyond the end of the disk at {self._size:,}",
                where=self._name,
            )
        pieces = [self._content(run) for run in self._runs(offset, offset + length)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def extents(self) -> Iterator[Extent]:
        """The whole disk in order; packed blocks count as data, and what the file itself does not store as a hole."""
        pending: Extent | None = None
        for extent in self._plain_extents():
            if pending and pending.kind == extent.kind:
                pending = Extent(pending.offset, pending.length + extent.length, pending.kind)
            else:
                if pending:
                    yield pending
                pending = extent
        if pending:
            yield pending

    def runs(self) -> Iterator[Run]:
        """The whole disk in order."""
        return self._runs(0, self._size)

    def close(self) -> None:
        close = getattr(self._file, "close", None)  # a file has it, a window on one has not
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- for the formats ----------------------------------------------------------------------------------------

    def _content(self, run: Run) -> bytes:
        return self._file.read(run.source, run.length) if run.kind == "data" else bytes(run.length)

    def _check_length(self, furthest: Callable[[array[int]], int]) -> None:
        """Raise DamagedImage if the block that lies last in the file is not whole, by the last tables of the disk.

        `furthest` says where the last block of a table begins, 0 for none. Cheap enough for every opening; `read`
        and `extents` notice the rest when they meet it.
        """
        tables = -(-self._size // (self._step * self._per_table))
        known = (self._tables[index] for index in range(max(0, tables - TABLES_CHECKED_ON_OPENING), tables))
        start = max((furthest(table) for table in known if table is not None), default=0)
        if start and (start >= self._file.size or self._end_of_block(start) > self._file.size):
            raise self._beyond_end("a block of the disk", start, self._step)

    def _end_of_block(self, start: int) -> int:
        """Where a block ends at the earliest: that of the disk's end may be shorter than the others."""
        return start + (self._size % self._step or self._step)

    def _beyond_end(self, what: str, offset: int, length: int) -> DamagedImage:
        return DamagedImage(
            f"{what} at {offset:#x} (+{length:,} bytes) lies beyond the end of the file at {self._file.size:,}",
            where=self._name,
            next_step=AGAIN,
        )

    # -- from disk to file --------------------------------------------------------------------------------------

    def _runs(self, offset: int, end: int) -> Iterator[Run]:
        """The runs of a range of the disk; neighbours that continue each other in the file come as one."""
        pending: Run | None = None
        for run in self._blocks(offset, end):
            if pending is None:
                pending = run
            elif pending.kind == run.kind and (
                run.kind in {"zero", "hole"} or (run.kind == "data" and pending.source + pending.length == run.source)
            ):
                pending = Run(pending.kind, pending.offset, pending.length + run.length, pending.source)
            else:
                yield self._checked(pending)
                pending = run
        if pending:
            yield self._checked(pending)

    def _blocks(self, position: int, end: int) -> Iterator[Run]:
        coverage = self._step * self._per_table
        while position < end:
            index = position // coverage
            stop = min(end, (index + 1) * coverage)
            table = self._tables[index]
            if table is None:
                yield Run("hole", position, stop - position, 0)
            else:
                yield from self._blocks_of(table, position, stop)
            position = stop

    def _blocks_of(self, table: array[int], position: int, stop: int) -> Iterator[Run]:
        step, per_table = self._step, self._per_table
        while position < stop:
            block = position // step
            kind, source = self._place(table[block % per_table])
            upto = min(stop, (block + 1) * step)
            yield Run(kind, position, upto - position, source + position % step if kind == "data" else source)
            position = upto

    def _checked(self, run: Run) -> Run:
        if run.kind in {"zero", "hole"}:
            return run
        length = run.length if run.kind == "data" else 1
        if run.source + length > self._file.size:
            raise self._beyond_end(f"data of {run.offset:,}", run.source, length)
        for area in self._areas:
            if run.source < area.start + area.size and run.source + length > area.start:
                raise DamagedImage(
                    f"data of {run.offset:,} are said to be at {run.source:#x}, in the {area.what}", where=self._name
                )
        return run

    def _plain_extents(self) -> Iterator[Extent]:
        stored = _stored(self._file)
        starts = [extent.offset for extent in stored]
        for kind, offset, length, source in self.runs():
            if kind == "data" and stored:
                yield from _window(stored, bisect_right(starts, source) - 1, offset, length, source)
            else:
                yield Extent(offset, length, "data" if kind == "packed" else kind)


def _stored(file: Block) -> list[Extent]:
    """The file's own extents, by which a block of mostly nothing is told from one of data; none if it is unknown."""
    if not hasattr(file, "extents"):
        return []
    found = list(islice(extents_of(file), MOST_FILE_EXTENTS + 1))
    return found if len(found) <= MOST_FILE_EXTENTS else []


def _window(stored: Sequence[Extent], first: int, offset: int, length: int, source: int) -> Iterator[Extent]:
    """A run of data at `source` as the file's extents from `first` on have it, moved to where the disk has it."""
    for index in range(first, len(stored)):
        start, size, kind = stored[index]
        begin, end = max(start, source), min(start + size, source + length)
        if begin >= end:
            return
        yield Extent(offset + begin - source, end - begin, kind)


def numbers(data: bytes, width: Literal["I", "Q"], order: Literal["little", "big"]) -> array[int]:
    """An array of 4 or 8 byte numbers in the byte order of the format."""
    found = array(width, data)
    if sys.byteorder != order:
        found.byteswap()
    return found


def open_file(opening: Opening, kind: Callable[[Block, str], AnyDisk]) -> AnyDisk:
    """Open the file and the disk in it; the file is closed with the disk, or at once if it holds none."""
    file = FileBlock(opening.path, opening.name)
    try:
        return kind(file, opening.name)
    except BaseException:
        file.close()
        raise
