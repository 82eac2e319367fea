"""A squashfs taken apart into files and metadata, and packed again: alone, in rootfs.img and in a live ISO."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.delta.containers import codecs, squashfs
from harness.delta.containers.dissection import dissect, outline, rebuild
from harness.delta.containers.frames import LARGEST_PACKED, MOST_CODECS, STORED
from harness.delta.containers.plan import VERSION, VERSION_OF_FRAMES, Frames, Plan, from_bytes, to_bytes
from harness.delta.family.dehydrate import dehydrate
from harness.errors import BadInput, DamagedImage
from harness.images.block import Memory
from harness.images.extents import extents_of
from harness.tools import run
from suites.delta.made_containers import comes_back
from suites.delta.test_container_plans import changed, provoked
from suites.harness import odd_tree
from suites.harness.patchy_disk import check_reads_as
from suites.harness.small_live_iso import cpio, live_files, small_live_iso

EXAMPLES = settings.default.max_examples  # 100, by night 1000
PACKED_AGAIN = {
    "zstd": ["-comp", "zstd", "-Xcompression-level", "3"],
    "zstd, usual level": ["-comp", "zstd"],
    "zlib": ["-comp", "gzip"],
    "zlib, level 1": ["-comp", "gzip", "-Xcompression-level", "1"],
    "small blocks": ["-comp", "zstd", "-Xcompression-level", "3", "-b", "4096"],
    "large blocks": ["-comp", "zstd", "-Xcompression-level", "3", "-b", "1M"],
    "no fragments": ["-comp", "zstd", "-Xcompression-level", "3", "-no-fragments"],
    "always fragments": ["-comp", "gzip", "-always-use-fragments"],
    "metadata not packed": ["-comp", "zstd", "-Xcompression-level", "3", "-noI", "-noX"],
    "fragments not packed": ["-comp", "zstd", "-Xcompression-level", "3", "-noF"],
    "no export table": ["-comp", "zstd", "-Xcompression-level", "3", "-no-exports", "-no-xattrs"],
    "not padded": ["-comp", "zstd", "-Xcompression-level", "3", "-nopad"],
}
LEFT_ALONE = {
    "xz": ["-comp", "xz"],
    "lz4": ["-comp", "lz4"],
    "lzo": ["-comp", "lzo"],
    "zlib with a small window": ["-comp", "gzip", "-Xwindow-size", "9"],
    "zlib with a strategy": ["-comp", "gzip", "-Xstrategy", "huffman_only"],
    "a level that no plan has": ["-comp", "zstd", "-Xcompression-level", "22"],
    "nothing packed": ["-noI", "-noD", "-noF", "-noX"],
}
HUGE = 2**44


def squashed(source: Path, target: Path, options: list[str]) -> Path:
    odd_tree.tool("mksquashfs")
    run(["mksquashfs", source, target, "-quiet", "-no-progress", "-noappend", *options])
    return target


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A tree with all that is odd, and text in files of many sizes."""
    root = odd_tree.plant(tmp_path_factory.mktemp("squashfs") / "source")
    dice = random.Random(4)
    for number in range(60):
        words = " ".join(str(dice.randrange(9999)) for _ in range(dice.randrange(9) ** 5))
        (root / "etc" / f"text-{number}").write_text(words)
    shutil.copyfile(root / "random", root / "etc/twice")
    return root


@pytest.fixture(scope="module")
def plain(source, tmp_path_factory):
    return squashed(source, tmp_path_factory.mktemp("plain") / "root.squashfs", PACKED_AGAIN["zstd"])


@pytest.fixture(scope="module")
def iso(plain, tmp_path_factory):
    rootfs = cpio({"root.squashfs": plain.read_bytes(), "etc": b"", "etc/coreos-live-rootfs": b"1.2.3\n"})
    folder = tmp_path_factory.mktemp("iso")
    return small_live_iso(folder, live_files() | {"images/pxeboot/rootfs.img": rootfs})


@pytest.fixture(scope="module")
def genuine(plain):
    """A plan of a squashfs with its content."""
    with dissect(plain) as taken:
        return taken.plan, Memory(taken.content.read(0, taken.content.size), "content")


def kept_as_it_is(path: Path) -> int:
    """Bytes of the file that its plan does not make of files or metadata."""
    with dissect(path) as taken:
        parts = taken.content._parts[1:]
        return sum(part.size for part in parts if not part.name.endswith(": metadata"))


@pytest.mark.parametrize("shape", PACKED_AGAIN)
def test_a_squashfs_comes_back_and_nothing_packed_is_kept(shape, source, tmp_path):
    path = squashed(source, tmp_path / "root.squashfs", PACKED_AGAIN[shape])
    assert comes_back(path)
    assert kept_as_it_is(path) < 4096 + 1000  # the superblock, lists of places, and what it is padded with


