"""What is known of the bases is found, however many blocks are looked up in vain before."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from harness.delta.index import BLOCK, Index, Place
from harness.delta.match import script_of
from harness.delta.ops import BASE, LITERAL, SELF
from harness.delta.residue import Residue
from harness.delta.sparse import Content
from harness.images.block import Memory

NOISE = random.Random(5).randbytes(2**20)


def content(data: bytes) -> Content:
    return Content(Memory(data, "memory"))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 7))
def test_flags_never_hide_a_block_that_is_known(blocks, shift):
    base = b"".join(NOISE[number * BLOCK : (number + 1) * BLOCK] for number in blocks)
    index = Index([content(base)])
    index.add_all(1)
    piece = NOISE[-512 * (shift + 1) :] + base
    for number in range(len(blocks)):
        at = 512 * (shift + 1) + number * BLOCK
        assert index.next_known(piece, at, 512, len(piece)) == at
        block = piece[at : at + BLOCK]
        found = index.find(index.key(block), block)
        assert found is not None
        assert base[found.offset : found.offset + BLOCK] == block


def test_blocks_beyond_the_most_are_not_added():
    index = Index([content(NOISE)], most=2)
    for number in range(4):
        block = NOISE[number * BLOCK : (number + 1) * BLOCK]
        index.add(index.key(block), block, Place(0, number * BLOCK))
    found = [index.find(index.key(NOISE[at : at + BLOCK]), NOISE[at : at + BLOCK]) for at in (0, BLOCK, 2 * BLOCK)]
    assert found == [Place(0, 0), Place(0, BLOCK), None]


def test_a_base_comes_before_the_target_itself():
    base = NOISE[: 100 * BLOCK]
    target = NOISE[600_000 : 600_000 + 20 * BLOCK] + base + NOISE[600_000 : 600_000 + 20 * BLOCK]
    found = [(op.kind, op.length) for op in script_of(content(target), [content(base)])]
    assert found == [(LITERAL, 20 * BLOCK), (BASE, len(base)), (SELF, 20 * BLOCK)]


@given(st.lists(st.integers(0, 9000), min_size=1, max_size=4), st.data())
def test_any_part_of_a_residue_is_what_its_whole_is(sizes, data):
    bases = [content(NOISE[at * 100_000 : at * 100_000 + size]) for at, size in enumerate(sizes)]
    residue = Residue(bases, [])
    padded = b"".join(
        NOISE[at * 100_000 :][:size].ljust(-(-size // BLOCK) * BLOCK, b"\0") for at, size in enumerate(sizes)
    )
    assert residue.read(0, residue.size) == padded
    first = data.draw(st.integers(0, residue.size // BLOCK))
    assert residue.read(first * BLOCK, residue.size - first * BLOCK) == padded[first * BLOCK :]
