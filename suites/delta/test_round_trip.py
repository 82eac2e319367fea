"""What a recipe is made of comes back bit for bit, and the same bytes always give the same recipe."""

from __future__ import annotations

import hashlib
import os
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.delta import decode as decoding
from harness.delta import match
from harness.delta.decode import decode, decode_container, decode_into
from harness.delta.encode import Container, encode_file
from harness.delta.errors import WrongBase
from harness.delta.match import script_of
from harness.delta.ops import BASE, LITERAL, SELF, ZERO
from harness.delta.recipe import Identity, Recipe, open_recipe
from harness.delta.sparse import Content, common_prefix, common_suffix
from harness.errors import BadInput
from harness.images.block import Memory
from harness.images.formats.raw import FileBlock

BLOCK = 4096
NOISE = random.Random(7).randbytes(3 * 2**20)
SIZES = st.sampled_from([0, 1, 511, 512, 4095, 4096, 4097, 70_000, 200_001])


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


def made(recipe: bytes, *bases: bytes) -> bytes:
    output = Kept()
    decode_into(Recipe(Memory(recipe, "recipe")), blocks_of(*bases), output)
    return bytes(output.bytes)


def blocks_of(*contents: bytes) -> list[Memory]:
    return [Memory(content, f"base{number}") for number, content in enumerate(contents)]


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
    target = edited(original, edits)
    recipe = Recipe(Memory(recipe_of(target, original), "recipe"))
    output = Kept()
    if other != original:
        with pytest.raises(WrongBase, match=hashlib.sha256(original).hexdigest()) as refused:
            decode_into(recipe, blocks_of(other), output)
        assert hashlib.sha256(other).hexdigest() in str(refused.value)
        assert not output.bytes


@given(originals(), EDITS, st.integers(0, 2**20))
def test_a_base_with_one_wrong_byte_never_gives_a_wrong_file(original, edits, where):
    """By default a base is only sampled: a byte that nobody copies may be wrong, the result may not."""
    target, other = edited(original, edits), bytearray(original)
    if not other:
        return
    other[where % len(other)] ^= 0x55
    output = Kept()
    try:
        decode_into(Recipe(Memory(recipe_of(target, original), "recipe")), blocks_of(bytes(other)), output)
    except WrongBase:
        return
    assert output.bytes == target


def test_a_base_wrong_between_the_samples_is_refused_before_the_rename(tmp_path):
    base = bytearray(noise(0, 2**20))
    recipe = Recipe(Memory(recipe_of(noise(0, 2**20) + b"more", bytes(base)), "recipe"))
    base[10_000] ^= 1
    with pytest.raises(WrongBase, match="expected SHA-256"):
        decode(recipe, [Memory(bytes(base), "changed")], tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


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


def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path, monkeypatch):
    class Full(decoding._File):
        def data(self, _view):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(decoding, "_File", Full)
    (tmp_path / "made").write_bytes(b"old")
    with pytest.raises(BadInput, match="No space left"):
        decode(Recipe(Memory(recipe_of(b"target" * 99, b"base"), "recipe")), blocks_of(b"base"), tmp_path / "made")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_common_ends_are_what_a_loop_finds(left, right):
    size = min(len(left), len(right))
    left, right = left[:size], right[:size]
    prefix = next((n for n in range(size) if left[n] != right[n]), size)
    suffix = next((n for n in range(size) if left[size - 1 - n] != right[size - 1 - n]), size)
    assert (common_prefix(left, right), common_suffix(left, right)) == (prefix, suffix)
