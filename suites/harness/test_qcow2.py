"""Our qcow2 reader against `qemu-img convert` and `qemu-io` on every variant QEMU writes; then hostile files."""

import hashlib
import os
import random
import struct
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import DamagedImage, HarnessError, UnsupportedImage
from harness.images.extents import sha256_of
from harness.images.formats.qcow2 import Qcow2Block
from harness.images.formats.raw import FileBlock

VARIANTS = {
    "v2": ("compat=0.10", False),
    "v2 compressed": ("compat=0.10", True),
    "v3": ("compat=1.1", False),
    "v3 zlib": ("compat=1.1", True),
    "v3 zstd": ("compat=1.1,compression_type=zstd", True),
    "extended L2": ("extended_l2=on", False),
    "extended L2 zlib": ("extended_l2=on", True),
    "extended L2 zstd 16k": ("extended_l2=on,compression_type=zstd,cluster_size=16k", True),
    "clusters of 512": ("cluster_size=512", False),
    "clusters of 512 zlib": ("cluster_size=512", True),
    "clusters of 4k zstd": ("cluster_size=4k,compression_type=zstd", True),
    "clusters of 2M": ("cluster_size=2M", False),
    "clusters of 2M zlib": ("cluster_size=2M", True),
    "lazy refcounts of 1 bit": ("lazy_refcounts=on,refcount_bits=1", False),
    "preallocated metadata": ("preallocation=metadata", False),
}
SIZES = [512, 65536, 3 * 2**20, 5 * 2**20 + 512 * 3]


def qemu(*argv, stdin=""):
    """Run a QEMU tool; qemu-io may refuse an order (a compressed write onto an allocated cluster) and goes on."""
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, input=stdin, check=False)
    assert done.returncode == 0 or argv[0] == "qemu-io", done.stderr
    return done.stdout


