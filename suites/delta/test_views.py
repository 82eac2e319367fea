"""What is seen in a base: the disk in a container, and the contents of the files in a squashfs."""

from __future__ import annotations

import gzip
import os
import random
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from harness.delta import contents
from harness.delta.bases import BaseFile
from harness.delta.decode import decode
from harness.delta.encode import Encoded, encode_file
from harness.delta.errors import WrongBase
from harness.delta.recipe import View, open_recipe
from harness.delta.views import kinds_of, viewed
from harness.errors import BadInput, DamagedImage, HarnessError, StoreError, UnsupportedImage
from harness.images.block import Memory
from harness.images.filesystems.files import open_files
from harness.images.formats.raw import FileBlock
from harness.tools import run
from suites.delta.made_containers import made as made_container
from suites.harness import odd_tree
from suites.harness.small_live_iso import cpio, live_files, small_live_iso

SHAPES = {
    "gzip": ["-comp", "gzip"],
    "xz": ["-comp", "xz", "-Xbcj", "x86", "-b", "1M"],
    "zstd": ["-comp", "zstd", "-Xcompression-level", "3"],
    "stored": ["-noI", "-noD", "-noF", "-noX"],
    "small-blocks": ["-b", "4096", "-comp", "gzip"],
    "no-fragments": ["-no-fragments", "-comp", "gzip"],
    "all-fragments": ["-always-use-fragments", "-comp", "gzip"],
}
BLOCK = 4096
NOISE = random.Random(5).randbytes(2**20)
TREES = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 4095, 4096, 4097, 131_071, 131_072, 131_073, 300_000]),
        st.sampled_from(["noise", "zeroes", "text", "half"]),
        st.sampled_from(["", "a/", "a/b/"]),
    ),
    max_size=12,
)


def squashed(source: Path, target: Path, shape: str = "zstd") -> Path:
    odd_tree.tool("mksquashfs")
    target.unlink(missing_ok=True)
    run(["mksquashfs", source, target, "-quiet", "-no-progress", *SHAPES[shape]])
    return target


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = odd_tree.plant(tmp_path_factory.mktemp("views") / "source")
    shutil.copyfile(root / "random", root / "etc/twice")
    shutil.copyfile(root / "umläut \u2603", root / "etc/small-twice")
    return root


@pytest.fixture(scope="module")
def squashfs(source, tmp_path_factory):
    return squashed(source, tmp_path_factory.mktemp("squashfs") / "root.squashfs")


@pytest.fixture(scope="module")
def rootfs(squashfs, tmp_path_factory):
    return written(tmp_path_factory.mktemp("rootfs") / "rootfs.img", archive_of(squashfs))


def archive_of(squashfs: Path) -> bytes:
    return cpio({"root.squashfs": squashfs.read_bytes(), "etc": b"", "etc/coreos-live-rootfs": b"1.2.3\n"})


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@contextmanager
def seen(path: Path, kind="files", **options):
    with FileBlock(path) as file, viewed(file, kind, **options) as view:
        yield view


def bytes_of(path: Path) -> bytes:
    with seen(path) as view:
        return view.read(0, view.size)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def expected(path: Path) -> bytes:
    """The view by the rule of docs/recipe.md, from what the reader of files tells.

    What the reader calls an inode is its place in the inode table.
    """
    with FileBlock(path) as file:
        files = open_files(file)
        inodes = files.mount("/").inodes
        found, names = {}, []
        for number, name in sorted({entry.inode: entry.path for entry in files.walk()}.items()):
            inode = inodes._raw[number]
            if inode.content:
                place = (inode.content.start, inode.public.size, inode.content.fragment, inode.content.offset)
                found.setdefault(place, padded(files.read(name)))
            elif inode.listing and inode.public.size > 3:
                names += inodes.listing(*inode.listing, inode.public.size - 3)
    return b"".join(found.values()) + padded(b"".join(names))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_files_of_a_squashfs_are_seen_in_the_order_of_its_inodes(shape, source, tmp_path):
    image = squashed(source, tmp_path / "root.squashfs", shape)
    assert bytes_of(image) == expected(image)


