"""Which units a mapped file has, in which order, and where each lies: what a plan says beside the content.

Used alike to write a file and to prove, when it is taken apart, that it will be written so.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from itertools import compress
from typing import NamedTuple

from harness.delta.containers.dialects import GRAMMARS
from harness.delta.containers.plan import LARGEST_FILE, WHERE, Mapped
from harness.delta.containers.rows import expanded, flip
from harness.errors import DamagedImage
from harness.images.block import Block
from harness.images.extents import extents_of

MOST_UNITS = 2**22  # of a disk: 256 GiB in units of 64 KiB
WINDOW = 2**20  # bytes of content read at a time


class Units(NamedTuple):
    """The units that a file has, in its order: number on the disk, index of the codec."""

    guests: array[int]
    uses: bytes


class Layout(NamedTuple):
    """Where each unit lies and how many bytes it takes there, its marker included."""

    offsets: array[int]
    lengths: array[int]


class Positions(NamedTuple):
    """Where units lie, as `entries` of all of the disk's units, and for qcow2 `counts` of the file's clusters."""

    entries: array[int]
    counts: array[int]


def present_units(content: Block, disk: int, unit: int) -> bytearray:
    """1 for each unit of the first `disk` bytes that is not all zeroes; only what is data is read."""
    flags = bytearray(-(-disk // unit))
    zeroes = bytes(min(unit, WINDOW))
    for offset, length, kind in extents_of(content):
        if offset >= disk:
            break
        at, end = offset, min(offset + length, disk) if kind == "data" else offset
        while at < end:
            if unit >= WINDOW and flags[at // unit]:
                at += unit - at % unit
                continue
            stop = min(end, at - at % WINDOW + WINDOW)
            data = content.read(at, stop - at)
            for first in range(at - at % len(zeroes), stop, len(zeroes)):
                piece = data[max(0, first - at) : first + len(zeroes) - at]
                if piece != (zeroes if len(piece) == len(zeroes) else bytes(len(piece))):
                    flags[first // unit] = 1
            at = stop
    return flags


def arranged(mapped: Mapped, flags: bytearray) -> Units:
    """Which units the file has, in its order; `flags` are those that are not zero, and are changed.

    Raises DamagedImage for a plan that does not speak of each unit once.
    """
    flip(flags, mapped.flips)
    ranked = array("I", compress(range(len(flags)), flags))
    total = len(ranked)
    guests, seen = array("I"), bytearray(total)
    for rank in expanded(mapped.order, total, rising=True):
        if rank >= total or seen[rank]:
            raise _damaged("names a unit twice, or one that is not there")
        seen[rank] = 1
        guests.append(ranked[rank])
    if any(use >= len(mapped.codecs) for use, length in mapped.uses if length):
        raise _damaged("names a codec that it does not describe")
    return Units(guests, bytes(expanded(mapped.uses, total, rising=False)))


def lengths_of(mapped: Mapped, units: Units, packed: Iterable[int]) -> array[int]:
    """Bytes that each unit takes in the file, its marker included; `packed` are those of the units that codecs pack."""
    marker = GRAMMARS[mapped.entries].marker
    lengths, sizes, verbatim = array("Q"), iter(packed), iter(mapped.lengths)
    for guest, use in zip(*units, strict=True):
        codec = mapped.codecs[use]
        if codec.kind == "stored":
            lengths.append(min(mapped.unit, mapped.disk - guest * mapped.unit))
        else:
            lengths.append(next(sizes if codec.packs else verbatim, LARGEST_FILE) + marker)
    if next(verbatim, None) is not None or any(length > LARGEST_FILE for length in lengths):
        raise _damaged("does not say how long each verbatim unit is")
    return lengths


def laid_out(mapped: Mapped, units: Units, lengths: array[int]) -> Layout:
    """Where units of these lengths lie. Raises DamagedImage where they overlap or leave the file."""
    offsets = array("Q", bytes(8 * len(lengths)))
    jumps = iter(mapped.jumps)
    gap, shift = next(jumps, (-1, 0))
    until, at = gap, 0
    steps = [step_of(mapped, use) for use in range(len(mapped.codecs))]
    lead = GRAMMARS[mapped.entries].bitmap(mapped.unit)
    for index, length in enumerate(lengths):
        step = steps[units.uses[index]]
        offset = -(-at // step) * step + lead
        if index == until:
            offset += shift
            gap, shift = next(jumps, (-1, 0))
            until = index + gap if gap > 0 else -1
        if not at <= offset <= mapped.size - length:
            raise _damaged(f"puts unit {index:,} at {offset:,}, where it cannot be")
        offsets[index] = offset
        at = offset + length
    return Layout(offsets, lengths)


def step_of(mapped: Mapped, use: int) -> int:
    """Bytes: where a unit of a codec is expected to begin. QEMU puts packed clusters one after another."""
    return GRAMMARS[mapped.entries].step(mapped.unit, mapped.codecs[use].kind != "stored")


def positions(mapped: Mapped, units: Units, layout: Layout) -> Positions:
    """The entries of all tables, and the reference counts of the file's clusters, as the layout has them."""
    grammar = GRAMMARS[mapped.entries]
    entries = array(grammar.width, [mapped.absent]) * -(-mapped.disk // mapped.unit)
    packed = [codec.kind != "stored" for codec in mapped.codecs]
    for guest, use, offset, length in zip(units.guests, units.uses, *layout, strict=True):
        entries[guest] = grammar.entry(mapped.unit, offset, length, packed[use])
    return Positions(entries, _counts(mapped, units, layout, packed) if mapped.counts else array("H"))


def _counts(mapped: Mapped, units: Units, layout: Layout, packed: list[bool]) -> array[int]:
    clusters = -(-mapped.size // mapped.unit)
    if clusters > 4 * MOST_UNITS:
        raise _damaged(f"speaks of a file of {clusters:,} clusters")
    counts = array("H", [0]) * clusters
    for use, offset, length in zip(units.uses, *layout, strict=True):
        if packed[use]:
            for cluster in range(offset // mapped.unit, -(-(offset + length) // mapped.unit)):
                counts[cluster] = min(counts[cluster] + 1, 2**16 - 1)
    for cluster, count in enumerate(counts):
        if not count:
            counts[cluster] = 1
    return counts


def _damaged(what: str) -> DamagedImage:
    return DamagedImage(what, where=WHERE, next_step="get it again and compare its checksum")