def patchy(path: Path, size: int, seed: int) -> bytes:
    """A raw disk of noise, text and holes."""
    dice = random.Random(seed)
    content = bytearray(size)
    for _ in range(12):
        at, length = dice.randrange(size), dice.randrange(1, 200_000)
        piece = dice.choice([dice.randbytes(length), b"compressible " * (length // 13)])[: size - at]
        content[at : at + len(piece)] = piece
    path.write_bytes(content)
    return bytes(content)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_reads_as_the_disk_it_was_made_from(variant, size, tmp_path):
    options, compressed = VARIANTS[variant]
    raw, made = tmp_path / "raw", tmp_path / "qcow2"
    content = patchy(raw, size, seed=size)
    qemu("qemu-img", "convert", "-O", "qcow2", "-o", options, *(["-c"] if compressed else []), raw, made)
    with Qcow2Block(made) as block:
        block.check_length()
        assert block.size == size
        assert block.read(0, size) == content
        assert sha256_of(block) == hashlib.sha256(content).hexdigest()
        assert block.has_compressed_clusters() is (compressed and any(content))
        extents = list(block.extents())
    assert sum(extent.length for extent in extents) == size
    assert all(kind == "data" or not any(content[at : at + length]) for at, length, kind in extents)


@pytest.mark.parametrize("options", ["compat=0.10", "compat=1.1", "extended_l2=on", "cluster_size=4k"])
def test_writes_discards_zeroes_and_snapshots_leave_the_active_disk(options, tmp_path):
    made, flat = tmp_path / "qcow2", tmp_path / "raw"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, made, "8M")
    dice = random.Random(options)
    for turn in range(3):
        orders = [
            dice.choice(
                [
                    "write -P {n} {at} {size}",
                    "write -z {at} {size}",
                    "write -z -u {at} {size}",
                    "discard {at} {size}",
                    "write -c -P {n} {cluster} 65536",
                ]
            ).format(
                n=dice.randrange(1, 255),
                at=dice.randrange(15_000) * 512,
                size=dice.randrange(1, 400) * 512,
                cluster=dice.randrange(127) * 65536,
            )
            for _ in range(25)
        ]
        qemu("qemu-io", "-f", "qcow2", made, stdin="\n".join(orders) + "\nquit\n")
        qemu("qemu-img", "snapshot", "-c", f"turn{turn}", made)
    qemu("qemu-img", "convert", "-O", "raw", made, flat)
    with Qcow2Block(made) as block:
        assert block.header.snapshots == 3
        block.check_length()
        assert block.read(0, block.size) == flat.read_bytes()
        assert sha256_of(block) == hashlib.sha256(flat.read_bytes()).hexdigest()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_window_of_a_randomly_written_disk_is_right(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("random")
    made, flat = folder / "qcow2", folder / "raw"
    cluster = data.draw(st.sampled_from([512, 4096, 16384, 65536, 2**20]))
    extended = ",extended_l2=on" if cluster >= 16384 and data.draw(st.booleans()) else ""
    size = data.draw(st.integers(1, 4000)) * 512
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"cluster_size={cluster}{extended}", made, size)
    sector = st.integers(0, size // 512 - 1)
    orders = []
    for _ in range(data.draw(st.integers(0, 12))):
        at = data.draw(sector) * 512
        length = min(data.draw(st.integers(1, 600)) * 512, size - at)
        kind = data.draw(st.sampled_from(["write -P 7", "write -P 200", "write -z", "discard"]))
        orders.append(f"{kind} {at} {length}")
    qemu("qemu-io", "-f", "qcow2", made, stdin="\n".join([*orders, "quit", ""]))
    qemu("qemu-img", "convert", "-O", "raw", made, flat)
    content = flat.read_bytes()
    with Qcow2Block(made) as block:
        for _ in range(8):
            at = data.draw(st.integers(0, size))
            length = data.draw(st.integers(0, size - at))
            assert block.read(at, length) == content[at : at + length]
        assert block.read(0, size) == content


def test_header_says_what_qemu_img_was_asked_for(tmp_path):
    made = tmp_path / "qcow2"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", made, "10G")
    with Qcow2Block(made) as block:
        header = block.header
    assert (header.version, header.cluster_size, header.refcount_order, header.header_length) == (3, 65536, 4, 112)
    assert (header.virtual_size, header.backing_file, header.compression_type) == (10 * 2**30, None, "zlib")
    assert (header.incompatible_features, header.autoclear_features, header.snapshots) == (0, 0, 0)


def overlay(folder: Path, *, base_size: int = 2**20, size: int = 3 * 2**20, options: str = "compat=1.1"):
    base, top, flat = folder / "base", folder / "top", folder / "flat"
    patchy(base, base_size, seed=1)
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, "-b", base, "-F", "raw", top, size)
    qemu("qemu-io", "-f", "qcow2", top, stdin="write -P 9 100000 70000\nwrite -z 400000 131072\nquit\n")
    qemu("qemu-img", "convert", "-O", "raw", top, flat)
    return base, top, flat


def test_an_overlay_is_refused_and_its_base_is_text(tmp_path):
    base, top, _ = overlay(tmp_path)
    with pytest.raises(UnsupportedImage, match=f"needs its backing file '{base}'.*flatten it.*or name the base"):
        Qcow2Block(top)


@pytest.mark.parametrize("options", ["compat=0.10", "compat=1.1", "extended_l2=on"])
@pytest.mark.parametrize("base_size", [2**20, 3 * 2**20, 700 * 512])
def test_an_overlay_on_a_named_base_reads_as_the_flattened_disk(options, base_size, tmp_path):
    base, top, flat = overlay(tmp_path, base_size=base_size, options=options)
    content = flat.read_bytes()
    with FileBlock(base) as backing, Qcow2Block(top, backing=backing) as block:
        assert block.header.backing_format == "raw"
        assert block.read(0, block.size) == content
        assert sha256_of(block) == hashlib.sha256(content).hexdigest()
        assert (
            block.read(base_size - 100, 200 if block.size > base_size else 100)
            == content[base_size - 100 : base_size + 100]
        )


def test_a_file_that_names_itself_as_base_is_refused(tmp_path):
    made = tmp_path / "self"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", made, "1M")
    qemu("qemu-img", "rebase", "-u", "-b", made, "-F", "qcow2", made)
    with pytest.raises(UnsupportedImage, match="needs its backing file"):
        Qcow2Block(made)


def test_an_external_data_file_is_refused(tmp_path):
    made = tmp_path / "qcow2"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={tmp_path / 'data'}", made, "1M")
    with pytest.raises(UnsupportedImage, match="external data file"):
        Qcow2Block(made)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_noticed(keep, compressed, tmp_path):
    raw, made = tmp_path / "raw", tmp_path / "qcow2"
    raw.write_bytes(random.Random(5).randbytes(3 * 2**20))
    qemu("qemu-img", "convert", *(["-c"] if compressed else []), "-O", "qcow2", "-o", "cluster_size=64k", raw, made)
    os.truncate(made, int(made.stat().st_size * keep))
    with pytest.raises(DamagedImage, match=r"beyond the end|does not unpack"), Qcow2Block(made) as block:
        sha256_of(block)


def test_a_truncated_image_is_noticed_without_reading_its_data(tmp_path):
    raw, made = tmp_path / "raw", tmp_path / "qcow2"
    raw.write_bytes(random.Random(5).randbytes(3 * 2**20))
    qemu("qemu-img", "convert", "-O", "qcow2", raw, made)
    os.truncate(made, made.stat().st_size - 2 * 65536)
    with pytest.raises(DamagedImage, match=r"cluster at 0x.* beyond the end of the file"), Qcow2Block(made) as block:
        block.check_length()


def patched(folder: Path, offset: int, value: bytes) -> Path:
    made = folder / "qcow2"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", made, "100M")
    qemu("qemu-io", "-f", "qcow2", made, stdin="write -P 1 0 100000\nquit\n")
    with made.open("r+b") as file:
        file.seek(offset)
        file.write(value)
    return made


@pytest.mark.parametrize(
    "offset, value, error, words",
    [
        (4, struct.pack(">I", 4), UnsupportedImage, "version 4"),
        (20, struct.pack(">I", 8), DamagedImage, "cluster_bits is 8"),
        (20, struct.pack(">I", 60), DamagedImage, "cluster_bits is 60"),
        (24, struct.pack(">Q", 2**62), DamagedImage, "L1 table of 1 entries is too small"),
        (32, struct.pack(">I", 1), UnsupportedImage, "encrypted"),
        (32, struct.pack(">I", 2), UnsupportedImage, "encrypted"),
        (36, struct.pack(">I", 2**32 - 1), DamagedImage, "L1 table of 4,294,967,295 entries"),
        (36, struct.pack(">I", 4 * 2**20), DamagedImage, "L1 table at .* lies beyond the end"),
        (40, struct.pack(">Q", 2**60), DamagedImage, "L1 table at .* lies beyond the end"),
        (40, struct.pack(">Q", 12345), DamagedImage, "not aligned"),
        (48, struct.pack(">Q", 2**60), DamagedImage, "reference count table at"),
        (72, struct.pack(">Q", 2), DamagedImage, "marked corrupt"),
        (72, struct.pack(">Q", 1 << 40), UnsupportedImage, "feature bits 0x10000000000"),
        (96, struct.pack(">I", 7), DamagedImage, "refcount_order is 7"),
        (100, struct.pack(">I", 50), DamagedImage, "header_length is 50"),
        (104, b"\x01", DamagedImage, "contradict"),
        (104, b"\x07", UnsupportedImage, "compression type 7"),
        (8, struct.pack(">QI", 2**40, 10), DamagedImage, "backing file name"),
        (8, struct.pack(">QI", 200, 2**31), DamagedImage, "backing file name"),
    ],
    ids=str,
)
def test_a_hostile_header_is_refused_in_words(offset, value, error, words, tmp_path):
    with pytest.raises(error, match=words):
        Qcow2Block(patched(tmp_path, offset, value))


def test_an_l1_table_that_points_a_million_times_at_one_table_opens_quickly(tmp_path):
    made = tmp_path / "qcow2"
    l1 = struct.pack(">Q", 2**16 | 1 << 63) * 2**20
    header = struct.pack(">4sIQIIQIIQQIIQQQQII", b"QFI\xfb", 3, 0, 0, 16, 2**20 * 2**29, 0, 2**20, 2**17, 0, 0, 0, 0,
                         0, 0, 0, 4, 104)  # fmt: skip
    made.write_bytes(header.ljust(2**17, b"\0") + l1)
    started = time.process_time()
    with Qcow2Block(made) as block:
        block.check_length()
        assert not block.has_compressed_clusters()
        assert block.read(2**48, 512) == bytes(512)
    assert time.process_time() - started < 5


@settings(max_examples=150, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutants_raise_only_our_errors(data, mutation_seeds, tmp_path_factory):
    content = bytearray(data.draw(st.sampled_from(mutation_seeds)))
    for _ in range(data.draw(st.integers(1, 5))):
        region = data.draw(st.sampled_from([0, 0, 65536, 3 * 65536, 4 * 65536, 5 * 65536, len(content) - 600]))
        at = max(0, min(len(content) - 1, region + data.draw(st.integers(0, 127))))
        content[at] = data.draw(st.sampled_from([0, 1, 2, 0x40, 0x7F, 0x80, 0xC0, 0xFF]))
    path = tmp_path_factory.getbasetemp() / "mutant.qcow2"
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), len(content) // 2, 80, 10]))])
    try:
        with Qcow2Block(path) as block:
            block.check_length()
            block.has_compressed_clusters()
            for at in (0, 65536, block.size - 70_000):
                block.read(max(0, at), min(70_000, block.size))
            for _, extent in zip(range(1000), block.extents(), strict=False):
                assert extent.length
    except HarnessError:
        pass


@pytest.fixture(scope="module")
def mutation_seeds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    patchy(folder / "raw", 2**20, seed=3)
    seeds = []
    for options, flag in (VARIANTS[name] for name in ("v2", "v3 zlib", "v3 zstd", "extended L2")):
        made = folder / "made"
        qemu("qemu-img", "convert", *(["-c"] if flag else []), "-O", "qcow2", "-o", options, folder / "raw", made)
        seeds.append(made.read_bytes())
    return seeds
