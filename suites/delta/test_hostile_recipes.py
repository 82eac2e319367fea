"""Whatever is done to a recipe, reading it ends in one typed error, before output and in bounded memory."""

from __future__ import annotations

import hashlib
import json
import lzma
import random
import subprocess
import sys

import pytest
from backports import zstd
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.delta.coding import CODECS, encode
from harness.delta.decode import decode, decode_into
from harness.delta.encode import Container, encode_file
from harness.delta.errors import DamagedRecipe, WrongBase
from harness.delta.ops import BASE, CHUNK, LITERAL, ROW_SIZE, SELF, ZERO, Op, Packer
from harness.delta.recipe import MAGIC, PREFIX, PREFIX_SIZE, Identity, Recipe, check_of, open_recipe
from harness.errors import BadInput
from harness.images.block import Memory
from suites.delta.made_recipes import Counted, Untouched

NOISE = random.Random(3)
ORIGINAL = NOISE.randbytes(60_000)
TARGET = ORIGINAL[:20_000] + b"a line of text\n" * 400 + ORIGINAL[20_000:50_000] + bytes(9000) + ORIGINAL[:4096]
BASE_BLOCK = Memory(ORIGINAL, "base")
GOOD = b"".join(encode_file(Memory(TARGET, "target"), [BASE_BLOCK]).bytes())
TINY = b"".join(
    encode_file(
        Memory(ORIGINAL[50:3000] + b"a line of text\n" * 9 + bytes(4096), "target"),
        [Memory(ORIGINAL[:9000], "base")],
        container=Container(b"plan", Identity(1, "0" * 64)),
    ).bytes()
)  # with a section of each kind
HUGE = 2**60


def opened(data: bytes) -> Recipe:
    return Recipe(Memory(data, "recipe"))


def header_of(data: bytes) -> tuple[dict, bytes]:
    length = PREFIX.unpack_from(data)[3]
    return json.loads(data[PREFIX_SIZE : PREFIX_SIZE + length]), data[PREFIX_SIZE + length :]


