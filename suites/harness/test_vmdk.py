"""Our VMDK reader against qemu-img on what QEMU and VMware write; then hostile files."""

import os
import random
import struct
import subprocess
import time
import tracemalloc
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Memory, Part
from harness.images.formats.disk import Opening
from harness.images.formats.raw import FileBlock
from harness.images.formats.vmdk import VmdkBlock, open_disk
from harness.images.formats.vmdk_descriptor import parse_descriptor
from harness.images.source import open_image
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
from suites.harness.vmware_stream import stream

AWS = "adapter_type=lsilogic,compat6,subformat=streamOptimized"  # as CoreOS makes its aws and vmware images
VARIANTS = {
    "monolithicSparse": "subformat=monolithicSparse",
    "monolithicSparse with zeroed grains": "subformat=monolithicSparse,zeroed_grain=on",
    "streamOptimized": "subformat=streamOptimized",
    "aws": AWS,
}
SIZES = [512, 65536, 3 * MIB, 40 * MIB + 3 * 512]
SEVERAL_FILES = ["monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A raw disk of 5 MiB, its bytes, and each variant of it."""
    folder = tmp_path_factory.mktemp("vmdk")
    content = patchy(folder / "raw", 5 * MIB, seed=7, patches=5)
    return content, {name: convert(folder / "raw", folder / name, "vmdk", VARIANTS[name]) for name in VARIANTS}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_reads_as_the_disk_it_was_made_from(variant, size, tmp_path):
    content = patchy(tmp_path / "raw", size, seed=size)
    path = convert(tmp_path / "raw", tmp_path / "disk.vmdk", "vmdk", VARIANTS[variant])
    with open_disk(Opening(path, "disk")) as block:
        check_reads_as(block, content)


def test_zeroes_written_over_data_are_zero_extents(tmp_path):
    patchy(tmp_path / "raw", MIB, seed=1)
    path = convert(tmp_path / "raw", tmp_path / "disk.vmdk", "vmdk", VARIANTS["monolithicSparse with zeroed grains"])
    subprocess.run(["qemu-io", "-f", "vmdk", "-c", "write -z 128k 128k", path], check=True, capture_output=True)
    with open_disk(Opening(path, "disk")) as block:
        check_reads_as(block, as_qemu_reads(path, "vmdk"))
        assert (128 * 1024, 128 * 1024, "zero") in list(block.extents())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_disk_of_many_tables_reads_right_and_at_once(variant, tmp_path):
    noise = wide(tmp_path / "raw", 9 * 2**30, [0, 32 * MIB - 4096, 32 * MIB, 4 * 2**30, 9 * 2**30 - 4096])
    path = convert(tmp_path / "raw", tmp_path / "disk", "vmdk", VARIANTS[variant])
    with open_disk(Opening(path, "disk")) as block:
        check_wide(block, noise)


def test_a_tebibyte_opens_in_milliseconds(tmp_path):
    path = tmp_path / "disk"
    qemu_img("create", "-q", "-f", "vmdk", path, "1T")
    started = time.process_time()
    with open_disk(Opening(path, "disk")) as block:
        assert time.process_time() - started < 0.1
        assert block.read(2**39, 512) == bytes(512)
        assert list(block.extents()) == [(0, 2**40, "hole")]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_range_reads_as_in_the_raw_disk(data, made):
    content, paths = made
    start = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, min(400_000, len(content) - start)))
    with open_disk(Opening(paths[data.draw(st.sampled_from(sorted(paths)))], "disk")) as block:
        assert block.read(start, length) == content[start : start + length]


def test_what_the_header_says_of_an_aws_image(made):
    with open_disk(Opening(made[1]["aws"], "disk")) as block:
        facts = dict(block.facts())
    assert facts.pop("CID") == parse_descriptor(made[1]["aws"].read_bytes()[512:10752]).fields["CID"]
    assert facts == {
        "createType": "streamOptimized",
        "version": 3,
        "flags": "0x30003",
        "grain_size": 65536,
        "compressAlgorithm": "deflate",
        "footer": False,
        "uncleanShutdown": False,
        "extent": "aws",
        "adapterType": "lsilogic",
        "virtualHWVersion": "6",
        "toolsVersion": "2147483647",
        "geometry": "0/255/63",
    }


