"""Opening an image as a user names it: container, compression and digests; and one clear line for what is no image."""

import gzip
import hashlib
import lzma
import os
import random
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import BadInput, DamagedImage, HarnessError, UnsupportedImage
from harness.images.formats.raw import FileBlock
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image
from harness.store import Store

PACK = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstd.compress}
MIB = 2**20


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def convert(raw: Path, made: Path, form: str, *options: str) -> Path:
    subprocess.run(["qemu-img", "convert", "-O", form, *options, raw, made], check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def raw_disk(tmp_path_factory) -> Path:
    """A disk of 24 MiB with an ESP and an ext4 partition labelled boot."""
    folder = tmp_path_factory.mktemp("disk")
    disk, esp, boot = folder / "disk.raw", folder / "esp", folder / "boot"
    for path, size in ((disk, 24 * MIB), (esp, 8 * MIB), (boot, 12 * MIB)):
        path.touch()
        os.truncate(path, size)
    subprocess.run(["/usr/sbin/mkfs.vfat", "-n", "EFI-SYSTEM", esp], check=True, capture_output=True)
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", "-L", "boot", boot], check=True)
    table = 'label: gpt\nsize=8MiB, type=U, name="EFI-SYSTEM"\nsize=12MiB, type=L, name="boot"\n'
    subprocess.run(["/usr/sbin/sfdisk", "--quiet", disk], input=table.encode(), check=True)
    with disk.open("r+b") as file:
        for start, part in ((1, esp), (9, boot)):
            file.seek(start * MIB)
            file.write(part.read_bytes())
    return disk


@pytest.fixture(scope="module")
def qcow2_disk(raw_disk) -> Path:
    return convert(raw_disk, raw_disk.with_suffix(".qcow2"), "qcow2")


@pytest.mark.parametrize("compression", [None, *PACK])
@pytest.mark.parametrize("container", ["raw", "qcow2"])
def test_an_image_says_what_it_wears_and_has_its_digests(container, compression, raw_disk, qcow2_disk, tmp_path):
    plain = {"raw": raw_disk, "qcow2": qcow2_disk}[container]
    path = tmp_path / "image.bin"  # the name says nothing
    path.write_bytes(PACK[compression](plain.read_bytes()) if compression else plain.read_bytes())
    with open_image(path, store=Store(tmp_path / "store")) as image:
        assert (image.container, image.compression) == (container, compression)
        assert (image.qcow2 is None) is (container == "raw")
        assert image.plain_path.read_bytes() == plain.read_bytes()
        assert (image.plain_path == path) is (compression is None)
        assert image.file_sha256() == sha256(path)
        assert image.uncompressed_sha256() == sha256(plain)
        assert image.disk_sha256() == sha256(raw_disk)
        layout = read_layout(image.block)
        assert [(p.label, p.filesystem.type, p.filesystem.label) for p in layout.partitions] == [
            ("EFI-SYSTEM", "vfat", "EFI-SYSTEM"),
            ("boot", "ext4", "boot"),
        ]
        assert layout.part_block("boot").read(1024 + 56, 2) == b"\x53\xef"


VIRTUAL_DISKS = {
    "monolithicSparse": ("vmdk", "vmdk", "subformat=monolithicSparse"),
    "streamOptimized": ("vmdk", "vmdk", "adapter_type=lsilogic,compat6,subformat=streamOptimized"),
    "VHD fixed": ("vhd", "vpc", "subformat=fixed,force_size"),
    "VHD dynamic": ("vhd", "vpc", "subformat=dynamic,force_size"),
    "VHDX fixed": ("vhdx", "vhdx", "subformat=fixed"),
    "VHDX dynamic": ("vhdx", "vhdx", "subformat=dynamic"),
}


@pytest.mark.parametrize("compression", [None, "zst"])
@pytest.mark.parametrize("kind", VIRTUAL_DISKS)
def test_a_disk_of_another_hypervisor_is_recognised_and_read(kind, compression, raw_disk, tmp_path):
    container, form, options = VIRTUAL_DISKS[kind]
    path = convert(raw_disk, tmp_path / "image.bin", form, "-o", options)
    if compression:
        path.write_bytes(PACK[compression](path.read_bytes()))
    with open_image(path) as image:
        assert (image.container, image.compression, image.qcow2) == (container, compression, None)
        assert image.block.facts()
        assert image.disk_sha256() == sha256(raw_disk)
        assert read_layout(image.block).partition("boot").filesystem.type == "ext4"


@pytest.mark.parametrize("kind", VIRTUAL_DISKS)
def test_a_disk_of_another_hypervisor_is_read_inside_a_tar(kind, raw_disk, tmp_path):
    container, form, options = VIRTUAL_DISKS[kind]
    made = convert(raw_disk, tmp_path / "image.bin", form, "-o", options)
    with tarfile.open(tmp_path / "disk.tar", "w") as archive:
        archive.add(made, "image.bin")
    with open_image(tmp_path / "disk.tar") as image:
        assert (image.container, image.block.facts()["disk_format"]) == ("tar", container)
        assert image.disk_sha256() == sha256(raw_disk)


def test_without_a_store_the_unpacked_image_lives_as_long_as_the_block(raw_disk, tmp_path):
    path = tmp_path / "disk.gz"
    path.write_bytes(gzip.compress(raw_disk.read_bytes(), 1))
    with open_image(path) as image:
        plain = image.plain_path
        assert plain.exists()
    assert not plain.exists()


def test_an_overlay_opens_on_the_base_the_caller_names(raw_disk, tmp_path):
    top = tmp_path / "top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", raw_disk, "-F", "raw", top], check=True)
    with pytest.raises(UnsupportedImage, match=r"disk\.raw.*name the base"), open_image(top):
        pass
    with FileBlock(raw_disk) as base, open_image(top, backing=base) as image:
        assert image.disk_sha256() == sha256(raw_disk)


