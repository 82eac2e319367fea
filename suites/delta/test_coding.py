"""Sections come back from every coder, in bounded memory, and the smallest of what the coders make is kept."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from harness.delta import coding
from harness.delta.coding import Dictionary, decoded, encode
from harness.delta.errors import DamagedRecipe

NOISE = random.Random(11).randbytes(2**20)
MIB = 2**20

PEAK = """
import random, sys
from harness.delta.coding import GROUP, MOST_DICTIONARY, Dictionary, _zstd, decoded
from suites.delta.giant_plans import peak
noise = random.Random(1).randbytes(2**20)
def part(offset, size):
    return (noise[offset % 2**20:] + noise)[:size]
if sys.argv[1:]:
    dictionary = b"".join(part(at, 2**20) for at in range(0, MOST_DICTIONARY, 2**20))
    sys.stdout.buffer.write(_zstd(noise * (GROUP // 2**20), dictionary, 2))
else:
    stored = sys.stdin.buffer.read()
    before = peak()
    pieces = decoded("zstd", lambda at, size: stored[at : at + size], len(stored), GROUP,
                     Dictionary(MOST_DICTIONARY, part))
    assert sum(map(len, pieces)) == GROUP
    print((peak() - before) // 1024)
"""


def unpacked(codec: str, stored: bytes, raw: int, dictionary: bytes = b"") -> bytes:
    behind = Dictionary(len(dictionary), lambda at, size: dictionary[at : at + size]) if dictionary else None
    return b"".join(decoded(codec, lambda at, size: stored[at : at + size], len(stored), raw, behind))


@given(st.integers(4096, 400_000), st.integers(0, 400_000), st.integers(0, 300_000), st.sampled_from(["fast", "best"]))
def test_what_was_packed_behind_a_dictionary_comes_back(length, where, size, effort):
    dictionary = NOISE[:length]
    content = NOISE[where : where + size] + b"a line\n" * (size // 100)
    codec, needs_dictionary, stored = encode(content, dictionary, effort)
    assert unpacked(codec, stored, len(content), dictionary if needs_dictionary else b"") == content


@given(st.integers(1, 2**30))
def test_a_window_is_named_that_is_large_enough_and_hardly_larger(size):
    number = coding._window_descriptor(size)[0]
    base = 1 << (10 + (number >> 3))
    window = base + base // 8 * (number & 7)
    assert size <= window <= max(1024, size * 9 / 8 + 1)


@pytest.mark.parametrize(
    "stored",
    [b"", b"no frame", bytes(40), coding.FRAME[:4] + b"\xff" * 40, b"\x50\x2a\x4d\x18" + bytes(20)],
)
def test_what_is_no_frame_is_refused(stored):
    with pytest.raises(DamagedRecipe):
        unpacked("zstd", stored, 1000, NOISE[:5000])


def test_a_frame_with_a_checksum_and_bytes_behind_a_frame_are_refused():
    dictionary, content = NOISE[:9000], NOISE[3000:8000]
    prefix = zstd.ZstdDict(dictionary, is_raw=True).as_prefix
    for options, more in (({zstd.CompressionParameter.checksum_flag: 1}, b""), ({}, b"more")):
        stored = zstd.compress(content, options=options, zstd_dict=prefix) + more
        with pytest.raises(DamagedRecipe, match="behind its end"):
            unpacked("zstd", stored, len(content), dictionary)


def test_a_section_that_looks_back_beyond_its_dictionary_is_refused():
    stored = encode(NOISE[:200_000], NOISE[:300_000], "fast")[2]
    with pytest.raises(DamagedRecipe):
        unpacked("zstd", stored, 200_000, NOISE[299_000:300_000])


def test_one_copy_of_a_dictionary_is_held_while_a_section_is_unpacked():
    child = [sys.executable, "-c", PEAK]
    stored = subprocess.run([*child, "pack"], capture_output=True, check=True).stdout
    peak = int(subprocess.run(child, input=stored, capture_output=True, check=True).stdout)
    assert peak * 1024 < coding.MOST_DICTIONARY + coding.GROUP + 16 * MIB
