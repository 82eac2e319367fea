"""`harness containers verify`: of an image, a store, a system, a folder of images."""

import shutil
import subprocess
import sys

import pytest

from harness.containers.images import LAYERED_NAME, STATIC_NAME
from harness.tools import run
from suites.harness.stored_images import needs_store, small_store

pytestmark = needs_store


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def system(pristine, tmp_path):
    """The root of a system whose storage.conf names another place."""
    root = tmp_path / "root"
    (root / "etc/containers").mkdir(parents=True)
    (root / "etc/containers/storage.conf").write_text('[storage]\ngraphroot="/srv/images"\n')
    (root / "srv").mkdir()
    subprocess.run(["cp", "-a", pristine.root, root / "srv/images"], check=True)
    return root


def harness(*arguments):
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", "containers", "verify", *map(str, arguments)],
        capture_output=True,
        check=False,
        text=True,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_a_store_a_system_and_an_image_of_it_are_told_alike(pristine, system, tmp_path):
    image = tmp_path / "disk.raw"
    with image.open("wb") as file:
        file.truncate(32 * 2**20)
    run(["mke2fs", "-q", "-t", "ext4", "-d", system, image])
    said = [harness(target)[:2] for target in (pristine.root, system, image)]
    assert said == [(0, ["2 images, 4 layers, 153,600 bytes: no problems, no leftovers"])] * 3


def test_damage_is_told_and_fails(system, pristine):
    path = f"overlay/{pristine.top}/diff/srv/speak"
    (system / "srv/images" / path).chmod(0o644)
    (system / "srv/images/tmp/left").touch()
    assert harness(system)[:2] == (
        1,
        [
            f"problem  image {LAYERED_NAME}, layer {pristine.top[:12]}: {path} has mode 0644 instead of 0755",
            "leftover tmp/left was left by a run that was cut off",
            "2 images, 4 layers, 153,600 bytes: 1 problems, 1 leftovers",
        ],
    )


def test_a_list_is_compared_and_a_missing_image_fails(pristine, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(f"# of this test\n{STATIC_NAME}  \n\n{LAYERED_NAME} # and why\n")
    assert harness(pristine.root, "--list", listed)[:2] == (0, ["2 of 2 images complete"])
    listed.write_text(f"{STATIC_NAME}\nquay.io/a/b:1\n")
    code, lines, _ = harness(pristine.root, "--list", listed)
    assert code == 1
    assert lines[0] == "missing  quay.io/a/b:1: the store has no such image"
    assert lines[-1] == "1 of 2 images complete, 1 missing, 1 extra"


def test_a_folder_of_images_is_checked_blob_by_blob(pristine, tmp_path):
    layout = shutil.copytree(pristine.root.parent / "layout", tmp_path / "root/srv/layout")
    assert harness(layout)[0] == 0
    assert harness(tmp_path / "root", "--at", "srv/layout")[0] == 0
    (layout / "blobs/sha256/extra").touch()
    code, lines, _ = harness(layout)
    assert (code, lines[0]) == (1, "problem  blobs/sha256/extra belongs to no image here")
    assert lines[-1].endswith("bytes: 1 problems")


def test_a_list_that_is_none_and_a_list_for_a_folder_are_refused(pristine, tmp_path):
    listed = tmp_path / "list"
    listed.write_bytes(b"\xff")
    assert harness(pristine.root, "--list", listed)[0] == 2
    listed.write_text("x")
    assert harness(pristine.root.parent / "layout", "--list", listed)[0] == 2


def test_control_characters_of_a_store_do_not_reach_the_terminal(system):
    lists = system / "srv/images/overlay-images/images.json"
    lists.write_text(lists.read_text().replace(LAYERED_NAME, r"\u001b[2Jx"))
    (system / "srv/images/overlay-images" / "evil\x1b[2J").touch()
    listed = system / "list"
    listed.write_text("x:1")
    assert not [line for line in harness(system, "--list", listed)[1] if "\x1b" in line]
