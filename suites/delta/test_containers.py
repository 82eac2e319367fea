"""Containers taken apart and put together again: every byte, from every container, and nothing on faith."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import random
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.delta.containers.dissection import dissect, outline, rebuild
from harness.errors import BadInput, DamagedImage
from harness.images.block import Memory
from harness.images.edits.archives import TAR_OPTIONS
from harness.images.extents import extents_of
from harness.release.export import Wish, export
from harness.tools import run
from suites.delta.made_containers import CONTAINERS, STREAM, comes_back, made
from suites.harness.patchy_disk import MIB, patchy, qemu_img

EXAMPLES = settings.default.max_examples  # 100, by night 1000
SIZES = (4 * MIB, 3 * MIB + 512, 700 * 1024 + 1536, 64 * 1024)


# -- round trips ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", CONTAINERS)
def test_every_container_comes_back_with_a_small_plan(tmp_path, form, size):
    path = made(tmp_path, form, size, seed=size % 1000)
    assert comes_back(path)
    with dissect(path) as taken:
        assert len(taken.plan) < 1200
        assert taken.content.read(0, size) == (tmp_path / "disk.raw").read_bytes()


@settings(max_examples=EXAMPLES // 10)
@given(
    form=st.sampled_from(list(CONTAINERS)),
    sectors=st.integers(1, 6000),
    seed=st.integers(0, 999),
    patches=st.integers(0, 30),
)
def test_disks_of_any_size_come_back(tmp_path_factory, form, sectors, seed, patches):
    assert comes_back(made(tmp_path_factory.mktemp("any"), form, sectors * 512, seed, patches))


@settings(max_examples=EXAMPLES // 4)
@given(form=st.sampled_from(list(CONTAINERS)), seed=st.integers(0, 10**6), changes=st.integers(1, 6))
def test_a_changed_file_comes_back_or_is_left_alone(tmp_path_factory, form, seed, changes):
    path = made(tmp_path_factory.mktemp("changed"), form, 2 * MIB, 7)
    dice, content = random.Random(seed), bytearray(path.read_bytes())
    for _ in range(changes):
        content[dice.choice([dice.randrange(len(content)), dice.randrange(0, min(len(content), 70_000))])] = (
            dice.randrange(256)
        )
    path.write_bytes(content[: dice.choice([len(content), dice.randrange(len(content))])])
    comes_back(path)


@pytest.mark.parametrize("level", range(1, 10))
def test_grains_of_any_level_come_back(tmp_path, level):
    path = made(tmp_path, "vmdk stream", 4 * MIB, 3)
    path.write_bytes(repacked(path.read_bytes(), lambda _, grain: zlib.compress(grain, level)))
    assert comes_back(path)
    with dissect(path) as taken:
        assert len(taken.plan) < 1200


def test_grains_of_mixed_and_of_foreign_codecs_come_back(tmp_path):
    def pack(number: int, grain: bytes) -> bytes:
        foreign = zlib.compressobj(6, zlib.DEFLATED, 15, 1, zlib.Z_HUFFMAN_ONLY)
        return foreign.compress(grain) + foreign.flush() if number % 5 == 2 else zlib.compress(grain, 1 + number % 9)

    path = made(tmp_path, "vmdk stream", 4 * MIB, 3, 40)
    path.write_bytes(repacked(path.read_bytes(), pack))
    assert comes_back(path)


def test_a_file_that_no_codec_here_packs_is_left_alone(tmp_path):
    def pack(_: int, grain: bytes) -> bytes:
        foreign = zlib.compressobj(6, zlib.DEFLATED, 15, 1, zlib.Z_HUFFMAN_ONLY)
        return foreign.compress(grain) + foreign.flush()

    path = made(tmp_path, "vmdk stream", 4 * MIB, 3, 40)
    path.write_bytes(repacked(path.read_bytes(), pack))
    assert dissect(path) is None


def repacked(vmdk: bytes, pack) -> bytes:
    """A stream whose grains are packed by `pack(number, grain)`, laid out as QEMU does."""
    overhead = struct.unpack_from("<Q", vmdk, 64)[0] * 512
    out, at, places, number = bytearray(vmdk[:overhead]), overhead, {}, 0
    while at < len(vmdk):
        sector, length = struct.unpack_from("<QI", vmdk, at)
        if not length:
            break
        grain = pack(number, zlib.decompress(vmdk[at + 12 : at + 12 + length]))
        places[at // 512] = len(out) // 512
        out += (struct.pack("<QI", sector, len(grain)) + grain).ljust(-(-(12 + len(grain)) // 512) * 512, b"\0")
        at, number = at + -(-(12 + length) // 512) * 512, number + 1
    for slot in range(22 * 512, overhead, 4):  # the directories come first, whose entries are no grains
        entry = struct.unpack_from("<I", out, slot)[0]
        struct.pack_into("<I", out, slot, places.get(entry, entry))
    return bytes(out + vmdk[at:])


@pytest.mark.parametrize("form", ["qcow2", "qcow2 packed", "qcow2 packed by zstd"])
def test_a_qcow2_that_was_written_to_comes_back(tmp_path, form):
    path = made(tmp_path, form, 8 * MIB, 5, 20)
    commands = ["write -P 7 0 200k", "write -P 9 5M 64k", "discard 1M 1M", "write -z 3M 128k", "write -P 3 2M 1k"]
    run(["qemu-io", *(word for command in commands for word in ("-c", command)), str(path)])
    assert comes_back(path)


def test_a_qcow2_with_a_snapshot_comes_back(tmp_path):
    path = made(tmp_path, "qcow2", 8 * MIB, 5, 20)
    run(["qemu-img", "snapshot", "-c", "before", str(path)])
    run(["qemu-io", "-c", "write -P 9 0 3M", str(path)])
    assert comes_back(path)


@pytest.mark.parametrize("wrap", ["ova", "gcp", "vmdk in gzip", "vhd in xz", "vhd in zst"])
def test_layers_come_back(tmp_path, wrap):
    assert comes_back(wrapped(tmp_path, wrap))


def test_a_sparse_map_is_not_in_the_plan(tmp_path):
    path = wrapped(tmp_path, "gcp", patches=400)
    with dissect(path) as taken:
        assert taken.formats == ("gnu-gzip", "tar")
        assert len(taken.plan) < 500
        assert taken.content.read(0, taken.content.size) == (tmp_path / "disk.raw").read_bytes()
        other = bytearray(taken.content.read(0, taken.content.size))
        other[:] = bytes(len(other))
        with pytest.raises(DamagedImage):
            rebuild(taken.plan, Memory(bytes(other), "another disk"))
    assert comes_back(path)


@settings(max_examples=EXAMPLES // 5)
@given(size=st.integers(1, 3000), patches=st.integers(0, 40), seed=st.integers(0, 999), odd=st.integers(0, 511))
def test_sparse_archives_of_any_disk_come_back(tmp_path_factory, size, patches, seed, odd):
    folder = tmp_path_factory.mktemp("sparse")
    patchy(folder / "disk.raw", size * 512 + odd, seed, patches)
    target = folder / "target.tar"
    target.write_bytes(run(["tar", *TAR_OPTIONS, "-cf", "-", "disk.raw"], cwd=folder))
    assert comes_back(target)


def wrapped(folder: Path, wrap: str, patches: int = 12) -> Path:
    raw, target = folder / "disk.raw", folder / f"target.{wrap.rsplit(maxsplit=1)[-1]}"
    patchy(raw, 3 * MIB, 11, patches)
    if wrap == "gcp":
        packed = run(["tar", *TAR_OPTIONS, "-cf", "-", raw.name], cwd=folder)
        target.write_bytes(run(["gzip", "-9", "-n"], stdin=packed))
        return target
    if wrap.startswith("vhd"):
        content = made(folder, "vhd fixed", 3 * MIB, 11).read_bytes()
    else:
        content = made(folder, "vmdk stream", 3 * MIB, 11).read_bytes()
    if wrap == "ova":
        with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
            for name, data in (("a.ovf", b"<Envelope/>"), ("disk.vmdk", content)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    elif wrap.endswith("gzip"):
        target.write_bytes(gzip.compress(content, 6, mtime=1234))
    elif wrap.endswith("xz"):
        target.write_bytes(lzma.compress(content, preset=6))
    else:
        known = zstd.CompressionParameter
        inner = zstd.ZstdCompressor(options={known.checksum_flag: 1, known.compression_level: 19, known.nb_workers: 1})
        inner.set_pledged_input_size(len(content))
        target.write_bytes(inner.compress(content) + inner.flush())
    return target


@pytest.mark.parametrize("kind", ["gz", "xz", "zst"])
def test_what_export_writes_comes_back(tmp_path, kind):
    path = made(tmp_path, "qcow2", 2 * MIB, 4)
    (written,) = export(path, tmp_path / "out", Wish((kind,))).files
    assert comes_back(written.path)


def test_foreign_compression_is_left_alone(tmp_path):
    path = tmp_path / "x.gz"
    odd = zlib.compressobj(6, zlib.DEFLATED, 31, 1, zlib.Z_HUFFMAN_ONLY)
    path.write_bytes(odd.compress(random.Random(3).randbytes(1000) * 50) + odd.flush())
    assert dissect(path) is None


@pytest.mark.parametrize("content", [b"", b"x", b"QFI\xfb", b"KDMV" + bytes(600), b"conectix", bytes(MIB)])
def test_what_is_no_container_is_left_alone(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert dissect(path) is None


@pytest.mark.parametrize("form", ["qcow2", "vmdk"])
def test_a_disk_of_many_terabytes_is_left_alone(tmp_path, form):
    path = tmp_path / "disk"
    qemu_img("create", "-f", form, path, "60T" if form == "qcow2" else "2T")
    assert dissect(path) is None


def test_a_qcow2_whose_tables_are_all_one_is_left_alone(tmp_path):
    path = made(tmp_path, "qcow2", 4 * MIB, 5)
    content = bytearray(path.read_bytes())
    (l1,) = struct.unpack_from(">Q", content, 40)
    content[l1 + 8 : l1 + 4096] = content[l1 : l1 + 8] * 511
    struct.pack_into(">Q", content, 24, 511 * 2**29)
    struct.pack_into(">I", content, 36, 512)
    path.write_bytes(content)
    assert dissect(path) is None


def test_a_missing_file_is_bad_input(tmp_path):
    with pytest.raises(BadInput):
        dissect(tmp_path / "nothing")


def test_the_same_file_gives_the_same_plan_however_it_is_stored(tmp_path):
    path = made(tmp_path, "qcow2", 4 * MIB, 1)
    dense = tmp_path / "dense"
    dense.write_bytes(path.read_bytes())
    with dissect(path) as one, dissect(dense) as other:
        assert one.plan == other.plan
        assert sum(length for _, length, _ in extents_of(one.content)) == one.content.size


def test_the_outline_tells_what_is_needed(tmp_path):
    path = made(tmp_path, "vmdk stream", MIB, 1)
    with dissect(path) as taken:
        told = outline(taken.plan)
    assert (told.size, told.sha256, told.content_size) == (path.stat().st_size, taken.sha256, MIB)
    assert (told.layers, told.codecs) == (("vmdk",), (f"zlib {zlib.ZLIB_RUNTIME_VERSION}",))


@pytest.mark.nightly
def test_the_reference_image_comes_back(reference, tmp_path):
    target = tmp_path / "reference.vmdk"
    run(["qemu-img", "convert", *STREAM, str(reference.path), str(target)])
    for path in (reference.path, target):
        with dissect(path) as taken:
            digest = hashlib.sha256()
            for piece in rebuild(taken.plan, taken.content):
                digest.update(piece)
            assert (digest.hexdigest(), len(taken.plan) < 4096) == (taken.sha256, True)
