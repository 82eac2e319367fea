"""The manifest of a small CoreOS-shaped disk: what it says, and what it says of what is not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from harness.errors import BadInput
from harness.images.formats.raw import FileBlock
from harness.images.inspection import inspect
from harness.images.manifest import AlephFacts, DeploymentFacts, StoredImage, from_json, to_json
from harness.images.manifest_text import render
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image
from suites.harness.nobody import as_nobody
from suites.harness.small_disk import BOOT_CHECKSUM, COMMIT, IMAGES, small_disk, write


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return small_disk(tmp_path_factory.mktemp("manifest"))


@pytest.fixture(scope="module")
def manifest(image):
    with open_image(image) as opened:
        return inspect(opened)


def test_nothing_is_missing_from_a_complete_image(manifest):
    assert manifest.notes == []
    assert (manifest.hashes, manifest.container) == (None, None)


def test_disk_and_boot_are_told_in_full(manifest):
    assert manifest.layout.disk_guid == "00000000-0000-4000-a000-000000000001"
    assert [(p.label, p.filesystem.type) for p in manifest.layout.partitions] == [
        ("EFI-SYSTEM", "vfat"),
        ("boot", "ext4"),
        ("root", "ext4"),
    ]
    assert manifest.boot.default == "/loader/entries/ostree-1-small.conf"
    assert manifest.boot.kernel_version == "6.1"
    assert manifest.boot.console_commands == ["serial --speed=115200"]
    assert manifest.boot.platforms["qemu"].kernel_arguments == ["console=ttyS0"]
    assert manifest.ignition.stamp == "empty"


def test_the_system_is_told_in_full(manifest):
    system = manifest.system
    assert list(system.os_release) == ["NAME", "ID", "PRETTY_NAME", "VARIANT_ID", "OSTREE_VERSION"]
    assert system.kernels == ["6.1"]
    assert system.deployment == DeploymentFacts("small", COMMIT, 0, BOOT_CHECKSUM)
    fields = {"version": "1.2", "ref": "small/stable", "osbuild-version": "x"}
    links = {"/.coreos-aleph-version.json": ".aleph-version.json"}
    assert system.aleph == AlephFacts("/.aleph-version.json", "osbuild", fields, links)


def test_container_images_are_listed_by_name_and_digest(manifest):
    (stored,) = manifest.containers
    entry = IMAGES[0]
    assert stored == StoredImage("/var/lib/containers/storage", entry["id"], entry["digest"], entry["names"])


def test_json_gives_the_same_manifest_back(manifest):
    assert from_json(to_json(manifest)) == manifest
    assert to_json(from_json(to_json(manifest))) == to_json(manifest)


@pytest.mark.parametrize("raw", [b"", b"[]", b"\xff", b'{"schema": "2"}', b"[" * 100_000])
def test_what_is_no_manifest_is_refused_in_words(raw):
    with pytest.raises(BadInput, match="not a manifest of schema 1"):
        from_json(raw)


def test_the_text_names_what_matters_and_never_an_escape(manifest):
    text = render(manifest)
    for words in ("Small OS 1", f"small {COMMIT}.0", "console=ttyS0", "localhost/one:1", "50,331,648 bytes"):
        assert words in text
    assert all(line.isprintable() for line in text.splitlines())


def test_only_the_sections_asked_for_are_made(image):
    with open_image(image) as opened:
        manifest = inspect(opened, only=["hashes"])
        assert manifest.hashes.file_sha256 == manifest.hashes.disk_sha256 == opened.file_sha256()
    assert manifest.layout is manifest.boot is manifest.system is None


def test_an_unknown_section_is_refused(image):
    with open_image(image) as opened, pytest.raises(BadInput, match="no section colour"):
        inspect(opened, only=["colour"])


@pytest.mark.parametrize("label,gone", [("boot", {"boot", "ignition", "system", "containers"}), ("root", {"system"})])
def test_a_wiped_partition_becomes_a_note_and_not_a_failure(label, gone, tmp_path):
    image = small_disk(tmp_path)
    write(image, read_layout(FileBlock(image)).partition(label).start, bytes(2**20))
    with open_image(image) as opened:
        manifest = inspect(opened)
    assert manifest.layout is not None
    for section in gone:
        assert getattr(manifest, section) is None
        assert any(note.startswith(f"{section}: ") and label in note for note in manifest.notes), manifest.notes


def test_a_plain_image_lacks_the_aleph_and_says_so(tmp_path):
    with open_image(small_disk(tmp_path, ostree=False)) as opened:
        manifest = inspect(opened)
    assert manifest.system.deployment is None
    assert manifest.containers == []
    (note,) = manifest.notes
    assert note.startswith("system: ")
    assert "no aleph file" in note


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give up root")
def test_nobody_reads_an_image_in_full(image, manifest):
    with tempfile.TemporaryDirectory() as folder:  # pytest's own are closed to nobody
        Path(folder).chmod(0o755)
        copy = Path(shutil.copy(image, folder))
        copy.chmod(0o444)

        def inspected():
            with open_image(copy) as opened:
                return to_json(inspect(opened)).decode()

        assert from_json(as_nobody(inspected).encode()).layout == manifest.layout
