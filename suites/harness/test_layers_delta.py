"""The check of one layer more must be able to fail: whatever else differs is told by its place."""

import hashlib
import io
import json
import tarfile

import pytest

from harness.compose.delta import layered
from harness.compose.layering import add_layer
from harness.compose.ociarchive import copied_layout
from harness.compose.ociimage import blob_path, open_image
from harness.compose.overlay import read_overlays
from harness.containers.layout import stored_gzip
from suites.harness.small_image import EPOCH, overlay, small_layout

DIGEST = "sha256:" + "0" * 64


def rewritten(layout, *, config=str, manifest=str, index=str):
    """The layout's image with changed documents, and digests that fit them."""
    image = open_image(layout)
    documents = [image.config, image.manifest, image.index]
    config(documents[0])
    documents[1]["config"] |= stored(layout, documents[0])
    manifest(documents[1])
    documents[2]["manifests"][0] |= stored(layout, documents[1])
    index(documents[2])
    (layout / "index.json").write_text(json.dumps(documents[2]))


def stored(layout, document):
    data = document if isinstance(document, bytes) else json.dumps(document).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blob_path(layout, digest).write_bytes(data)
    return {"digest": digest, "size": len(data)}


def changed(key, value):
    return lambda document: document.__setitem__(key, value)


def another_top(layout):
    """A new layer whose one file is there twice."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("etc/x"))
    tar = out.getvalue()
    diff_id = f"sha256:{hashlib.sha256(tar).hexdigest()}"
    rewritten(
        layout,
        config=lambda config: config["rootfs"]["diff_ids"].__setitem__(-1, diff_id),
        manifest=lambda manifest: manifest["layers"][-1].update(stored(layout, stored_gzip(tar))),
    )


MUTANTS = {
    "created changed": (
        lambda new: rewritten(new, config=changed("created", "2026-01-01T00:00:00Z")),
        "config: created",
    ),
    "entrypoint": (lambda new: rewritten(new, config=changed("config", {})), "config: config"),
    "architecture": (lambda new: rewritten(new, config=changed("architecture", "arm64")), "config: architecture"),
    "a diff_id of the base": (
        lambda new: rewritten(new, config=lambda config: config["rootfs"]["diff_ids"].__setitem__(0, DIGEST)),
        "config: diff_ids: number 1",
    ),
    "the new diff_id": (
        lambda new: rewritten(new, config=lambda config: config["rootfs"]["diff_ids"].__setitem__(-1, DIGEST)),
        "the new layer",
    ),
    "history not longer": (
        lambda new: rewritten(new, config=lambda config: config["history"].pop()),
        "config: history: how many",
    ),
    "history changed": (
        lambda new: rewritten(new, config=lambda config: config["history"][0].update(created_by="x")),
        "config: history: number 1",
    ),
    "history empty": (
        lambda new: rewritten(new, config=lambda config: config["history"][-1].update(empty_layer=True)),
        "config: history that is not empty",
    ),
    "layers in another order": (
        lambda new: rewritten(new, manifest=lambda manifest: manifest["layers"].reverse()),
        "manifest: layers: number 1",
    ),
    "manifest annotated": (
        lambda new: rewritten(new, manifest=changed("annotations", {"x": "y"})),
        "manifest: annotations",
    ),
    "plain layer": (
        lambda new: rewritten(
            new,
            manifest=lambda manifest: manifest["layers"][-1].update(mediaType="application/vnd.oci.image.layer.v1.tar"),
        ),
        "manifest: type of the new layer",
    ),
    "another tag": (
        lambda new: rewritten(new, index=lambda index: index["manifests"][0]["annotations"].update(x="y")),
        "index: the image's entry: annotations",
    ),
    "an image more": (
        lambda new: rewritten(
            new, index=lambda index: index["manifests"].append({**index["manifests"][0], "annotations": {}})
        ),
        "index: manifests",
    ),
    "index annotated": (lambda new: rewritten(new, index=changed("annotations", {"x": "y"})), "index: annotations"),
    "a layer of the base lost": (
        lambda new: blob_path(new, open_image(new).layers[0].digest).unlink(),
        "blobs: blobs/sha256/{base}",
    ),
    "a blob too many": (lambda new: stored(new, b"more"), f"blobs: blobs/sha256/{hashlib.sha256(b'more').hexdigest()}"),
    "a file twice": (another_top, "the new layer: 'etc/x'"),
}


@pytest.fixture
def pair(tmp_path):
    base = small_layout(tmp_path / "base")
    new = copied_layout(base, tmp_path / "new")
    add_layer(new, read_overlays([overlay(tmp_path / "overlay", {"etc/x": b"x"})]), EPOCH)
    assert layered(base, new).differences == ()
    return base, new


@pytest.mark.parametrize("mutate, where", MUTANTS.values(), ids=MUTANTS.keys())
def test_whatever_else_differs_is_told(pair, mutate, where):
    base, new = pair
    mutate(new)
    lower = open_image(base).layers[0].hex
    found = [difference.where for difference in layered(base, new, tag="latest").differences]
    assert where.format(base=lower) in found
