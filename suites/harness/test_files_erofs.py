"""EROFS as read without mounting, against the folder that mkfs.erofs was given and against fsck.erofs."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.filesystems.erofs import Erofs
from harness.images.filesystems.files import Files, open_files
from harness.images.formats.raw import FileBlock
from harness.tools import run
from suites.harness import odd_tree

SHAPES = {
    "plain": [],
    "compact-inodes": ["-E", "force-inode-compact", "--force-uid=3", "--force-gid=4", "-T", "7"],
    "extended-inodes": ["-E", "force-inode-extended"],
    "no-inline": ["-E", "noinline_data"],
    "chunks": ["--chunksize", "4096"],
    "chunk-indexes": ["--chunksize", "65536", "-E", "force-chunk-indexes"],
    "lz4": ["-z", "lz4"],
    "lz4hc": ["-z", "lz4hc,12"],
    "big-clusters": ["-z", "lz4hc", "-C", "65536"],
    "inline-tails": ["-z", "lz4hc", "-C", "16384", "-E", "ztailpacking"],
    "one-block-tails": ["-z", "lz4", "-E", "ztailpacking"],
    "short-extents": ["-z", "lz4", "--max-extent-bytes", "8192"],
}
ROUNDS = 120


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_tree.plant(tmp_path_factory.mktemp("erofs") / "source", longest=254)  # mkfs.erofs 1.5 cuts off the 255th


def made(source: Path, target: Path, arguments: list[str]) -> Path:
    odd_tree.tool("mkfs.erofs")
    run(["mkfs.erofs", "--quiet", *arguments, str(target), str(source)])
    return target


@pytest.fixture(scope="module", params=SHAPES)
def sample(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(source, tmp_path_factory.mktemp("image") / f"{request.param}.img", SHAPES[request.param])


@pytest.fixture
def files(sample: Path) -> Iterator[Files]:
    with FileBlock(sample) as block:
        yield open_files(block)


def test_the_reading_is_the_source(files, source, sample):
    odd_tree.assert_same(files, source, without=("mtime", "uid", "gid") if sample.stem == "compact-inodes" else ())
    assert files.filesystem == "erofs"


def test_extended_attributes_are_those_of_the_source(files, source):
    odd_tree.assert_same_attributes(files, source, spaces=("user.", "trusted.", "security."))


def test_hard_links_share_an_inode(files):
    assert files.stat("/words").inode == files.stat("/etc/words-again").inode


def test_a_file_comes_in_pieces_of_any_size(files, source):
    for size in (1000, 70_000):
        pieces = list(files.chunks("/words", size))
        assert b"".join(pieces) == (source / "words").read_bytes()
        assert max(map(len, pieces)) <= size


@pytest.mark.parametrize("shape", ["plain", "chunks", "big-clusters", "inline-tails"])
def test_fsck_extracts_the_same(shape, source, tmp_path):
    odd_tree.tool("fsck.erofs")
    image = made(source, tmp_path / "f.img", SHAPES[shape])
    run(["fsck.erofs", f"--extract={tmp_path}/out", str(image)])
    with FileBlock(image) as block:
        odd_tree.assert_same(open_files(block), tmp_path / "out", without=("links", "mode"))  # it drops setuid


def test_times_have_nanoseconds_and_may_be_old_or_far(tmp_path):
    folder = tmp_path / "times"
    folder.mkdir()
    for seconds in (-2_000_000_000, 0, 2**31, 2**33):
        (folder / str(seconds)).touch()
        os.utime(folder / str(seconds), ns=(0, seconds * 10**9 + 7))
    with FileBlock(made(folder, tmp_path / "t.img", [])) as block:
        files = open_files(block)
        for name in files.listdir():
            found = (folder / name).stat().st_mtime_ns
            assert divmod(found, 10**9) == (files.stat(f"/{name}").mtime, files.stat(f"/{name}").mtime_ns), name


def test_compact_inodes_have_the_time_of_the_filesystem(source, tmp_path):
    image = made(source, tmp_path / "t.img", SHAPES["compact-inodes"])
    with FileBlock(image) as block:
        found = {(entry.mtime, entry.uid, entry.gid) for entry in open_files(block).walk()}
    assert found == {(7, 3, 4)}


def test_an_image_that_ends_early_is_told_as_damaged(source, tmp_path):
    image = made(source, tmp_path / "short.img", [])
    os.truncate(image, image.stat().st_size // 2)
    with FileBlock(image) as block, pytest.raises(DamagedImage, match=r"short\.img"):
        odd_tree.visit(Erofs(block))


@pytest.mark.parametrize(
    "arguments,at,value,words",
    [
        ([], 1024 + 80, b"\0\1\0\0", "features that we do not read: 0x100"),
        (["-z", "lz4", "-E", "legacy-compress"], 0, b"", "packed in a way that we do not read"),
    ],
    ids=["feature", "legacy packing"],
)
def test_what_is_not_read_is_refused_in_words(arguments, at, value, words, source, tmp_path):
    raw = bytearray(made(source, tmp_path / "u.img", arguments).read_bytes())
    raw[at : at + len(value)] = value
    with pytest.raises(UnsupportedImage, match=words):
        odd_tree.visit(Erofs(odd_tree.Mutated(bytes(raw), {})))


def test_content_on_another_device_is_refused(source, tmp_path):
    image = made(source, tmp_path / "b.img", ["--chunksize", "4096", "--blobdev", str(tmp_path / "blob")])
    with FileBlock(image) as block, pytest.raises(UnsupportedImage, match="another device"):
        odd_tree.visit(Erofs(block))


def test_an_unknown_codec_is_refused_by_name(source, tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "words").write_bytes(b"many words " * 4000)
    image = made(folder, tmp_path / "c.img", ["-z", "lz4"])
    raw = bytearray(image.read_bytes())
    with FileBlock(image) as block:
        inodes = Erofs(block)
        after = inodes._raw[inodes.entries(inodes.root)["words"]].after
    (raw[-(-after // 8) * 8 + 6],) = struct.pack("<B", 1)
    with pytest.raises(UnsupportedImage, match="its microlzma compression"):
        odd_tree.visit(Erofs(odd_tree.Mutated(bytes(raw), {})))


@pytest.mark.parametrize("shape", ["plain", "chunks", "lz4", "inline-tails"])
def test_mutations_never_end_in_anything_but_our_errors(shape, tmp_path):
    source = odd_tree.small_tree(tmp_path / "small")
    raw = made(source, tmp_path / "m.img", SHAPES[shape]).read_bytes()
    odd_tree.visit(Erofs(odd_tree.Mutated(raw, {})))
    odd_tree.fuzz(raw, Erofs, seed=shape, rounds=ROUNDS)