@pytest.mark.parametrize("shape", LEFT_ALONE)
def test_what_no_library_here_packs_is_left_alone(shape, source, tmp_path):
    assert dissect(squashed(source, tmp_path / "root.squashfs", LEFT_ALONE[shape])) is None


def test_an_iso_comes_back_around_its_squashfs(plain, iso, tmp_path):
    rootfs = tmp_path / "rootfs.img"
    rootfs.write_bytes(cpio({"root.squashfs": plain.read_bytes(), "etc": b""}))
    assert [comes_back(path) for path in (rootfs, iso)] == [True, True]
    with dissect(iso) as taken:
        told = outline(taken.plan)
        assert (taken.formats, told.layers, told.size) == (("squashfs",), ("frames",), iso.stat().st_size)


def test_files_and_what_lies_around_begin_on_the_bounds_they_have_in_a_disk(source, iso):
    with dissect(iso) as taken:
        content = taken.content.read(0, taken.content.size)
    raw = iso.read_bytes()
    kernel, random_file = raw.index(b"kernel\0"), (source / "random").read_bytes()
    assert (content.index(b"kernel\0") % 4096, content.index(random_file) % 4096) == (kernel % 4096, 0)


def test_a_block_that_was_packed_otherwise_is_kept_as_it_is(source, tmp_path, monkeypatch):
    """The content then has these bytes, and everything else is made again."""
    path = squashed(source, tmp_path / "root.squashfs", PACKED_AGAIN["zstd"])
    usual, fit = kept_as_it_is(path), squashfs._Trial.fit
    monkeypatch.setattr(
        squashfs._Trial, "fit", lambda self, each, plain=None: None if each.at % 3 == 0 else fit(self, each, plain)
    )
    assert kept_as_it_is(path) > usual + 10_000
    assert comes_back(path)


def test_blocks_that_two_libraries_pack_alike_do_not_make_two_plans(source, tmp_path):
    path = squashed(source, tmp_path / "root.squashfs", PACKED_AGAIN["small blocks"])
    plans = set()
    for _ in range(4):
        with dissect(path) as taken:
            plans.add(taken.plan)
    assert len(plans) == 1


def test_a_squashfs_whose_library_is_not_here_is_left_alone(plain, monkeypatch):
    monkeypatch.setattr(codecs, "_host_zstd", lambda: None)
    with_ours = dissect(plain)
    assert with_ours is None or not any("of the host" in name for name in outline(with_ours.plan).codecs)


