"""Disks in tar archives as GNU tar writes them, sparse ones in all four forms; then cut, forged and mutated ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

from harness.errors import DamagedImage, HarnessError, UnsupportedImage
from harness.images.block import Memory
from harness.images.extents import extents_of, sha256_of
from harness.images.formats.archived import MemberBlock, the_disk
from harness.images.formats.tar import read_members
from harness.images.source import open_image
from harness.store import Store

MIB = 2**20
SPARSE = {
    "oldgnu": ["--format=oldgnu", "--sparse"],
    "gnu": ["--format=gnu", "--sparse"],
    "pax 0.0": ["--format=posix", "--sparse", "--sparse-version=0.0"],
    "pax 0.1": ["--format=posix", "--sparse", "--sparse-version=0.1"],
    "pax 1.0": ["--format=posix", "--sparse", "--sparse-version=1.0"],
}
PLAIN = {"ustar": ["--format=ustar"], "posix": ["--format=posix"]}


def archive(made: Path, source: Path, *options: str) -> Path:
    argv = ["tar", "-C", source.parent, *options, "-cf", made, source.name]
    subprocess.run(argv, check=True)
    return made


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Path:
    """A sparse disk of 16 MiB and one sector with 60 islands of data: a map of several headers in any form."""
    path = tmp_path_factory.mktemp("tar") / "disk.raw"
    path.touch()
    os.truncate(path, 16 * MIB + 512)
    subprocess.run(["/usr/sbin/sfdisk", "-q", path], input=b"label: dos\nsize=1MiB, type=83\n", check=True)
    dice = random.Random(7)
    with path.open("r+b") as file:
        for number in range(60):
            file.seek(MIB + number * 128 * 1024)
            file.write(dice.randbytes(4096 * dice.randint(1, 4)))
    return path


@pytest.mark.parametrize("compression", ["", "gz"])
@pytest.mark.parametrize("form", [*SPARSE, *PLAIN])
def test_the_disk_inside_is_the_disk_that_was_packed(form, compression, disk, tmp_path):
    path = archive(tmp_path / "image.tar", disk, *{**SPARSE, **PLAIN}[form])
    if compression:
        path.write_bytes(gzip.compress(path.read_bytes(), 1))
    with open_image(path, store=Store(tmp_path / "store")) as image:
        assert (image.container, image.compression) == ("tar", compression or None)
        assert image.block.size == disk.stat().st_size
        assert image.disk_sha256() == sha256(disk)
        assert image.block.facts()["sparse"] is (form in SPARSE)
        assert (image.block.facts()["disk"], image.block.facts()["disk_format"]) == ("disk.raw", "raw")


@pytest.mark.parametrize("form", SPARSE)
def test_reads_across_parts_and_holes_are_right(form, disk, tmp_path):
    content, dice = disk.read_bytes(), random.Random(form)
    with open_image(archive(tmp_path / "image.tar", disk, *SPARSE[form])) as image:
        extents = list(image.block.extents())
        assert sum(extent.length for extent in extents if extent.kind == "data") < 2 * MIB
        assert [extent.offset for extent in extents[1:]] == [e.offset + e.length for e in extents[:-1]]
        assert sum(extent.length for extent in extents) == len(content)
        for _ in range(500):
            offset = dice.randrange(len(content))
            length = min(dice.choice([0, 1, 512, 5000, 300_000]), len(content) - offset)
            assert image.block.read(offset, length) == content[offset : offset + length]
        for offset, length in ((-1, 1), (len(content), 1), (0, len(content) + 1), (5, -1)):
            with pytest.raises(DamagedImage, match="beyond its end"):
                image.block.read(offset, length)


def test_holes_of_the_archives_own_file_are_holes_of_the_disk(disk, tmp_path):
    path = tmp_path / "image.tar.gz"
    path.write_bytes(gzip.compress(archive(tmp_path / "plain.tar", disk, "--format=ustar").read_bytes(), 1))
    with open_image(path) as image:
        kinds = [extent.kind for extent in extents_of(image.block)]
        assert "hole" in kinds
        assert sha256_of(image.block) == sha256(disk)


@pytest.mark.parametrize("form", ["oldgnu", "pax 1.0"])
@pytest.mark.parametrize("edge", ["empty", "all hole", "all data", "data at the end"])
def test_edges_of_sparse_files_are_read(edge, form, tmp_path):
    path = tmp_path / "disk.raw"
    path.touch()
    os.truncate(path, 0 if edge == "empty" else MIB)
    with path.open("r+b") as file:
        file.seek(MIB - 4096 if edge == "data at the end" else 0)
        file.write({"all data": b"x" * MIB, "data at the end": b"y" * 4096}.get(edge, b""))
    raw = archive(tmp_path / "a.tar", path, *SPARSE[form]).read_bytes()
    (member,) = read_members(Memory(raw, "a.tar"))
    assert sha256_of(MemberBlock(Memory(raw, "a.tar"), member, "m")) == sha256(path)


def test_an_archive_of_the_oldest_kind_is_no_image_to_us(disk, tmp_path):
    with (
        pytest.raises(DamagedImage, match="is not a disk image"),
        open_image(archive(tmp_path / "a.tar", disk, "--format=v7")),
    ):
        pass


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_long_names_and_links_are_read_and_never_followed(form, tmp_path):
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    (folder / ("name" * 30)).write_text("content")
    (folder / "link").symlink_to("/etc/passwd")
    os.link(folder / ("name" * 30), folder / "same")
    made = archive(tmp_path / "a.tar", folder, "--format", form, "--sort=name")
    raw = made.read_bytes()
    members = read_members(Memory(raw, "a.tar"))
    with tarfile.open(fileobj=io.BytesIO(raw)) as expected:
        assert [m.name.rstrip("/") for m in members] == expected.getnames()
    assert [m.kind for m in members] == ["directory", "link", "file", "link"]
    assert {m.dialect for m in members} == {"gnu" if form == "gnu" else "pax"}
    with pytest.raises(DamagedImage, match="is not a disk image: starts with the text b'content"), open_image(made):
        pass


def test_the_disk_is_the_only_file_or_the_only_one_called_like_one(disk, tmp_path):
    members = {"readme": b"text", "sub/disk.raw": disk.read_bytes()}
    path = tmp_path / "a.tar"

    def pack():
        with tarfile.open(path, "w") as made:
            for name, content in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))

    pack()
    with open_image(path) as image:
        assert image.block.facts()["members"] == "readme, sub/disk.raw"
        assert image.disk_sha256() == sha256(disk)
    members["second.img"] = b"other"
    pack()
    with pytest.raises(UnsupportedImage, match=r"with 2 disks; it holds 'readme', 'sub/disk.raw'"), open_image(path):
        pass
    with pytest.raises(UnsupportedImage, match=r"no file that is called like a disk; it holds nothing"):
        the_disk((), "where")


@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vhdx", "vpc"])
def test_a_disk_in_a_format_of_its_own_is_opened_in_the_archive(form, disk, tmp_path):
    inner = tmp_path / f"crc.{form}"
    subprocess.run(["qemu-img", "convert", "-O", form, disk, inner], check=True)
    with open_image(archive(tmp_path / "a.tar", inner, "--sparse", "--format=gnu")) as image:
        name = {"vpc": "vhd"}.get(form, form)
        assert image.container == "tar"
        assert image.block.facts()["disk_format"] == name
        assert any(key.startswith(f"{name}_") for key in image.block.facts())
        content = disk.read_bytes()
        assert image.block.size >= len(content)  # VHD rounds up to its geometry
        assert image.block.read(0, len(content)) == content


def header(name=b"disk.raw", size=b"00000001000\0", kind=b"0", magic=b"ustar  \0", tail=b"", checksum=None) -> bytes:
    """A tar header with a right checksum; `tail` begins at byte 345."""
    raw = bytearray(512)
    raw[:100] = name.ljust(100, b"\0")
    raw[100:124] = b"".join(b"%07o\0" % number for number in (0o644, 0, 0))
    raw[124:136], raw[136:148] = size, b"00000000000\0"
    raw[156:157], raw[257:265] = kind, magic
    raw[345 : 345 + len(tail)] = tail
    raw[148:156] = b" " * 8
    raw[148:156] = checksum or b"%06o\0 " % sum(raw)
    return bytes(raw)


def octal(number: int) -> bytes:
    return b"%011o\0" % number


def base256(number: int) -> bytes:
    return number.to_bytes(12, "big", signed=True) if number < 0 else bytes([0x80]) + number.to_bytes(11, "big")


def sparse_header(parts, size=b"00004000000\0", stored=b"00000001000\0") -> bytes:
    """An old GNU sparse header; `parts` are pairs of fields."""
    slots = b"".join(offset + length for offset, length in parts).ljust(96, b"\0")
    return header(kind=b"S", size=stored, tail=bytes(41) + slots + b"\0" + size)


PARTS = {
    "overlapping": ([(octal(0), octal(400)), (octal(200), octal(112))], "overlaps the one before"),
    "out of order": ([(octal(4096), octal(256)), (octal(0), octal(256))], "overlaps the one before"),
    "beyond the file": ([(octal(2**20), octal(512))], "end at 1,049,088, the file at 1,048,576"),
    "huge": ([(base256(2**60), octal(512))], "the file at"),
    "negative": ([(base256(-1), octal(512))], "a sparse map holds"),
    "garbage": ([(b"89 no octal!", octal(512))], "a sparse map holds"),
    "more than stored": ([(octal(0), octal(1024))], "have 1,024 bytes, 512 are stored"),
    "nothing": ([], "have 0 bytes, 512 are stored"),
}


@pytest.mark.parametrize("what", PARTS)
def test_an_impossible_sparse_map_is_refused(what):
    parts, words = PARTS[what]
    with pytest.raises(DamagedImage, match=words):
        read_members(Memory(sparse_header(parts) + bytes(4096), "forged"))


def test_a_sparse_map_without_end_is_refused_in_bounded_time():
    slot = octal(0) + octal(0)
    extension = slot * 21 + b"\1" + bytes(7)
    first = bytearray(sparse_header([(octal(0), octal(0))] * 4, stored=octal(0)))
    first[482] = 1
    first[148:156] = b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    started = time.process_time()
    with pytest.raises(UnsupportedImage, match="a sparse file in 262,"):
        read_members(Memory(bytes(first) + extension * 14_000, "endless"))
    with pytest.raises(DamagedImage, match="a sparse map reaches beyond the end of the archive"):
        read_members(Memory(bytes(first) + extension * 10, "cut"))
    assert time.process_time() - started < 20


SIZES = {
    "beyond the file": octal(2**30),
    "huge in base 256": base256(2**80),
    "negative in base 256": base256(-512),
    "octal garbage": b"0000000008x\0",
    "text": b"twelve bytes",
    "numbers apart": b"12 34 56 78 ",
}


@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"S"])
@pytest.mark.parametrize("what", SIZES)
def test_a_size_that_cannot_be_is_refused(what, kind):
    with pytest.raises(DamagedImage, match=r"tar header at 0: (a member of|the size|a header of|the parts)"):
        read_members(Memory(header(size=SIZES[what], kind=kind) + bytes(2048), "forged"))


def record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body) + 1
    while len(str(length)) + len(body) != length:
        length += 1
    return str(length).encode() + body


def pax(content: bytes, data: bytes = b"", size: bytes | None = None) -> bytes:
    """A pax header with these records, and a member after it."""
    padded = content.ljust(-(-len(content) // 512) * 512, b"\0")
    ahead = header(b"pax", octal(len(content)), b"x", b"ustar\00000")
    return ahead + padded + header(size=size or octal(len(data)), magic=b"ustar\00000") + data + bytes(1024)


PAX = {
    "a record longer than the header": (b"99 path=x\n", "garbled"),
    "a record without length": (b"path=x\n", "garbled"),
    "a record of length zero": (b"0 path=x\n", "garbled"),
    "a record without equals": (b"7 pathx\n", "garbled"),
    "a negative size": (record("size", "-5"), "gives the size"),
    "a size in letters": (record("size", "1e9"), "gives the size"),
    "a size beyond the file": (record("size", "9" * 18), "reaches beyond the end"),
    "a size of 5000 digits": (record("size", "9" * 5000), "gives the size"),
    "a map out of order": (
        record("GNU.sparse.size", "9000") + record("GNU.sparse.map", "4096,5,0,5"),
        "overlaps the one before",
    ),
    "an odd map": (record("GNU.sparse.size", "9000") + record("GNU.sparse.map", "4096"), "pairs of numbers"),
    "a map of words": (record("GNU.sparse.size", "9000") + record("GNU.sparse.map", "a,b"), "pairs of numbers"),
    "a sparse file without size": (record("GNU.sparse.map", "0,5"), "without a size"),
}


@pytest.mark.parametrize("what", PAX)
def test_a_forged_pax_header_is_refused(what):
    content, words = PAX[what]
    with pytest.raises(DamagedImage, match=words):
        read_members(Memory(pax(content, bytes(10), octal(10)), "forged"))


@pytest.mark.parametrize(
    "leading, words",
    [
        (b"2\n0\n5\n", "longer than its member"),
        (b"999999999\n", "999,999,999 parts"),
        (b"x\n", "does not begin with a number"),
        (b"1\n0\n-5\n", "pairs of numbers"),
        (b"1" * 512, "longer than its member"),
        (b"1\n" + b"0" * 510 + b"0" * 512 + b"0" * 512, "line without end"),
        (b"2\n5\n5\n0\n5\n", "overlaps"),
    ],
    ids=range(7),
)
def test_a_forged_map_before_the_data_is_refused(leading, words):
    keys = record("GNU.sparse.major", "1") + record("GNU.sparse.minor", "0") + record("GNU.sparse.realsize", "9000")
    data = leading.ljust(-(-len(leading) // 512) * 512, b"\0")
    with pytest.raises((DamagedImage, UnsupportedImage), match=words):
        read_members(Memory(pax(keys, data), "forged"))


def test_a_million_members_are_too_many_and_refused_soon():
    started = time.process_time()
    with pytest.raises(UnsupportedImage, match="more than 10,000 members"):
        read_members(Memory(header(size=octal(0)) * 1_000_000, "many"))
    with pytest.raises(UnsupportedImage, match="more than 10,000 members"):
        read_members(Memory(header(size=octal(0), kind=b"g") * 1_000_000, "many"))
    assert time.process_time() - started < 20


@pytest.mark.parametrize("cut", [300, 700, 1400, 1536 + 511])
def test_a_cut_archive_is_called_so(cut):
    whole = header(size=octal(1000)) + bytes(1024) + header(size=octal(0))
    with pytest.raises(DamagedImage, match=r"middle of a header|beyond the end of the archive|download it again"):
        read_members(Memory(whole[:cut], "cut"))


def test_a_wrong_checksum_is_named(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(header(checksum=b"000001\0 ") + bytes(4096))
    with pytest.raises(DamagedImage, match="the checksum of the header is wrong"), open_image(path):
        pass


def test_mutants_raise_only_our_errors_and_soon(disk, tmp_path):
    """Half of them with their checksums made right again, because a wrong one ends the reading at once."""
    sources = []
    for number, options in enumerate((*SPARSE.values(), *PLAIN.values())):
        raw = archive(tmp_path / f"{number}.tar", disk, *options).read_bytes()
        sources.append(raw[:8192] + bytes(2048))
    dice = random.Random(20261121)
    started = time.process_time()
    refused = 0
    for _ in range(4000):
        mutant = bytearray(dice.choice(sources))
        for _ in range(dice.randint(1, 6)):
            at = dice.choice([dice.randrange(len(mutant)), dice.randint(124, 160), dice.randint(345, 512)])
            mutant[at] = dice.choice([0, 0x30, 0x80, 0xFF, dice.randint(0, 255)])
        if dice.random() < 0.5:
            mutant[148:156] = b" " * 8
            mutant[148:156] = b"%06o\0 " % sum(mutant[:512])
        block = Memory(bytes(mutant), "mutant")
        try:
            for member in read_members(block):
                window = MemberBlock(block, member, "member")
                window.read(max(0, window.size - 600), min(600, window.size))
                for _ in zip(window.extents(), range(1000), strict=False):
                    pass
        except HarnessError:
            refused += 1
    assert 0 < refused < 4000
    assert time.process_time() - started < 60
