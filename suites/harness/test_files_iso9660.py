"""ISO 9660 as read without mounting, against the folder that xorriso or genisoimage was given, and against xorriso."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.filesystems.files import Files, Mount, open_files
from harness.images.filesystems.iso9660 import Iso9660
from harness.images.formats.raw import FileBlock
from suites.harness import odd_tree

XORRISO = ["xorriso", "-as", "mkisofs", "-quiet", "-R", "-V", "SAMPLE"]
SHAPES = {
    "xorriso": XORRISO,
    "xorriso-joliet": [*XORRISO, "-J", "-joliet-long"],
    "xorriso-attributes": ["xorriso", "-as", "mkisofs", "-quiet", "-R", "--xattr"],
    "xorriso-rockridge-1.12": ["xorriso", "-compliance", "new_rr", "-as", "mkisofs", "-quiet", "-R"],
    "genisoimage": ["genisoimage", "-quiet", "-R", "-V", "SAMPLE", "-input-charset", "utf-8"],
}
ROUNDS = 150


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_tree.plant(tmp_path_factory.mktemp("iso") / "source", longest=240)


def made(source: Path, target: Path, command: list[str]) -> Path:
    program = odd_tree.tool(command[0])
    subprocess.run([program, *command[1:], "-o", target, source], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module", params=SHAPES)
def sample(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(source, tmp_path_factory.mktemp("image") / f"{request.param}.iso", SHAPES[request.param])


@pytest.fixture
def files(sample: Path) -> Iterator[Files]:
    with FileBlock(sample) as block:
        yield open_files(block)


def test_the_reading_is_the_source(files, source):
    # genisoimage leaves the folder in which it put what was too deep, and cuts long targets off
    left_out = ("/rr_moved", f"/link-{len(odd_tree.LONG_TARGET)}") if "genisoimage" in files.name else ()
    odd_tree.assert_same(files, source, left_out=left_out)
    assert files.filesystem == "iso9660"


def test_attributes_are_those_of_the_source(source, tmp_path):
    with FileBlock(made(source, tmp_path / "a.iso", SHAPES["xorriso-attributes"])) as block:
        odd_tree.assert_same_attributes(open_files(block), source, spaces=("user.",))


@pytest.mark.parametrize("shape", ["xorriso-attributes", "xorriso-rockridge-1.12"])
def test_xorriso_extracts_the_same(shape, source, tmp_path):
    image = made(source, tmp_path / "x.iso", SHAPES[shape])
    command = [odd_tree.tool("xorriso"), "-osirrox", "on:auto_chmod_off", "-indev", image]
    subprocess.run([*command, "-extract", "/", tmp_path / "out"], check=True, capture_output=True)
    with FileBlock(image) as block:
        files = open_files(block)
        odd_tree.assert_same(files, tmp_path / "out", without=("links", "mtime"), left_out=odd_tree.specials(files))


def test_bsdtar_lists_the_same_names(source, tmp_path):
    image = made(source, tmp_path / "x.iso", SHAPES["xorriso"])
    listed = subprocess.run([odd_tree.tool("bsdtar"), "-tf", image], check=True, capture_output=True).stdout
    with FileBlock(image) as block:
        assert len(list(open_files(block).walk())) == len(listed.splitlines())


@pytest.fixture
def three(tmp_path: Path) -> Path:
    folder = tmp_path / "three"
    (folder / "folder").mkdir(parents=True)
    (folder / "a.txt").write_bytes(b"a" * 2048)
    (folder / "b.txt").write_bytes(b"b" * 100)
    (folder / "Wide \u2603 name").write_text("joliet")
    return folder


def test_joliet_names_the_files_where_there_is_no_rock_ridge(three, tmp_path):
    with FileBlock(made(three, tmp_path / "j.iso", ["xorriso", "-as", "mkisofs", "-quiet", "--norock", "-J"])) as block:
        files = open_files(block)
        assert files.listdir() == ("Wide \u2603 name", "a.txt", "b.txt", "folder")
        assert files.read("/WIDE \u2603 NAME") == b"joliet"
        assert (files.stat("/folder").kind, files.stat("/b.txt").mode) == ("directory", 0o555)


def plain(three: Path, target: Path) -> Path:
    (three / "Wide \u2603 name").unlink()
    return made(three, target, ["xorriso", "-as", "mkisofs", "-quiet", "--norock"])


def test_plain_names_are_small_and_without_version(three, tmp_path):
    with FileBlock(plain(three, tmp_path / "p.iso")) as block:
        files = open_files(block)
        assert files.listdir() == ("a.txt", "b.txt", "folder")
        assert files.read("/A.TXT") == b"a" * 2048


def test_a_file_in_several_sections_is_one_file(three, tmp_path):
    """As files of more than 4 GiB are: here b.txt becomes the second section of a.txt."""
    raw = bytearray(plain(three, tmp_path / "p.iso").read_bytes())
    first, second = raw.index(b"A.TXT;1"), raw.index(b"B.TXT;1")
    raw[first - 33 + 25] |= 0x80
    raw[second : second + 1] = b"A"
    inodes = Iso9660(odd_tree.Mutated(bytes(raw), {}))
    files = Files({"/": Mount(inodes, inodes.root)})
    assert files.listdir() == ("a.txt", "folder")
    assert files.read("/a.txt") == b"a" * 2048 + b"b" * 100
    assert files.stat("/a.txt").size == 2148


def test_a_directory_inside_itself_is_refused(three, tmp_path):
    raw = bytearray(plain(three, tmp_path / "p.iso").read_bytes())
    at, root = raw.index(b"FOLDER") - 33, 32768 + 156
    raw[at + 2 : at + 18] = raw[root + 2 : root + 18]
    with pytest.raises(DamagedImage, match="has two names"):
        odd_tree.visit(Iso9660(odd_tree.Mutated(bytes(raw), {})))


def test_zisofs_is_refused_in_words(three, tmp_path):
    (three / "words").write_bytes(b"many words " * 9000)
    command = [odd_tree.tool("xorriso"), "-outdev", tmp_path / "z.iso", "-map", three, "/"]
    subprocess.run([*command, "-set_filter_r", "--zisofs", "/", "--", "-commit"], check=True, capture_output=True)
    with FileBlock(tmp_path / "z.iso") as block, pytest.raises(UnsupportedImage, match="packed by zisofs"):
        open_files(block).read("/words")


def test_an_image_that_ends_early_is_told_as_damaged(source, tmp_path):
    image = made(source, tmp_path / "short.iso", SHAPES["xorriso"])
    os.truncate(image, image.stat().st_size // 2)
    with FileBlock(image) as block, pytest.raises(DamagedImage, match=r"short\.iso"):
        odd_tree.visit(Iso9660(block))


@pytest.mark.parametrize("shape", ["xorriso-attributes", "genisoimage"])
def test_mutations_never_end_in_anything_but_our_errors(shape, tmp_path):
    raw = made(odd_tree.small_tree(tmp_path / "small"), tmp_path / "m.iso", SHAPES[shape]).read_bytes()
    odd_tree.visit(Iso9660(odd_tree.Mutated(raw, {})))
    odd_tree.fuzz(raw, Iso9660, seed=shape, rounds=ROUNDS)
