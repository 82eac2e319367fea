"""Preloaded containers-storage: filled by skopeo, the same to the last attribute from every run."""

import errno
import io
import json
import os
import re
import stat
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path

import pytest

from harness.containers.images import LAYERED_NAME, STATIC_NAME, busybox_images
from harness.containers.layout import Image, LayerFile, write_layout
from harness.containers.storage import normalise, store_images
from harness.errors import BadInput, BuildFailed
from harness.tools import run
from suites.harness.nobody import as_nobody
from suites.harness.stored_images import EPOCH, PROGRAM, needs_store

NAMES = (STATIC_NAME, LAYERED_NAME)


pytestmark = needs_store


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    folder = tmp_path_factory.mktemp("layout")
    write_layout(folder, busybox_images(PROGRAM), EPOCH)
    return folder


@pytest.fixture(scope="module")
def storage(layout, tmp_path_factory):
    graphroot = tmp_path_factory.mktemp("first") / "storage"
    store_images(layout, NAMES, graphroot, EPOCH)
    return graphroot


def snapshot(graphroot):
    """Everything of a tree that a copy into an image keeps."""
    found = {}
    inside = (Path(at, name) for at, folders, files in os.walk(graphroot) for name in (*folders, *files))
    for path in (graphroot, *inside):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else path.is_symlink() and path.readlink()
        attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in listed(path)}
        owner, times = (status.st_uid, status.st_gid), status.st_mtime_ns
        found[path.relative_to(graphroot)] = (status.st_mode, owner, times, status.st_rdev, content, attributes)
    return found


def listed(path):
    try:
        return os.listxattr(path, follow_symlinks=False)
    except OSError as cause:
        if cause.errno != errno.ENOTSUP:
            raise
        return []


def tar_of(graphroot):
    """The tree as GNU tar sees it; `diff -r` cannot compare whiteouts."""
    keep = "--pax-option=exthdr.name=%d/x/%f,delete=atime,delete=ctime"
    what = ["--sort=name", "--xattrs", "--xattrs-include=*", "--numeric-owner", keep]
    return subprocess.run(["tar", "-C", graphroot, *what, "-cf", "-", "."], check=True, capture_output=True).stdout


def test_two_runs_give_the_same_store(layout, storage, tmp_path, monkeypatch):
    """Another folder with hostile characters, umask, time zone, working folder, locale and order of the images."""
    other = tmp_path / "a b,c:d[e]+f@g"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Pacific/Auckland")
    monkeypatch.setenv("LANG", "tr_TR.UTF-8")
    time.tzset()
    umask = os.umask(0o077)
    try:
        store_images(layout, NAMES[::-1], other, EPOCH)
    finally:
        os.umask(umask)
        monkeypatch.undo()
        time.tzset()
    assert snapshot(other) == snapshot(storage)
    assert tar_of(other) == tar_of(storage)


def test_nothing_is_left_mounted_and_no_scratch_is_left(layout, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    store_images(layout, NAMES[:1], tmp_path / "storage", EPOCH)
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()
    assert list(scratch.iterdir()) == []


def test_whiteouts_and_opaque_folders_are_what_native_overlay_wants(storage):
    whiteouts = [path for path in storage.glob("overlay/*/diff/srv/hidden") if path.is_char_device()]
    opaque = [path for path in storage.glob("overlay/*/diff/srv/emptied") if os.listxattr(path)]
    assert [path.stat().st_rdev for path in whiteouts] == [0]
    assert [(os.listxattr(path), os.getxattr(path, "trusted.overlay.opaque")) for path in opaque] == [
        (["trusted.overlay.opaque"], b"y")
    ]


def test_owners_and_modes_of_layers_are_kept(storage):
    (notes,) = storage.glob("overlay/*/diff/home/core/notes")
    status = notes.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1000, 1000, 0o600)
    assert status.st_mtime == EPOCH


def test_store_itself_belongs_to_root_alone(storage):
    folders = {"": storage, **{path.name: path for path in storage.iterdir() if path.is_dir()}}
    assert {name: oct(stat.S_IMODE(path.stat().st_mode)) for name, path in folders.items()} == dict.fromkeys(
        ["", "mounts", "overlay", "overlay-containers", "overlay-images", "overlay-layers", "tmp"], "0o700"
    )


