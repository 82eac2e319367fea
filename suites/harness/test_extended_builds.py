"""Images added to a build: what meta.json then says, what is there already, and what a killed run leaves."""

import hashlib
import json

import pytest
from click.testing import CliRunner

from harness.commands.build import build
from harness.compose.builds import Build, Builds
from harness.errors import BadInput
from suites.harness.small_image import EPOCH

ARCH = "x86_64"


@pytest.fixture
def builds(tmp_path):
    (tmp_path / "x.ociarchive").write_bytes(b"x")
    found = Builds(tmp_path / "work/builds")
    made = Build("1.2.dev.0", "small", ARCH, "a/ref", "0" * 64, EPOCH, "1" * 64)
    found.add(made, tmp_path / "x.ociarchive", EPOCH)
    return found


def files(folder):
    """The files of a live ISO, by the names of meta.json."""
    named = {"live-iso": "reference-live.iso", "live-kernel": "vmlinuz", "live-initramfs": "initrd.img"}
    for name in named.values():
        (folder / name).write_bytes(name.encode())
    return {each: folder / name for each, name in named.items()}


def test_images_are_taken_over_and_told(builds, tmp_path):
    with builds.extending("1.2.dev.0", ARCH, "live") as give:
        give(files(tmp_path))
    place = builds.root / "1.2.dev.0" / ARCH
    images = builds.meta("1.2.dev.0", ARCH)["images"]
    assert {name: each["path"] for name, each in images.items()} == {
        "ostree": "small-1.2.dev.0-ostree.x86_64.ociarchive",
        "live-iso": "small-1.2.dev.0-live-iso.x86_64.iso",
        "live-kernel": "small-1.2.dev.0-live-kernel.x86_64",
        "live-initramfs": "small-1.2.dev.0-live-initramfs.x86_64.img",
    }
    for each in images.values():
        content = (place / each["path"]).read_bytes()
        assert (each["sha256"], each["size"]) == (hashlib.sha256(content).hexdigest(), len(content))
    assert sorted(path.name for path in place.iterdir()) == sorted(["meta.json", *(i["path"] for i in images.values())])


def test_meta_json_is_what_cosas_schema_asks_for(builds, corpus, tmp_path):
    from jsonschema import Draft7Validator

    schema = corpus / "cosa/meta-schema-v1.json"
    if not schema.is_file():
        pytest.skip("the corpus has no schema of cosa's")
    with builds.extending("1.2.dev.0", ARCH, "live") as give:
        give(files(tmp_path))
    validator = Draft7Validator(json.loads(schema.read_text()))
    assert [error.message for error in validator.iter_errors(builds.meta("1.2.dev.0", ARCH))] == []


def test_a_marker_says_that_an_image_is_being_built(builds):
    place = builds.root / "1.2.dev.0" / ARCH
    seen = []

    def build_nothing():
        with builds.extending("1.2.dev.0", ARCH, "metal") as give:
            seen.append((place / ".metal.building").exists())
            give({"metal": place / "no such image"})

    with pytest.raises(OSError, match="no such image"):
        build_nothing()
    assert seen == [True]
    assert sorted(path.name for path in place.iterdir()) == [
        "meta.json",
        "small-1.2.dev.0-ostree.x86_64.ociarchive",
    ]


def test_an_image_that_is_there_is_not_built_again(builds, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGE_HARNESS_STORE", str(tmp_path / "store"))
    with builds.extending("1.2.dev.0", ARCH, "live") as give:
        give(files(tmp_path))
    done = CliRunner().invoke(build, ["extend", "live", "-w", str(tmp_path / "work")], catch_exceptions=False)
    assert done.stdout == "live image already exists\n"


@pytest.mark.parametrize(
    "broken",
    [{}, {"images": {"ostree": {"path": "../x"}}}, {"images": 1}, {"images": {"ostree": {"path": "gone"}}}],
    ids=["empty", "leads out", "of another type", "not there"],
)
def test_a_build_without_its_commit_is_bad_input(builds, broken):
    (builds.root / "1.2.dev.0" / ARCH / "meta.json").write_text(json.dumps(broken))
    with pytest.raises(BadInput, match="has no ociarchive"):
        builds.commit("1.2.dev.0", ARCH)


def test_no_build_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match="has no builds"):
        Builds(tmp_path).newest()