def test_a_backing_file_name_is_never_opened(tmp_path):
    fifo, top = tmp_path / "fifo", tmp_path / "top.qcow2"
    os.mkfifo(fifo)  # opening it would wait for ever
    subprocess.run(["qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", fifo, "-F", "raw", top, "1M"], check=True)
    with pytest.raises(UnsupportedImage, match="needs its backing file"), open_image(top):
        pass


def test_an_error_in_a_compressed_image_names_the_file_the_user_named(qcow2_disk, tmp_path):
    path = tmp_path / "cut.qcow2.gz"
    path.write_bytes(gzip.compress(qcow2_disk.read_bytes()[:400_000], 1))
    with pytest.raises(DamagedImage, match=r"cut\.qcow2\.gz: .*beyond the end of the file"), open_image(path):
        pass


UGLY = {
    "a text file": (b"hello, I am a README\n" * 100, DamagedImage, "is not a disk image: starts with the text b'hello"),
    "an empty file": (b"", DamagedImage, "is empty"),
    "noise": (random.Random(1).randbytes(100_000), DamagedImage, "is not a disk image: starts with the bytes"),
    "zeroes": (bytes(100_000), DamagedImage, "starts with zeroes and has no partition table"),
    "one byte": (b"x", DamagedImage, "is not a disk image"),
    "half a qcow2 header": (b"QFI\xfb\0\0\0\3", DamagedImage, "not a whole qcow2 header"),
    "gzipped text": (gzip.compress(b"text\n" * 100), DamagedImage, "starts with the text"),
    "gzipped nothing": (gzip.compress(b""), DamagedImage, "with nothing inside"),
    "gzip of a gzip": (gzip.compress(gzip.compress(b"x" * 1000)), UnsupportedImage, "compressed twice"),
    "a cut gzip": (gzip.compress(bytes(100_000))[:60], DamagedImage, "ends in the middle"),
    "a zip": (b"PK\x03\x04" + bytes(1000), UnsupportedImage, "is zip"),
    "half an ISO": (bytes(32769) + b"CD001\1" + bytes(4000), DamagedImage, "no primary volume descriptor"),
    "half a tar": (bytes(257) + b"ustar  \0" + bytes(4000), DamagedImage, "checksum of the header is wrong"),
}


