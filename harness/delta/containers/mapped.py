"""A qcow2 or VMDK file written again from its plan and its content.

First it is seen which units of the disk are not zero, then those that are packed are packed on all cores into a
scratch file (the tables that come before them in the file tell their sizes), then the file comes out in order. At
most a few batches of units and one number a unit are in memory.
"""

from __future__ import annotations

import os
import struct
import tempfile
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import compress, islice
from typing import IO, NamedTuple

from harness.delta.containers.codecs import Codec, check_codec, packer_of
from harness.delta.containers.plan import LARGEST_FILE, WHERE, Mapped
from harness.delta.containers.rows import expanded, flip
from harness.delta.containers.skeleton import SECTOR, Patched, Positions, Skeleton, entry_of
from harness.errors import DamagedImage, StoreError
from harness.images.block import Block
from harness.images.extents import extents_of

MOST_UNITS = 2**22  # of a disk: 256 GiB in units of 64 KiB
MOST_TABLES = 2**30  # bytes of a file beyond twice its content
LONGEST_SERIES = 2**16  # tables of a disk of 2 TiB
UNIT_SIZES = range(512, 16 * 2**20 + 1)
WINDOW = 2**20  # bytes of content read at a time
BATCH = 2**18  # bytes of units given to a thread at a time
MARKER = struct.Struct("<QI")  # of a packed grain: sector of the disk, bytes that follow

ReadUnit = Callable[[int], bytes]


class Units(NamedTuple):
    """The units that a file has, in its order: number on the disk, index of the codec."""

    guests: array[int]
    uses: bytes


class Layout(NamedTuple):
    """Where each unit lies and how many bytes it takes there, its marker included."""

    offsets: array[int]
    lengths: array[int]


def rebuild_mapped(mapped: Mapped, content: Block) -> Iterator[bytes]:
    """The file again. Raises DamagedImage or BadInput, all of it before the first byte comes out."""
    check(mapped, content)
    units = arranged(mapped, content)
    with ExitStack() as stack:
        try:
            spool = stack.enter_context(tempfile.TemporaryFile())
            lengths = _pack_all(mapped, units, content, spool)
        except OSError as cause:
            raise StoreError(f"no room for packed units: {cause.strerror}", where=tempfile.gettempdir()) from cause
        layout = laid_out(mapped, units, lengths)
        patched = _patched(mapped, units, layout, content)
        reader = _reader(mapped, units, layout, content, spool)
        return _closing(emitted(mapped, units, layout, content, patched, reader), stack.pop_all())


def _patched(mapped: Mapped, units: Units, layout: Layout, content: Block) -> Patched:
    start = mapped.disk + sum(mapped.lengths)
    patched = Patched(mapped, Skeleton(mapped, positions(mapped, units, layout)), content, start)
    if content.size != start + patched.in_tail:
        raise _damaged(f"wants {start + patched.in_tail:,} bytes of content")
    return patched


