"""Damage done to a file on purpose: the same seed and number give the same damage, and it can be undone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SECTOR = 512
# Values that parsers trip over, in bytes: nothing, all ones, the largest signed ones, one, and a size of gigabytes.
NASTY = (b"\0", b"\xff", b"\x7f", b"\x80", b"\x01", b"\xff" * 8, b"\x7f" + b"\xff" * 7)
NASTY += (b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80")


@dataclass(frozen=True, slots=True)
class Sample:
    """A file to damage, and where there is something in it: numbers of the sectors that are not zeroes."""

    name: str
    path: Path
    size: int
    sectors: tuple[int, ...]


def sample_of(name: str, path: Path) -> Sample:
    """Look for the sectors worth damaging: each kind of content only once, because files repeat themselves."""
    seen: set[bytes] = set()
    sectors = []
    with path.open("rb") as file:
        number = 0
        while chunk := file.read(SECTOR * 2048):
            if any(chunk):
                for start in range(0, len(chunk), SECTOR):
                    piece = chunk[start : start + SECTOR]
                    if any(piece) and piece not in seen:
                        seen.add(piece)
                        sectors.append(number + start // SECTOR)
            number += len(chunk) // SECTOR
    return Sample(name, path, path.stat().st_size, tuple(sectors))


@contextmanager
def damaged(sample: Sample, seed: int, number: int) -> Iterator[str]:
    """The sample's file damaged in one to four places, or cut off; yields what was done, and undoes it."""
    chance = random.Random(f"{seed}/{sample.name}/{number}")
    if chance.random() < 0.05:
        with _cut(sample, chance.randrange(sample.size)) as what:
            yield what
        return
    places = [_place(sample, chance) for _ in range(chance.choice((1, 1, 1, 2, 4)))]
    with sample.path.open("r+b") as file:
        undo = []
        for offset, value in places:
            file.seek(offset)
            undo.append((offset, file.read(len(value))))
            file.seek(offset)
            file.write(value)
        file.flush()
        try:
            yield ", ".join(f"{value.hex()} at {offset:#x}" for offset, value in places)
        finally:
            for offset, old in reversed(undo):
                file.seek(offset)
                file.write(old)


def _place(sample: Sample, chance: random.Random) -> tuple[int, bytes]:
    """Half of the damage goes to the first sectors that hold something: headers and tables are there."""
    known = sample.sectors[:64] if chance.random() < 0.5 else sample.sectors
    inside = chance.randrange(SECTOR) if chance.random() < 0.5 else chance.randrange(SECTOR // 4) * 4
    offset = min(chance.choice(known) * SECTOR + inside, sample.size - 1)
    value = chance.choice(NASTY) if chance.random() < 0.6 else chance.randbytes(chance.choice((1, 1, 2, 4)))
    return offset, value[: sample.size - offset]


@contextmanager
def _cut(sample: Sample, length: int) -> Iterator[str]:
    with sample.path.open("r+b") as file:
        file.seek(length)
        tail = file.read()
        file.truncate(length)
        try:
            yield f"cut to {length} bytes"
        finally:
            file.seek(length)
            file.write(tail)