@settings(max_examples=EXAMPLES // 4, deadline=None)
@given(seed=st.integers(0, 10**6), changes=st.integers(1, 6))
def test_a_changed_squashfs_comes_back_or_is_left_alone(plain, tmp_path_factory, seed, changes):
    dice, content = random.Random(seed), bytearray(plain.read_bytes())
    tables = int.from_bytes(content[64:72], "little")
    for _ in range(changes):
        place = dice.choice([dice.randrange(120), dice.randrange(tables, len(content)), dice.randrange(len(content))])
        content[place] = dice.randrange(256)
    path = tmp_path_factory.mktemp("changed") / "root.squashfs"
    path.write_bytes(content[: dice.choice([len(content), len(content), dice.randrange(len(content))])])
    comes_back(path)


def test_a_live_iso_costs_little_beside_a_disk_with_the_same_files(source, iso, tmp_path):
    """mkfs.ext4 lays the tree out as the disk of the same release would."""
    odd_tree.tool("mkfs.ext4")
    disk = tmp_path / "metal.raw"
    run(["mkfs.ext4", "-q", "-d", source, disk, "64M"])
    made = dehydrate([iso], tmp_path / "family", given=[disk])
    listed = made.images[-1]
    assert (listed.bases, listed.formats, listed.stored < 120_000) == (("metal.raw",), ("squashfs",), True)
    assert listed.stored < iso.stat().st_size / 20


def test_the_holes_between_parts_are_holes():
    joined = squashfs.Assembled("joined")
    places = [joined.add(Memory(bytes([n]) * n, str(n)), turn) for n, turn in ((5, 0), (7, 3), (9, 0))]
    expected = bytearray(joined.size)
    for n, place in zip((5, 7, 9), places, strict=True):
        expected[place : place + n] = bytes([n]) * n
    assert places == [0, 4099, 8192]
    assert [each.kind for each in extents_of(joined)] == ["data", "hole", "data", "hole", "data"]
    check_reads_as(joined, bytes(expected))
    for offset, length in ((-1, 2), (0, len(expected) + 1), (len(expected), 1)):
        with pytest.raises(DamagedImage, match="beyond its end"):
            joined.read(offset, length)


# -- plans from strangers ---------------------------------------------------------------------------------------

HOSTILE = {
    "a codec that is not described": {"uses": [(77, 1)]},
    "frames without end": {"uses": [(0, HUGE)]},
    "frames that are too few": {"uses": [(0, 1)]},
    "frames of no pieces": {"counts": [(0, 1)]},
    "frames of pieces without end": {"counts": [(HUGE, 1)]},
    "counts without end": {"counts": [(1, HUGE)]},
    "flags beyond the end": {"headed": [HUGE, HUGE]},
    "a block that is called metadata": {"headed": [1, 1]},
    "a piece before the content": {"gaps": [-1]},
    "a piece behind the content": {"gaps": [HUGE]},
    "a piece without an end": {"lengths": [HUGE]},
    "a piece without a length": {"lengths": [0]},
    "codecs without end": {"codecs": [codecs.STORED] * (MOST_CODECS + 1)},
    "verbatim frames": {"codecs": [codecs.VERBATIM]},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_plan_is_one_typed_error_before_output(what, genuine):
    raw, content = genuine
    layer, columns = from_bytes(raw).layers[-1], HOSTILE[what]
    for name in {"gaps", "lengths"} & columns.keys():
        columns = columns | {name: columns[name] + getattr(layer, name)[1:]}
    assert provoked(changed(raw, **columns), content) is DamagedImage


def test_a_file_of_another_size_is_found_while_it_is_made(genuine):
    raw, content = genuine
    for size in (HUGE, 512):
        with pytest.raises(DamagedImage, match="gives"):
            sum(map(len, rebuild(changed(raw, size=size), content)))


def plan_of(content: int, **columns) -> bytes:
    usual = {"codecs": [codecs.STORED], "uses": [(0, 1)], "headed": [], "counts": [(1, 1)], "gaps": [0]}
    layer = Frames(**{"size": content, "lengths": [content], **usual, **columns})
    return to_bytes(Plan(layer.size, bytes(32), content, [layer]))


def test_content_may_be_used_once_so_that_little_content_cannot_make_a_large_file():
    content = Memory(bytes(5000), "content")
    twice = plan_of(5000, size=10_000, uses=[(0, 2)], counts=[(1, 2)], gaps=[0, -8192], lengths=[5000, 5000])
    assert provoked(twice, content) is DamagedImage


def test_a_piece_has_at_least_a_byte_so_that_a_plan_cannot_have_pieces_without_end():
    content = Memory(bytes(100), "content")
    for length, found in ((1, None), (0, DamagedImage)):
        pieces = {"uses": [(0, 2)], "counts": [(1, 2)], "gaps": [0, -3997], "lengths": [99, length]}
        assert provoked(plan_of(100, **pieces), content) is found


def test_frames_are_packed_up_to_a_mebibyte_and_headed_up_to_8_kib():
    (packer,) = codecs.block_codecs("zlib", 9, 15)
    for size, columns in (
        (LARGEST_PACKED, {"codecs": [packer]}),
        (8192, {"headed": [0, 1]}),
    ):
        found = [
            provoked(plan_of(length, size=HUGE, **columns), Memory(bytes(length), "content"))
            for length in (size, size + 1)
        ]
        assert found == [None, DamagedImage]


def test_a_length_says_that_nothing_is_packed():
    made = b"".join(rebuild(plan_of(300, size=302, headed=[0, 1]), Memory(b"x" * 300, "content")))
    assert made == (STORED | 300).to_bytes(2, "little") + b"x" * 300


def test_a_codec_that_packs_differently_here_is_refused(genuine):
    raw, content = genuine
    known = from_bytes(raw).layers[-1].codecs
    other = [msgspec.structs.replace(each, sample=bytes(8)) if each.packs else each for each in known]
    assert provoked(changed(raw, codecs=other), content) is BadInput


def test_frames_are_of_version_2_and_other_plans_are_as_ever(genuine):
    raw, content = genuine
    assert raw[3] == VERSION_OF_FRAMES
    assert provoked(raw[:3] + bytes([VERSION]) + raw[4:], content) is DamagedImage


def test_frames_are_the_innermost_layer(genuine):
    raw, content = genuine
    known = from_bytes(raw)
    nested = msgspec.structs.replace(known, layers=known.layers * 2)
    assert provoked(to_bytes(nested), content) is DamagedImage


@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_a_garbled_plan_gives_a_typed_error_or_ends(genuine, seed):
    raw, content = genuine
    dice = random.Random(seed)
    layer = from_bytes(raw).layers[-1]
    columns = {}
    for name in dice.sample(["uses", "headed", "counts", "gaps", "lengths"], 2):
        column = list(getattr(layer, name))
        if column:
            place, number = dice.randrange(len(column)), dice.choice([0, 1, dice.randrange(2**16), 2**31, HUGE])
            column[place] = (number, number % 3) if isinstance(column[place], tuple) else number
        columns[name] = column
    assert provoked(changed(raw, **columns), content) in {None, DamagedImage}
