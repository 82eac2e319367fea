"""Layers as programs of the world make them: GNU tar's forms, extended attributes, and what buildah builds in place."""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from harness.containers.folder import FolderFiles
from harness.containers.imagefolder import verify_folder
from harness.containers.images import LAYERED_NAME, busybox_images
from harness.containers.layout import Image, write_layout
from harness.containers.storage import store_images
from harness.containers.verify import verify_storage
from harness.tools import known_tools, run
from suites.harness.stored_images import EPOCH, PROGRAM, needs_store


@needs_store
@pytest.mark.parametrize("form", ["gnu", "pax", "ustar"])
def test_layers_as_gnu_tar_writes_them_have_no_problems(tmp_path, monkeypatch, form):
    """An entry for the root, hard links, long and undecodable names, set-user-id, a pipe, a device, attributes."""
    tree = tmp_path / "tree"
    deep = tree / "/".join(["a-folder-with-a-long-name" * 3] * (2 if form == "ustar" else 4))
    deep.mkdir(parents=True)
    (deep / "file").write_text("deep")
    (tree / "suid").write_text("x")
    (tree / "hard").hardlink_to(tree / "suid")
    (tree / "suid").chmod(0o4711)
    (tree / "sparse").write_bytes(bytes(100_000))
    Path(os.fsdecode(bytes(tree) + b"/latin-\xe9")).write_text("x")
    os.mkfifo(tree / "pipe", 0o640)
    os.mknod(tree / "null", 0o20666, os.makedev(1, 3))
    os.chown(tree / "suid", 70_000, 70_001)
    tree.chmod(0o751)
    report = stored(tree, tmp_path, monkeypatch, f"--format={form}")
    assert [str(problem) for problem in report.problems] == []


def stored(tree, tmp_path, monkeypatch, *options):
    """What is said of a store that holds one image of one layer, as GNU tar packs `tree`."""
    tar = subprocess.run(["tar", "-C", tree, *options, "-cf", "-", "."], check=True, capture_output=True)
    monkeypatch.setattr("harness.containers.layout.layer_tar", lambda *_: tar.stdout)
    write_layout(tmp_path / "layout", [Image("localhost/gnu:1", ((),))], EPOCH)
    store_images(tmp_path / "layout", ["localhost/gnu:1"], tmp_path / "storage", EPOCH)
    return verify_storage(FolderFiles(tmp_path / "storage"), "")


CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw, as ping has it


@needs_store
def test_extended_attributes_are_compared_with_the_tar(tmp_path, monkeypatch):
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, value in (("ping", CAPABILITY), ("other", CAPABILITY), ("plain", None)):
        (tree / name).write_text(name)
        if value:
            os.setxattr(tree / name, "security.capability", value)
            os.setxattr(tree / name, "user.note", b"\xff\0=\n")
    report = stored(tree, tmp_path, monkeypatch, "--format=pax", "--xattrs", "--xattrs-include=*")
    assert [str(problem) for problem in report.problems] == []
    (layer,) = report.images[0].layers
    diff = tmp_path / "storage/overlay" / layer.id / "diff"
    assert os.getxattr(diff / "ping", "security.capability") == CAPABILITY
    os.removexattr(diff / "ping", "security.capability")
    os.setxattr(diff / "other", "user.note", b"else")
    os.setxattr(diff / "plain", "security.selinux", b"system_u:object_r:container_file_t:s0")
    found = verify_storage(FolderFiles(tmp_path / "storage"), "").problems
    assert [(problem.path.rpartition("/")[2], problem.what) for problem in found] == [
        ("other", "has another user.note"),
        ("ping", "has lost its security.capability"),
    ]


BUILD = """
b="buildah --root $1/s --runroot $1/r --storage-driver overlay"
one=$($b from scratch)
top=$($b mount "$one")
mkdir -p "$top/a/b" "$top/gone/x" "$top/emptied"
echo 1 > "$top/a/b/file"; echo 2 > "$top/gone/x/y"; echo 3 > "$top/emptied/old"; ln "$top/a/b/file" "$top/hard"
chown 1000:1000 "$top/a"; mknod "$top/pipe" p; ln -s a/b "$top/link"
$b umount "$one"; $b commit -q "$one" localhost/one:1; $b rm "$one"
two=$($b from localhost/one:1)
top=$($b mount "$two")
rm -r "$top/gone" "$top/emptied" "$top/hard"; mkdir "$top/emptied"; echo 4 > "$top/emptied/new"; chmod 700 "$top/a/b"
$b umount "$two"; $b commit -q "$two" localhost/two:1
"""


@needs_store
@pytest.mark.skipif(known_tools()["buildah"].find() is None, reason="buildah is not installed")
def test_a_store_that_buildah_built_in_has_no_problems_whatever_it_works_on():
    """Layers made of overlayfs's own whiteouts and opaque folders, and one that a container still writes to."""
    with tempfile.TemporaryDirectory() as folder:
        run(["unshare", "--mount", "sh", "-eu", "-c", BUILD, "sh", folder], timeout=120)
        report = verify_storage(FolderFiles(Path(folder)), "/s")
        containers = json.loads((Path(folder) / "s/overlay-containers/containers.json").read_bytes())
    assert [str(problem) for problem in (*report.problems, *report.leftovers)] == []
    assert [(image.names, len(image.layers)) for image in report.images] == [
        (("localhost/one:1",), 1),
        (("localhost/two:1",), 2),
    ]
    assert len(containers) == 1


@needs_store
@pytest.mark.parametrize("packing", ["zstd", "zstd:chunked"])
def test_layers_in_zstd_are_judged_by_what_is_in_them(tmp_path, packing):
    """Where the tar in zstd:chunked lacks its end, as skopeo 1.9.3 leaves it, the image lies on other layers."""
    write_layout(tmp_path / "layout", busybox_images(PROGRAM), EPOCH)
    copy = ["skopeo", "--insecure-policy", "copy", "--quiet"]
    source = ["--dest-compress", "--dest-compress-format", packing, f"oci:{tmp_path}/layout:{LAYERED_NAME}"]
    run([*copy, *source, f"dir:{tmp_path}/packed"], timeout=60)
    with tempfile.TemporaryDirectory() as folder:
        target = f"containers-storage:[overlay@{folder}/s+{folder}/r]{LAYERED_NAME}"
        run(["unshare", "--mount", *copy, f"dir:{tmp_path}/packed", target], timeout=60)
        report = verify_storage(FolderFiles(Path(folder)), "/s")
    is_whole = not verify_folder(FolderFiles(tmp_path), "/packed").problems
    assert [(problem.image, problem.layer, problem.path) for problem in report.problems] == (
        [] if is_whole else [(LAYERED_NAME, "", "overlay-images/images.json")]
    )
    assert report.leftovers == ()
    assert is_whole or packing == "zstd:chunked"