def test_a_window_on_an_archive_reads_as_the_file_does(made):
    content, paths = made
    inside = paths["aws"].read_bytes()
    archive = memory(bytes(1536) + inside + bytes(5000), "a.ova")
    with VmdkBlock(Part(archive, 1536, len(inside), "a.ova: 'disk.vmdk'")) as block:
        assert block.name == "a.ova: 'disk.vmdk'"
        check_reads_as(block, content)
    assert archive.read(0, 1) == b"\0"  # closing the disk leaves the archive alone


# -- as VMware writes a stream: tables behind the grains, the directory known to the footer only --------------------


@pytest.mark.parametrize("size", [65536, 3 * MIB + 512, 40 * MIB])
def test_a_stream_with_its_directory_in_the_footer_reads_as_qemu_reads_it(size, tmp_path):
    content = patchy(tmp_path / "raw", size, seed=size)
    path = tmp_path / "disk.vmdk"
    path.write_bytes(stream(content))
    assert as_qemu_reads(path, "vmdk") == content
    with open_disk(Opening(path, "disk")) as block:
        check_reads_as(block, content)
        assert block.facts()["footer"] is True


@pytest.mark.parametrize("lost", [1, 512, 1024, 1536, 5000])
def test_a_stream_that_lost_its_end_is_damaged(lost):
    whole = stream(random.Random(1).randbytes(200_000))
    with pytest.raises(DamagedImage, match="footer"):
        VmdkBlock(memory(whole[:-lost]))


def test_a_footer_that_contradicts_its_header_is_damaged():
    whole = bytearray(stream(bytes(65536)))
    struct.pack_into("<Q", whole, len(whole) - 1024 + 12, 999_999)
    with pytest.raises(DamagedImage, match="contradict each other in their capacity"):
        VmdkBlock(memory(whole))


# -- other files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SEVERAL_FILES)
def test_a_disk_of_several_files_is_refused_with_their_names(kind, tmp_path):
    patchy(tmp_path / "raw", MIB, seed=1)
    path = convert(tmp_path / "raw", tmp_path / "disk.vmdk", "vmdk", f"subformat={kind}")
    words = rf"'{kind}' keeps its disk in 'disk-.*vmdk'.*qemu-img convert"
    with pytest.raises(UnsupportedImage, match=words), open_image(path):
        pass


def test_one_extent_of_a_disk_of_several_files_is_refused(tmp_path):
    patchy(tmp_path / "raw", MIB, seed=1)
    convert(tmp_path / "raw", tmp_path / "disk.vmdk", "vmdk", "subformat=twoGbMaxExtentSparse")
    with pytest.raises(UnsupportedImage, match="one extent of a VMDK of several files"):
        open_disk(Opening(tmp_path / "disk-s001.vmdk", "disk"))


def test_an_overlay_is_refused_with_its_parents_name(tmp_path):
    qemu_img("create", "-q", "-f", "vmdk", tmp_path / "base.vmdk", "1M")
    qemu_img("create", "-q", "-f", "vmdk", "-b", tmp_path / "base.vmdk", "-F", "vmdk", tmp_path / "top.vmdk")
    with pytest.raises(UnsupportedImage, match=r"parent VMDK, '.*base\.vmdk'"):
        open_disk(Opening(tmp_path / "top.vmdk", "disk"))


def test_no_file_that_a_descriptor_names_is_opened(made, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)  # opening it would wait for ever
    lines = f'# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 2048 FLAT "{fifo}" 0\n'
    (tmp_path / "alone.vmdk").write_text(lines)
    inside = with_text(made, lines)
    for name, content in (("alone", lines.encode()), ("inside", inside)):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UnsupportedImage, match=f"'monolithicFlat' keeps its disk in '{fifo}'"), open_image(path):
            pass


def with_text(made, text: str) -> bytes:
    content = bytearray(made[1]["aws"].read_bytes())
    content[512:10752] = text.encode().ljust(10240, b"\0")
    return bytes(content)


