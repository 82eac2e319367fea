"""What others make of an image with a layer added here: umoci, buildah and skopeo unpack the tree that was meant."""

import json
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as some

from harness.compose.delta import layered
from harness.compose.imagetree import read_tree
from harness.compose.layering import add_layer
from harness.compose.laying import lay_over
from harness.compose.ociarchive import copied_layout, pack
from harness.compose.ociimage import open_image
from harness.compose.overlay import read_overlays
from harness.compose.umoci import add_layer_by_umoci
from harness.containers.folder import FolderFiles
from harness.containers.images import LAYERED_NAME, busybox_images
from harness.containers.layout import write_layout
from harness.containers.storage import store_images
from harness.containers.verify import verify_storage
from harness.tools import known_tools, run
from suites.harness.small_image import EPOCH, overlay, small_layout, tree
from suites.harness.stored_images import PROGRAM, needs_store

needs_umoci = pytest.mark.skipif(known_tools()["umoci"].find() is None or bool(os.geteuid()), reason="no umoci as root")
WITHOUT_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)  # every step of it runs umoci
NAMES = some.text("ab.é -\n%", min_size=1, max_size=6).filter(lambda name: name not in {".", ".."})
LONG = some.sampled_from(["n" * 255, "m" * 101, "é" * 60])
CONTENTS = some.binary(max_size=20) | some.just(b"long" * 800)
MODES = some.sampled_from([0o644, 0o600, 0o755, 0o4755, 0o444, 0o1777])
XATTRS = some.dictionaries(some.sampled_from(["user.a", "user.b"]), some.binary(min_size=1, max_size=20), max_size=2)
FILES = some.tuples(some.just("file"), CONTENTS, MODES, some.integers(0, 2000), XATTRS)
LINKS = some.tuples(some.just("symlink"), some.sampled_from(["x", "/etc", "../" * 40 + "etc", "t" * 150]))
NODES = some.recursive(
    FILES | LINKS | some.just(("hardlink",)),
    lambda inner: some.dictionaries(NAMES | LONG, inner, max_size=4),
    max_leaves=8,
)
TREES = some.dictionaries(NAMES, NODES, min_size=1, max_size=4)


def grown(folder, nodes, first=None):
    """A tree on disk; a hard link leads to the file that came before it, or becomes an empty one."""
    first = [] if first is None else first
    for name, node in nodes.items():
        place = folder / name
        if isinstance(node, dict):
            place.mkdir()
            grown(place, node, first)
        elif node[0] == "file":
            _, content, mode, owner, xattrs = node
            place.write_bytes(content)
            for key, value in xattrs.items():
                os.setxattr(place, key, value)
            os.chown(place, owner, owner + 1)
            place.chmod(mode)
            first[:] = [place]
        elif node[0] == "symlink":
            place.symlink_to(node[1])
        elif first:
            place.hardlink_to(first[0])
        else:
            place.touch()
    return folder


def fitted(over, below):
    """Without what stands for a folder where a file is, or the other way round."""
    found = {}
    for name, node in over.items():
        other = below.get(name)
        if other is None or isinstance(node, dict) == isinstance(other, dict):
            found[name] = fitted(node, other) if isinstance(node, dict) and other is not None else node
    return found


def unpacked(layout, folder):
    run(["umoci", "unpack", "--image", f"{layout}:latest", folder])
    return tree(folder / "rootfs")


def laid(base, over, removed, folder):
    """The tree that is meant: by the plainest way there is, with a copy that keeps hard links."""
    run(["cp", "--archive", "--no-target-directory", base, folder])
    for path in removed:
        place = folder / path
        shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
    run(["cp", "--archive", "--remove-destination", "--no-target-directory", over, folder])
    return tree(folder)


@needs_umoci
@given(below=TREES, over=TREES, removing=some.integers(0, 3), by=some.sampled_from(["harness", "umoci"]))
@settings(max_examples=25, deadline=None, phases=WITHOUT_SHRINKING, suppress_health_check=list(HealthCheck))
def test_umoci_unpacks_the_tree_that_was_meant(below, over, removing, by):
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        (scratch / "below").mkdir()
        (scratch / "over").mkdir()
        grown(scratch / "below", below)
        grown(scratch / "over", fitted(over, below))
        removed = sorted({*below} - {*over})[:removing]
        layout = small_layout(scratch / "layout", layers=())
        add_layer(layout, read_overlays([scratch / "below"], as_is=True), EPOCH)
        if not (removed or any((scratch / "over").iterdir())):
            return
        expected = laid(scratch / "below", scratch / "over", removed, scratch / "meant")
        new = copied_layout(layout, scratch / "new")
        chosen = read_overlays([scratch / "over"], removed=removed, as_is=True)
        if by == "harness":
            add_layer(new, chosen, EPOCH)
            assert layered(layout, new).differences == ()
            found = unpacked(new, scratch / "bundle")
            assert found == expected
            assert {*read_tree(open_image(new))} == {*expected[0]}
        else:
            run(["cp", "--archive", "--no-target-directory", scratch / "below", scratch / "root"])
            lay_over(scratch / "root", chosen, EPOCH)
            assert tree(scratch / "root") == expected


