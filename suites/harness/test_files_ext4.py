"""ext2/3/4 as read without mounting, against the source tree that mke2fs was given and against debugfs."""

from __future__ import annotations

import contextlib
import os
import random
import stat
import time
from pathlib import Path

import pytest

from harness.errors import DamagedImage, HarnessError, MissingFile, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.ext4 import Ext4
from harness.images.filesystems.files import Files, Mount, open_files
from harness.images.filesystems.inodes import KINDS
from harness.images.formats.raw import FileBlock
from harness.tools import run

SHAPES = {
    "ext4-4k": ["-t", "ext4", "-b", "4096"],
    "ext4-1k": ["-t", "ext4", "-b", "1024"],
    "ext4-inline": ["-t", "ext4", "-O", "inline_data"],
    "ext4-meta_bg": ["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode"],
    "ext4-bigalloc": ["-t", "ext4", "-O", "bigalloc"],
    "ext4-wide": ["-t", "ext4", "-O", "64bit", "-I", "512", "-g", "2048", "-b", "1024"],
    "ext3-1k": ["-t", "ext3", "-b", "1024"],
    "ext2-1k": ["-t", "ext2", "-b", "1024"],
    "ext2-small-inodes": ["-t", "ext2", "-b", "4096", "-I", "128"],
    "ext2-no-filetype": ["-t", "ext2", "-b", "1024", "-O", "^filetype"],
}
LONG_TARGET = "/".join(["a-rather-long-part"] * 20)
MUTATIONS = 150


def plant(root: Path) -> Path:
    """A tree with every kind of trouble."""
    rng = random.Random(7)
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("root:x:0:0\n")
    (root / "etc/passwd").chmod(0o4641)
    os.chown(root / "etc/passwd", 70000, 1234567)
    os.utime(root / "etc/passwd", ns=(0, 1_234_567_890_123_456_789))
    (root / "empty").touch()
    (root / "tiny").write_bytes(b"fits into an inode " * 6)
    (root / "big").write_bytes(rng.randbytes(5_000_001))
    with (root / "sparse").open("wb") as file:
        for offset in (0, 300_000, 9_000_000):
            file.seek(offset)
            file.write(rng.randbytes(5000))
        file.seek(19_999_999)
        file.write(b"!")
    (root / "short-link").symlink_to("etc/passwd")
    (root / "sixty").symlink_to("x" * 60)
    (root / "fifty-nine").symlink_to("x" * 59)
    (root / "long-link").symlink_to(LONG_TARGET)
    os.link(root / "big", root / "etc/big-again")
    (root / "many").mkdir()
    for number in range(3000):
        (root / "many" / f"file-with-a-name-of-some-length-{number:04}").touch()
    deep = root
    for number in range(60):
        deep /= f"level-{number}"
        deep.mkdir()
    (deep / "ground").write_text("here")
    (root / "umläut \u2603").write_text("snow")
    (root / os.fsdecode(b"not-\xff-utf8")).write_text("bytes")
    os.setxattr(root / "etc/passwd", "user.small", b"value")
    os.setxattr(root / "big", "user.large", b"v" * 600)
    if os.geteuid() == 0:
        os.mkfifo(root / "fifo", 0o600)
        os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.mknod(root / "far", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
    (root / "sticky").mkdir()
    (root / "sticky").chmod(0o1777)
    return root


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("ext4") / "source")


def made(source: Path, target: Path, arguments: list[str], size: str = "64M") -> Path:
    run(["mke2fs", "-q", "-F", "-L", "sample", *arguments, "-d", str(source), str(target), size])
    return target


