"""Builds as cosa keeps them: the seed's own example, a changed README in 50ignition-conf, ends up in a new build."""

import json

import pytest
from click.testing import CliRunner

from harness.commands.build import build
from harness.compose.builds import Build, Builds
from harness.compose.ociarchive import unpack
from harness.compose.ociimage import open_image
from harness.compose.ostreerepo import OstreeRepo
from harness.compose.unencapsulate import unencapsulate
from harness.containers.folder import FolderFiles
from harness.errors import BadInput
from harness.tools import known_tools, run
from suites.harness.small_image import EPOCH, overlay
from suites.harness.test_ostree_images import FILES, REF, committed

needs_ostree = pytest.mark.skipif(known_tools()["ostree"].find() is None, reason="ostree is not installed")
README = "usr/lib/dracut/modules.d/50ignition-conf-fcos/README.md"


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """A workdir with two overlays and overrides, and the repository of a base that has the README."""
    monkeypatch.setenv("IMAGE_HARNESS_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", str(EPOCH))
    repo, _ = committed(tmp_path, "archive", {**FILES, README: b"as Fedora has it\n"})
    config = tmp_path / "work/src/config/overlay.d"
    overlay(config / "05core", {README: b"lost\n", "etc/conf": b"core\n"})
    overlay(config / "15fcos", {README: b"as Fedora has it\nybettan was here\n"})
    overlay(tmp_path / "work/overrides/rootfs", {"etc/modules-load.d/kmm_ci_a.conf": b"kmm_ci_a\n"})
    (tmp_path / "qemu.qcow2").write_bytes(b"an image")
    return tmp_path / "work", repo


def built(workdir, repo, *options):
    image = workdir.parent / "qemu.qcow2"
    arguments = ["ostree", str(repo), "--workdir", str(workdir), "--image", f"qemu={image}", "--ref", REF, *options]
    return CliRunner().invoke(build, arguments, catch_exceptions=False).stdout


def commit_of(place, folder):
    """The commit's checksum and the content of its files that the overlays touch, out of a build's ociarchive."""
    meta = json.loads((place / "meta.json").read_text())
    unpack(place / meta["images"]["ostree"]["path"], folder / "layout")
    done = unencapsulate(open_image(folder / "layout"), folder / "repo", ref="new")
    run(["ostree", "fsck", f"--repo={folder}/repo"])
    paths = (README, "usr/etc/conf", "usr/etc/modules-load.d/kmm_ci_a.conf", "usr/etc/motd")
    found = {path: run(["ostree", "cat", f"--repo={folder}/repo", "new", f"/{path}"]) for path in paths}
    return done.commit, found


@needs_ostree
def test_a_changed_readme_is_in_the_new_build(workdir, tmp_path):
    work, repo = workdir
    said = built(work, repo)
    place = work / "builds/12.1.dev.0/x86_64"
    meta = json.loads((place / "meta.json").read_text())
    commit, found = commit_of(place, tmp_path)
    assert said.splitlines()[0] == "build     12.1.dev.0"
    assert (commit, (work / "builds/latest").readlink().name) == (meta["ostree-commit"], "12.1.dev.0")
    assert found == {
        README: b"as Fedora has it\nybettan was here\n",
        "usr/etc/conf": b"core\n",
        "usr/etc/modules-load.d/kmm_ci_a.conf": b"kmm_ci_a\n",
        "usr/etc/motd": b"hello\n",
    }
    assert sorted(path.name for path in place.iterdir()) == [
        "meta.json",
        "reference-12.1.dev.0-ostree.x86_64.ociarchive",
        "reference-12.1.dev.0-qemu.x86_64.qcow2",
    ]


@needs_ostree
def test_nothing_is_built_when_nothing_changed_unless_forced(workdir):
    work, repo = workdir
    built(work, repo)
    assert built(work, repo) == "nothing changed since 12.1.dev.0\n"
    assert built(work, repo, "--force").splitlines()[0] == "build     12.1.dev.1"
    (work / "overrides/rootfs/etc/modules-load.d/kmm_ci_a.conf").write_text("other\n")
    assert built(work, repo).splitlines()[0] == "build     12.1.dev.2"
    listed = json.loads((work / "builds/builds.json").read_text())
    ids = [(each["id"], each["arches"]) for each in listed["builds"]]
    assert ids == [(f"12.1.dev.{number}", ["x86_64"]) for number in (2, 1, 0)]
    assert listed["schema-version"] == "1.0.0"


@needs_ostree
def test_meta_json_is_what_cosas_schema_asks_for(workdir, corpus):
    from jsonschema import Draft7Validator

    work, repo = workdir
    built(work, repo)
    schema = corpus / "cosa/meta-schema-v1.json"
    if not schema.is_file():
        pytest.skip("the corpus has no schema of cosa's")
    validator = Draft7Validator(json.loads(schema.read_text()))
    meta = json.loads((work / "builds/latest/x86_64/meta.json").read_text())
    assert [error.message for error in validator.iter_errors(meta)] == []
    assert list(validator.iter_errors({**meta, "ostree-commit": 1})) != []


def small(number, folder):
    (folder / "x.ociarchive").write_bytes(b"x")
    return Build(f"1.{number}", "small", "x86_64", "ref", "0" * 64, EPOCH, "1" * 64), folder / "x.ociarchive"


def test_a_build_that_is_there_is_not_replaced(tmp_path):
    builds = Builds(tmp_path / "builds")
    builds.add(*small(1, tmp_path), EPOCH)
    before = (tmp_path / "builds/builds.json").read_bytes()
    with pytest.raises(BadInput, match="is there already"):
        builds.add(*small(1, tmp_path), EPOCH)
    assert (tmp_path / "builds/builds.json").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "builds").iterdir()) == ["1.1", "builds.json", "latest"]


@pytest.mark.parametrize("said", ["[]", "{", '{"builds":[{}]}', '{"builds":[{"id":"../x"}]}', '{"builds":["x"]}'])
def test_a_broken_list_is_bad_input(tmp_path, said):
    (tmp_path / "builds.json").write_text(said)
    with pytest.raises(BadInput, match=r"builds\.json"):
        Builds(tmp_path).ids()


def test_a_packed_image_is_told_with_what_is_in_it(tmp_path):
    import dataclasses
    import gzip
    import hashlib

    (tmp_path / "image.qcow2.gz").write_bytes(gzip.compress(b"an image", mtime=0))
    build_, archive = small(1, tmp_path)
    images = {"qemu": tmp_path / "image.qcow2.gz"}
    place = Builds(tmp_path / "builds").add(dataclasses.replace(build_, images=images), archive, EPOCH)
    meta = json.loads((place / "meta.json").read_text())
    assert meta["images"]["qemu"] == {
        "path": "small-1.1-qemu.x86_64.qcow2.gz",
        "sha256": hashlib.sha256((tmp_path / "image.qcow2.gz").read_bytes()).hexdigest(),
        "size": (tmp_path / "image.qcow2.gz").stat().st_size,
        "uncompressed-sha256": hashlib.sha256(b"an image").hexdigest(),
        "uncompressed-size": 8,
    }


@needs_ostree
def test_the_repository_of_a_build_is_read_by_its_only_ref(workdir):
    assert OstreeRepo(FolderFiles(workdir[1]), "/").only_ref() == REF
