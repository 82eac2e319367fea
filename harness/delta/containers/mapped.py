"""A qcow2, VMDK, VHD or VHDX file written again from its plan and its content.

First it is seen which units of the disk are not zero, then those that are packed are packed on all cores into a
scratch file (the tables that come before them in the file tell their sizes), then the file comes out in order. At
most a few batches of units and one number a unit are in memory.
"""

from __future__ import annotations

import os
import struct
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import islice
from typing import Protocol

from harness.delta.containers.codecs import check_codec, packer_of
from harness.delta.containers.dialects import GRAMMARS, SECTOR
from harness.delta.containers.layout import (
    MOST_UNITS,
    WINDOW,
    Layout,
    Units,
    arranged,
    laid_out,
    lengths_of,
    present_units,
)
from harness.delta.containers.plan import WHERE, Mapped
from harness.delta.containers.skeleton import Patched, Skeleton
from harness.errors import DamagedImage, StoreError
from harness.images.block import Block
from harness.images.formats.compression import scratch_parent

MOST_TABLES = 2**30  # bytes of a file beyond twice its content
MOST_CODECS = 32
LONGEST_SERIES = 2**16  # tables of a disk of 2 TiB
UNIT_SIZES = range(SECTOR, 256 * 2**20 + 1)  # blocks of a VHDX are the largest
LARGEST_PACKED = 16 * 2**20  # bytes of a unit that is packed: grains, and clusters of 2 MiB
BATCH = 2**18  # bytes of units given to a thread at a time
MOST_WAITING = 2**25  # bytes of units that wait for threads
MARKER = struct.Struct("<QI")  # of a packed grain: sector of the disk, bytes that follow

ReadUnit = Callable[[int], bytes]


class Packed(Protocol):
    """The packed units one after another, in the file's order: a scratch file, or when proving the file itself."""

    def read(self, length: int, /) -> bytes: ...


def rebuild_mapped(mapped: Mapped, content: Block) -> Iterator[bytes]:
    """The file again. Raises DamagedImage or BadInput, all of it before the first byte comes out."""
    check(mapped, content)
    units = arranged(mapped, present_units(content, mapped.disk, mapped.unit))
    with ExitStack() as stack:
        try:
            spool = stack.enter_context(tempfile.TemporaryFile(dir=scratch_parent()))
            sizes = []
            for packed in _packed(mapped, units, content):
                sizes.append(len(packed))
                spool.write(packed)
            spool.seek(0)
        except OSError as cause:
            raise StoreError(
                f"no room for packed units: {cause.strerror}", where=scratch_parent() or tempfile.gettempdir()
            ) from cause
        layout = laid_out(mapped, units, lengths_of(mapped, units, sizes))
        return _closing(poured(mapped, units, layout, content, spool), stack.pop_all())


def poured(mapped: Mapped, units: Units, layout: Layout, content: Block, spool: Packed) -> Iterator[bytes]:
    """The file, given the packed units. Raises DamagedImage before the first byte comes out."""
    start = mapped.disk + sum(mapped.lengths)
    patched = Patched(mapped, Skeleton(mapped, units, layout), content, start)
    if content.size != start + patched.in_tail:
        raise _damaged(f"wants {start + patched.in_tail:,} bytes of content")
    return _emitted(mapped, units, layout, content, patched, _reader(mapped, units, layout, content, spool))