TREE = {
    "etc/motd": b"changed\n",
    "var/lib/" + "long-" * 40 + "/" + "name-" * 45: b"long\n",
    "var/empty": None,
    "usr/bin/sh": "tool",
}


@needs_umoci
def test_both_ways_come_to_the_same_image(tmp_path):
    folder = overlay(tmp_path / "overlay", TREE)
    chosen = read_overlays([folder], removed=["var/old"])
    ours, theirs = (copied_layout(small_layout(tmp_path / by), tmp_path / f"{by}-new") for by in ("ours", "theirs"))
    add_layer(ours, chosen, EPOCH)
    add_layer_by_umoci(theirs, chosen, EPOCH, tmp_path)
    for new in (ours, theirs):
        unpacked(new, tmp_path / f"{new.name}-bundle")
    assert unpacked(ours, tmp_path / "ours-unpacked") == unpacked(theirs, tmp_path / "theirs-unpacked")


@needs_store
def test_a_store_filled_by_skopeo_is_whole_and_hides_what_was_removed(tmp_path):
    """The layer goes through containers/storage: files, whiteouts and all are what the tar says."""
    write_layout(tmp_path / "layout", [busybox_images(PROGRAM)[1]], EPOCH)
    folder = overlay(tmp_path / "overlay", {"var/lib/" + "long-" * 40 + "/x": b"long\n", "var/empty": None})
    tree_of = sorted(read_tree(open_image(tmp_path / "layout")))
    victim = next(path for path in tree_of if not any(other.startswith(f"{path}/") for other in tree_of))
    add_layer(tmp_path / "layout", read_overlays([folder], removed=[victim]), EPOCH)
    store_images(tmp_path / "layout", [LAYERED_NAME], tmp_path / "storage", EPOCH)
    report = verify_storage(FolderFiles(tmp_path), "/storage")
    assert report.problems == ()
    top = report.images[0].layers[-1].id
    hidden = (tmp_path / "storage/overlay" / top / "diff" / victim).lstat()
    assert (stat.S_ISCHR(hidden.st_mode), hidden.st_rdev) == (True, 0)


@needs_store
@pytest.mark.skipif(known_tools()["buildah"].find() is None, reason="buildah is not installed")
def test_buildah_shows_the_same_tree(tmp_path):
    folder = overlay(tmp_path / "overlay", TREE)
    (folder / "statoverride").write_text("=384 /etc/motd\n")
    layout = small_layout(tmp_path / "layout")
    add_layer(layout, read_overlays([folder], removed=["var/old"]), EPOCH)
    pack(layout, tmp_path / "new.ociarchive", EPOCH)
    store = ["--root", tmp_path / "root", "--runroot", tmp_path / "run", "--storage-driver", "vfs"]
    name = run(["buildah", *store, "from", f"oci-archive:{tmp_path}/new.ociarchive"]).decode().strip()
    mounted = run(["buildah", *store, "mount", name]).decode().strip()
    try:
        found, _ = tree(Path(mounted))
    finally:
        run(["buildah", *store, "umount", name])
        run(["buildah", *store, "rm", name])
    shown = {
        path: (oct(mode), content) for path, (kind, mode, _, _, content, _) in found.items() if content is not None
    }
    assert shown == {
        "bin": ("0o777", Path("usr/bin")),
        "etc/motd": ("0o600", b"changed\n"),
        "usr/bin/sh": ("0o777", Path("tool")),
        "usr/bin/tool": ("0o755", b"#!/bin/true\n" * 400),
        "var/lib/" + "long-" * 40 + "/" + "name-" * 45: ("0o644", b"long\n"),
    }


def test_skopeo_reads_the_archive_and_finds_the_digests_it_was_told(tmp_path):
    layout = small_layout(tmp_path / "layout")
    added = add_layer(layout, read_overlays([overlay(tmp_path / "overlay", TREE)]), EPOCH)
    pack(layout, tmp_path / "new.ociarchive", EPOCH)
    told = json.loads(run(["skopeo", "inspect", f"oci-archive:{tmp_path}/new.ociarchive"]))
    assert (told["Digest"], told["Layers"][-1]) == (added.manifest, added.layer)
