"""How a file of units was made, found out from it: codecs by trying, the rest by comparing with a prediction.

What is stated in the resulting plan was seen to be true: each packed unit was packed again and compared, and the
whole file is put together from the plan and compared. What cannot be packed again is kept as it is.

That proof runs the code that writes the file later, from the same plan and content; only the packed units, instead of
being packed a third time, are read from the file. They are what packing gives: the same function (`unit_of`) read the
same bytes (a unit that a codec packs is never masked in the content), the same codec packed them, and what it gave was
compared with these bytes of the file. So the file comes out again unless a codec gives different bytes for the same
input, which the SHA-256 in the plan is there to tell.
"""

from __future__ import annotations

import os
import zlib
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from backports import zstd
from msgspec import structs

from harness.delta.containers.codecs import STORED, VERBATIM, Codec, packer_of
from harness.delta.containers.content import Content
from harness.delta.containers.dialects import GRAMMARS, SECTOR, Dialect
from harness.delta.containers.layout import (
    MOST_UNITS,
    Layout,
    Units,
    arranged,
    laid_out,
    lengths_of,
    present_units,
    step_of,
)
from harness.delta.containers.mapped import check, poured, unit_of
from harness.delta.containers.plan import Mapped, Series, Tables
from harness.delta.containers.rows import equal_runs, rising_runs, runs_of_flags
from harness.delta.containers.skeleton import Skeleton, xor
from harness.errors import HarnessError
from harness.images.block import Block
from harness.images.formats.mapping import Run
from harness.images.ranges import Range

MOST_FOUND = 2**20  # units that a file may have: 64 GiB of 64 KiB each
TRIED_FIRST = 32  # packed units, to see whether it is worth trying all
BATCH = 8  # units given to a thread at a time
MOST_LITERALS = 2**17  # bytes of patches kept in the plan; more of them is content
LONGEST_GAP = 2**16  # bytes of the file compared at a time


class Found(NamedTuple):
    """A unit: its number on the disk, where it lies (behind its marker), and at most how many bytes there are its."""

    guest: int
    offset: int
    room: int
    packed: bool


@dataclass(frozen=True, slots=True)
class Survey:
    """A file as its reader sees it; `exact` where `Found.room` is the length of a unit and no bound."""

    file: Block
    disk: Block
    entries: Dialect
    unit: int
    last: int  # bytes of the disk's last unit that were packed
    per_table: int
    found: list[Found]  # in the order of the file
    tables: list[Tables]
    candidates: list[Codec] = field(default_factory=list)
    exact: bool = True
    counts: list[Tables] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    absent: int = 0  # entry of a unit that is not there
    log: tuple[int, int] = (0, 0)

    @property
    def marker(self) -> int:
        """Bytes before a packed unit."""
        return GRAMMARS[self.entries].marker


class _Fit(NamedTuple):
    """What a unit turned out to be: index of its codec, bytes it takes."""

    use: int
    length: int


