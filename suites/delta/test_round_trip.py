"""What a recipe is made of comes back bit for bit, and the same bytes always give the same recipe."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.delta import match
from harness.delta.decode import decode, decode_container, decode_into
from harness.delta.encode import Container, encode_file
from harness.delta.errors import WrongBase
from harness.delta.match import script_of
from harness.delta.ops import BASE, LITERAL, SELF, ZERO
from harness.delta.recipe import Identity, Recipe, open_recipe
from harness.delta.sparse import Content, common_prefix, common_suffix
from harness.images.block import Memory
from harness.images.formats.raw import FileBlock
from suites.delta.made_recipes import EDITS, Kept, Untouched, blocks_of, edited, made, noise, originals, recipe_of

BLOCK = 4096


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("delta")


@given(originals(), EDITS)
def test_an_edited_file_comes_back(original, edits):
    target = edited(original, edits)
    assert made(recipe_of(target, original), original) == target


@given(originals(), originals(), EDITS)
def test_a_file_made_of_two_bases_comes_back(one, two, edits):
    target = edited(one + two, edits)
    assert made(recipe_of(target, one, two), one, two) == target


SMALL_SIZES = (0, 1, 511, 4095, 4096, 4097, 2**17 + 5)


@pytest.mark.parametrize("size", SMALL_SIZES)
@pytest.mark.parametrize("base_size", SMALL_SIZES)
def test_files_of_any_size_come_back(size, base_size):
    base = noise(0, base_size)
    for target in (noise(0, size), noise(7, size), bytes(size), base[:size] + bytes(3)):
        assert made(recipe_of(target, base), base) == target


@given(originals(), st.integers(-2 * BLOCK, 2 * BLOCK), st.booleans())
def test_a_file_shifted_by_any_number_of_bytes_comes_back(original, shift, turned):
    target = noise(10**6, shift) + original if shift > 0 else original[-shift:] + original[:-shift] * turned
    assert made(recipe_of(target, original), original) == target


@given(originals(), EDITS)
def test_every_file_comes_back_without_the_index_too(original, edits):
    """Where only the comparison at the same offset runs, and the literals are larger."""
    target = edited(original, edits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(match, "WORTH_AN_INDEX", 2**40)
        assert made(recipe_of(target, original), original) == target


@given(originals(), EDITS)
def test_blocks_whose_hashes_collide_are_told_apart(original, edits):
    target = edited(original, edits)
    script = script_of(
        Content(Memory(target, "t")), [Content(Memory(original, "b"))], digest=lambda block: block[0] % 2
    )
    result, literal = bytearray(), 0
    for kind, length, source in script:
        at = len(result)
        if kind == ZERO:
            result += bytes(length)
        elif kind == LITERAL:
            result += target[at : at + length]
            literal += length
        elif kind == SELF:
            assert source + length <= at
            result += result[source : source + length]
        else:
            result += original[source : source + length]
    assert bytes(result) == target


@given(originals(), EDITS)
def test_two_threads_make_the_same_recipe_as_one(original, edits):
    target = edited(original, edits)
    assert recipe_of(target, original, threads=1) == recipe_of(target, original, threads=2)


ANOTHER_PROCESS = """
import hashlib, sys
from suites.delta.made_recipes import edited, noise, recipe_of
original = noise(0, 10**6) + bytes(9999) + noise(5, 10**6)
target = edited(original, [("move", .2, .7, 70_000), ("splice", .5, 0, 4097), ("duplicate", .1, .9, 200_001)])
sys.stdout.write(hashlib.sha256(recipe_of(target, original)).hexdigest())
"""


def test_another_process_makes_the_same_recipe():
    """Python hashes bytes differently in each; only the index looks at that."""
    argv = [sys.executable, "-c", ANOTHER_PROCESS]
    made = {
        subprocess.run(argv, env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2", "3")
    }
    assert len(made) == 1


def sparse(path: Path, data: bytes) -> Path:
    with path.open("wb") as file:
        for at in range(0, len(data), BLOCK):
            block = data[at : at + BLOCK]
            if block.strip(b"\0"):
                os.pwrite(file.fileno(), block, at)
        file.truncate(len(data))
    return path


@given(originals(), EDITS)
def test_sparse_and_dense_copies_give_the_same_recipe(folder, original, edits):
    target = edited(original, edits)
    dense = recipe_of(target, original)
    with FileBlock(sparse(folder / "t", target)) as one, FileBlock(sparse(folder / "b", original)) as two:
        holes = b"".join(encode_file(one, [two], effort="fast").bytes())
        assert holes == dense
        output = Kept()
        decode_into(Recipe(Memory(holes, "recipe")), [two], output)
    assert output.bytes == target


@given(originals(), originals(), EDITS)
def test_another_base_is_refused_with_both_checksums(original, other, edits):
    assume(other != original)
    recipe = Recipe(Memory(recipe_of(edited(original, edits), original), "recipe"))
    with pytest.raises(WrongBase, match=hashlib.sha256(original).hexdigest()) as refused:
        decode_into(recipe, blocks_of(other), Untouched())
    assert hashlib.sha256(other).hexdigest() in str(refused.value)


@given(originals(), EDITS, st.integers(0, 2**20), st.integers(1, 255))
def test_a_base_with_one_wrong_byte_is_refused_wherever_it_is(original, edits, where, flip):
    """Even one that no operation reads: who names the wrong base should hear of it now, not at the next recipe."""
    assume(original)
    other = bytearray(original)
    other[where % len(other)] ^= flip
    with pytest.raises(WrongBase, match=hashlib.sha256(original).hexdigest()) as refused:
        decode_into(
            Recipe(Memory(recipe_of(edited(original, edits), original), "recipe")), blocks_of(bytes(other)), Untouched()
        )
    assert hashlib.sha256(other).hexdigest() in str(refused.value)


def test_a_byte_that_no_operation_reads_makes_a_base_wrong_too():
    base = noise(0, 2**20)
    recipe = Recipe(Memory(recipe_of(base[: 2**19], base), "recipe"))
    assert max(op.source + op.length for op in recipe.ops()) <= 2**19
    with pytest.raises(WrongBase, match=r"expected SHA-256 \w+ .*found"):
        decode_into(recipe, blocks_of(base[:-1] + b"x"), Untouched())


def test_a_wrong_base_leaves_the_old_file_and_no_other(tmp_path):
    (tmp_path / "made").write_bytes(b"old")
    recipe = Recipe(Memory(recipe_of(noise(0, 2**20) + b"more", noise(0, 2**20)), "recipe"))
    with pytest.raises(WrongBase):
        decode(recipe, blocks_of(noise(1, 2**20)), tmp_path / "made")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@pytest.mark.parametrize("count", [0, 2])
def test_the_wrong_number_of_bases_is_refused(tmp_path, count):
    recipe = Recipe(Memory(recipe_of(b"target", b"base"), "recipe"))
    with pytest.raises(WrongBase, match="needs 1 bases"):
        decode(recipe, [Memory(b"base", "base")] * count, tmp_path / "made")


def test_a_patched_file_needs_less_than_a_kilobyte():
    base = noise(0, 2**21)
    target = bytearray(base)
    target[1_000_000:1_000_004] = b"1234"
    target[1_500_000:1_500_040] = b"console=ttyS0 ignition.platform.id=openx"
    assert len(recipe_of(bytes(target), base)) < 1024


def test_a_block_that_occurs_twice_is_a_literal_once():
    target = Content(Memory(noise(0, 300_000) + b"x" * 96 + noise(0, 300_000), "t"))
    shifted = Content(Memory(noise(0, 2**18) + noise(2**20, 2**18) + noise(0, 2**18), "t"))
    assert sum(op.length for op in script_of(shifted, []) if op.kind == LITERAL) == 2**19
    assert any(op.kind == SELF for op in script_of(shifted, []))
    assert sum(op.length for op in script_of(target, [])) == target.size


@pytest.mark.parametrize("shift", [512, 1024, 2048])
def test_files_on_other_sectors_are_found(shift):
    base = noise(0, 2**19)
    target = noise(2**20, shift) + base
    script = script_of(Content(Memory(target, "t")), [Content(Memory(base, "b"))])
    assert [(op.kind, op.length) for op in script] == [(LITERAL, shift), (BASE, len(base))]


def test_more_than_two_gigabytes_are_copied_and_hashed_in_small_pieces(tmp_path):
    size, data = 2**31 + 2**20 + 12345, noise(0, 100_000)
    for name, at in (("base", 2**31 + 4096), ("target", 2**31 + 8192)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
            os.pwrite(file.fileno(), data, at)
    with FileBlock(tmp_path / "target") as target, FileBlock(tmp_path / "base") as base:
        encoded = encode_file(target, [base], effort="fast")
        assert encoded.write(tmp_path / "recipe") < 1024
        with open_recipe(tmp_path / "recipe") as recipe:
            assert decode(recipe, [base], tmp_path / "made") == encoded.header.target
    assert (tmp_path / "made").stat().st_blocks * 512 < 2**20


def test_what_does_not_fit_one_group_goes_into_several(monkeypatch):
    monkeypatch.setattr("harness.delta.encode.GROUP", 2**20)
    monkeypatch.setattr("harness.delta.encode.MOST_DICTIONARY", 2 * BLOCK)
    base = b"".join(b"%08d" % number for number in range(250_000))
    target = base.replace(b"7", b"seven")
    recipe = recipe_of(target, base)
    assert len(Recipe(Memory(recipe, "recipe")).header.literals) == 3
    assert made(recipe, base) == target


def test_a_container_is_rebuilt_from_its_plan(tmp_path):
    content, base = noise(0, 50_000) + b"new", noise(0, 50_000)
    whole = b"head" + content
    container = Container(b"head", Identity(len(whole), hashlib.sha256(whole).hexdigest()))
    recipe = Recipe(Memory(recipe_of(content, base, container=container), "recipe"))

    def rebuild(plan, block):
        yield plan
        yield block.read(0, block.size)

    decode_container(recipe, [Memory(base, "base")], tmp_path / "made", rebuild)
    assert (tmp_path / "made").read_bytes() == whole
    assert list(tmp_path.iterdir()) == [tmp_path / "made"]


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_common_ends_are_what_a_loop_finds(left, right):
    size = min(len(left), len(right))
    left, right = left[:size], right[:size]
    prefix = next((n for n in range(size) if left[n] != right[n]), size)
    suffix = next((n for n in range(size) if left[size - 1 - n] != right[size - 1 - n]), size)
    assert (common_prefix(left, right), common_suffix(left, right)) == (prefix, suffix)
