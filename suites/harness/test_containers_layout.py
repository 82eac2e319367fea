"""OCI layouts: the same bytes from the same images, and what skopeo makes of them."""

import gzip
import hashlib
import io
import json
import os
import tarfile
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.containers.images import LAYERED_NAME, STATIC_NAME, busybox_images, checked_static, is_static
from harness.containers.layout import Image, LayerFile, layer_tar, stored_gzip, write_layout
from harness.errors import BadInput
from harness.tools import known_tools, run

EPOCH = 1_700_000_000
PROGRAM = b"\x7fELF\x02" + bytes(range(256)) * 400
# Whoever changes the format of layers, configs or manifests changes every reference image: say so in the changelog.
DIGEST_OF_LAYERED = "sha256:2d25d323f16f2c042eff1fb36f97fa3d7cdf27ade64b015a70c3c672e606c24b"


@pytest.fixture
def layout(tmp_path):
    folder = tmp_path / "layout"
    write_layout(folder, busybox_images(PROGRAM), EPOCH)
    return folder


def tree(folder):
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_layout_is_the_same_under_another_umask_time_zone_and_folder(layout, tmp_path, monkeypatch):
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(other)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    umask = os.umask(0o077)
    try:
        write_layout(other / "layout", busybox_images(PROGRAM), EPOCH)
    finally:
        os.umask(umask)
        monkeypatch.undo()
        time.tzset()
    assert tree(other / "layout") == tree(layout)


def test_digests_do_not_depend_on_this_host(tmp_path):
    _, layered = write_layout(tmp_path, busybox_images(PROGRAM), EPOCH)
    assert layered.manifest == DIGEST_OF_LAYERED


def test_another_epoch_gives_other_layers(tmp_path):
    first, second = (write_layout(tmp_path / str(epoch), busybox_images(PROGRAM), epoch)[0] for epoch in (1, 2))
    assert first.diff_ids != second.diff_ids


def test_every_blob_has_the_digest_and_size_it_is_named_by(layout):
    index = json.loads((layout / "index.json").read_bytes())
    blobs = layout / "blobs/sha256"
    waiting, seen = list(index["manifests"]), set()
    while waiting:
        descriptor = waiting.pop()
        data = (blobs / descriptor["digest"].removeprefix("sha256:")).read_bytes()
        assert (f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)) == (descriptor["digest"], descriptor["size"])
        seen.add(descriptor["digest"].removeprefix("sha256:"))
        if "manifest" in descriptor["mediaType"]:
            manifest = json.loads(data)
            waiting += [manifest["config"], *manifest["layers"]]
    assert seen == {path.name for path in blobs.iterdir()}


def test_diff_ids_are_those_of_the_unpacked_layers(tmp_path):
    for image in write_layout(tmp_path, busybox_images(PROGRAM), EPOCH):
        blobs = [tmp_path / "blobs/sha256" / digest.removeprefix("sha256:") for digest in image.layers]
        unpacked = [gzip.decompress(blob.read_bytes()) for blob in blobs]
        assert image.diff_ids == tuple(f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in unpacked)


@pytest.mark.skipif(known_tools()["skopeo"].find() is None, reason="skopeo is not installed")
@pytest.mark.parametrize("name, layers", [(STATIC_NAME, 1), (LAYERED_NAME, 4)])
def test_skopeo_reads_the_layout(layout, name, layers):
    seen = json.loads(run(["skopeo", "inspect", f"oci:.:{name}"], cwd=layout))
    config = json.loads(run(["skopeo", "inspect", "--config", f"oci:.:{name}"], cwd=layout))
    assert (seen["Architecture"], seen["Os"], len(seen["Layers"])) == ("amd64", "linux", layers)
    assert config["created"] == "2023-11-14T22:13:20Z"
    assert config["config"]["Entrypoint"]


def test_layered_image_has_a_layer_for_each_thing_that_layers_do():
    _, layered = busybox_images(PROGRAM)
    kinds = [{file.kind for file in layer} for layer in layered.layers]
    assert {"whiteout", "opaque"} <= kinds[2]
    assert {file.path for file in layered.layers[1]} & {file.path for file in layered.layers[3] if file.kind == "file"}


@given(st.binary(max_size=200_000))
def test_stored_gzip_is_gzip(data):
    assert gzip.decompress(stored_gzip(data)) == data


@pytest.mark.parametrize("size", [0, 0xFFFF - 1, 0xFFFF, 0xFFFF + 1, 2 * 0xFFFF])
def test_stored_gzip_at_the_edges_of_blocks(size):
    assert gzip.decompress(stored_gzip(bytes(size))) == bytes(size)


def test_layer_holds_what_was_stated():
    long_name = "etc/" + "ä" * 120
    files = (
        LayerFile("etc", "directory", mode=0o751, uid=3, gid=4),
        LayerFile(long_name, mode=0o4755, uid=1000, gid=1001, content=b"x"),
        LayerFile("etc/link", "symlink", target="../elsewhere"),
        LayerFile("etc/gone", "whiteout"),
        LayerFile("etc/new", "opaque", mode=0o700),
    )
    with tarfile.open(fileobj=io.BytesIO(layer_tar(files, EPOCH))) as tar:
        members = {member.name: member for member in tar}
    assert list(members) == ["etc", long_name, "etc/link", "etc/.wh.gone", "etc/new", "etc/new/.wh..wh..opq"]
    assert {member.mtime for member in members.values()} == {EPOCH}
    assert [(members[n].mode, members[n].uid, members[n].gid) for n in ("etc", long_name)] == [
        (0o751, 3, 4),
        (0o4755, 1000, 1001),
    ]
    assert members["etc/link"].linkname == "../elsewhere"


@pytest.mark.parametrize("path", ["/etc/motd", "../escape", "a/../../b", "", ".", "etc/.wh.motd"])
def test_paths_out_of_the_container_are_refused(path):
    with pytest.raises(BadInput, match="not a path inside a container"):
        layer_tar([LayerFile(path)], EPOCH)


def test_a_file_twice_in_one_layer_is_refused():
    with pytest.raises(BadInput, match="twice"):
        layer_tar([LayerFile("a"), LayerFile("./a")], EPOCH)


def test_two_images_of_one_name_are_refused(tmp_path):
    with pytest.raises(BadInput, match="same name"):
        write_layout(tmp_path, [Image("a:1", ()), Image("a:1", ())], EPOCH)


def test_a_program_that_needs_a_loader_is_refused():
    dynamic = bytearray(120)
    dynamic[:5], dynamic[32], dynamic[54], dynamic[56], dynamic[64] = b"\x7fELF\x02", 64, 56, 1, 3
    assert not is_static(bytes(dynamic))
    dynamic[64] = 1
    assert is_static(bytes(dynamic))
    with pytest.raises(BadInput, match="busybox: is not a statically linked"):
        checked_static(b"#!/bin/sh\n", "busybox")