def test_folders_above_a_store_are_open_whatever_the_umask(layout, tmp_path):
    umask = os.umask(0o077)
    try:
        store_images(layout, NAMES[:1], tmp_path / "var/lib/containers/storage", EPOCH)
    finally:
        os.umask(umask)
    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("var", "var/lib", "var/lib/containers")]
    assert modes == [0o755] * 3


def test_locks_are_kept_but_empty(storage):
    locks = {str(path.relative_to(storage)): path.stat().st_size for path in storage.rglob("*.lock")}
    assert locks == dict.fromkeys(
        [
            "overlay-containers/containers.lock",
            "overlay-images/images.lock",
            "overlay-layers/layers.lock",
            "storage.lock",
            "userns.lock",
        ],
        0,
    )


def test_layers_are_listed_parents_first_with_the_epoch_as_time(storage):
    layers = json.loads((storage / "overlay-layers/layers.json").read_text())
    ids = [layer["id"] for layer in layers]
    assert len(layers) == 4
    assert {layer["created"] for layer in layers} == {"2023-11-14T22:13:20Z"}
    assert all(ids.index(layer["parent"]) < number for number, layer in enumerate(layers) if "parent" in layer)


def test_folders_that_no_tar_header_describes_get_the_epoch(tmp_path):
    image = Image("localhost/deep:1", ((LayerFile("a/b/c", content=b"x"),),))
    write_layout(tmp_path / "layout", [image], 5)
    store_images(tmp_path / "layout", [image.name], tmp_path / "storage", EPOCH)
    (diff,) = tmp_path.glob("storage/overlay/*/diff")
    assert [int((diff / path).stat().st_mtime) for path in ("", "a", "a/b", "a/b/c")] == [EPOCH, EPOCH, EPOCH, 5]


def test_opaque_folders_marked_for_a_user_namespace_are_marked_for_root(storage, tmp_path):
    graphroot = tmp_path / "storage"
    subprocess.run(["cp", "-a", storage, graphroot], check=True)
    (emptied,) = (path for path in graphroot.glob("overlay/*/diff/srv/emptied") if listed(path))
    os.removexattr(emptied, "trusted.overlay.opaque")
    os.setxattr(emptied, "user.overlay.opaque", b"y")
    normalise(graphroot, EPOCH)
    assert os.listxattr(emptied) == ["trusted.overlay.opaque"]


def test_a_used_graphroot_is_refused(layout, storage):
    with pytest.raises(BadInput, match="is not empty"):
        store_images(layout, NAMES, storage, EPOCH)


def test_an_unknown_name_is_told_in_the_words_of_skopeo(layout, tmp_path):
    with pytest.raises(BuildFailed, match="no descriptor found"):
        store_images(layout, ["localhost/no/such:1"], tmp_path / "storage", EPOCH)


def test_without_root_an_image_of_one_owner_can_be_stored_and_others_are_refused_in_words(monkeypatch):
    images = {
        "simple": ((LayerFile("motd", content=b"x"),),),
        "owned": ((LayerFile("motd", uid=1000, content=b"x"),),),
        "opaque": ((LayerFile("etc", "opaque", mode=0o755),),),
    }
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to nobody
        folder = Path(name)
        monkeypatch.setattr("tempfile.tempdir", name)
        monkeypatch.setenv("HOME", name)
        write_layout(folder / "layout", [Image(f"localhost/{key}:1", layers) for key, layers in images.items()], EPOCH)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, 65534, 65534)
        if said := as_nobody(lambda: run(["unshare", "--map-root-user", "--mount", "true"]).decode()):
            pytest.skip(f"no user namespaces here: {said}")
        said = {
            key: as_nobody(lambda key=key: store_images(folder / "layout", [f"localhost/{key}:1"], folder / key, EPOCH))
            for key in images
        }
    assert said.pop("simple") == "None"
    for refused in said.values():
        assert re.fullmatch(r"BuildFailed: .*cannot be filled: .*\(build as root: only root can give .*\)", refused)


def test_tar_comparison_notices_what_it_must(storage, tmp_path):
    """The proof above is worth nothing if the tar did not hold attributes and devices."""
    with tarfile.open(fileobj=io.BytesIO(tar_of(storage))) as tar:
        members = tar.getmembers()
    assert [member.name for member in members if member.ischr()]
    assert [member for member in members if "SCHILY.xattr.trusted.overlay.opaque" in member.pax_headers]
