"""Our VHDX reader against qemu-img, fixed and dynamic; then hostile files, with their checksums made good again."""

import struct
import time
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Part
from harness.images.filesystems.superblock_parts import crc32c
from harness.images.formats import vhdx_header as parts
from harness.images.formats.disk import Opening
from harness.images.formats.vhdx import VhdxBlock, open_disk
from suites.harness.patchy_disk import (
    MIB,
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
    "dynamic": "subformat=dynamic",  # as CoreOS makes its hyperv image
    "dynamic of small blocks": "subformat=dynamic,block_size=1M",
    "dynamic without zero blocks": "subformat=dynamic,block_state_zero=off",
    "fixed": "subformat=fixed,block_size=1M",
}
SIZES = [512, 3 * MIB, 40 * MIB + 3 * 512]
HEADERS, TABLES = (64 * 1024, 128 * 1024), (192 * 1024, 256 * 1024)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A raw disk of 5 MiB, its bytes, and each variant of it."""
    folder = tmp_path_factory.mktemp("vhdx")
    content = patchy(folder / "raw", 5 * MIB, seed=7, patches=5)
    return content, {name: convert(folder / "raw", folder / name, "vhdx", VARIANTS[name]) for name in VARIANTS}


@pytest.fixture(scope="module")
def small(made) -> bytes:
    """A whole VHDX of small blocks."""
    return made[1]["dynamic of small blocks"].read_bytes()


def signed(content: bytes | bytearray, at: int) -> bytearray:
    """With the checksum of the header or region table at `at` made good."""
    whole = bytearray(content)
    length = 4096 if at in HEADERS else 65536
    struct.pack_into("<I", whole, at + 4, parts._checksum(bytes(whole[at : at + length])))
    return whole


def changed(content: bytes, places: tuple[int, ...], field: int, value: bytes) -> bytearray:
    whole = bytearray(content)
    for at in places:
        whole[at + field : at + field + len(value)] = value
        whole = signed(whole, at)
    return whole


def item_at(content: bytes, kind: UUID) -> int:
    """Where in the file a metadata item's entry lies."""
    return content.index(kind.bytes_le, region_at(content, parts.METADATA))


def region_at(content: bytes, kind: UUID) -> int:
    entry = content.index(kind.bytes_le, TABLES[0])
    return struct.unpack_from("<Q", content, entry + 16)[0]


def with_item(content: bytes, kind: UUID, value: bytes) -> bytearray:
    whole = bytearray(content)
    (offset,) = struct.unpack_from("<I", whole, item_at(content, kind) + 16)
    at = region_at(content, parts.METADATA) + offset
    whole[at : at + len(value)] = value
    return whole


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_reads_as_the_disk_it_was_made_from(variant, size, tmp_path):
    content = patchy(tmp_path / "raw", size, seed=size)
    path = convert(tmp_path / "raw", tmp_path / "disk.vhdx", "vhdx", VARIANTS[variant])
    with open_disk(Opening(path, "disk")) as block:
        check_reads_as(block, content)


@pytest.mark.parametrize("variant", ["dynamic", "dynamic of small blocks"])
def test_a_disk_of_many_chunks_reads_right_and_at_once(variant, tmp_path):
    """After each chunk of the table (4 GiB) lies the entry of a bitmap."""
    noise = wide(tmp_path / "raw", 13 * 2**30, [0, 4 * 2**30 - 4096, 4 * 2**30, 8 * 2**30, 13 * 2**30 - 4096])
    path = convert(tmp_path / "raw", tmp_path / "disk", "vhdx", VARIANTS[variant])
    with open_disk(Opening(path, "disk")) as block:
        check_wide(block, noise)


def test_a_tebibyte_opens_in_milliseconds(tmp_path):
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", "vhdx", path, "1T")
    with open_disk(Opening(path, "disk")):
        pass
    started = time.process_time()
    with open_disk(Opening(path, "disk")) as block:
        assert time.process_time() - started < 0.1
        assert block.read(2**39, 512) == bytes(512)
        assert list(block.extents()) == [(0, 2**40, "zero")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_range_reads_as_in_the_raw_disk(data, made):
    content, paths = made
    start = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, min(400_000, len(content) - start)))
    with open_disk(Opening(paths[data.draw(st.sampled_from(sorted(paths)))], "disk")) as block:
        assert block.read(start, length) == content[start : start + length]


@pytest.mark.parametrize("variant,block_size,kind", [("dynamic", 8 * MIB, "dynamic"), ("fixed", MIB, "fixed")])
def test_what_the_headers_say(variant, block_size, kind, made):
    with open_disk(Opening(made[1][variant], "disk")) as block:
        facts = dict(block.facts())
    for name in ("virtual_disk_id", "file_write_guid", "data_write_guid"):
        assert UUID(facts.pop(name)).int
    assert facts.pop("creator").startswith("QEMU v")
    assert facts == {
        "subformat": kind,
        "version": 1,
        "block_size": block_size,
        "logical_sector_size": 512,
        "physical_sector_size": 512,
        "log_length": MIB,
    }


