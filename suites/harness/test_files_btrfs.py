"""btrfs as read without mounting, against the folder that mkfs.btrfs was given and against btrfs restore."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import DamagedImage, HarnessError, UnsupportedImage
from harness.images.filesystems.btrfs import EMPTY, Btrfs
from harness.images.filesystems.files import Files, open_files
from harness.images.filesystems.inodes import KINDS
from harness.images.formats.compression import unpack
from harness.images.formats.raw import FileBlock
from harness.tools import run
from suites.harness import odd_tree

SHAPES = {
    "today": [],
    "small-nodes": ["-n", "4096"],
    "large-nodes": ["-n", "65536"],
    "mixed": ["-M"],
    "with-holes": ["-O", "^no-holes"],
    "single": ["-m", "single", "-d", "single", "--csum", "sha256"],
}
ROUNDS = 100


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_tree.plant(tmp_path_factory.mktemp("btrfs") / "source")


def made(source: Path, target: Path, arguments: list[str]) -> Path:
    odd_tree.tool("mkfs.btrfs")
    run(["mkfs.btrfs", "-q", "-L", "sample", *arguments, "--rootdir", str(source), str(target)])
    return target


@pytest.fixture(scope="module", params=SHAPES)
def sample(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(source, tmp_path_factory.mktemp("image") / f"{request.param}.img", SHAPES[request.param])


@pytest.fixture
def files(sample: Path) -> Iterator[Files]:
    with FileBlock(sample) as block:
        yield open_files(block)


def test_the_reading_is_the_source(files, source):
    odd_tree.assert_same(files, source, without=("device",))  # mkfs.btrfs 6.2 forgets them
    assert files.filesystem == "btrfs"


@pytest.fixture(scope="module")
def from_linux(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, Any]]]:
    """What Linux wrote, and what Linux says of it (samples/make_btrfs.py)."""
    folder = Path(__file__).with_name("samples")
    image = tmp_path_factory.mktemp("linux") / "btrfs.img"
    unpack(folder / "btrfs.img.zst", image, "zst")
    return image, json.loads((folder / "btrfs.json").read_text())


def test_the_reading_is_what_linux_says(from_linux):
    image, facts = from_linux
    with FileBlock(image) as block:
        files = open_files(block)
        found = {entry.path: entry for entry in files.walk()}
        assert sorted(found) == sorted(facts)
        for path, wanted in facts.items():
            entry = found[path]
            said = {
                "mode": entry.mode | next(kind for kind, name in KINDS.items() if name == entry.kind),
                "size": entry.size,
                "links": entry.links,
                "inode": entry.inode & (1 << 48) - 1,
                "mtime_ns": entry.mtime * 10**9 + entry.mtime_ns,
                "device": list(entry.device or (0, 0)),
                "target": entry.target,
                "sha256": files.sha256(path) if entry.kind == "file" else "",
                "attributes": {name: value.hex() for name, value in files.xattrs(path).items()},
            }
            if entry.inode & (1 << 48) - 1 == EMPTY:
                del said["mtime_ns"], wanted["mtime_ns"]  # Linux makes such a folder up when it is looked at
            assert said == wanted, path


def test_what_is_packed_comes_in_pieces_of_any_size(from_linux):
    with FileBlock(from_linux[0]) as block:
        files = open_files(block)
        for path in ("/zlib/several", "/lzo/several", "/zstd/several", "/zstd/inline"):
            whole = files.read(path)
            assert b"".join(files.chunks(path, 1000)) == whole
            assert b"".join(files.chunks(path, 70_000)) == whole


def test_the_immutable_flag_is_seen(from_linux):
    with FileBlock(from_linux[0]) as block:
        files = open_files(block)
        assert files.stat("/fixed").immutable
        assert not files.stat("/plain").immutable


def test_other_subvolumes_have_inode_numbers_of_their_own(from_linux):
    with FileBlock(from_linux[0]) as block:
        files = open_files(block)
        assert files.stat("/plain").inode != files.stat("/snapshot/plain").inode
        assert files.listdir("/snapshot/inner") == ()
        assert not files.exists("/outside")


def test_extended_attributes_are_those_of_the_source(files, source):
    odd_tree.assert_same_attributes(files, source, spaces=("user.", "trusted.", "security."))


def test_hard_links_share_an_inode(files):
    assert files.stat("/words").inode == files.stat("/etc/words-again").inode


def test_btrfs_restores_the_same(source, tmp_path):
    odd_tree.tool("btrfs")
    image = made(source, tmp_path / "r.img", [])
    (tmp_path / "out").mkdir()
    run(["btrfs", "restore", "--metadata", "--symlinks", "--xattr", str(image), str(tmp_path / "out")])
    with FileBlock(image) as block:
        restored = open_files(block)
        odd_tree.assert_same(
            restored, tmp_path / "out", without=("links", "mode", "mtime"), left_out=odd_tree.specials(restored)
        )
        assert restored.xattrs("/words")["user.large"] == os.getxattr(tmp_path / "out/words", "user.large")


def test_several_devices_are_refused(tmp_path):
    for name in ("one", "two"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**28)
    odd_tree.tool("mkfs.btrfs")
    run(["mkfs.btrfs", "-q", "-d", "raid0", str(tmp_path / "one"), str(tmp_path / "two")])
    with FileBlock(tmp_path / "one") as block, pytest.raises(UnsupportedImage, match="btrfs on 2 devices"):
        open_files(block)


@pytest.mark.parametrize(
    "at,value,words",
    [(189, 0x23, "features that we do not read: 0x2000"), (87, 0xFF, "no chunk holds"), (198, 0xFF, "255 levels")],
)
def test_a_strange_superblock_is_refused_in_words(at, value, words, from_linux):
    with pytest.raises(HarnessError, match=words):
        odd_tree.visit(Btrfs(odd_tree.Mutated(from_linux[0].read_bytes(), {65536 + at: value})))


def test_an_image_that_ends_early_is_told_as_damaged(from_linux, tmp_path):
    raw = from_linux[0].read_bytes()
    with pytest.raises(DamagedImage):
        odd_tree.visit(Btrfs(odd_tree.Mutated(raw, {}, size=15 * 2**20)))


@pytest.mark.parametrize("shape", ["small", "from linux"])
def test_mutations_never_end_in_anything_but_our_errors(shape, tmp_path, from_linux):
    image = from_linux[0]
    if shape == "small":
        image = made(odd_tree.small_tree(tmp_path / "small"), tmp_path / "m.img", ["-n", "4096"])
    raw = image.read_bytes()
    odd_tree.visit(Btrfs(odd_tree.Mutated(raw, {})))
    odd_tree.fuzz(raw, Btrfs, seed=shape, rounds=ROUNDS)