def check(mapped: Mapped, content: Block) -> None:
    """What can be known to be wrong, or beyond this host, without looking at the content."""
    unit = mapped.unit
    if unit not in UNIT_SIZES or unit & (unit - 1) or not 0 < mapped.last <= unit:
        raise _damaged(f"speaks of units of {unit:,} bytes")
    if mapped.disk > content.size or -(-mapped.disk // unit) > MOST_UNITS:
        raise _damaged(f"speaks of a disk of {mapped.disk:,} bytes")
    if (
        not 1 <= mapped.per_table <= 2**18
        or len(mapped.codecs) > 255
        or any(each.count > LONGEST_SERIES for each in mapped.series)
    ):
        raise _damaged("has tables of a size that cannot be")
    if sum(mapped.lengths) > content.size or mapped.size > 2 * content.size + MOST_TABLES:
        raise _damaged(f"speaks of a file of {mapped.size:,} bytes")
    for codec in mapped.codecs:
        check_codec(codec)


def present_units(content: Block, disk: int, unit: int) -> bytearray:
    """1 for each unit of the first `disk` bytes that is not all zeroes; only what is data is read."""
    flags = bytearray(-(-disk // unit))
    step, zeroes = max(WINDOW, unit), bytes(unit)
    for offset, length, kind in extents_of(content):
        if offset >= disk:
            break
        at, end = offset, min(offset + length, disk) if kind == "data" else offset
        while at < end:
            stop = min(end, at - at % step + step)
            data = content.read(at, stop - at)
            for first in range(at - at % unit, stop, unit):
                piece = data[max(0, first - at) : first + unit - at]
                if piece != (zeroes if len(piece) == unit else bytes(len(piece))):
                    flags[first // unit] = 1
            at = stop
    return flags


def arranged(mapped: Mapped, content: Block) -> Units:
    """Which units the file has, in its order."""
    flags = present_units(content, mapped.disk, mapped.unit)
    flip(flags, mapped.flips)
    ranked = array("I", compress(range(len(flags)), flags))
    total = len(ranked)
    order = array("Q", expanded(mapped.order, total, rising=True))
    if total and (max(order) >= total or len(set(order)) != total):
        raise _damaged("names a unit twice")
    uses = array("Q", expanded(mapped.uses, total, rising=False))
    if total and max(uses) >= len(mapped.codecs):
        raise _damaged("names a codec that it does not describe")
    return Units(array("I", map(ranked.__getitem__, order)), bytes(uses.tolist()))


def laid_out(mapped: Mapped, units: Units, lengths: array[int]) -> Layout:
    """Where units of these lengths lie. Raises DamagedImage where they overlap or leave the file."""
    offsets = array("Q", bytes(8 * len(lengths)))
    jumps = iter(mapped.jumps)
    gap, shift = next(jumps, (-1, 0))
    until, at = gap, 0
    steps = [alignment(mapped, codec) for codec in mapped.codecs]
    for index, length in enumerate(lengths):
        step = steps[units.uses[index]]
        offset = -(-at // step) * step
        if index == until:
            offset += shift
            gap, shift = next(jumps, (-1, 0))
            until = index + gap if gap > 0 else -1
        if not at <= offset <= mapped.size - length:
            raise _damaged(f"puts unit {index:,} at {offset:,}, where it cannot be")
        offsets[index] = offset
        at = offset + length
    return Layout(offsets, lengths)


def alignment(mapped: Mapped, codec: Codec) -> int:
    """Bytes: where a unit is expected to begin. QEMU puts packed clusters one after another."""
    if mapped.entries == "vmdk":
        return SECTOR
    return mapped.unit if codec.kind == "stored" else 1


def positions(mapped: Mapped, units: Units, layout: Layout) -> Positions:
    """The entries of all tables, and the reference counts of the file's clusters, as the layout has them."""
    entries = array("I" if mapped.entries == "vmdk" else "Q", [0]) * -(-mapped.disk // mapped.unit)
    stored = [codec.kind == "stored" for codec in mapped.codecs]
    for guest, use, offset, length in zip(units.guests, units.uses, *layout, strict=True):
        entries[guest] = entry_of(mapped, offset, length, packed=not stored[use])
    return Positions(entries, _counts(mapped, units, layout, stored) if mapped.counts else array("H"))


def _counts(mapped: Mapped, units: Units, layout: Layout, stored: list[bool]) -> array[int]:
    clusters = -(-mapped.size // mapped.unit)
    if clusters > 4 * MOST_UNITS:
        raise _damaged(f"speaks of a file of {clusters:,} clusters")
    counts = array("H", [0]) * clusters
    for use, offset, length in zip(units.uses, *layout, strict=True):
        if not stored[use]:
            for cluster in range(offset // mapped.unit, -(-(offset + length) // mapped.unit)):
                counts[cluster] = min(counts[cluster] + 1, 2**16 - 1)
    for cluster, count in enumerate(counts):
        if not count:
            counts[cluster] = 1
    return counts


def emitted(
    mapped: Mapped, units: Units, layout: Layout, content: Block, patched: Patched, read_packed: ReadUnit
) -> Iterator[bytes]:
    """The file's bytes in order; `read_packed` is asked for each unit that is not stored plainly, in order."""
    at = index = 0
    while index < len(units.guests):
        offset = layout.offsets[index]
        yield from patched.window(at, offset)
        if mapped.codecs[units.uses[index]].kind == "stored":
            count, length = _together(units, layout, index)
            yield content.read(units.guests[index] * mapped.unit, length)
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


def unit_of(mapped: Mapped, content: Block, guest: int) -> bytes:
    """A unit as it is packed: the disk's last one is filled up with zeroes."""
    start = guest * mapped.unit
    length = min(mapped.unit, mapped.disk - start)
    return content.read(start, length).ljust(mapped.unit if length == mapped.unit else mapped.last, b"\0")


def _pack_all(mapped: Mapped, units: Units, content: Block, spool: IO[bytes]) -> array[int]:
    """Write all packed units to `spool`; returns the bytes that each unit takes in the file."""
    frame = MARKER.size if mapped.entries == "vmdk" else 0
    lengths = array("Q", bytes(8 * len(units.guests)))
    verbatim = iter(mapped.lengths)
    for index, (guest, use) in enumerate(zip(*units, strict=True)):
        kind = mapped.codecs[use].kind
        if kind == "stored":
            lengths[index] = min(mapped.unit, mapped.disk - guest * mapped.unit)
        elif kind == "verbatim":
            lengths[index] = next(verbatim, LARGEST_FILE) + frame
    if next(verbatim, None) is not None or any(length > LARGEST_FILE for length in lengths):
        raise _damaged("does not say how long each verbatim unit is")
    for index, packed in _packed(mapped, units, content):
        lengths[index] = len(packed) + frame
        spool.write(packed)
    spool.seek(0)
    return lengths


def _packed(mapped: Mapped, units: Units, content: Block) -> Iterator[tuple[int, bytes]]:
    """Units that a codec packs, in order, with their index; reading is this thread's, packing that of all cores."""
    packs = [packer_of(codec) if codec.packs else None for codec in mapped.codecs]
    threads = len(os.sched_getaffinity(0))
    waiting: deque[tuple[list[int], Future[list[bytes]]]] = deque()
    wanted = (index for index, use in enumerate(units.uses) if packs[use])
    size = max(1, BATCH // mapped.unit)

    def work(uses: list[int], pieces: list[bytes]) -> list[bytes]:
        return [pack(piece) for use, piece in zip(uses, pieces, strict=True) if (pack := packs[use])]

    with ThreadPoolExecutor(threads) as pool:
        while batch := list(islice(wanted, size)):
            pieces = [unit_of(mapped, content, units.guests[index]) for index in batch]
            waiting.append((batch, pool.submit(work, [units.uses[index] for index in batch], pieces)))
            if len(waiting) > 2 * threads:
                done, future = waiting.popleft()
                yield from zip(done, future.result(), strict=True)
        for done, future in waiting:
            yield from zip(done, future.result(), strict=True)


def _reader(mapped: Mapped, units: Units, layout: Layout, content: Block, spool: IO[bytes]) -> ReadUnit:
    """Gives the units in turn: from the spool, or the verbatim ones from behind the disk in the content."""
    is_vmdk = mapped.entries == "vmdk"
    frame = MARKER.size if is_vmdk else 0
    at = mapped.disk

    def read(index: int) -> bytes:
        nonlocal at
        length = layout.lengths[index] - frame
        if mapped.codecs[units.uses[index]].packs:
            packed = spool.read(length)
        else:
            packed = content.read(at, length)
            at += length
        return MARKER.pack(units.guests[index] * mapped.unit // SECTOR, length) + packed if is_vmdk else packed

    return read


def _closing(pieces: Iterator[bytes], stack: ExitStack) -> Iterator[bytes]:
    with stack:
        yield from pieces


def _damaged(what: str) -> DamagedImage:
    return DamagedImage(what, where=WHERE, next_step="get it again and compare its checksum")