def test_zero_blocks_are_zero_extents(made, small):
    content = bytearray(small)
    struct.pack_into("<Q", content, region_at(small, parts.BAT), 2)
    block = VhdxBlock(memory(content))
    check_reads_as(block, bytes(MIB) + made[0][MIB:])
    assert next(iter(block.extents())).kind == "zero"


def test_sectors_of_4096_bytes_only_make_the_chunks_larger(made, small):
    content = with_item(small, parts.LOGICAL_SECTOR, struct.pack("<I", 4096))
    check_reads_as(VhdxBlock(memory(content)), made[0])


def test_a_window_on_an_archive_reads_as_the_file_does(made, small):
    archive = memory(bytes(1536) + small + bytes(5000), "a.tar")
    with VhdxBlock(Part(archive, 1536, len(small), "a.tar: 'disk.vhdx'")) as block:
        check_reads_as(block, made[0])


@pytest.mark.parametrize("torn", HEADERS + TABLES)
def test_one_torn_copy_of_two_is_no_harm(torn, made, small):
    content = bytearray(small)
    content[torn + 20] ^= 1
    check_reads_as(VhdxBlock(memory(content)), made[0])


def test_the_newer_header_counts(small):
    older, newer = sorted(HEADERS, key=lambda at: struct.unpack_from("<Q", small, at + 8))
    VhdxBlock(memory(changed(small, (older,), 48, b"\1")))
    with pytest.raises(UnsupportedImage, match="log has to be replayed"):
        VhdxBlock(memory(changed(small, (newer,), 48, b"\1")))