def signed(header: dict | bytes, body: bytes, version: int = 1, length: int | None = None) -> bytes:
    """A recipe with right checksums, as an attacker makes it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    prefix = PREFIX.pack(MAGIC, version, 0, len(text) if length is None else length)
    return prefix + check_of(prefix, text) + text + body


def section(raw: int, stored: bytes, codec: str = "store", **more) -> dict:
    return {"codec": codec, "stored": len(stored), "raw": raw, "check": check_of(stored).hex(), **more}


def forged(ops: list[Op], *, size: int | None = None, literals: bytes = b"") -> bytes:
    """A recipe with just these operations."""
    header, _ = header_of(GOOD)
    rows = Packer().pack(ops)
    header |= {"ops": [section(len(rows), rows)], "literals": [section(len(literals), literals)] if literals else []}
    header["target"]["size"] = sum(op.length for op in ops) if size is None else size
    return signed(header, rows + literals)


def changed(path: str, value) -> bytes:
    header, body = header_of(GOOD)
    *steps, last = (int(step) if step.isdigit() else step for step in path.split("."))
    place = header
    for step in steps:
        place = place[step]
    place[last] = value
    return signed(header, body)


def test_the_recipe_itself_is_good():
    made = decode_into(opened(GOOD), [BASE_BLOCK], Counted())
    assert (made.size, made.sha256) == (len(TARGET), hashlib.sha256(TARGET).hexdigest())


def test_each_bit_that_flips_is_found_before_output():
    assert {len(each) > 0 for each in (opened(TINY).header.ops, opened(TINY).header.literals)} == {True}
    for bit in range(8 * len(TINY)):
        bad = bytearray(TINY)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedRecipe, match="recipe: "):
            opened(bytes(bad))


def test_each_truncation_is_found_before_output():
    for length in range(len(TINY)):
        with pytest.raises(DamagedRecipe, match="recipe: "):
            opened(TINY[:length])


@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=40)), min_size=1, max_size=4))
def test_changed_bytes_are_found_before_output(changes):
    bad = bytearray(GOOD)
    for where, found in changes:
        bad[where : where + len(found)] = found
    assume(bad != GOOD)
    with pytest.raises(DamagedRecipe, match="recipe: "):
        opened(bytes(bad))


@given(st.binary(max_size=200))
def test_bytes_behind_the_end_and_files_of_other_kinds_are_refused(data):
    for bad in (data, MAGIC + data, GOOD + data + b"x"):
        with pytest.raises(DamagedRecipe):
            opened(bad)


OPERATIONS = {
    "copy beyond the base": [Op(BASE, 100, len(ORIGINAL) - 99)],
    "copy from before the base": [Op(BASE, 100, -1)],
    "copy from far away": [Op(BASE, 100, 2**63 - 1)],
    "copy of what is not made yet": [Op(ZERO, 100, 0), Op(SELF, 51, 50)],
    "copy of itself": [Op(SELF, 1, 0)],
    "base that is not there": [Op(BASE + 1, 1, 0)],
    "last kind": [Op(255, 1, 0)],
    "literals that are not there": [Op(LITERAL, 1, 0)],
    "nothing": [Op(ZERO, 0, 0)],
}


@pytest.mark.parametrize("ops", OPERATIONS.values(), ids=OPERATIONS)
def test_an_operation_that_cannot_be_is_named_before_output(ops):
    with pytest.raises(DamagedRecipe, match="operation"):
        opened(forged(ops))


@pytest.mark.parametrize(
    "ops",
    [[Op(ZERO, 2**64 - 1, 0)] * 2, [Op(ZERO, HUGE, 0)], [Op(ZERO, 99, 0)], [Op(ZERO, 101, 0)], []],
)
def test_operations_that_do_not_make_the_declared_size_are_refused(ops):
    with pytest.raises(DamagedRecipe):
        opened(forged(ops, size=100))


def test_hours_of_operations_in_a_few_kilobytes_are_refused_at_once():
    rows = Packer().pack([Op(ZERO, 1, 0)] * CHUNK)
    stored = zstd.compress(rows)
    header, _ = header_of(GOOD)
    header |= {"ops": [section(len(rows), stored, "zstd")] * 513, "literals": []}
    header["target"]["size"] = 513 * CHUNK
    with pytest.raises(DamagedRecipe, match="claims more than 16,777,216 operations"):
        opened(signed(header, stored * 513))


def test_a_target_of_too_many_operations_is_not_encoded(monkeypatch):
    monkeypatch.setattr("harness.delta.encode.MOST_OPS", 2)
    with pytest.raises(BadInput, match="at most 2"):
        encode_file(Memory(TARGET, "target"), [BASE_BLOCK])


def test_literals_that_nobody_uses_are_refused():
    with pytest.raises(DamagedRecipe, match="literal bytes"):
        opened(forged([Op(ZERO, 5, 0)], literals=b"12345"))


FIELDS = {
    "target.size": HUGE,
    "bases.0.size": HUGE,
    "bases.0.sha256": "../../../etc/passwd",
    "bases.0.path": "/etc/passwd",
    "bases.0.view": {"kind": "shell", "size": 1, "sha256": "0" * 64},
    "target.sha256": hashlib.sha256(TARGET).hexdigest() + "\n",
    "ops.0": {"codec": "store", "stored": HUGE, "raw": HUGE, "check": "0" * 16},
    "codecs": {"zstd": "\x1b[2J"},
    "wrapped": {"size": 1, "sha256": "0" * 64},
    "bases.0": {"size": 60_000, "sha256": "A" * 64},
    "ops.0.codec": "pickle",
    "ops.0.raw": HUGE,
    "ops.0.stored": HUGE,
    "ops.0.check": None,
    "literals.0.raw": 2**31,
    "literals.0.dictionary": [0, HUGE],
    "ops.0.dictionary": [0, 4096],
    "plan": {"codec": "store", "stored": 0, "raw": 0, "check": "0" * 16},
    "bases": {},
    "ops": None,
    "name": "../evil",
}


@pytest.mark.parametrize("path", FIELDS)
def test_a_field_that_claims_the_impossible_is_refused(path):
    with pytest.raises(DamagedRecipe):
        opened(changed(path, FIELDS[path]))


def test_what_a_stranger_wrote_is_told_in_one_line_that_does_nothing_to_a_terminal():
    header, body = header_of(GOOD)
    for name in ("../evil\n\x1b[2J\x9b", "x" * 2**20):
        with pytest.raises(DamagedRecipe, match="unknown field") as refused:
            opened(signed(header | {name: 1}, body))
        assert str(refused.value).isprintable()
        assert len(str(refused.value)) < 400


def test_sizes_that_overflow_when_added_are_refused():
    header, body = header_of(GOOD)
    header["literals"] += [section(2**20, b"") | {"stored": 2**44}] * 2**17
    with pytest.raises(DamagedRecipe, match="bytes long instead of"):
        opened(signed(header, body))


def test_a_base_named_twice_is_wanted_twice(tmp_path):
    header, body = header_of(GOOD)
    twice = signed(header | {"bases": header["bases"] * 2}, body)
    with pytest.raises(WrongBase, match="needs 2 bases and got 1"):
        decode_into(opened(twice), [BASE_BLOCK], Untouched())
    assert decode_into(opened(twice), [BASE_BLOCK, BASE_BLOCK], Counted()).size == len(TARGET)


def test_a_dictionary_for_each_byte_is_refused():
    header, body = header_of(forged([Op(LITERAL, 9, 0)], literals=bytes(9)))
    header["literals"] = [section(1, bytes(1))] * 9
    with pytest.raises(DamagedRecipe, match="not the last"):
        opened(signed(header, body))


def test_two_thousand_bases_are_refused():
    header, body = header_of(GOOD)
    with pytest.raises(DamagedRecipe):
        opened(signed(header | {"bases": header["bases"] * 2000}, body))


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"{}", b"null"])
def test_a_header_that_is_not_ours_is_refused(text):
    with pytest.raises(DamagedRecipe, match="header"):
        opened(signed(text, b""))


def test_a_header_of_four_gigabytes_is_refused():
    with pytest.raises(DamagedRecipe, match="claims"):
        opened(signed(b"{}", b"", length=2**32 - 1))


def test_a_later_version_is_named():
    with pytest.raises(DamagedRecipe, match="version 2"):
        opened(signed(*header_of(GOOD), version=2))


@pytest.mark.parametrize("bases", [[], [BASE_BLOCK, BASE_BLOCK]], ids=["missing", "twice"])
def test_bases_that_are_not_those_of_the_recipe_are_refused(bases):
    with pytest.raises(WrongBase):
        decode_into(opened(GOOD), bases, Untouched())


def bomb(codec: str, size: int) -> bytes:
    if codec == "zstd":
        return zstd.compress(bytes(size))
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]
    return lzma.compress(bytes(size), lzma.FORMAT_RAW, filters=filters)


@pytest.mark.parametrize("codec", ["zstd", "lzma"])
@pytest.mark.parametrize("raw", [1, 2**24 + 1])
def test_a_section_that_unpacks_to_more_or_less_than_it_claims_is_refused(tmp_path, codec, raw):
    stored = bomb(codec, 2**24)
    header, _ = header_of(forged([Op(LITERAL, raw, 0)], literals=bytes(1)))
    rows = Packer().pack([Op(LITERAL, raw, 0)])
    header["literals"] = [section(raw, stored, codec)]
    header["target"]["size"] = raw
    with pytest.raises(DamagedRecipe, match=r"holds|claims|too much memory"):
        decode(opened(signed(header, rows + stored)), [BASE_BLOCK], tmp_path / "made")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("codec", CODECS)
@given(st.binary(max_size=60), st.binary(max_size=8))
def test_a_section_of_noise_is_refused(codec, stored, tail):
    """Noise may happen to unpack; what is made of it is then not what the recipe claims."""
    header, body = header_of(forged([Op(LITERAL, 9, 0)], literals=bytes(9)))
    rows = body[:ROW_SIZE]
    stored = encode(stored)[2] + tail
    header["literals"] = [section(9, stored, codec)]
    with pytest.raises(DamagedRecipe):
        decode_into(opened(signed(header, rows + stored)), [BASE_BLOCK], Counted())


@pytest.mark.parametrize("log", [31, 28, 11])
def test_a_window_beyond_the_section_is_refused(log):
    """RFC 8878, 3.1.1.1.2: a frame may ask for a window of any size, and for the memory with it."""
    stored = b"\x28\xb5\x2f\xfd\x00" + bytes([(log - 10) << 3]) + b"\x01\x00\x00"
    header, body = header_of(forged([Op(LITERAL, 9, 0)], literals=bytes(9)))
    header["literals"] = [section(9, stored, "zstd")]
    with pytest.raises(DamagedRecipe, match="unpacked"):
        decode_into(opened(signed(header, body[:ROW_SIZE] + stored)), [BASE_BLOCK], Untouched())


@pytest.mark.parametrize("place", [[0, 2**27], [4096 * 10**6, 4096], [1, 4096], [0, 5000]])
def test_a_dictionary_beyond_the_residue_is_refused(place):
    header, body = header_of(forged([Op(LITERAL, 9, 0)], literals=bytes(9)))
    header["literals"][0]["dictionary"] = place
    with pytest.raises(DamagedRecipe, match="dictionary"):
        decode_into(opened(signed(header, body)), [BASE_BLOCK], Untouched())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.text(max_size=8), st.lists, max_leaves=4
)


@given(st.data())
def test_a_header_with_any_value_changed_gives_a_typed_error_or_the_target(data):
    header, body = header_of(GOOD)
    place, steps = header, 0
    while isinstance(place, dict | list) and place and steps < 4:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        parent, place, steps = place, place[key], steps + 1
        if data.draw(st.booleans()):
            break
    parent[key] = data.draw(JSON)
    try:
        decode_into(opened(signed(header, body)), [BASE_BLOCK], Counted())
    except (DamagedRecipe, WrongBase):
        return
    assert header["target"] == header_of(GOOD)[0]["target"]


def test_no_recipe_is_a_typed_error(tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(DamagedRecipe), open_recipe(tmp_path / "empty"):
        pass
    with pytest.raises(BadInput), open_recipe(tmp_path / "missing"):
        pass


SMALL = """
import resource, sys
from pathlib import Path
from harness.delta.decode import decode
from harness.delta.recipe import open_recipe
from harness.images.formats.raw import FileBlock
resource.setrlimit(resource.RLIMIT_AS, (300 * 2**20, 300 * 2**20))
with open_recipe(Path(sys.argv[1])) as recipe, FileBlock(Path(sys.argv[2])) as base:
    decode(recipe, [base], Path(sys.argv[3]))
status = Path("/proc/self/status").read_text()
sys.stdout.write(status.split("VmHWM:")[1].split()[0])  # KiB; getrusage tells the parent's as well
"""


def test_decoding_a_large_file_takes_less_than_64_megabytes(tmp_path):
    with (tmp_path / "base").open("wb") as file:
        for _ in range(24):  # 96 MiB
            file.write(NOISE.randbytes(2**22))
    data = (tmp_path / "base").read_bytes()
    target = Memory(data[2**25 :] + NOISE.randbytes(3 * 2**20) + data[: 2**25], "target")
    encode_file(target, [Memory(data, "base")], effort="fast").write(tmp_path / "recipe")
    argv = [sys.executable, "-c", SMALL, *(str(tmp_path / name) for name in ("recipe", "base", "made"))]
    done = subprocess.run(argv, capture_output=True, check=True, text=True)
    assert int(done.stdout) < 64 * 1024
    assert (tmp_path / "made").read_bytes() == target.content
