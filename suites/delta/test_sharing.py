"""On a file system that can, an image made again shares the blocks of its base instead of copying them."""

import os
import subprocess

import pytest

from harness.delta.decode import decode
from harness.delta.encode import encode_file
from harness.delta.recipe import open_recipe
from harness.errors import HarnessError
from harness.images.block import Memory
from harness.images.formats.raw import FileBlock
from harness.tools import run
from suites.delta.made_recipes import noise

SIZE = 2**21


@pytest.fixture
def shelf(tmp_path):
    """A folder on a fresh XFS, which shares blocks; skips where nothing can be mounted."""
    disk, folder = tmp_path / "disk", tmp_path / "shelf"
    folder.mkdir()
    disk.touch()
    os.truncate(disk, 320 * 2**20)
    try:
        run(["mkfs.xfs", "-q", str(disk)])
        run(["mount", "-o", "loop", str(disk), str(folder)])
    except HarnessError as cause:
        pytest.skip(f"no XFS can be mounted here: {cause}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def taken(folder) -> int:
    """Bytes in use once everything is written."""
    os.sync()
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def made_on(folder, target: bytes, base: bytes) -> int:
    """Bytes that making `target` beside its base takes on the disk; what else there is lies elsewhere."""
    (folder / "base").write_bytes(base)
    path = folder.parent / "recipe"
    with FileBlock(folder / "base") as block:
        encode_file(Memory(target, "wanted"), [block]).write(path)
        before = taken(folder)
        with open_recipe(path) as recipe:
            decode(recipe, [block], folder / "made")
    assert (folder / "made").read_bytes() == target
    return taken(folder) - before


def test_blocks_are_shared_where_they_lie_on_bounds(shelf):
    base = noise(0, SIZE)
    target = base[: 2**20] + b"other platform".ljust(4096) + base[2**20 + 4096 :] + b"more"
    assert made_on(shelf, target, base) < SIZE // 4


def test_blocks_that_lie_elsewhere_are_copied(shelf):
    base = noise(0, SIZE)
    assert made_on(shelf, b"x" + base, base) >= SIZE


def test_a_base_on_another_file_system_is_copied(shelf, tmp_path):
    base = noise(0, SIZE)
    (tmp_path / "base").write_bytes(base)
    (tmp_path / "wanted").write_bytes(base + b"more")
    with FileBlock(tmp_path / "wanted") as wanted, FileBlock(tmp_path / "base") as block:
        encode_file(wanted, [block]).write(tmp_path / "recipe")
        with open_recipe(tmp_path / "recipe") as recipe:
            decode(recipe, [block], shelf / "made")
    assert (shelf / "made").read_bytes() == base + b"more"