@pytest.mark.parametrize(
    "text,words",
    [
        ("", "no descriptor inside"),
        ('createType="streamOptimized"\nparentCID=12345678\nRW 1 SPARSE "a"', "parent VMDK"),
        (
            'createType="streamOptimized"\nparentFileNameHint="/etc/passwd"\nRW 1 SPARSE "a"',
            "parent VMDK, '/etc/passwd'",
        ),
        ('createType="streamOptimized"\nRW 1 SPARSE "a"\nRW 1 SPARSE "b"', "keeps its disk in 'a', 'b'"),
        ('createType="streamOptimized"\n' + "".join(f'RW 1 SPARSE "{n}"\n' for n in range(9)), "'3' and 5 more"),
        ('createType="streamOptimized"\nRW 1 FLAT "../../etc/passwd"', r"'\.\./\.\./etc/passwd'"),
        ('createType="fullDevice"\nRW 1 FLAT "/dev/sda" 0', "'fullDevice' keeps its disk in '/dev/sda'"),
        ('createType="vmfs"\nRW 1 VMFS "x-flat.vmdk"', "'vmfs' keeps its disk in 'x-flat.vmdk'"),
        ('createType="custom"\nRW 99999999999999999999999 SPARSE "a"', "'custom' keeps its disk in other files"),
    ],
    ids=str,
)
def test_a_descriptor_that_needs_other_files_is_refused(text, words, made):
    with pytest.raises(UnsupportedImage, match=words):
        VmdkBlock(memory(with_text(made, text)))


def test_an_esx_redo_log_is_refused():
    with pytest.raises(UnsupportedImage, match="vmfsSparse"):
        VmdkBlock(memory(b"COWD" + bytes(2000)))


# -- hostile files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["monolithicSparse", "aws"])
@pytest.mark.parametrize(
    "offset,value,error,words",
    [
        (0, b"KDMX", DamagedImage, "no VMDK header"),
        (4, b"\x04", UnsupportedImage, "version 4"),
        (12, struct.pack("<Q", 2**51), DamagedImage, "capacity of 1,152,921,504,606,846,976"),
        (12, struct.pack("<Q", 2**60), DamagedImage, "grain tables"),
        (12, struct.pack("<Q", 2**32), DamagedImage, "beyond the end|overlap"),
        (20, bytes(8), DamagedImage, "grain size of 0"),
        (20, b"\x03", DamagedImage, "grain size of 1,536"),
        (20, struct.pack("<Q", 2**50), DamagedImage, "grain size"),
        (28, struct.pack("<Q", 2**50), DamagedImage, "descriptor at .* beyond the end"),
        (36, struct.pack("<Q", 2**40), DamagedImage, "descriptor at .* beyond the end"),
        (44, bytes(4), DamagedImage, "0 entries a grain table"),
        (44, b"\xff" * 4, DamagedImage, "4,294,967,295 entries"),
        (56, bytes(8), DamagedImage, "grain directory is said to be at 0x0, in the header"),
        (56, struct.pack("<Q", 2**50), DamagedImage, "grain directory at .* beyond the end"),
        (56, b"\xff" * 8, DamagedImage, "footer"),
        (73, b"\r\n  ", DamagedImage, "transferred as text"),
        (77, b"\x07\0", UnsupportedImage, "compression algorithm 7"),
        (10, b"\x01", DamagedImage, "contradict"),
    ],
    ids=str,
)
def test_a_hostile_header_is_refused_in_words(variant, offset, value, error, words, made):
    content = bytearray(made[1][variant].read_bytes())
    if value == b"\x01" and variant == "aws":
        error, words = UnsupportedImage, "no markers"
    content[offset : offset + len(value)] = value
    with pytest.raises(error, match=words):
        VmdkBlock(memory(content))


def patched(made, variant: str, offset: int, value: bytes) -> Memory:
    content = bytearray(made[1][variant].read_bytes())
    content[offset : offset + len(value)] = value
    return memory(content)


def first_table(content: bytes) -> int:
    (directory,) = struct.unpack_from("<Q", content, 56)
    return struct.unpack_from("<I", content, directory * 512)[0] * 512


@pytest.mark.parametrize(
    "grain,words",
    [(2**31, "beyond the end"), (1, "in the descriptor"), (None, "in the grain directory")],
    ids=str,
)
@pytest.mark.parametrize("variant", ["monolithicSparse", "aws"])
def test_a_grain_in_an_absurd_place_is_refused(variant, grain, words, made):
    content = made[1][variant].read_bytes()
    table, grain = first_table(content), grain or content[56]
    with pytest.raises(DamagedImage, match=words):
        VmdkBlock(patched(made, variant, table, struct.pack("<I", grain))).read(0, 4096)