# -- hostile files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "places,field,value,error,words",
    [
        (HEADERS, 0, b"x", DamagedImage, "neither VHDX header is whole"),
        (HEADERS, 48, b"\1", UnsupportedImage, "not closed cleanly.*qemu-img check"),
        (HEADERS, 66, b"\2", UnsupportedImage, "VHDX version 2"),
        (TABLES, 0, b"x", DamagedImage, "neither VHDX region table is whole"),
        (TABLES, 8, struct.pack("<I", 2**32 - 1), DamagedImage, "region table of 4,294,967,295 entries"),
        (TABLES, 8, struct.pack("<I", 0), DamagedImage, "names no block allocation table"),
        (TABLES, 8, struct.pack("<I", 3), DamagedImage, "overlaps or is unaligned"),
        (
            TABLES,
            16,
            struct.pack("<16sQII", b"", 2 * MIB, MIB, 1),
            UnsupportedImage,
            "0000-.* not known to us",
        ),
        (TABLES, 32, struct.pack("<Q", MIB // 2), DamagedImage, "overlaps or is unaligned"),
        (TABLES, 32, struct.pack("<Q", 2**40), DamagedImage, "beyond the end of the file"),
        (TABLES, 40, struct.pack("<I", 2**32 - MIB), DamagedImage, "overlaps|beyond the end of the file"),
        (TABLES, 40, struct.pack("<I", 0), DamagedImage, "overlaps or is unaligned"),
    ],
    ids=str,
)
def test_hostile_headers_are_refused_in_words(places, field, value, error, words, small):
    with pytest.raises(error, match=words):
        VhdxBlock(memory(changed(small, places, field, value)))


def test_both_checksums_wrong_is_damage(small):
    for places in (HEADERS, TABLES):
        content = bytearray(small)
        for at in places:
            content[at + 500] ^= 1
        with pytest.raises(DamagedImage, match="neither VHDX"):
            VhdxBlock(memory(content))


@pytest.mark.parametrize(
    "kind,value,words",
    [
        (parts.FILE_PARAMETERS, struct.pack("<II", 0, 0), "blocks of 0 bytes"),
        (parts.FILE_PARAMETERS, struct.pack("<II", 3 * MIB, 0), "blocks of 3,145,728 bytes"),
        (parts.FILE_PARAMETERS, struct.pack("<II", 2**31, 0), "blocks of"),
        (parts.DISK_SIZE, struct.pack("<Q", 2**60), "at most 64 TiB"),
        (parts.DISK_SIZE, struct.pack("<Q", 1000), "whole sectors"),
        (parts.DISK_SIZE, struct.pack("<Q", 64 * 2**40), "too small for 70,368,744,177,664 bytes"),
        (parts.LOGICAL_SECTOR, struct.pack("<I", 0), "sectors of 0"),
        (parts.PHYSICAL_SECTOR, struct.pack("<I", 8192), "sectors of 512 and 8,192"),
    ],
    ids=str,
)
def test_hostile_metadata_is_refused_in_words(kind, value, words, small):
    with pytest.raises(DamagedImage, match=words):
        VhdxBlock(memory(with_item(small, kind, value)))


def test_metadata_items_that_are_missing_outside_or_twice_are_refused(small):
    at = item_at(small, parts.DISK_SIZE)
    for field, value, error, words in (
        (0, b"\xff", UnsupportedImage, "is required and not known to us"),
        (0, parts.DISK_ID.bytes_le, DamagedImage, "2fa54224.*is missing|listed twice|bytes"),
        (16, struct.pack("<I", 2**32 - 1), DamagedImage, "at 0xffffffff"),
        (16, bytes(4), DamagedImage, "at 0x0"),
        (20, struct.pack("<I", 2**31), DamagedImage, r"\+2,147,483,648 bytes"),
    ):
        content = bytearray(small)
        content[at + field : at + field + len(value)] = value
        with pytest.raises(error, match=words):
            VhdxBlock(memory(content))


def test_a_disk_with_a_parent_is_refused(small):
    content = with_item(small, parts.FILE_PARAMETERS, struct.pack("<II", MIB, 2))
    with pytest.raises(UnsupportedImage, match="parent VHDX"):
        VhdxBlock(memory(content))


def test_a_parent_is_named(small):
    key, value = "relative_path".encode("utf-16-le"), "..\\base.vhdx".encode("utf-16-le")
    locator = bytes(18) + struct.pack("<HIIHH", 1, 32, 32 + len(key), len(key), len(value)) + key + value
    content, at = bytearray(small), region_at(small, parts.METADATA)
    struct.pack_into("<16sIII4x", content, at + 32 + 32 * content[at + 10], parts.PARENT_LOCATOR.bytes_le, 2**18,
                     len(locator), 4)  # fmt: skip
    content[at + 10] += 1
    content[at + 2**18 : at + 2**18 + len(locator)] = locator
    with pytest.raises(UnsupportedImage, match=r"'\.\.\\\\base\.vhdx'"):
        VhdxBlock(memory(content))


@pytest.mark.parametrize(
    "entry,words",
    [
        (2**40 << 20 | 6, "beyond the end of the file"),
        (0 << 20 | 6, "in the headers"),
        (1 << 20 | 6, "in the log"),
        (2 << 20 | 6, "in the regions"),
        (7, "state 7"),
        (4, "state 4"),
    ],
    ids=str,
)
def test_a_block_in_an_absurd_place_is_refused(entry, words, small):
    content = bytearray(small)
    struct.pack_into("<Q", content, region_at(small, parts.BAT), entry)
    with pytest.raises(DamagedImage, match=words):
        VhdxBlock(memory(content)).read(0, MIB)


def test_a_file_of_which_the_end_is_missing_is_refused_on_opening(made, small):
    """The block at the disk's end may be short, as QEMU leaves it in a fixed one."""
    for path in made[1].values():
        content = path.read_bytes()
        for length in (20, 70_000, 300_000, 2 * MIB, len(content) - 4 * MIB):
            with pytest.raises(DamagedImage, match=r"beyond the end|ends within"):
                VhdxBlock(memory(content[:length]))


@given(content=st.binary(min_size=8, max_size=60), zeroes=st.integers(0, 5000))
def test_zeroes_at_the_end_count_in_a_checksum_without_being_read(content, zeroes):
    whole = content + bytes(zeroes)
    assert parts._checksum(whole) == crc32c(whole[:4] + bytes(4) + whole[8:]) ^ 0xFFFF_FFFF


def test_mutants_raise_only_our_errors(tmp_path):
    patchy(tmp_path / "raw", MIB, seed=7, patches=3)
    small = convert(tmp_path / "raw", tmp_path / "disk", "vhdx", VARIANTS["dynamic of small blocks"]).read_bytes()
    metadata, table = region_at(small, parts.METADATA), region_at(small, parts.BAT)
    regions = [(metadata, 200), (table, 64), (metadata + 65536, 64), (HEADERS[0], 80), (TABLES[0], 90)]
    outcomes = [provoke(VhdxBlock, content) for content in mutants([small], regions, 150, seed=21)]
    for content in mutants([small], [*regions, (HEADERS[1], 80)], 150, seed=22):
        if len(content) > MIB:
            for at in (*HEADERS, TABLES[0]):
                content = signed(content, at)  # noqa: PLW2901 - three structures of one file
        outcomes.append(provoke(VhdxBlock, content))
    assert set(outcomes) == {"", "DamagedImage", "UnsupportedImage"}


def test_the_file_is_closed_with_the_disk_and_after_a_refusal(made, tmp_path):
    def count() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = count()
    with open_disk(Opening(made[1]["dynamic"], "disk")):
        assert count() == before + 1
    (tmp_path / "cut").write_bytes(made[1]["dynamic"].read_bytes()[:5000])
    with pytest.raises(DamagedImage):
        open_disk(Opening(tmp_path / "cut", "disk"))
    assert count() == before
