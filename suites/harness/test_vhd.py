"""Our VHD reader against qemu-img, fixed and dynamic; then hostile files, with their checksums made good again."""

import json
import struct
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Part
from harness.images.formats.disk import Opening
from harness.images.formats.vhd import VhdBlock, open_disk, recognises
from suites.harness.patchy_disk import (
    MIB,
    as_qemu_reads,
    check_reads_as,
    check_wide,
    convert,
    memory,
    mutants,
    patchy,
    provoke,
    qemu_img,
    wide,
)

VARIANTS = {
    "fixed": "subformat=fixed,force_size",  # as CoreOS makes its azure image
    "dynamic": "subformat=dynamic,force_size",
    "fixed by geometry": "subformat=fixed",
    "dynamic by geometry": "subformat=dynamic",
}
SIZES = [MIB, 3 * MIB, 40 * MIB + 3 * 512]
HEADER = 512  # of a dynamic disk, where QEMU puts it
TABLE = 1536


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A raw disk of 5 MiB, its bytes, and each variant of it."""
    folder = tmp_path_factory.mktemp("vhd")
    content = patchy(folder / "raw", 5 * MIB, seed=7, patches=5)
    return content, {name: convert(folder / "raw", folder / name, "vpc", VARIANTS[name]) for name in VARIANTS}


def signed(content: bytes | bytearray, at: int, length: int) -> bytearray:
    """With the checksum of the structure at `at` made good."""
    whole = bytearray(content)
    field = at + (64 if length == 512 else 36)
    whole[field : field + 4] = bytes(4)
    struct.pack_into(">I", whole, field, ~sum(whole[at : at + length]) & 0xFFFF_FFFF)
    return whole


def with_footer(content: bytes, field: int, value: bytes, *, copy: bool = True) -> bytearray:
    """Changed in the footer and, where there is one, in its copy."""
    whole = bytearray(content)
    for at in (len(whole) - 512, 0) if copy and content[:8] == b"conectix" else (len(whole) - 512,):
        whole[at + field : at + field + len(value)] = value
        whole = signed(whole, at, 512)
    return whole


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_reads_as_the_disk_it_was_made_from(variant, size, tmp_path):
    content = patchy(tmp_path / "raw", size, seed=size)
    path = convert(tmp_path / "raw", tmp_path / "disk.vhd", "vpc", VARIANTS[variant])
    expected = as_qemu_reads(path, "vpc") if "geometry" in variant else content
    assert expected.startswith(content)
    with open_disk(Opening(path, "disk")) as block:
        check_reads_as(block, expected)


@pytest.mark.parametrize("variant", ["fixed", "dynamic"])
def test_a_disk_of_many_tables_reads_right_and_at_once(variant, tmp_path):
    noise = wide(tmp_path / "raw", 20 * 2**30, [0, 8 * 2**30 - 4096, 8 * 2**30, 16 * 2**30, 20 * 2**30 - 4096])
    path = convert(tmp_path / "raw", tmp_path / "disk", "vpc", VARIANTS[variant])
    with open_disk(Opening(path, "disk")) as block:
        check_wide(block, noise)


@pytest.mark.parametrize("variant", ["fixed", "dynamic"])
def test_a_tebibyte_opens_in_milliseconds(variant, tmp_path):
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", "vpc", "-o", VARIANTS[variant], path, "1T")
    started = time.process_time()
    with open_disk(Opening(path, "disk")) as block:
        assert time.process_time() - started < 0.1
        assert block.read(2**39, 512) == bytes(512)
        assert sum(length for _, length, kind in block.extents() if kind == "data") <= 4096  # QEMU writes a fixed one's


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_range_reads_as_in_the_raw_disk(data, made):
    content, paths = made
    start = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, min(400_000, len(content) - start)))
    with open_disk(Opening(paths[data.draw(st.sampled_from(sorted(paths)))], "disk")) as block:
        assert block.read(start, length) == content[start : start + length]


def test_what_the_footer_says_of_an_azure_image(made):
    with open_disk(Opening(made[1]["fixed"], "disk")) as block:
        facts = dict(block.facts())
    assert len(facts.pop("unique_id")) == 36
    assert facts.pop("timestamp") > "2020-01-01T00:00:00Z"
    assert facts == {
        "disk_type": "fixed",
        "block_size": None,
        "creator_application": "qem2",
        "creator_version": "5.3",
        "creator_host_os": "Wi2k",
        "original_size": 5 * MIB,
        "current_size": 5 * MIB,
        "geometry": "65535/16/255",
        "sized_by": "current_size",
        "saved_state": False,
    }


def test_a_fixed_vhd_is_told_by_the_end_of_the_whole_file_only(made):
    content = made[1]["fixed"].read_bytes()
    assert recognises(content[:36864], memory(content))
    assert not recognises(content[:36864], None)
    assert not recognises(b"", memory(b""))
    assert recognises(made[1]["dynamic"].read_bytes()[:36864], None)


@pytest.mark.parametrize("creator", [b"vpc ", b"vbox", b"qemu", b"qem2", b"win ", b"d2v ", b"CTXS", b"tap\0"])
@pytest.mark.parametrize("geometry", [(100, 4, 17), (65535, 16, 255)], ids=str)
def test_the_size_that_counts_is_the_one_qemu_counts(creator, geometry, made, tmp_path):
    """Geometry and footer disagree in the files of most programs."""
    whole = with_footer(made[1]["dynamic"].read_bytes(), 28, creator)
    whole = with_footer(whole, 56, struct.pack(">HBB", *geometry))
    (tmp_path / "disk").write_bytes(whole)
    told = json.loads(qemu_img("info", "-f", "vpc", "--output=json", tmp_path / "disk"))
    assert VhdBlock(memory(whole)).size == told["virtual-size"]


def test_a_window_on_an_archive_reads_as_the_file_does(made):
    content, paths = made
    for name in ("fixed", "dynamic"):
        inside = paths[name].read_bytes()
        archive = memory(bytes(1536) + inside + bytes(5000), "a.tar")
        with VhdBlock(Part(archive, 1536, len(inside), "a.tar: 'disk.vhd'")) as block:
            check_reads_as(block, content)


# -- hostile files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["fixed", "dynamic"])
@pytest.mark.parametrize(
    "field,value,error,words",
    [
        (12, b"\x00\x02", UnsupportedImage, "version 0x20000"),
        (48, struct.pack(">Q", 2**60), DamagedImage, "at most 2040 GiB"),
        (48, struct.pack(">Q", 2**40), DamagedImage, "beyond the end of the file|too small"),
        (60, struct.pack(">I", 4), UnsupportedImage, "parent VHD"),
        (60, struct.pack(">I", 0), DamagedImage, "disk type 0"),
        (60, struct.pack(">I", 7), DamagedImage, "disk type 7"),
    ],
    ids=str,
)
def test_a_hostile_footer_is_refused_in_words(variant, field, value, error, words, made):
    with pytest.raises(error, match=words):
        VhdBlock(memory(with_footer(made[1][variant].read_bytes(), field, value)))


def test_a_wrong_checksum_is_refused(made):
    for name in ("fixed", "dynamic"):
        content = bytearray(made[1][name].read_bytes())
        for at in (len(content) - 512, *([0, HEADER] if name == "dynamic" else [])):
            content[at + 300] ^= 1
            with pytest.raises(DamagedImage, match="checksum"):
                VhdBlock(memory(content))
            content[at + 300] ^= 1
        VhdBlock(memory(content))


@pytest.mark.parametrize(
    "field,value,words",
    [
        (0, b"x", "no VHD header"),
        (16, struct.pack(">Q", 2**62), "block table at .* beyond the end"),
        (28, struct.pack(">I", 1), "too small"),
        (32, struct.pack(">I", 0), "blocks of 0 bytes"),
        (32, struct.pack(">I", 3 * MIB), "blocks of 3,145,728 bytes"),
        (32, struct.pack(">I", 2**31), "blocks of"),
    ],
    ids=str,
)
def test_a_hostile_header_of_a_dynamic_disk_is_refused(field, value, words, made):
    content = bytearray(made[1]["dynamic"].read_bytes())
    content[HEADER + field : HEADER + field + len(value)] = value
    with pytest.raises(DamagedImage, match=words):
        VhdBlock(memory(signed(content, HEADER, 1024)))


@pytest.mark.parametrize("offset", [2**40, 2**64 - 512], ids=str)
def test_a_header_beyond_the_end_is_refused(offset, made):
    with pytest.raises(DamagedImage, match="beyond the end"):
        VhdBlock(memory(with_footer(made[1]["dynamic"].read_bytes(), 16, struct.pack(">Q", offset))))


@pytest.mark.parametrize(
    "entry,words",
    [(2**32 - 2, "beyond the end"), (2, "in the block table"), (0, "in the header"), (5000, "in the footer")],
    ids=str,
)
def test_a_block_in_an_absurd_place_is_refused(entry, words, made):
    content = bytearray(made[1]["dynamic"].read_bytes())
    if words == "in the footer":
        entry = (len(content) - 2 * MIB - 512) // 512
    struct.pack_into(">I", content, TABLE, entry)
    with pytest.raises(DamagedImage, match=words):
        VhdBlock(memory(content)).read(0, 2 * MIB)


def test_a_differencing_disk_is_refused_with_its_parents_name(made):
    content = bytearray(made[1]["dynamic"].read_bytes())
    content[HEADER + 64 : HEADER + 576] = "C:\\base.vhd".encode("utf-16-be").ljust(512, b"\0")
    whole = with_footer(signed(content, HEADER, 1024), 60, struct.pack(">I", 4))
    with pytest.raises(UnsupportedImage, match=r"parent VHD, 'C:\\\\base\.vhd', which we do not open"):
        VhdBlock(memory(whole))


def test_a_dynamic_vhd_that_lost_its_end_is_damaged(made):
    content = made[1]["dynamic"].read_bytes()
    for lost in (1, 512, 5000, len(content) - 600):
        with pytest.raises(DamagedImage, match=r"no VHD footer.*truncated"):
            VhdBlock(memory(content[:-lost]))


def test_footer_and_copy_that_contradict_each_other_are_damaged(made):
    whole = with_footer(made[1]["dynamic"].read_bytes(), 48, struct.pack(">Q", 3 * MIB), copy=False)
    with pytest.raises(DamagedImage, match="contradict each other"):
        VhdBlock(memory(whole))


def test_mutants_raise_only_our_errors(made):
    seeds = [made[1][name].read_bytes() for name in ("fixed", "dynamic")]
    plain = mutants(seeds, [(0, 90), (HEADER, 60), (TABLE, 40), (-512, 90)], 150, seed=5)
    outcomes = [provoke(VhdBlock, content) for content in plain]
    for content in mutants(seeds[1:], [(0, 90), (HEADER, 60), (TABLE, 40), (-512, 90)], 300, seed=6):
        if len(content) > 2048:
            for at, length in ((0, 512), (HEADER, 1024), (len(content) - 512, 512)):
                content = signed(content, at, length)  # noqa: PLW2901 - three structures of one file
        outcomes.append(provoke(VhdBlock, content))
    assert set(outcomes) == {"", "DamagedImage", "UnsupportedImage"}


def test_the_file_is_closed_with_the_disk_and_after_a_refusal(made, tmp_path):
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    with open_disk(Opening(made[1]["fixed"], "disk")):
        assert count() == before + 1
    (tmp_path / "cut").write_bytes(made[1]["dynamic"].read_bytes()[:5000])
    with pytest.raises(DamagedImage):
        open_disk(Opening(tmp_path / "cut", "disk"))
    assert count() == before
