"""Files, edits of them, and their recipes, for the properties that hold for all of them."""

from __future__ import annotations

import random

import pytest
from hypothesis import strategies as st

from harness.delta.decode import decode_into
from harness.delta.encode import encode_file
from harness.delta.recipe import Recipe
from harness.images.block import Memory

NOISE = random.Random(7).randbytes(3 * 2**20)
SIZES = st.sampled_from([0, 1, 511, 512, 4095, 4096, 4097, 20_000, 70_001])


def noise(start: int, size: int) -> bytes:
    return NOISE[start : start + size]


@st.composite
def originals(draw):
    """Noise, text and zeroes in turn, of odd sizes."""
    pieces = []
    for _ in range(draw(st.integers(0, 5))):
        size, start = draw(SIZES), draw(st.integers(0, 9)) * 100_000
        kind = draw(st.sampled_from(["noise", "zero", "text"]))
        pieces.append(
            {"noise": noise(start, size), "zero": bytes(size), "text": (b"line %d\n" % start * size)[:size]}[kind]
        )
    return b"".join(pieces)


EDITS = st.lists(
    st.tuples(
        st.sampled_from(["splice", "move", "duplicate", "zero", "truncate", "flip", "append"]),
        st.floats(0, 1, exclude_max=True),
        st.floats(0, 1, exclude_max=True),
        SIZES,
    ),
    max_size=6,
)


def edited(data: bytes, edits) -> bytes:
    for kind, first, second, size in edits:
        at, to = int(first * len(data)), int(second * len(data))
        part = data[at : at + size]
        without = data[:at] + data[at + size :]
        data = {
            "splice": data[:at] + noise(2_000_000, size) + data[at:],
            "move": without[:to] + part + without[to:],
            "duplicate": data[:to] + part + data[to:],
            "zero": data[:at] + bytes(len(part)) + data[at + len(part) :],
            "truncate": data[: max(at, len(data) - size)],
            "flip": data[:at] + bytes(255 - byte for byte in part[:3]) + data[at + 3 :],
            "append": data + noise(1_500_000, size),
        }[kind]
    return data


def recipe_of(target: bytes, *bases: bytes, **options) -> bytes:
    return b"".join(encode_file(Memory(target, "target"), blocks_of(*bases), effort="fast", **options).bytes())


class Kept:
    """An output in memory."""

    def __init__(self):
        self.bytes = bytearray()

    def data(self, view):
        self.bytes += view

    def zeroes(self, length):
        self.bytes += bytes(length)

    def again(self, view, offset):
        view[:] = self.bytes[offset : offset + len(view)]


class Counted:
    """An output that keeps nothing."""

    def data(self, view):
        pass

    def zeroes(self, length):
        pass

    def again(self, view, offset):
        pass


class Untouched:
    """An output that must stay empty."""

    def data(self, _view):
        pytest.fail("something was put out")

    def zeroes(self, _length):
        pytest.fail("something was put out")

    def again(self, _view, _offset):
        pytest.fail("something was read again")


def made(recipe: bytes, *bases: bytes) -> bytes:
    output = Kept()
    decode_into(Recipe(Memory(recipe, "recipe")), blocks_of(*bases), output)
    return bytes(output.bytes)


def blocks_of(*contents: bytes) -> list[Memory]:
    return [Memory(content, f"base{number}") for number, content in enumerate(contents)]