@pytest.mark.parametrize("what", UGLY)
def test_what_is_no_image_gets_one_clear_line(what, tmp_path):
    content, error, words = UGLY[what]
    path = tmp_path / "ugly"
    path.write_bytes(content)
    with pytest.raises(error, match=words) as caught, open_image(path, store=Store(tmp_path / "store")):
        pass
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("form", ["vdi", "qed"])
def test_a_known_foreign_format_is_named_with_the_way_out(form, raw_disk, tmp_path):
    made = convert(raw_disk, tmp_path / "disk", form)
    with pytest.raises(UnsupportedImage, match=f"is {form.upper()}.*qemu-img convert -O qcow2"), open_image(made):
        pass


def test_paths_that_are_no_readable_file_are_bad_input(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    cases = {
        tmp_path: "is a directory",
        tmp_path / "missing": "No such file",
        tmp_path / "fifo": "neither a file nor a block device",
        Path("/dev/null"): "neither a file nor a block device",
        tmp_path / ("long" * 100): "File name too long",
        Path("nul\0byte"): "is not a path",
    }
    for path, words in cases.items():
        with pytest.raises(BadInput, match=words), open_image(path):
            pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_bad_input(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(BadInput, match="permission denied"), open_image(path):
        pass


@pytest.mark.parametrize("lost", [(0, 512), (0, 20_000)], ids=str)
def test_a_disk_that_lost_its_first_sectors_still_opens(lost, raw_disk, tmp_path):
    path = tmp_path / "disk"
    content = bytearray(raw_disk.read_bytes())
    content[slice(*lost)] = bytes(lost[1] - lost[0])
    path.write_bytes(content)
    with open_image(path) as image:
        assert read_layout(image.block).partition("boot").filesystem.type == "ext4"


def test_no_descriptor_stays_open(raw_disk, qcow2_disk, tmp_path):
    (tmp_path / "text").write_text("text\n" * 100)
    (tmp_path / "cut").write_bytes(qcow2_disk.read_bytes()[:400_000])
    before = sorted(Path("/proc/self/fd").iterdir())
    for path in (raw_disk, qcow2_disk, tmp_path / "text", tmp_path / "cut"):
        try:
            with open_image(path) as image:
                image.block.read(0, 512)
        except HarnessError:
            pass
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_opening_and_reading_the_layout_stays_far_below_200_ms_of_cpu(qcow2_disk):
    script = (
        "import sys; from pathlib import Path; from harness.images.source import open_image\n"
        "from harness.images.partitions.layout import read_layout\n"
        "with open_image(Path(sys.argv[1])) as image: read_layout(image.block)"
    )
    best = 9.0
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-I", "-c", script, qcow2_disk], check=True)
        after = os.times()
        best = min(best, after.children_user + after.children_system - before.children_user - before.children_system)
    assert best < 0.2


@settings(max_examples=100, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutants_raise_only_our_errors(data, raw_disk, qcow2_disk, tmp_path_factory):
    content = bytearray(data.draw(st.sampled_from([raw_disk, qcow2_disk])).read_bytes()[: 3 * MIB])
    for _ in range(data.draw(st.integers(1, 10))):
        at = data.draw(st.one_of(st.integers(0, 1200), st.integers(0, 400_000), st.integers(MIB, MIB + 2000)))
        content[min(at, len(content) - 1)] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "mutant.image"
    path.write_bytes(content)
    started = time.monotonic()
    try:
        with open_image(path) as image:
            read_layout(image.block)
            if image.block.size < 2**30:
                image.disk_sha256()
    except HarnessError:
        pass
    assert time.monotonic() - started < 4
