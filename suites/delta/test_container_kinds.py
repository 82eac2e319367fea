"""Each container that `harness convert` or qemu-img writes is rebuilt, byte by byte, by the code that users run."""

from __future__ import annotations

import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.delta.containers.dissection import dissect
from harness.images.edits.archives import TAR_OPTIONS
from harness.images.edits.convert import convert
from harness.images.edits.shapes import FORMATS, PLATFORMS
from harness.tools import run
from suites.delta.made_containers import CONTAINERS, comes_back, made
from suites.harness.patchy_disk import MIB, patchy, qemu_img
from suites.harness.small_disk import small_disk

EXAMPLES = settings.default.max_examples
CLUSTERS = {"4k": 4096, "64k": 65536, "2M": 2 * MIB}
UNUSUAL = {  # qcow2 that is not taken apart, or exactly so
    "subclusters": ("extended_l2=on", False),
    "a data file": ("data_file={folder}/data", False),
    "a backing file": ("backing_file={folder}/disk.raw,backing_fmt=raw", False),
    "lazy counts": ("lazy_refcounts=on", True),
    "wide counts": ("refcount_bits=64", True),
}
BLOCKS = {"vhdx of small blocks": MIB, "vhd dynamic": 2 * MIB}


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return small_disk(tmp_path_factory.mktemp("kinds"))


@pytest.mark.parametrize("kind", sorted({*FORMATS, *PLATFORMS} - {name for name in FORMATS if name == "raw"}))
def test_what_harness_converts_comes_back(disk, tmp_path, kind):
    target = tmp_path / f"disk.{kind}"
    if convert(disk, kind, target).container == "raw":
        assert dissect(target) is None
        return
    assert comes_back(target)
    with dissect(target) as taken:
        assert len(taken.plan) < 1600


@pytest.mark.parametrize("size", CLUSTERS)
@pytest.mark.parametrize("pack", ["", "compression_type=zlib", "compression_type=zstd"])
@pytest.mark.parametrize("compat", ["0.10", "1.1"])
def test_a_qcow2_of_any_cluster_size_comes_back(tmp_path, size, pack, compat):
    if compat == "0.10" and "zstd" in pack:
        pytest.skip("version 2 knows zlib alone")
    raw, target = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
    patchy(raw, 9 * MIB + 512, seed=len(size + pack))
    options = ",".join(filter(None, (f"compat={compat}", f"cluster_size={size}", pack if compat != "0.10" else "")))
    qemu_img("convert", *(["-c"] if pack else []), "-f", "raw", "-O", "qcow2", "-o", options, raw, target)
    assert comes_back(target)


@pytest.mark.parametrize(
    "form,around",
    [
        *product(
            ["qcow2 packed", "vmdk stream", "vmdk sparse", "vhd dynamic", "vhdx of small blocks"], ["gz", "tar.gz"]
        ),
        ("vhd dynamic", "xz"),
        ("vhd dynamic", "zst"),
    ],
)
def test_what_is_packed_around_a_container_comes_back_with_it(tmp_path, form, around):
    path = made(tmp_path, form, 2 * MIB, 8)
    if around == "tar.gz":
        content = run(["gzip", "-6", "-n"], stdin=run(["tar", *TAR_OPTIONS, "-cf", "-", path.name], cwd=tmp_path))
    else:
        program = {"gz": ["gzip", "-9"], "xz": ["xz", "-9", "-T1"], "zst": ["zstd", "-10", "-T1"]}[around]
        content = run([*program, "-c", str(path)])
    target = tmp_path / f"packed.{around}"
    target.write_bytes(content)
    came_back = comes_back(target)
    assert came_back or around in {"xz", "zst"}  # the program's bytes are not promised to be those of the library
    if came_back:
        with dissect(target) as taken:
            assert len(taken.formats) == around.count(".") + 2