def test_the_contents_are_those_that_were_packed(source, squashfs):
    view = bytes_of(squashfs)
    blocks = {view[at : at + BLOCK] for at in range(0, len(view), BLOCK)}
    files = [path for path in source.rglob("*") if path.is_file() and not path.is_symlink()]
    missing = [
        path
        for path in files
        for at in range(0, path.stat().st_size, BLOCK)
        if padded(path.read_bytes()[at : at + BLOCK]) not in blocks
    ]
    assert len(files) > 1000
    assert missing == []


def test_names_can_be_found_behind_the_contents(squashfs):
    assert b"file-with-a-name-of-some-length-0777" in bytes_of(squashfs)[-(2**18) :]


def test_the_same_is_seen_in_an_archive_and_in_an_iso(squashfs, rootfs, tmp_path):
    iso = small_live_iso(tmp_path, live_files() | {"images/pxeboot/rootfs.img": rootfs.read_bytes()})
    assert bytes_of(rootfs) == bytes_of(iso) == bytes_of(squashfs)


def test_holes_take_no_room(tmp_path):
    (tmp_path / "source").mkdir()
    with (tmp_path / "source/large").open("wb") as file:
        file.write(NOISE[:5000])
        file.truncate(2**28)
        file.seek(2**27)
        file.write(NOISE[:5000])
    with seen(squashed(tmp_path / "source", tmp_path / "holes.squashfs")) as view:
        assert view.size == 2**28 + BLOCK
        assert view.path.stat().st_blocks * 512 < 2**20
        assert sum(length for _, length, kind in view.extents() if kind == "data") < 2**20


