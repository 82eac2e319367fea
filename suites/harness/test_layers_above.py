"""Commits of container images with layers above theirs: what a layer adds is in it, what it removes is refused."""

import io
import json
import os
import tarfile

import pytest
from click.testing import CliRunner

from harness.commands.build import build
from harness.compose.base import read_base
from harness.compose.encapsulate import encapsulate
from harness.compose.layering import add_layer
from harness.compose.ociarchive import pack, unpack
from harness.compose.ociimage import open_image
from harness.compose.overlay import read_overlays
from harness.compose.unencapsulate import unencapsulate
from harness.errors import BadInput, DamagedArtifact
from harness.tools import known_tools, run
from suites.harness.small_image import EPOCH, overlay
from suites.harness.test_ostree_images import REF, committed, repo_of

pytestmark = pytest.mark.skipif(known_tools()["ostree"].find() is None, reason="ostree is not installed")
README = "usr/lib/dracut/modules.d/50ignition-conf-fcos/README.md"
LAYER = {"var/ybettan.txt": b"ybettan was here\n", "etc/motd": b"layered\n", README: b"of the layer\n"}


@pytest.fixture
def layout(tmp_path):
    """An image that encapsulates a small commit."""
    repo, _ = committed(tmp_path, "archive")
    (tmp_path / "encapsulated").mkdir()
    encapsulate(repo_of(repo), REF, tmp_path / "encapsulated")
    return tmp_path / "encapsulated"


def test_what_a_layer_adds_is_in_the_new_commit(layout, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGE_HARNESS_STORE", str(tmp_path / "store"))
    add_layer(layout, read_overlays([overlay(tmp_path / "layer", LAYER)]), EPOCH)
    pack(layout, tmp_path / "layered.ociarchive", EPOCH)
    overlay(tmp_path / "work/src/config/overlay.d/15fcos", {README: b"of the overlay\n"})
    arguments = ["ostree", tmp_path / "layered.ociarchive", "-w", tmp_path / "work", "--ref", REF, "--epoch", EPOCH]
    first = CliRunner().invoke(build, list(map(str, arguments)), catch_exceptions=False).stdout
    place = tmp_path / "work/builds/12.1.dev.0/x86_64"
    meta = json.loads((place / "meta.json").read_text())
    unpack(place / meta["images"]["ostree"]["path"], tmp_path / "unpacked")
    commit = unencapsulate(open_image(tmp_path / "unpacked"), tmp_path / "repo", ref="new").commit
    run(["ostree", "fsck", f"--repo={tmp_path}/repo"])
    paths = ("var/ybettan.txt", "usr/etc/motd", README)
    found = {path: run(["ostree", "cat", f"--repo={tmp_path}/repo", "new", f"/{path}"]) for path in paths}
    assert found == {
        "var/ybettan.txt": b"ybettan was here\n",
        "usr/etc/motd": b"layered\n",
        README: b"of the overlay\n",
    }
    assert f"commit    {commit}" in first
    again = CliRunner().invoke(build, list(map(str, arguments)), catch_exceptions=False).stdout
    assert again == "nothing changed since 12.1.dev.0\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_owners_of_a_layer_are_kept(layout, tmp_path):
    folder = overlay(tmp_path / "layer", {"var/home/core/note": b"mine\n"})
    os.chown(folder / "var/home/core/note", 1000, 1001)
    add_layer(layout, read_overlays([folder], as_is=True), EPOCH)
    base = read_base(layout, tmp_path)
    with tarfile.open(base.layers[0]) as tar:
        assert {member.name: (member.uid, member.gid) for member in tar if member.isfile()} == {
            "var/home/core/note": (1000, 1001)
        }


def test_a_layer_that_removes_something_is_refused(layout, tmp_path):
    add_layer(layout, read_overlays([overlay(tmp_path / "layer", {"var/x": b"x"})], removed=["usr/bin/again"]), EPOCH)
    with pytest.raises(BadInput, match=r"a layer removes 'usr/bin/again'"):
        read_base(layout, tmp_path)


@pytest.mark.parametrize("name", ["../outside", "/absolute", "usr/../../outside"])
def test_a_layer_that_leads_out_is_refused(layout, tmp_path, name, monkeypatch):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    monkeypatch.setattr("harness.compose.layers_above.unpacked_layer", lambda *_: iter([made.getvalue()]))
    add_layer(layout, read_overlays([overlay(tmp_path / "layer", {"var/x": b"x"})]), EPOCH)
    with pytest.raises(DamagedArtifact, match="has a member called"):
        read_base(layout, tmp_path)


def test_devices_in_a_layer_are_refused(layout, tmp_path, monkeypatch):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        device = tarfile.TarInfo("usr/device")
        device.type = tarfile.CHRTYPE
        tar.addfile(device)
    monkeypatch.setattr("harness.compose.layers_above.unpacked_layer", lambda *_: iter([made.getvalue()]))
    add_layer(layout, read_overlays([overlay(tmp_path / "layer", {"var/x": b"x"})]), EPOCH)
    with pytest.raises(BadInput, match="a layer has 'usr/device', a character"):
        read_base(layout, tmp_path)
