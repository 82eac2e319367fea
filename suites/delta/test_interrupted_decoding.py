"""Whatever happens while a recipe is followed: the old file stays until the new one is whole, and nothing else does."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import signal
import stat
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from harness.delta import decode as decoding
from harness.delta.bases import BaseFile
from harness.delta.decode import decode, decode_container
from harness.delta.encode import Container, Encoded, encode_file
from harness.delta.errors import DamagedRecipe, WrongBase
from harness.delta.recipe import Identity, Recipe, open_recipe
from harness.errors import BadInput, DamagedImage, HarnessError
from harness.images.block import Memory
from harness.images.formats.raw import FileBlock
from suites.delta.decoding_child import HALF, OLD, rebuild
from suites.delta.made_recipes import NOISE

SOON = 60  # seconds
ORIGINAL = NOISE[: 5 * HALF // 2]
CONTENT = ORIGINAL[: 2 * HALF] + b"a little that is new" + ORIGINAL[2 * HALF :]
SHAPES = {"file": b"", "content of a container": b"plan", "container": b"halt"}  # where it halts, and the plan for it


@dataclass(frozen=True)
class Work:
    """A recipe with its base, and a folder of its own with the file that is to be replaced."""

    recipe: Path
    base: Path
    target: Path
    plan: bytes

    @property
    def wanted(self) -> bytes:
        return self.plan + CONTENT

    @property
    def left(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.target.parent.iterdir() if path.is_file()}

    def argv(self, what: str) -> list[str]:
        return [
            sys.executable,
            "-m",
            "suites.delta.decoding_child",
            *map(str, (self.recipe, self.base, self.target, what)),
        ]

    @contextmanager
    def halted(self):
        """A child in the middle of its work, the new file partly written."""
        argv = self.argv("" if self.plan == b"halt" else "halt")
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
            try:
                assert child.stdout.readline() == "half\n"
                assert self.target.read_bytes() == OLD
                assert sum(path.stat().st_size >= HALF for path in self.target.parent.rglob("*")) >= 1
                yield child
            finally:
                child.kill()

    def done(self, what: str = "", *, before: tuple[str, ...] = ()) -> dict:
        """What a child reports of the work."""
        done = subprocess.run([*before, *self.argv(what)], check=False, capture_output=True, text=True, timeout=SOON)
        assert not done.returncode, done.stderr
        return json.loads(done.stdout)


@cache
def encoded(plan: bytes) -> Encoded:
    whole = plan + CONTENT
    container = Container(plan, Identity(len(whole), hashlib.sha256(whole).hexdigest())) if plan else None
    return encode_file(Memory(CONTENT, "target"), [Memory(ORIGINAL, "base")], container=container, effort="fast")


def worked(folder: Path, plan: bytes) -> Work:
    work = Work(folder / "recipe", folder / "base", folder / "out" / "made", plan)
    work.base.write_bytes(ORIGINAL)
    encoded(plan).write(work.recipe)
    work.target.parent.mkdir()
    work.target.write_bytes(OLD)
    return work


@pytest.fixture(params=SHAPES)
def work(request, tmp_path):
    return worked(tmp_path, SHAPES[request.param])


@pytest.fixture(params=list(SHAPES)[:2])
def simple_work(request, tmp_path):
    return worked(tmp_path, SHAPES[request.param])


def follow(work: Work, target: Path | None = None, base: FileBlock | None = None) -> Identity:
    with open_recipe(work.recipe) as recipe, FileBlock(work.base) as file:
        return decode_container(recipe, [base or file], target or work.target, rebuild)


# -- stopped ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=lambda stop: stop.name)
def test_who_is_told_to_stop_leaves_nothing_but_the_old_file(work, stop):
    with work.halted() as child:
        child.send_signal(stop)
        child.wait(SOON)
    assert list(work.target.parent.iterdir()) == [work.target]
    assert work.left == {"made": OLD}


def test_who_is_killed_leaves_the_old_file_and_what_lies_beside_is_never_the_result(simple_work):
    with simple_work.halted() as child:
        child.kill()
        child.wait(SOON)
    assert simple_work.target.read_bytes() == OLD
    aside = [path for path in simple_work.target.parent.iterdir() if path != simple_work.target]
    assert {path.name[:6] for path in aside} == {".made."}
    follow(simple_work)
    assert simple_work.target.read_bytes() == simple_work.wanted
    for path in aside:
        assert path.is_dir() or simple_work.wanted != path.read_bytes()


@pytest.mark.nightly
def test_at_whatever_moment_it_is_killed_the_file_is_the_old_or_the_new_one(simple_work):
    chance, seen = random.Random(20261121), set()
    for _ in range(60):
        simple_work.target.write_bytes(OLD)
        with subprocess.Popen(simple_work.argv(""), stdout=subprocess.DEVNULL) as child:
            try:
                child.wait(chance.uniform(0.1, 0.7))
            except subprocess.TimeoutExpired:
                child.kill()
        seen.add(simple_work.target.read_bytes())
    assert seen <= {OLD, simple_work.wanted}


# -- changed under our hands ------------------------------------------------------------------------------------


def resumed(child: subprocess.Popen) -> dict:
    told, _ = child.communicate("go on\n", timeout=SOON)
    return json.loads(told)


def test_a_base_that_changes_meanwhile_never_gives_a_file(simple_work):
    with simple_work.halted() as child:
        with simple_work.base.open("r+b") as file:
            file.seek(2 * HALF)
            file.write(b"changed")
        told = resumed(child)
    assert told["error"].startswith("DamagedRecipe: ")
    assert "a base changed while it was read" in told["error"]
    assert simple_work.left == {"made": OLD}


def test_what_is_hashed_is_what_was_written_where_blocks_are_shared(simple_work, monkeypatch):
    """A base that is another file for as long as its blocks are shared, and itself again when anybody looks."""

    def share(source, offset, target, position, length):
        assert os.pwrite(target, bytes(length), position) == length
        return True

    monkeypatch.setattr(decoding, "share", share)
    with pytest.raises(DamagedRecipe, match="claims"):
        follow(simple_work)
    assert simple_work.left == {"made": OLD}


def test_a_base_that_shrinks_meanwhile_never_gives_a_file(simple_work):
    with simple_work.halted() as child:
        os.truncate(simple_work.base, HALF)
        told = resumed(child)
    assert "became shorter than" in told["error"]
    assert told["left"] == {"made": len(OLD)}


def test_a_base_that_shrank_since_it_was_opened_never_gives_a_file(simple_work):
    whole = Identity(len(ORIGINAL), hashlib.sha256(ORIGINAL).hexdigest())
    with open_recipe(simple_work.recipe) as recipe, FileBlock(simple_work.base) as base:
        os.truncate(simple_work.base, HALF + 5)
        with pytest.raises((WrongBase, DamagedImage)):
            decode(recipe, [base], simple_work.target)
        with pytest.raises((DamagedRecipe, DamagedImage)):
            decode(recipe, [BaseFile(base, whole)], simple_work.target)
    assert simple_work.left == {"made": OLD}


def test_a_recipe_that_shrinks_meanwhile_never_gives_a_file(simple_work):
    with open_recipe(simple_work.recipe) as recipe, FileBlock(simple_work.base) as base:
        os.truncate(simple_work.recipe, 300)
        with pytest.raises(DamagedRecipe, match="became shorter"):
            decode(recipe, [base], simple_work.target)
    assert simple_work.left == {"made": OLD}


def test_a_base_replaced_by_its_own_target_is_replaced_only_at_the_end(tmp_path):
    work = worked(tmp_path, b"")
    follow(work, work.base)
    assert work.base.read_bytes() == CONTENT
    with pytest.raises(WrongBase):
        follow(work, work.base)
    assert work.base.read_bytes() == CONTENT


def test_an_identity_that_is_not_true_never_gives_a_file(simple_work):
    other = Memory(bytes(reversed(ORIGINAL)), "other")
    claimed = BaseFile(other, Identity(len(ORIGINAL), hashlib.sha256(ORIGINAL).hexdigest()))
    with open_recipe(simple_work.recipe) as recipe, pytest.raises(DamagedRecipe):
        decode(recipe, [claimed], simple_work.target)
    assert simple_work.left == {"made": OLD}


# -- what cannot be read ----------------------------------------------------------------------------------------


def test_a_base_that_cannot_be_read_on_is_told(simple_work, monkeypatch):
    genuine = os.preadv

    def failing(descriptor, buffers, offset):
        if offset >= 2 * HALF:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return genuine(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(BadInput, match=r"base: cannot be read at [\d,]+: Input/output error"):
        follow(simple_work)
    assert simple_work.left == {"made": OLD}


def test_a_folder_is_neither_a_base_nor_a_recipe(simple_work, tmp_path):
    with pytest.raises(BadInput, match="directory"), open_recipe(tmp_path):
        pass
    with pytest.raises(BadInput, match="directory"), FileBlock(tmp_path) as folder:
        follow(simple_work, base=folder)
    assert simple_work.left == {"made": OLD}


# -- what cannot be written -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def mount(tmp_path_factory):
    """The start of a command line that may mount, seen by itself alone."""
    before = ("unshare", "--map-root-user", "--mount")
    place = str(tmp_path_factory.mktemp("mount"))
    try:
        argv = [*before, "mount", "-t", "tmpfs", "tmpfs", place]
        tried = subprocess.run(argv, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("needs unshare, which is not installed")
    if tried.returncode:
        pytest.skip(f"may not mount in a name space of its own: {tried.stderr.strip()}")
    return before


def test_a_full_disk_is_told_and_the_old_file_stays(work, mount):
    told = work.done("full", before=mount)
    assert told["error"].startswith("BadInput: ")
    assert "No space left on device" in told["error"]
    assert told["left"] == {"made": len(OLD)}


def test_a_file_that_may_not_grow_is_told_and_the_old_file_stays(work):
    told = work.done("too large")
    assert told["error"].startswith("BadInput: ")
    assert "cannot be written: File too large" in told["error"]
    assert told["left"] == {"made": len(OLD)}


def test_a_folder_that_may_not_be_written_to_is_told(work, mount):
    told = work.done("read-only", before=mount)
    assert told["error"].startswith("BadInput: ")
    assert "cannot be written: Read-only file system" in told["error"]
    assert told["left"] == {"made": len(OLD)}


def test_a_recipe_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="cannot be written"):
        encoded(b"").write(tmp_path / "file" / "recipe")


def test_a_folder_that_is_missing_is_made(simple_work, tmp_path):
    target = tmp_path / "new" / "folder" / "made"
    follow(simple_work, target)
    assert target.read_bytes() == simple_work.wanted


def test_a_place_that_is_no_file_is_refused_before_anything_is_read(simple_work, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for place in (tmp_path, tmp_path / "pipe", tmp_path / "link", Path("/dev/null")):
        with open_recipe(simple_work.recipe) as recipe, pytest.raises(BadInput, match="is no file"):
            decode_container(recipe, [], place, rebuild)
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("place", ["base/made", "x" * 250, "x" * 300, "loop"])
def test_a_place_where_nothing_can_lie_is_told(simple_work, tmp_path, place):
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(BadInput, match="cannot be written"):
        follow(simple_work, tmp_path / place / "made" if place == "loop" else tmp_path / place)
    assert simple_work.left == {"made": OLD}


@pytest.mark.parametrize("is_dangling", [False, True])
def test_a_link_is_replaced_and_not_followed(simple_work, tmp_path, is_dangling):
    link, behind = simple_work.target.with_name("link"), tmp_path / "behind"
    link.symlink_to(behind)
    if not is_dangling:
        behind.write_bytes(b"precious")
    follow(simple_work, link)
    assert (link.is_symlink(), link.read_bytes()) == (False, simple_work.wanted)
    assert not behind.exists() if is_dangling else behind.read_bytes() == b"precious"


# -- plans ------------------------------------------------------------------------------------------------------


def failing_rebuild(error: Exception, pieces: int):
    def rebuild(plan, content):
        yield from [b"piece"] * pieces
        raise error

    return rebuild


def refusing_rebuild(_plan, _content):
    raise DamagedImage("makes no sense", where="plan")


@pytest.mark.parametrize(
    "rebuild",
    [
        refusing_rebuild,
        failing_rebuild(DamagedImage("makes no sense"), 3),
        lambda *_: iter([b"something else"]),
        lambda *_: (bytes(2**20) for _ in range(2**20)),  # a TiB, of which little is taken
    ],
    ids=["refused at once", "refused later", "something else", "without end"],
)
def test_a_plan_that_cannot_be_followed_is_a_damaged_recipe(tmp_path, rebuild):
    work = worked(tmp_path, b"plan")
    with (
        open_recipe(work.recipe) as recipe,
        FileBlock(work.base) as base,
        pytest.raises(DamagedRecipe, match="rebuild"),
    ):
        decode_container(recipe, [base], work.target, rebuild)
    assert list(work.target.parent.iterdir()) == [work.target]
    assert work.left == {"made": OLD}


def test_every_error_is_one_line(simple_work):
    with pytest.raises(HarnessError) as found:
        follow(simple_work, Path("/dev/null"))
    assert "\n" not in str(found.value)


def test_a_flat_recipe_needs_no_rebuild(tmp_path):
    work = worked(tmp_path, b"")
    with FileBlock(work.base) as base:
        decode_container(Recipe(FileBlock(work.recipe)), [base], work.target, refusing_rebuild)
    assert work.left == {"made": CONTENT}
