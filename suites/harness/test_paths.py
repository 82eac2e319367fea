"""Paths over one or several filesystems: nothing leads outside, and nothing runs for ever."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DamagedImage, MissingFile
from harness.images.filesystems.files import Files, Mount, shown
from harness.images.filesystems.inodes import Inode

NAMES = st.sampled_from(["a", "b", "c", "..", ".", ""])
PATHS = st.builds(lambda lead, parts: lead + "/".join(parts), st.sampled_from(["/", ""]), st.lists(NAMES, max_size=6))


class Memory:
    """A filesystem of dictionaries (directories), strings (symlinks) and bytes (files)."""

    filesystem, name, root, ignores_case = "memory", "memory", 0, False

    def __init__(self, tree: object) -> None:
        self.nodes = [tree]
        self.below: dict[int, dict[str, int]] = {}
        for number, node in enumerate(self.nodes):
            if isinstance(node, dict):
                first = len(self.nodes)
                self.below[number] = {name: first + index for index, name in enumerate(node)}
                self.nodes.extend(node.values())

    def inode(self, number: int) -> Inode:
        node = self.nodes[number]
        kind = "directory" if isinstance(node, dict) else "symlink" if isinstance(node, str) else "file"
        return Inode(number, kind, 0o644, 0, 0, 0, 0, 0, 1)

    def entries(self, number: int) -> Mapping[str, int]:
        return self.below[number]

    def target(self, number: int) -> str:
        return str(self.nodes[number])

    def chunks(self, number: int, size: int) -> Iterator[bytes]:
        del size
        yield self.nodes[number]

    def xattrs(self, number: int) -> Mapping[str, bytes]:
        del number
        return {}


def files_of(*trees: tuple[str, object]) -> Files:
    return Files({point: Mount(Memory(tree), 0) for point, tree in trees})


TREES = st.recursive(
    st.one_of(PATHS.filter(bool), st.just(b"content")),
    lambda child: st.dictionaries(st.sampled_from("abc"), child, max_size=3),
    max_leaves=12,
).filter(lambda tree: isinstance(tree, dict))


@given(TREES, TREES, PATHS)
def test_no_path_leaves_the_tree_or_hangs(tree, mounted, path):
    files = files_of(("/", tree), ("/b", mounted))
    try:
        found = files.canonical(path)
    except MissingFile:
        return
    assert found == posixpath.normpath(found)
    assert found in {entry.path for entry in files.walk()}
    assert files.stat(found).kind != "symlink"


@given(TREES)
def test_a_walk_names_every_path_once_and_stat_agrees(tree):
    files = files_of(("/", tree))
    seen = list(files.walk())
    assert len({entry.path for entry in seen}) == len(seen)
    assert [files.stat(entry.path) for entry in seen] == seen


def test_dots_stop_at_the_root():
    assert files_of(("/", {"a": {}})).canonical("/../../a/../../a") == "/a"


def test_an_absolute_target_starts_at_the_root_of_the_image():
    files = files_of(("/", {"etc": {"x": "/passwd"}, "passwd": b"inside"}))
    assert files.read("/etc/x") == b"inside"


def test_a_loop_of_symlinks_ends_in_words():
    files = files_of(("/", {"a": "b", "b": "a"}))
    assert not files.exists("/a")
    with pytest.raises(MissingFile, match="more than 40 symlinks"):
        files.read("/a")


def test_a_mount_hides_what_lies_under_it_and_shows_in_its_parent():
    files = files_of(("/", {"var": {"old": b""}, "boot": {}}), ("/var", {"new": b""}), ("/boot/efi", {}))
    assert files.listdir("/var") == ("new",)
    assert files.listdir("/boot") == ("efi",)
    assert files.canonical("/var/../var/new") == "/var/new"


def test_a_walk_may_stay_on_one_filesystem():
    files = files_of(("/", {"var": {}}), ("/var", {"new": b""}))
    assert [entry.path for entry in files.walk(across_mounts=False)] == ["/", "/var"]


def test_a_directory_with_two_names_is_damage_and_not_a_loop():
    memory = Memory({"a": {}})
    memory.below[1] = {"again": 1}
    with pytest.raises(DamagedImage, match="two names"):
        list(Files({"/": Mount(memory, 0)}).walk())


def test_names_from_an_image_cannot_steer_a_terminal():
    assert shown("\x1b[2J\udcff") == r"\x1b[2J\udcff"