def check(mapped: Mapped, content: Block) -> None:
    """What can be known to be wrong, or beyond this host, without looking at the content."""
    unit = mapped.unit
    if unit not in UNIT_SIZES or unit & (unit - 1) or not 0 < mapped.last <= unit:
        raise _damaged(f"speaks of units of {unit:,} bytes")
    if unit > LARGEST_PACKED and any(codec.packs for codec in mapped.codecs):
        raise _damaged(f"packs units of {unit:,} bytes")
    if mapped.disk > content.size or -(-mapped.disk // unit) > MOST_UNITS:
        raise _damaged(f"speaks of a disk of {mapped.disk:,} bytes")
    if (
        not 1 <= mapped.per_table <= 2**18
        or len(mapped.codecs) > MOST_CODECS
        or any(each.count > LONGEST_SERIES for each in mapped.series)
        or mapped.absent >= 2**32
    ):
        raise _damaged("has tables of a size that cannot be")
    if max(mapped.lengths, default=0) > 2 * unit:  # as much as a table can say
        raise _damaged("has verbatim units of a size that cannot be")
    if sum(mapped.lengths) > content.size or mapped.size > 2 * content.size + MOST_TABLES:
        raise _damaged(f"speaks of a file of {mapped.size:,} bytes")
    for codec in mapped.codecs:
        check_codec(codec)


def _emitted(
    mapped: Mapped, units: Units, layout: Layout, content: Block, patched: Patched, read_packed: ReadUnit
) -> Iterator[bytes]:
    """The file's bytes in order; `read_packed` is asked for each unit that is not stored plainly, in order."""
    at = index = 0
    while index < len(units.guests):
        offset = layout.offsets[index]
        yield from patched.window(at, offset)
        if mapped.codecs[units.uses[index]].kind == "stored":
            count, length = _together(units, layout, index)
            start = units.guests[index] * mapped.unit
            for done in range(0, length, WINDOW):
                yield content.read(start + done, min(WINDOW, length - done))
        else:
            count, length = 1, layout.lengths[index]
            yield read_packed(index)
        index, at = index + count, offset + length
    yield from patched.window(at, mapped.size)


def _together(units: Units, layout: Layout, first: int) -> tuple[int, int]:
    """How many stored units from `first` on continue each other on the disk and in the file, and their bytes."""
    index, length = first + 1, layout.lengths[first]
    while (
        index < len(units.guests)
        and length < WINDOW
        and units.uses[index] == units.uses[first]
        and units.guests[index] == units.guests[first] + index - first
        and layout.offsets[index] == layout.offsets[first] + length
    ):
        length += layout.lengths[index]
        index += 1
    return index - first, length


def unit_of(disk: Block, guest: int, *, size: int, unit: int, last: int) -> bytes:
    """A unit as it is packed, of a disk of `size`: its last unit is filled up with zeroes, to `last` bytes."""
    start = guest * unit
    length = min(unit, size - start)
    return disk.read(start, length).ljust(unit if length == unit else last, b"\0")


def _packed(mapped: Mapped, units: Units, content: Block) -> Iterator[bytes]:
    """Units that a codec packs, in order; reading is this thread's, packing that of all cores."""
    packs = [packer_of(codec) if codec.packs else None for codec in mapped.codecs]
    threads = len(os.sched_getaffinity(0))
    waiting: deque[Future[list[bytes]]] = deque()
    wanted = (index for index, use in enumerate(units.uses) if packs[use])
    size = max(1, BATCH // mapped.unit)
    most = max(threads, min(2 * threads, MOST_WAITING // mapped.unit))
    plain = partial(unit_of, content, size=mapped.disk, unit=mapped.unit, last=mapped.last)

    def work(uses: list[int], pieces: list[bytes]) -> list[bytes]:
        return [pack(piece) for use, piece in zip(uses, pieces, strict=True) if (pack := packs[use])]

    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(wanted, size)):
            pieces = [plain(units.guests[index]) for index in batch]
            waiting.append(pool.submit(work, [units.uses[index] for index in batch], pieces))
            if len(waiting) > most:
                yield from waiting.popleft().result()
        for future in waiting:
            yield from future.result()


def _reader(mapped: Mapped, units: Units, layout: Layout, content: Block, spool: Packed) -> ReadUnit:
    """Gives the units in turn: from the spool, or the verbatim ones from behind the disk in the content."""
    frame = GRAMMARS[mapped.entries].marker
    at = mapped.disk

    def read(index: int) -> bytes:
        nonlocal at
        length = layout.lengths[index] - frame
        if mapped.codecs[units.uses[index]].packs:
            packed = spool.read(length)
        else:
            packed = content.read(at, length)
            at += length
        return MARKER.pack(units.guests[index] * mapped.unit // SECTOR, length) + packed if frame else packed

    return read


def _closing(pieces: Iterator[bytes], stack: ExitStack) -> Iterator[bytes]:
    with stack:
        yield from pieces


def _damaged(what: str) -> DamagedImage:
    return DamagedImage(what, where=WHERE, next_step="get it again and compare its checksum")
