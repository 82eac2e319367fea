"""Nothing ends at 2 or 4 GiB: what lies beyond is copied, zeroed and coded like everything else, in little memory."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from harness.delta.recipe import open_recipe
from suites.delta.made_recipes import noise

GIB = 2**30
SIZE = 5 * GIB + 12_345
PIECE = 2**20
PLACES = (0, 2 * GIB - PIECE // 2, 2 * GIB + 8 * PIECE, 4 * GIB - PIECE // 2, 4 * GIB + 8 * PIECE, SIZE - PIECE)
MOST_MEMORY = 64 * 2**20  # and twice the dictionary: the bytes, and zstd's copy

CHILD = """
import sys
from pathlib import Path
from harness.delta.decode import decode
from harness.delta.encode import encode_file
from harness.delta.recipe import open_recipe
from harness.images.formats.raw import FileBlock
what, recipe, base, target = sys.argv[1], *map(Path, sys.argv[2:5])
with FileBlock(base) as base_block:
    if what == "encode":
        with FileBlock(target) as block:
            encode_file(block, [base_block], effort="fast").write(recipe)
    else:
        with open_recipe(recipe) as opened:
            decode(opened, [base_block], target)
status = Path("/proc/self/status").read_text()
sys.stdout.write(status.split("VmHWM:")[1].split()[0])  # KiB
"""


def sparse(path: Path, pieces: dict[int, bytes]) -> Path:
    with path.open("wb") as file:
        for offset, piece in pieces.items():
            os.pwrite(file.fileno(), piece, offset)
        file.truncate(SIZE)
    return path


def edited_everywhere(piece: bytes) -> bytes:
    """Alike, but with no block the same."""
    changed = bytearray(piece)
    changed[::97] = bytes(255 - byte for byte in changed[::97])
    return bytes(changed)


def peak(what: str, *paths: Path) -> int:
    """Bytes of memory that a process of its own took."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, what, *map(str, paths)], check=True, capture_output=True, text=True
    )
    return 1024 * int(done.stdout)


@pytest.mark.nightly
def test_a_file_of_five_gigabytes_comes_back_in_little_memory(tmp_path, capsys):
    """Copies from and to both sides of 2 and 4 GiB, at the same place, moved, and edited; literals beyond both."""
    kept = {place: noise(number * 1000, PIECE) for number, place in enumerate(PLACES)}
    moved = {
        2 * GIB - 2 * PIECE: kept[PLACES[4]],  # from beyond 4 GiB to below 2
        3 * GIB + 512: kept[0],
        4 * GIB + 2 * PIECE: noise(2 * PIECE, PIECE // 2) + b"new" * 1000,
        4 * GIB + 4 * PIECE: kept[PLACES[2]][:-1] + b"x",
    }
    gone = {4 * GIB + 64 * PIECE: random.Random(5).randbytes(24 * PIECE)}  # but for what is written anew of it
    anew = {GIB: edited_everywhere(gone[4 * GIB + 64 * PIECE][-PIECE:])}
    base = sparse(tmp_path / "base", kept | gone)
    target = sparse(tmp_path / "target", kept | moved | anew | {PLACES[4]: kept[PLACES[4]][4096:]})
    encoding = peak("encode", tmp_path / "recipe", base, target)
    with open_recipe(tmp_path / "recipe") as recipe:
        assert recipe.size < PIECE
        assert max(op.source for op in recipe.ops()) > 4 * GIB
        dictionary = max((each.dictionary[1] for each in recipe.header.literals if each.dictionary), default=0)
    decoding = peak("decode", tmp_path / "recipe", base, tmp_path / "made")
    with capsys.disabled():
        sys.stderr.write(f"\nencoding {encoding:,} bytes of memory, decoding {decoding:,}, dictionary {dictionary:,}\n")
    assert dictionary >= 24 * PIECE
    assert decoding < MOST_MEMORY + 2 * dictionary
    assert encoding < 8 * MOST_MEMORY
    assert (tmp_path / "made").stat().st_blocks * 512 < 64 * PIECE
    assert subprocess.run(["cmp", target, tmp_path / "made"], check=False).returncode == 0
