"""Raw disks of noise, text and holes, what qemu-img makes of them, and how a reader of that is held against them."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
from pathlib import Path

from harness.errors import HarnessError
from harness.images.block import Memory
from harness.images.extents import extents_of, sha256_of

MIB = 2**20


def memory(content: bytes | bytearray, name: str = "memory") -> Memory:
    """A block that cannot be closed, as a window on an archive is."""
    return Memory(bytes(content), name)


def patchy(path: Path, size: int, seed: int, patches: int = 12) -> bytes:
    """Make a sparse raw disk and return its bytes."""
    dice = random.Random(seed)
    content = bytearray(size)
    with path.open("wb") as file:
        file.truncate(size)
        for _ in range(patches):
            at, length = dice.randrange(size), dice.randrange(1, 200_000)
            piece = dice.choice([dice.randbytes(length), b"compressible " * (length // 13)])[: size - at]
            content[at : at + len(piece)] = piece
            os.pwrite(file.fileno(), piece, at)
    return bytes(content)


def wide(path: Path, size: int, places: list[int]) -> dict[int, bytes]:
    """Make a sparse raw disk of many gigabytes with 4 KiB of noise at some places; returns those."""
    noise = {at: random.Random(at).randbytes(4096) for at in places}
    with path.open("wb") as file:
        file.truncate(size)
        for at, piece in noise.items():
            os.pwrite(file.fileno(), piece, at)
    return noise


def qemu_img(*argv: object) -> str:
    return subprocess.run(["qemu-img", *map(str, argv)], capture_output=True, text=True, check=True).stdout


def convert(raw: Path, made: Path, form: str, options: str) -> Path:
    qemu_img("convert", "-f", "raw", "-O", form, "-o", options, raw, made)
    return made


def as_qemu_reads(made: Path, form: str) -> bytes:
    """The bytes of the disk by QEMU's own reader."""
    flat = made.with_suffix(".flat")
    qemu_img("convert", "-f", form, "-O", "raw", made, flat)
    return flat.read_bytes()


def check_reads_as(block, content: bytes) -> None:
    """All of it, its digest, and extents without gaps of which none hides a byte."""
    assert block.size == len(content)
    assert block.read(0, block.size) == content
    assert sha256_of(block) == hashlib.sha256(content).hexdigest()
    at = 0
    for offset, length, kind in block.extents():
        assert (offset, length > 0) == (at, True)
        assert kind == "data" or not any(content[offset : offset + length])
        at += length
    assert at == block.size


def check_wide(block, noise: dict[int, bytes]) -> None:
    """Noise where it belongs, a little data in the extents, and zeroes around."""
    for at, piece in noise.items():
        before, after = min(at, 4096), min(8192, block.size - at)
        around = noise.get(at - 4096, bytes(before)), piece, noise.get(at + 4096, bytes(after - 4096))
        assert block.read(at - before, before + after) == b"".join(around)
    extents = list(extents_of(block))
    assert sum(extent.length for extent in extents) == block.size
    stored = [extent for extent in extents if extent.kind == "data"]
    assert sum(extent.length for extent in stored) <= len(noise) * 4 * MIB
    assert all(any(start <= at < start + length for start, length, _ in stored) for at in noise)


def provoke(kind, content: bytes | bytearray, most_extents: int = 500) -> str:
    """Open a mutant and read here and there: the name of the typed error that came, or an empty string."""
    try:
        block = kind(memory(content))
        for at in (0, block.size // 2, block.size - 70_000):
            block.read(max(0, at), min(70_000, block.size - max(0, at)))
        for _, extent in zip(range(most_extents), block.extents(), strict=False):
            assert extent.length > 0
            if extent.kind == "data":
                block.read(extent.offset, min(extent.length, 4096))
        assert all(isinstance(value, str | int | bool | None) for value in block.facts().values())
    except HarnessError as error:
        return "an error of several lines" if "\n" in str(error) else type(error).__name__
    return ""


def mutants(seeds: list[bytes], regions: list[tuple[int, int]], count: int, seed: int):
    """Copies of `seeds` with one to five bytes or words changed within `regions`, some cut short; seeded."""
    dice = random.Random(seed)
    for _ in range(count):
        content = bytearray(dice.choice(seeds))
        for _ in range(dice.randrange(1, 6)):
            start, length = dice.choice(regions)
            at = max(0, min(len(content) - 1, (start if start >= 0 else len(content) + start) + dice.randrange(length)))
            value = dice.choice([b"\0", b"\1", b"\x7f", b"\x80", b"\xff", b"\xff" * 4, b"\xff" * 8, bytes(8),
                                 dice.randbytes(1), dice.randbytes(4)])  # fmt: skip
            content[at : at + len(value)] = value[: len(content) - at]
        yield content[: dice.choice([len(content)] * 6 + [dice.randrange(len(content))])]