def surveyed(survey: Survey) -> tuple[Mapped, Content] | None:
    """The plan and the content of a file; None where too little of it can be made again."""
    if len(survey.found) > MOST_FOUND or -(-survey.disk.size // survey.unit) > MOST_UNITS:
        return None
    if any(each.offset >= after.offset for each, after in pairwise(survey.found)):
        return None
    codecs = [STORED, VERBATIM, *survey.candidates]
    fits = _fits(survey, codecs)
    if fits is None:
        return None
    offsets = array("Q", (each.offset - (survey.marker if each.packed else 0) for each in survey.found))
    lengths = array("Q", (f.length + (survey.marker if f.use else 0) for f in fits))
    if any(at + length > after for (at, after), length in zip(pairwise(offsets), lengths, strict=False)):
        return None  # two units share bytes: made by nobody we know
    units = Units(array("I", (each.guest for each in survey.found)), bytes(fit.use for fit in fits))
    layout = Layout(offsets, lengths)
    masked = sorted(_range(survey, units.guests[i]) for i, fit in enumerate(fits) if fit.use == 1)
    kept = [
        Range(each.offset, each.offset + f.length) for each, f in zip(survey.found, fits, strict=True) if f.use == 1
    ]
    content = Content(survey.disk, masked, survey.file, kept)
    seen = present_units(content, survey.disk.size, survey.unit)
    mapped = _described(survey, codecs, units, layout, seen, [each.size for each in kept])
    mapped, content = _with_patches(survey, mapped, layout, content)
    return (mapped, content) if _is_proven(survey, mapped, seen, layout, content) else None


def stored_units(runs: Iterable[Run], unit: int) -> Iterator[Found]:
    """The units of a disk that stores them plainly."""
    for kind, offset, length, source in runs:
        if kind == "data":
            for at in range(0, length, unit):
                yield Found((offset + at) // unit, source + at, unit, packed=False)


def _range(survey: Survey, guest: int) -> Range:
    return Range(guest * survey.unit, min((guest + 1) * survey.unit, survey.disk.size))


# -- codecs -----------------------------------------------------------------------------------------------------


def _fits(survey: Survey, codecs: list[Codec]) -> list[_Fit] | None:
    """The codec of each unit; None where most of the first that are tried have none."""
    packed = [each for each in survey.found if each.packed]
    trial = _Trial(survey, codecs)
    sampled = packed[:: max(1, len(packed) // TRIED_FIRST)][:TRIED_FIRST]
    if sum(trial.fit(each, *trial.bytes_of(each)).use > 1 for each in sampled) * 2 < len(sampled):
        return None
    threads = len(os.sched_getaffinity(0))
    found: list[_Fit] = []
    waiting: deque[Future[list[_Fit]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(survey.found), BATCH):
            batch = [(each, *trial.bytes_of(each)) for each in survey.found[first : first + BATCH]]
            waiting.append(pool.submit(trial.fit_all, batch))
            if len(waiting) > 2 * threads:
                found += waiting.popleft().result()
        for future in waiting:
            found += future.result()
    return found


class _Trial:
    """Tries codecs on a unit, the one that fitted last before the others."""

    def __init__(self, survey: Survey, codecs: list[Codec]) -> None:
        self._survey = survey
        self._packs = [packer_of(codec) if codec.packs else None for codec in codecs]
        self._likely = list(range(2, len(codecs)))
        self._inflates = all(codec.kind == "deflate" for codec in codecs[2:])

    def bytes_of(self, each: Found) -> tuple[bytes, bytes]:
        """A packed unit as the disk has it and as the file has it."""
        if not each.packed:
            return b"", b""
        survey = self._survey
        plain = unit_of(survey.disk, each.guest, size=survey.disk.size, unit=survey.unit, last=survey.last)
        return plain, survey.file.read(each.offset, each.room)

    def fit_all(self, batch: list[tuple[Found, bytes, bytes]]) -> list[_Fit]:
        return [self.fit(*each) for each in batch]

    def fit(self, each: Found, plain: bytes, packed: bytes) -> _Fit:
        survey = self._survey
        if not each.packed:
            return _Fit(0, _range(survey, each.guest).size)
        for use in list(self._likely):
            pack = self._packs[use]
            made = pack(plain) if pack else b""
            if made and (packed == made if survey.exact else packed.startswith(made)):
                if use != self._likely[0]:
                    self._likely = [use, *(other for other in self._likely if other != use)]
                return _Fit(use, len(made))
        return _Fit(1, each.room if survey.exact else self._length(packed))

    def _length(self, packed: bytes) -> int:
        """Where a unit ends that is followed by others."""
        try:
            if self._inflates:
                inner = zlib.decompressobj(-15)
                inner.decompress(packed, self._survey.unit + 1)
                return len(packed) - len(inner.unused_data)
            frame = zstd.ZstdDecompressor()
            frame.decompress(packed, self._survey.unit + 1)
            return len(packed) - len(frame.unused_data)
        except (zlib.error, zstd.ZstdError):
            return len(packed)


# -- the plan ---------------------------------------------------------------------------------------------------


def _described(
    survey: Survey, codecs: list[Codec], units: Units, layout: Layout, seen: bytearray, lengths: list[int]
) -> Mapped:
    """The plan as far as units go: only codecs that are used, and only what differs from the prediction."""
    used = sorted(set(units.uses))
    renamed = {use: index for index, use in enumerate(used)}
    present = bytearray(-(-survey.disk.size // survey.unit))
    for guest in units.guests:
        present[guest] = 1
    ranks = dict(zip(sorted(units.guests), range(len(units.guests)), strict=True))
    mapped = Mapped(
        entries=survey.entries,
        size=survey.file.size,
        disk=survey.disk.size,
        unit=survey.unit,
        last=survey.last,
        per_table=survey.per_table,
        flips=runs_of_flags(xor(seen, present)),
        order=rising_runs(ranks[guest] for guest in units.guests),
        codecs=[codecs[use] for use in used],
        uses=equal_runs(renamed[use] for use in units.uses),
        lengths=lengths,
        jumps=[],
        tables=survey.tables,
        counts=survey.counts,
        series=survey.series,
        patches=[],
        literals=b"",
        absent=survey.absent,
        log=survey.log,
    )
    return structs.replace(mapped, jumps=list(_jumps(mapped, _uses(mapped), layout)))


def _uses(mapped: Mapped) -> bytes:
    """The codec of each unit, as the plan numbers them."""
    return bytes(use for use, length in mapped.uses for _ in range(length))


def _jumps(mapped: Mapped, uses: bytes, layout: Layout) -> Iterator[tuple[int, int]]:
    at = last = 0
    steps = [step_of(mapped, use) for use in range(len(mapped.codecs))]
    lead = GRAMMARS[mapped.entries].bitmap(mapped.unit)
    for index, (use, offset, length) in enumerate(zip(uses, *layout, strict=True)):
        step = steps[use]
        expected = -(-at // step) * step + lead
        if offset != expected:
            yield index - last, offset - expected
            last = index
        at = offset + length


def _with_patches(survey: Survey, mapped: Mapped, layout: Layout, content: Content) -> tuple[Mapped, Content]:
    """The plan with what the file has where something else was predicted; much of that goes to the content."""
    units = Units(array("I", (each.guest for each in survey.found)), _uses(mapped))
    skeleton = Skeleton(mapped, units, layout)
    differing: list[Range] = []
    for start, end in _gaps(layout, survey.file.size):
        for at in range(start, end, LONGEST_GAP):
            stop = min(end, at + LONGEST_GAP)
            real, predicted = survey.file.read(at, stop - at), skeleton.predicted(at, stop)
            if real != predicted:
                _add_differing(differing, real, predicted, at)
    ends = [0, *(each.end for each in differing)]
    patches = [(each.start - end, each.size) for each, end in zip(differing, ends, strict=False)]
    if sum(each.size for each in differing) > MOST_LITERALS:
        return structs.replace(mapped, patches=patches), content.followed_by(differing)
    pieces = (xor(survey.file.read(each.start, each.size), skeleton.predicted(*each)) for each in differing)
    return structs.replace(mapped, patches=patches, literals=b"".join(pieces)), content


def _add_differing(differing: list[Range], real: bytes, predicted: bytearray, at: int) -> None:
    """Sectors that differ, neighbours as one."""
    for start in range(0, len(real), SECTOR):
        if real[start : start + SECTOR] != predicted[start : start + SECTOR]:
            found = Range(at + start, at + min(len(real), start + SECTOR))
            if differing and differing[-1].end == found.start:
                found = Range(differing.pop().start, found.end)
            differing.append(found)


def _gaps(layout: Layout, size: int) -> Iterator[tuple[int, int]]:
    at = 0
    for offset, length in zip(*layout, strict=True):
        if offset > at:
            yield at, offset
        at = offset + length
    if size > at:
        yield at, size


def _is_proven(survey: Survey, mapped: Mapped, seen: bytearray, layout: Layout, content: Content) -> bool:
    """Whether the plan gives the file: all that `rebuild_mapped` does, with packed units read from the file."""
    at = 0
    try:
        check(mapped, content)
        units = arranged(mapped, seen)
        packed = [index for index, use in enumerate(units.uses) if mapped.codecs[use].packs]
        lengths = lengths_of(mapped, units, (layout.lengths[index] - survey.marker for index in packed))
        spool = _FromFile(survey.file, [layout.offsets[index] + survey.marker for index in packed])
        for piece in poured(mapped, units, laid_out(mapped, units, lengths), content, spool):
            if survey.file.read(at, len(piece)) != piece:
                return False
            at += len(piece)
    except HarnessError:
        return False
    return at == survey.file.size


class _FromFile:
    """Packed units one after another, where a file has them."""

    def __init__(self, file: Block, offsets: list[int]) -> None:
        self._file = file
        self._offsets = iter(offsets)

    def read(self, length: int, /) -> bytes:
        return self._file.read(next(self._offsets), length)
