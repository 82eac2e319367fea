"""squashfs as read without mounting, against the folder that mksquashfs was given and against unsquashfs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import DamagedImage, HarnessError, UnsupportedImage
from harness.images.filesystems.files import Files, Mount, open_files
from harness.images.filesystems.squashfs import Squashfs
from harness.images.formats.raw import FileBlock
from harness.tools import run
from suites.harness import odd_tree

SHAPES = {
    "gzip": ["-comp", "gzip"],
    "xz": ["-comp", "xz"],
    "xz-filtered": ["-comp", "xz", "-Xbcj", "x86", "-b", "1M"],
    "zstd": ["-comp", "zstd", "-Xcompression-level", "3"],
    "lz4": ["-comp", "lz4"],
    "lzo": ["-comp", "lzo", "-Xcompression-level", "1"],
    "lzma": ["-comp", "lzma"],
    "stored": ["-noI", "-noD", "-noF", "-noX"],
    "small-blocks": ["-b", "4096", "-comp", "zstd", "-Xcompression-level", "3"],
    "no-fragments": ["-no-fragments", "-comp", "lz4"],
    "all-fragments": ["-always-use-fragments", "-comp", "lz4"],
}
ROUNDS = 120
LONG = 0x1234567  # bytes of a file


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_tree.plant(tmp_path_factory.mktemp("squashfs") / "source")


def made(source: Path, target: Path, arguments: list[str]) -> Path:
    odd_tree.tool("mksquashfs")
    run(["mksquashfs", str(source), str(target), "-quiet", "-no-progress", *arguments])
    return target


@pytest.fixture(scope="module", params=SHAPES)
def sample(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(source, tmp_path_factory.mktemp("image") / f"{request.param}.img", SHAPES[request.param])


@pytest.fixture
def files(sample: Path) -> Iterator[Files]:
    with FileBlock(sample) as block:
        yield open_files(block)


def test_the_reading_is_the_source(files, source):
    odd_tree.assert_same(files, source)
    assert files.filesystem == "squashfs"


def test_extended_attributes_are_those_of_the_source(files, source):
    odd_tree.assert_same_attributes(files, source, spaces=("user.", "trusted.", "security."))


def test_hard_links_share_an_inode(files):
    assert files.stat("/words").inode == files.stat("/etc/words-again").inode


def test_a_file_comes_in_pieces_of_any_size(files, source):
    for size in (1000, 70_000):
        pieces = list(files.chunks("/words", size))
        assert b"".join(pieces) == (source / "words").read_bytes()
        assert max(map(len, pieces)) <= size


def test_unsquashfs_finds_the_same(source, tmp_path):
    odd_tree.tool("unsquashfs")
    image = made(source, tmp_path / "u.img", SHAPES["zstd"])
    run(["unsquashfs", "-quiet", "-no-progress", "-d", str(tmp_path / "out"), str(image)])
    with FileBlock(image) as block:
        files = open_files(block)
        odd_tree.assert_same(files, tmp_path / "out")
        odd_tree.assert_same_attributes(files, tmp_path / "out", spaces=("user.",))


def test_pseudo_files_are_read(source, tmp_path):
    pseudo = ["-p", "dev d 755 0 0", "-p", "dev/loop b 660 0 6 7 300", "-p", "dev/tty c 620 9 5 204 64"]
    with FileBlock(made(source, tmp_path / "p.img", pseudo)) as block:
        files = open_files(block)
        loop, tty = files.stat("/dev/loop"), files.stat("/dev/tty")
    assert (loop.kind, loop.mode, loop.gid, loop.device) == ("block", 0o660, 6, (7, 300))
    assert (tty.kind, tty.mode, tty.uid, tty.device) == ("character", 0o620, 9, (204, 64))


def test_times_are_unsigned(tmp_path):
    folder = tmp_path / "times"
    folder.mkdir()
    for seconds in (0, 2**31 - 1, 2**31, 2**32 - 1):
        (folder / str(seconds)).touch()
        os.utime(folder / str(seconds), (0, seconds))
    with FileBlock(made(folder, tmp_path / "t.img", [])) as block:
        files = open_files(block)
        assert {name: files.stat(f"/{name}").mtime for name in files.listdir()} == {
            name: int(name) for name in files.listdir()
        }


def test_an_image_that_ends_early_is_told_as_damaged(source, tmp_path):
    image = made(source, tmp_path / "short.img", SHAPES["gzip"])
    os.truncate(image, image.stat().st_size // 2)
    with FileBlock(image) as block, pytest.raises(DamagedImage, match=r"short\.img"):
        odd_tree.visit(Squashfs(block))


def test_an_unknown_compression_is_refused_by_name(source, tmp_path):
    raw = bytearray(made(source, tmp_path / "c.img", []).read_bytes())
    raw[20] = 9
    with pytest.raises(UnsupportedImage, match=r"unknown \(9\) compression"):
        odd_tree.visit(Squashfs(odd_tree.Mutated(bytes(raw), {})))


@pytest.mark.parametrize("shape", ["stored", "gzip", "zstd", "lz4", "lzo"])
def test_mutations_never_end_in_anything_but_our_errors(shape, tmp_path):
    source = odd_tree.small_tree(tmp_path / "small")
    raw = made(source, tmp_path / "m.img", SHAPES[shape]).read_bytes()
    odd_tree.visit(Squashfs(odd_tree.Mutated(raw, {})))
    odd_tree.fuzz(raw, Squashfs, seed=shape, rounds=ROUNDS)


def test_no_file_claims_more_than_can_be_told(tmp_path):
    """A file of 2^60 bytes is refused before anybody reads it."""
    (tmp_path / "source").mkdir()
    with (tmp_path / "source/big").open("wb") as file:
        file.truncate(LONG)
    raw = bytearray(made(tmp_path / "source", tmp_path / "b.img", SHAPES["stored"]).read_bytes())
    at = raw.index(LONG.to_bytes(8, "little"))
    raw[at : at + 8] = (2**60).to_bytes(8, "little")
    inodes = Squashfs(odd_tree.Mutated(bytes(raw), {}))
    files = Files({"/": Mount(inodes, inodes.root)})
    with pytest.raises(HarnessError, match="claims 1,152,921,504,606,846,976 bytes"):
        files.sha256("/big")
