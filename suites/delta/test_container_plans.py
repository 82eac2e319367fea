"""Plans from strangers: whatever is wrong with one is a single typed error, before any output."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import sys
import zlib
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.delta.containers import codecs, plan
from harness.delta.containers.dissection import dissect, rebuild
from harness.delta.containers.plan import Series, Stream, Tables, from_bytes, to_bytes
from harness.errors import BadInput, DamagedImage, HarnessError, UnsupportedImage
from harness.images.block import Memory
from harness.tools import run
from suites.delta import giant_plans
from suites.delta.made_containers import PACKED, made
from suites.harness.patchy_disk import MIB

ROOT = Path(__file__).parents[2]
EXAMPLES = settings.default.max_examples  # 100, by night 1000
DISK = 2 * MIB
BLOCKS = ("vhd dynamic", "vhdx of small blocks")


@pytest.fixture(scope="module")
def genuine(tmp_path_factory):
    """Plans by container, each with its content."""
    found = {}
    for form in ("qcow2", *PACKED, *BLOCKS, "vhd fixed"):
        with dissect(made(tmp_path_factory.mktemp("plan"), form, DISK, 9)) as taken:
            found[form] = taken.plan, Memory(taken.content.read(0, taken.content.size), "content")
    return found


def failure(raw: bytes, content) -> HarnessError | None:
    """What a plan is refused for, before any output; None where there is output."""
    try:
        pieces = rebuild(raw, content)
    except HarnessError as error:
        return error
    with contextlib.suppress(DamagedImage):
        assert sum(len(piece) for piece in pieces) <= 64 * MIB
    return None


def provoked(raw: bytes, content) -> type[HarnessError] | None:
    """The type of what a plan is refused for, in one line."""
    told = failure(raw, content)
    assert "\n" not in str(told)
    return told and type(told)


def changed(raw: bytes, **changes) -> bytes:
    """A plan whose innermost layer has other fields."""
    known = from_bytes(raw)
    layer = msgspec.structs.replace(known.layers[-1], **changes)
    size = layer.size if len(known.layers) == 1 else known.size
    return to_bytes(msgspec.structs.replace(known, size=size, layers=[*known.layers[:-1], layer]))


HUGE = 2**44
HOSTILE = {
    "a disk beyond its content": {"disk": HUGE},
    "units of no size": {"unit": 0},
    "units of odd size": {"unit": 65535},
    "units that are huge": {"unit": 2**40},
    "a file that is huge": {"size": HUGE},
    "a file that is too small": {"size": 512},
    "flips beyond the end": {"flips": [HUGE, HUGE]},
    "an order that is too long": {"order": [(0, HUGE)]},
    "an order that names a unit twice": {"order": [(0, 1)] * 32},
    "an order of units that are not there": {"order": [(HUGE, 1)]},
    "codecs that are not described": {"uses": [(77, 32)]},
    "uses that are too many": {"uses": [(0, HUGE)]},
    "a length without a unit": {"lengths": [5]},
    "a verbatim unit longer than any": {"codecs": [codecs.VERBATIM], "uses": [(0, 32)], "lengths": [DISK] * 32},
    "codecs without end": {"codecs": [codecs.STORED] * 99},
    "absent units of no entry": {"absent": HUGE},
    "a log beyond the end": {"entries": "vhdx", "log": (HUGE, 8192)},
    "a log that is huge": {"entries": "vhdx", "log": (0, 2**40)},
    "a log of odd size": {"entries": "vhdx", "log": (0, 8191)},
    "a log in another format": {"entries": "qcow2", "log": (0, 8192)},
    "units that are packed and huge": {"unit": 2**26, "last": 1, "codecs": codecs.grain_codecs()},
    "lengths beyond the content": {"lengths": [HUGE] * 3},
    "a jump backwards": {"jumps": [(0, -HUGE)]},
    "a jump beyond the end": {"jumps": [(0, HUGE)]},
    "tables beyond the end": {"tables": [Tables(0, 1, HUGE, 0)]},
    "tables without end": {"tables": [Tables(0, HUGE, 0, 0)]},
    "tables that overlap": {"tables": [Tables(0, 9, 0, 8)]},
    "tables that are huge": {"per_table": HUGE},
    "a directory without end": {"series": [Series(0, HUGE, 0, 1)]},
    "patches beyond the end": {"patches": [(HUGE, 512)]},
    "patches without bytes": {"patches": [(0, 4096)], "literals": b""},
    "bytes without patches": {"patches": [], "literals": bytes(99)},
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("form", ["qcow2", "qcow2 packed", "vmdk stream", *BLOCKS])
def test_a_hostile_plan_is_one_typed_error_before_output(genuine, form, what):
    raw, content = genuine[form]
    assert provoked(changed(raw, **HOSTILE[what]), content) is DamagedImage


def test_a_splice_that_does_not_add_up_is_refused(genuine):
    raw, content = genuine["vhd fixed"]
    for changes in (
        {"pieces": [(0, HUGE)]},
        {"pieces": []},
        {"literals": [b""] * 5},
        {"pieces": [(HUGE, DISK)]},
        {"size": 9},
        {"is_sparse": True},
        {"is_sparse": True, "pieces": []},
        {"is_sparse": True, "pieces": [], "literals": [b"", b""]},
    ):
        assert provoked(changed(raw, **changes), content) is DamagedImage


def test_numbers_of_2_to_the_60_are_refused(genuine):
    raw, content = genuine["vmdk stream"]
    assert provoked(to_bytes(msgspec.structs.replace(from_bytes(raw), size=2**60)), content) is DamagedImage


def test_a_bomb_is_not_unpacked(genuine):
    content = genuine["qcow2"][1]
    bomb = plan.MAGIC + bytes([plan.VERSION]) + (100).to_bytes(4, "little") + zlib.compress(bytes(2**27), 9)
    huge = plan.MAGIC + bytes([plan.VERSION]) + b"\xff" * 4 + zlib.compress(bytes(2**20), 9)
    assert [provoked(raw, content) for raw in (bomb, huge)] == [DamagedImage] * 2


@pytest.mark.parametrize("name", giant_plans.NAMES)
def test_the_largest_plans_take_seconds_and_some_hundred_megabytes(name):
    told = json.loads(run([sys.executable, "-m", "suites.delta.giant_plans", name], cwd=ROOT))
    assert told["error"] in {"", "DamagedImage"}
    assert told["size"] == 0 or not told["error"]
    assert (told["seconds"] < 30, told["peak"] < 600 * MIB) == (True, True)


@pytest.mark.parametrize("library", ["zlib\n1.2", "\x1b[2J", "z" * 999, "zlib 1.2.13\n"])
def test_names_that_would_garble_a_terminal_are_refused(genuine, library):
    raw, content = genuine["vmdk stream"]
    known = from_bytes(raw).layers[-1]
    other = [msgspec.structs.replace(each, library=library) for each in known.codecs]
    assert provoked(changed(raw, codecs=other), content) is DamagedImage


def test_streams_within_streams_are_refused(genuine):
    """Each could take the memory of xz -9."""
    raw, content = genuine["qcow2"]
    known = from_bytes(raw)
    outer = Stream(known.size, "xz", 9, "liblzma", b"", known.size, b"", b"")
    nested = msgspec.structs.replace(known, layers=[outer, outer, *known.layers])
    assert provoked(to_bytes(nested), content) is DamagedImage


def test_a_plan_of_another_version_says_so(genuine):
    raw, content = genuine["qcow2"]
    assert provoked(raw[:3] + b"\x09" + raw[4:], content) is UnsupportedImage


def test_a_plan_wants_its_content(genuine):
    raw, content = genuine["qcow2"]
    assert provoked(raw, Memory(content.content[:-1], "shorter")) is DamagedImage


@pytest.mark.parametrize(
    "codec",
    [
        {"sample": b"otherwise"[:8]},
        {"level": 77},
        {"window": 99},
        {"memory": 0},
        {"kind": "zstd", "level": 22},
        {"library": "zlib 9.9", "sample": bytes(8)},
    ],
)
def test_a_codec_that_packs_differently_here_is_refused(genuine, codec):
    raw, content = genuine["vmdk stream"]
    known = from_bytes(raw).layers[-1]
    other = [msgspec.structs.replace(each, **codec) for each in known.codecs]
    assert provoked(changed(raw, codecs=other), content) is BadInput


def test_layers_without_end_are_refused(genuine):
    raw, content = genuine["vhd fixed"]
    known = from_bytes(raw)
    nested = msgspec.structs.replace(known, layers=known.layers * 9)
    assert provoked(to_bytes(nested), content) is DamagedImage


@settings(max_examples=2 * EXAMPLES)
@given(form=st.sampled_from(["qcow2", *PACKED, *BLOCKS, "vhd fixed"]), seed=st.integers(0, 10**9))
def test_a_garbled_plan_gives_a_typed_error_or_ends(genuine, form, seed):
    raw, content = genuine[form]
    dice = random.Random(seed)
    body = bytearray(msgspec.msgpack.encode(from_bytes(raw)))
    for _ in range(dice.randrange(1, 4)):
        body[dice.randrange(len(body))] = dice.randrange(256)
    garbled = raw[:4] + len(body).to_bytes(4, "little") + zlib.compress(bytes(body))
    found = provoked(dice.choice([garbled, bytes(body), garbled[: dice.randrange(len(garbled))]]), content)
    assert found in {None, DamagedImage, UnsupportedImage, BadInput}


def test_codecs_are_tested_before_they_are_used():
    for codec in [*codecs.grain_codecs(), *codecs.cluster_codecs("zlib"), *codecs.cluster_codecs("zstd")]:
        codecs.check_codec(codec)
        assert codec.library.split()[1][0].isdigit()


def test_the_sample_never_changes():
    assert hashlib.sha256(codecs.sample()).hexdigest()[:16] == "4ea1c91a775b4140"