@pytest.mark.parametrize("what", UNUSUAL)
def test_an_unusual_qcow2_is_exact_or_left_alone(tmp_path, what):
    options, is_taken = UNUSUAL[what]
    patchy(tmp_path / "disk.raw", 4 * MIB, seed=5)
    target = tmp_path / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", "-o", options.format(folder=tmp_path), target, 4 * MIB)
    run(["qemu-io", "-c", "write -P 7 1M 200k", "-c", "write -z 3M 64k", str(target)])
    assert comes_back(target) == is_taken


def test_a_qcow2_with_bitmaps_and_snapshots_comes_back(tmp_path):
    target = made(tmp_path, "qcow2", 4 * MIB, 5)
    for number in range(3):
        run(["qemu-img", "snapshot", "-c", f"s{number}", str(target)])
        run(["qemu-io", "-c", f"write -P {number} {number}M 300k", "-c", "write -z 3M 128k", str(target)])
    run(["qemu-img", "snapshot", "-a", "s1", str(target)])
    run(["qemu-img", "snapshot", "-d", "s0", str(target)])
    run(["qemu-img", "bitmap", "--add", "--enable", str(target), "changes"])
    run(["qemu-io", "-c", "write -P 5 2M 200k", str(target)])
    assert comes_back(target)


@settings(max_examples=EXAMPLES // 5)
@given(form=st.sampled_from([name for name in CONTAINERS if name != "vmdk stream"]), seed=st.integers(0, 10**6))
def test_a_disk_that_was_written_to_by_qemu_comes_back(tmp_path_factory, form, seed):
    """Blocks in any order, zeroes over data, and for VHDX a log that goes on."""
    path, dice = made(tmp_path_factory.mktemp("written"), form, 6 * MIB, seed % 7, 3), random.Random(seed)
    kind = {"vmdk": "vmdk", "vhdx": "vhdx", "vhd": "vpc", "qcow2": "qcow2"}[form.split()[0]]
    verbs = ("write -P 7", "write -P 9", "write -z")
    commands = [
        f"{dice.choice(verbs)} {dice.randrange(11) * 512}k {dice.randrange(1, 9) * 16}k"
        for _ in range(dice.randrange(1, 6))
    ]
    run(["qemu-io", "-f", kind, *(word for command in commands for word in ("-c", command)), str(path)])
    assert comes_back(path)


@pytest.mark.parametrize("form", BLOCKS)
def test_blocks_in_falling_order_come_back(tmp_path, form):
    size, target = BLOCKS[form], tmp_path / "disk"
    kind, options = ("vhdx", "block_size=1M") if "vhdx" in form else ("vpc", "subformat=dynamic,force_size")
    qemu_img("create", "-f", kind, "-o", options, target, 32 * size)
    order = [f"write -P {number + 1} {number * size} 4k" for number in reversed(range(0, 30, 3))]
    run(["qemu-io", "-f", kind, *(word for command in order for word in ("-c", command)), str(target)])
    assert comes_back(target)
    with dissect(target) as taken:
        assert len(taken.plan) < 2000


def test_a_log_that_went_round_and_pages_of_the_table_are_predicted(tmp_path):
    """600 blocks fill the log of 128 entries four times over, and two pages of the table."""
    raw, target = tmp_path / "disk.raw", tmp_path / "disk.vhdx"
    with raw.open("wb") as file:
        file.truncate(700 * MIB)
        for block in range(600):
            file.seek(block * MIB + block % 200 * 4096)
            file.write(b"x%d" % block)
    qemu_img("convert", "-f", "raw", "-O", "vhdx", "-o", "block_size=1M", raw, target)
    with dissect(target) as taken:
        assert len(taken.plan) < 4096  # of which 128 identifiers and checksums are 2,560
        assert taken.content.size == 700 * MIB


@pytest.mark.parametrize("form", ["vhdx of small blocks", "vhd dynamic"])
def test_holes_of_the_disk_are_holes_of_the_content(tmp_path, form):
    path = made(tmp_path, form, 16 * MIB, 3, patches=2)
    with dissect(path) as taken:
        stored = sum(length for _, length, kind in taken.content.extents() if kind == "data")
        assert stored <= 2 * MIB