@pytest.mark.parametrize("entry,words", [(2**31, "grain table at .* beyond the end"), (22, "overlap")], ids=str)
def test_grain_tables_in_absurd_places_are_refused(entry, words, tmp_path):
    patchy(tmp_path / "raw", 70 * MIB, seed=1)
    content = bytearray(convert(tmp_path / "raw", tmp_path / "x", "vmdk", VARIANTS["monolithicSparse"]).read_bytes())
    (directory,) = struct.unpack_from("<Q", content, 56)
    struct.pack_into("<III", content, directory * 512, 21, 0 if entry > 100 else entry, entry)
    with pytest.raises(DamagedImage, match=words):
        VmdkBlock(memory(content))


BOMB = zlib.compress(bytes(100 * MIB), 9)


@pytest.mark.parametrize(
    "marker,packed,words",
    [
        ((128, 100), b"", "marked as sector 128, wanted 0"),
        ((0, 0), b"", "0 bytes long"),
        ((0, 2**32 - 1), b"", "4,294,967,295 bytes long"),
        ((0, 131_072), b"noise", "does not unpack"),
        ((0, 30), zlib.compress(random.Random(1).randbytes(65536))[:30], "ends in the middle"),
        ((0, len(zlib.compress(bytes(100)))), zlib.compress(bytes(100)), "unpacks to only 100 bytes"),
        ((0, len(BOMB)), BOMB, "unpacks to more than 65,536 bytes"),
    ],
    ids=["sector", "empty", "endless", "noise", "cut", "short", "bomb"],
)
def test_a_grain_that_is_none_is_refused_within_bounds(marker, packed, words):
    content = bytearray(stream(random.Random(1).randbytes(4 * 65536)))
    content[65536 : 65536 + 12 + len(packed)] = struct.pack("<QI", *marker) + (packed)
    block = VmdkBlock(memory(content))
    tracemalloc.start()
    try:
        with pytest.raises(DamagedImage, match=words):
            block.read(0, 65536)
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()


def test_a_file_of_which_the_end_is_missing_is_refused_on_opening(made):
    for variant, path in made[1].items():
        content = path.read_bytes().rstrip(b"\0")  # QEMU pads a stream by up to a grain
        for share in (0.3, 0.5, 0.8, 0.99):
            cut = memory(content[: int(len(content) * share)], variant)
            with pytest.raises(DamagedImage, match=r"beyond the end of the file.*truncated"):
                VmdkBlock(cut)


def test_a_file_cut_anywhere_gives_only_our_errors(made):
    for path in made[1].values():
        content = path.read_bytes().rstrip(b"\0")
        for length in [*range(0, 1100, 37), *range(10_000, len(content), len(content) // 20)]:
            assert provoke(VmdkBlock, content[:length]) in {"DamagedImage", "UnsupportedImage"}


def test_the_last_grain_may_end_with_the_disk(tmp_path):
    """Some writers do not fill it up."""
    content = bytearray(convert_one_grain(tmp_path))
    with VmdkBlock(memory(content[: len(content) - 65536 + 512])) as block:
        assert block.size == 512
        assert block.read(0, 512) == b"x" * 512


def convert_one_grain(tmp_path) -> bytes:
    (tmp_path / "raw").write_bytes(b"x" * 512)
    return convert(tmp_path / "raw", tmp_path / "disk", "vmdk", VARIANTS["monolithicSparse"]).read_bytes()


def test_mutants_raise_only_our_errors(made):
    seeds = [made[1][name].read_bytes() for name in ("monolithicSparse", "aws")]
    seeds.append(stream(made[0][: MIB + 512]))
    regions = [(0, 80), (0, 80), (512, 300), (0x15 * 512, 5120), (65536, 64), (-1536, 1536), (-4096, 4096)]
    outcomes = [provoke(VmdkBlock, content) for content in mutants(seeds, regions, 400, seed=11)]
    assert set(outcomes) == {"", "DamagedImage", "UnsupportedImage"}


def test_the_file_is_closed_with_the_disk_and_after_a_refusal(made, tmp_path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    with open_disk(Opening(made[1]["aws"], "disk")):
        assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    (tmp_path / "cut").write_bytes(made[1]["aws"].read_bytes()[:600])
    with pytest.raises(DamagedImage):
        open_disk(Opening(tmp_path / "cut", "disk"))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_reads_beyond_the_disk_are_refused(made):
    with FileBlock(made[1]["aws"]) as file:
        block = VmdkBlock(file)
        for offset, length in ((-1, 10), (0, -1), (5 * MIB, 1), (5 * MIB - 1, 2)):
            with pytest.raises(DamagedImage, match="beyond the end of the disk"):
                block.read(offset, length)