@pytest.fixture(scope="module", params=SHAPES)
def sample(request: pytest.FixtureRequest, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(source, tmp_path_factory.mktemp("image") / f"{request.param}.img", SHAPES[request.param])


@pytest.fixture
def files(sample: Path) -> Files:
    return open_files(FileBlock(sample))


def paths_below(source: Path) -> list[str]:
    return sorted(
        "/" + str((Path(folder) / name).relative_to(source))
        for folder, folders, names in os.walk(source)
        for name in (*folders, *names)
    )


def test_the_walk_finds_exactly_the_names_of_the_source(files, source):
    found = {entry.path for entry in files.walk()} - {"/", "/lost+found"}
    assert sorted(found) == paths_below(source)


def test_every_entry_says_of_itself_what_the_source_says(files, source):
    entries = {entry.path: entry for entry in files.walk()}
    for path in paths_below(source):
        truth = os.lstat(source / path[1:])
        entry = entries[path]
        assert (entry.kind, entry.mode) == (KINDS[stat.S_IFMT(truth.st_mode)], stat.S_IMODE(truth.st_mode)), path
        assert (entry.uid, entry.gid, entry.mtime) == (truth.st_uid, truth.st_gid, truth.st_mtime_ns // 10**9), path
        if entry.kind in {"file", "symlink"}:
            assert (entry.size, entry.links) == (truth.st_size, truth.st_nlink), path
        if entry.kind == "symlink":
            assert entry.target == str((source / path[1:]).readlink()), path
        if entry.kind in {"character", "block"}:
            assert entry.device == (os.major(truth.st_rdev), os.minor(truth.st_rdev)), path


def test_every_file_has_the_bytes_of_the_source(files, source):
    for path in ("/big", "/etc/big-again", "/sparse", "/tiny", "/empty", "/umläut \u2603"):
        assert files.read(path) == (source / path[1:]).read_bytes(), path
    assert files.read("/sparse") == b"".join(files.chunks("/sparse", 1000))


def test_hard_links_share_an_inode(files):
    assert files.stat("/big").inode == files.stat("/etc/big-again").inode


def test_extended_attributes_are_read_from_inode_and_block(files):
    assert files.xattrs("/etc/passwd")["user.small"] == b"value"
    assert files.xattrs("/big")["user.large"] == b"v" * 600
    assert files.xattrs("/empty") == {}


def test_symlinks_are_followed_inside_the_image(files):
    assert files.read("/short-link") == b"root:x:0:0\n"
    assert files.stat("/short-link").kind == "symlink"
    assert files.stat("/short-link", follow=True).kind == "file"
    assert not files.exists("/long-link")


@pytest.mark.parametrize(
    "path,words",
    [
        ("/etc/passwort", ["no /etc/passwort", "did you mean /etc/passwd", "big-again"]),
        ("/many/file", ["/many holds file-with-a-name", "and 2988 more"]),
        ("/empty/under", ["/empty is a file, not a directory"]),
        ("relative", ["relative is not an absolute path"]),
    ],
)
def test_a_missing_path_says_what_is_there_instead(files, path, words):
    with pytest.raises(MissingFile) as caught:
        files.read(path)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_file_longer_than_the_limit_is_refused(files):
    with pytest.raises(UnsupportedImage, match="20,000,000 bytes"):
        files.read("/sparse", limit=10**6)


@pytest.mark.parametrize("shape", ["ext4-4k", "ext2-1k"])
def test_a_hole_at_the_end_reads_as_zeros(shape, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/holey").write_bytes(b"data")
    os.truncate(tmp_path / "source/holey", 3_000_000)
    image = made(tmp_path / "source", tmp_path / "h.img", SHAPES[shape])
    assert open_files(FileBlock(image)).read("/holey") == b"data".ljust(3_000_000, b"\0")


def test_the_immutable_flag_is_seen(source, tmp_path):
    image = made(source, tmp_path / "i.img", SHAPES["ext4-4k"])
    run(["debugfs", "-w", "-R", "sif / flags 0x80010", str(image)])
    files = open_files(FileBlock(image))
    assert files.stat("/").immutable
    assert not files.stat("/etc").immutable


def test_debugfs_dumps_the_same_bytes(source, tmp_path):
    image = made(source, tmp_path / "d.img", SHAPES["ext2-1k"])
    run(["debugfs", "-R", f"dump /sparse {tmp_path}/dumped", str(image)])
    assert open_files(FileBlock(image)).read("/sparse") == (tmp_path / "dumped").read_bytes()


def test_an_image_that_ends_early_is_told_as_damaged(source, tmp_path):
    image = made(source, tmp_path / "short.img", SHAPES["ext4-1k"])
    os.truncate(image, 3_000_000)
    with pytest.raises(DamagedImage, match=r"short\.img"):
        visit(FileBlock(image))


def test_an_unknown_incompatible_feature_is_refused(source, tmp_path):
    image = made(source, tmp_path / "f.img", SHAPES["ext4-1k"])
    run(["debugfs", "-w", "-R", "ssv feature_incompat 0x800002c2", str(image)])
    with pytest.raises(UnsupportedImage, match="0x80000000"):
        Ext4(FileBlock(image))


class Mutated:
    """A block with some bytes changed."""

    name = "mutated"

    def __init__(self, raw: bytes, changes: dict[int, int]) -> None:
        self._raw = bytearray(raw)
        for at, value in changes.items():
            self._raw[at] = value
        self.size = len(raw)

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset + length > self.size:
            raise DamagedImage("beyond the end", where=self.name)
        return bytes(self._raw[offset : offset + length])


def visit(block: Block) -> None:
    """Touch everything there is."""
    inodes = Ext4(block)
    files = Files({"/": Mount(inodes, inodes.root)})
    for entry in files.walk():
        if entry.kind == "file" and entry.size < 2**24:
            files.sha256(entry.path)
        files.xattrs(entry.path)


@pytest.mark.parametrize("shape", ["ext4-1k", "ext2-1k", "ext4-inline"])
def test_mutated_metadata_never_ends_in_anything_but_our_errors(shape, tmp_path):
    small = tmp_path / "small"
    (small / "a/b").mkdir(parents=True)
    (small / "a/file").write_bytes(bytes(range(256)) * 100)
    (small / "a/link").symlink_to("file")
    os.setxattr(small / "a/file", "user.x", b"y" * 200)
    raw = made(small, tmp_path / "m.img", [*SHAPES[shape], "-N", "64"], "1M").read_bytes()
    used = [at for at in range(1024, len(raw)) if raw[at]]
    rng = random.Random(shape)
    started = time.monotonic()
    for _ in range(MUTATIONS):
        changes = {rng.choice(used): rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256))) for _ in range(3)}
        with contextlib.suppress(HarnessError):
            visit(Mutated(raw, changes))
    assert time.monotonic() - started < 60


def test_a_walk_has_an_end_even_in_a_tree_that_has_none(files, monkeypatch):
    monkeypatch.setattr("harness.images.filesystems.files.MOST_WALKED", 3)
    with pytest.raises(UnsupportedImage, match="more than 3 files"):
        list(files.walk())