@settings(max_examples=6)
@given(TREES, st.sampled_from(["gzip", "no-fragments", "small-blocks"]))
def test_any_files_are_seen_by_the_rule(tmp_path_factory, tree, shape):
    source = tmp_path_factory.mktemp("any") / "source"
    source.mkdir()
    for number, (size, kind, folder) in enumerate(tree):
        path = source / f"{folder}{number:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = NOISE[number % 3 * 1000 :][:size]
        path.write_bytes({"noise": noise, "zeroes": bytes(size), "half": noise[: size // 2] + bytes(size - size // 2),
                          "text": (b"line %d\n" % number * size)[:size]}[kind])  # fmt: skip
    image = squashed(source, source.parent / "any.squashfs", shape)
    assert bytes_of(image) == expected(image)
    shutil.rmtree(source.parent)


def test_a_disk_of_the_same_files_needs_a_small_recipe(source, rootfs, tmp_path):
    """ext4 as mkfs makes it of the same folder: what is left is what only the filesystem knows."""
    disk, recipe = tmp_path / "root.raw", tmp_path / "recipe"
    with disk.open("wb") as file:
        file.truncate(64 * 2**20)
    run(["mkfs.ext4", "-q", "-d", source, disk])
    with FileBlock(disk) as target, FileBlock(rootfs) as base:
        size = encode_file(target, [BaseFile(base, view="files")]).write(recipe)
        with open_recipe(recipe) as opened:
            decode(opened, [base], tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == disk.read_bytes()
    assert size < 60_000 < sum(path.stat().st_size for path in source.rglob("*") if path.is_file()) // 30


def test_an_iso_is_made_of_the_archive_in_it(rootfs, tmp_path):
    """Files of an ISO lie on 2 KiB bounds, so that most of them are on no block's."""
    iso = small_live_iso(tmp_path, {"images/ahead": b"x" * 2048} | live_files() | {
        "images/pxeboot/rootfs.img": rootfs.read_bytes()
    })  # fmt: skip
    with FileBlock(iso) as target, FileBlock(rootfs) as base:
        assert encode_file(target, [base]).write(tmp_path / "recipe") < 8192
        with open_recipe(tmp_path / "recipe") as recipe:
            decode(recipe, [base], tmp_path / "made")
    assert (tmp_path / "made").read_bytes() == iso.read_bytes()


def test_a_disk_is_seen_in_a_container(tmp_path):
    packed = made_container(tmp_path, "vmdk stream", 3 * 2**20, seed=3)
    with seen(packed, "disk") as view:
        assert view.read(0, view.size) == (tmp_path / "disk.raw").read_bytes()


@pytest.mark.parametrize(
    "form, kinds",
    [("qcow2", []), ("qcow2 packed", ["disk"]), ("qcow2 packed by zstd", ["disk"]), ("vmdk stream", ["disk"]),
     ("vhd fixed", [])],
)  # fmt: skip
def test_a_container_is_worth_seeing_where_its_disk_is_not_found_in_its_bytes(form, kinds, tmp_path):
    assert kinds_of(made_container(tmp_path, form, 3 * 2**20, seed=3)) == kinds


def test_a_compressed_disk_is_worth_seeing_and_a_plain_one_is_not(tmp_path):
    disk = bytes(510) + b"\x55\xaa" + NOISE[:50_000]
    assert kinds_of(written(tmp_path / "disk.raw", disk)) == []
    assert kinds_of(written(tmp_path / "disk.raw.gz", gzip.compress(disk))) == ["disk"]


def test_files_are_worth_seeing_wherever_a_squashfs_is_found(squashfs, rootfs, tmp_path):
    iso = small_live_iso(tmp_path, live_files() | {"images/pxeboot/rootfs.img": rootfs.read_bytes()})
    assert [kinds_of(path) for path in (squashfs, rootfs, iso)] == [["files"]] * 3


@pytest.mark.parametrize(
    "content",
    [b"", b"text\n" * 1000, NOISE[:70_000], zstd.compress(cpio({"init": b"#!/bin/sh\n"})), cpio({"init": NOISE[:999]}),
     cpio({"root.erofs": NOISE[:9999]}), b"QFI\xfb" + NOISE[:5000], b"KDMV" + NOISE[:5000], cpio({"a": b"b"})[:130],
     b"\x1f\x8b\x08" + NOISE[:500]],
    ids=["empty", "text", "noise", "packed initramfs", "initramfs", "erofs", "qcow2", "vmdk", "archive", "gzip"],
)  # fmt: skip
def test_nothing_is_worth_seeing_in_other_or_damaged_files(content, tmp_path):
    assert kinds_of(written(tmp_path / "file", content)) == []


def test_a_file_that_is_not_there_is_told(tmp_path):
    with pytest.raises(BadInput, match="cannot be opened"):
        kinds_of(tmp_path / "nothing")


@pytest.mark.parametrize("content", [b"text\n" * 1000, cpio({"init": b"x"}), cpio({"root.erofs": NOISE[:9999]})])
def test_files_are_not_seen_where_there_is_no_squashfs(content, tmp_path):
    with pytest.raises(BadInput, match="holds no squashfs"), seen(written(tmp_path / "file", content)):
        pass


def test_nothing_is_seen_in_what_is_no_file():
    with pytest.raises(BadInput, match="is no file"), viewed(Memory(b"x", "memory"), "files"):
        pass


# -- what is hostile --------------------------------------------------------------------------------------------


@pytest.fixture
def untouched(tmp_path, monkeypatch):
    """A folder for temporary files, in which nothing may have been written."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(contents, "scratch_parent", lambda: str(folder))
    monkeypatch.setattr(os, "pwrite", lambda *_: pytest.fail("was unpacked"))
    return folder


def test_more_than_was_expected_is_refused_before_it_is_unpacked(squashfs, untouched):
    size = len(expected(squashfs))
    for kind, most in (("files", size - 1), ("files", 0), ("files", 2**16)):
        with pytest.raises(UnsupportedImage, match="too many to be seen"), seen(squashfs, kind, most=most):
            pass


def test_a_disk_may_not_be_larger_than_expected(tmp_path):
    packed = made_container(tmp_path, "vmdk stream", 3 * 2**20, seed=3)
    with pytest.raises(UnsupportedImage, match="more than 1,024 bytes"), seen(packed, "disk", most=1024):
        pass


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, untouched):
    """A gigabyte of zeroes in a file of a few kilobytes."""
    (tmp_path / "source").mkdir()
    with (tmp_path / "source/zeroes").open("wb") as file:
        file.write(b"x")
        file.truncate(2**30)
    image = squashed(tmp_path / "source", tmp_path / "bomb.squashfs", "xz")
    assert image.stat().st_size < 20_000
    with pytest.raises(UnsupportedImage, match="more than 536,870,912 bytes"), seen(image, most=2**29):
        pass


@pytest.mark.parametrize(
    "old, new, found",
    [
        ((0x1234567).to_bytes(8, "little"), (2**60).to_bytes(8, "little"), "impossibly many"),
        ((300_007).to_bytes(4, "little"), (300_008).to_bytes(4, "little"), "instead of 37,864"),
        ((54_321).to_bytes(4, "little"), (54_322).to_bytes(4, "little"), "outside its fragment"),
    ],
)
def test_a_file_that_claims_too_much_is_refused(old, new, found, tmp_path):
    folder = tmp_path / "source"
    folder.mkdir()
    with (folder / "large").open("wb") as file:
        file.truncate(0x1234567)
    (folder / "odd").write_bytes(NOISE[:300_007])
    (folder / "small").write_bytes(NOISE[:54_321])
    raw = squashed(folder, tmp_path / "claims.squashfs", "stored").read_bytes()
    assert raw.count(old) == 1
    with pytest.raises(DamagedImage, match=found), seen(written(tmp_path / "changed", raw.replace(old, new))):
        pass


def test_more_inodes_than_anybody_has_are_refused(squashfs, tmp_path):
    raw = bytearray(squashfs.read_bytes())
    raw[4:8] = b"\xff" * 4
    with pytest.raises(UnsupportedImage, match="4,294,967,295 inodes"), seen(written(tmp_path / "many", bytes(raw))):
        pass


@pytest.mark.parametrize("shape", ["stored", "gzip", "zstd", "small-blocks"])
def test_mutations_never_end_in_anything_but_our_errors(shape, tmp_path):
    raw = squashed(odd_tree.small_tree(tmp_path / "small"), tmp_path / "m.squashfs", shape).read_bytes()
    chance = random.Random(shape)
    for _ in range(60):
        changed = bytearray(raw)
        for _ in range(chance.choice([1, 1, 3, 20])):
            changed[chance.choice([chance.randrange(96), chance.randrange(len(raw))])] = chance.randrange(256)
        try:
            with seen(written(tmp_path / "changed", bytes(changed)), most=2**24) as view:
                assert view.size <= 2**24
        except HarnessError:
            continue


def test_a_file_that_ends_early_is_told_and_leaves_nothing(squashfs, tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(contents, "scratch_parent", lambda: str(tmp_path / "scratch"))
    raw = squashfs.read_bytes()
    inodes = int.from_bytes(raw[64:72], "little")
    for damaged in (raw[: len(raw) // 2], raw[:96] + bytes(inodes - 96) + raw[inodes:]):
        with pytest.raises(DamagedImage), seen(written(tmp_path / "short", damaged)):
            pass
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_disk_without_room_is_told_before_it_is_filled(squashfs, untouched, monkeypatch):
    monkeypatch.setattr(contents, "SPARE_DISK", 2**62)
    with pytest.raises(StoreError, match=r"no room to unpack its files, .* bytes"), seen(squashfs):
        pass


def test_a_disk_that_fills_up_is_told(squashfs, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreError, match="No space left on device"), seen(squashfs):
        pass


@pytest.mark.parametrize("more", [-BLOCK, BLOCK])
def test_a_recipe_that_lies_about_a_view_is_refused(more, rootfs, tmp_path):
    target = Memory(NOISE[:9000], "target")
    with FileBlock(rootfs) as base:
        encoded = encode_file(target, [BaseFile(base, view="files")], effort="fast")
        (told,) = encoded.header.bases
        lie = replace(told, view=View(told.view.size + more, told.view.sha256, "files"))
        Encoded(replace(encoded.header, bases=[lie]), encoded.sections).write(tmp_path / "recipe")
        with open_recipe(tmp_path / "recipe") as recipe, pytest.raises((WrongBase, UnsupportedImage)):
            decode(recipe, [base], tmp_path / "made")
    assert not (tmp_path / "made").exists()
