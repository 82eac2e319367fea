"""The system as it would run, put together from the partitions of a small CoreOS-shaped disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.formats.raw import FileBlock
from harness.images.partitions.layout import read_layout
from harness.images.system.tree import Deployment, SystemTree, open_system
from suites.harness.small_disk import BOOT_CHECKSUM, COMMIT, small_disk, write


def system(image: Path) -> SystemTree:
    return open_system(read_layout(FileBlock(image)))


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> SystemTree:
    return system(small_disk(tmp_path_factory.mktemp("ostree")))


def test_the_deployment_is_that_of_the_default_entry(tree):
    path = f"/ostree/deploy/small/deploy/{COMMIT}.0"
    assert tree.deployment == Deployment("small", COMMIT, 0, BOOT_CHECKSUM, path)


def test_every_part_shows_where_the_running_system_has_it(tree):
    assert tree.mount_points == ("/", "/boot", "/boot/efi", "/sysroot", "/var")
    assert tree.text("/etc/os-release").startswith("NAME=")
    assert tree.read("/var/lib/state") == b"kept"
    assert tree.exists("/boot/loader/entries/ostree-1-small.conf")
    assert tree.read("/boot/efi/EFI/BOOT/BOOTX64.EFI") == b"MZ"
    assert tree.exists("/sysroot/ostree/repo/config")


def test_absolute_symlinks_lead_to_the_deployment_and_not_to_the_physical_root(tree):
    assert tree.readlink("/home") == "var/home"
    assert tree.canonical("/home") == "/var/home"
    assert tree.canonical("/ostree/repo") == "/sysroot/ostree/repo"


def test_a_plain_image_has_no_deployment(tmp_path):
    plain = system(small_disk(tmp_path, ostree=False))
    assert plain.deployment is None
    assert plain.text("/etc/os-release").startswith("NAME=")
    assert plain.mount_points == ("/", "/boot", "/boot/efi")


@pytest.mark.parametrize(
    "path,words",
    [
        (f"/ostree/boot.1/small/{BOOT_CHECKSUM}/7", "which is not there"),
        ("/ostree/repo", "no deployment"),
        ("/../../../etc", "which is not there"),
    ],
)
def test_an_entry_that_boots_nothing_is_told_by_name(path, words, tmp_path):
    image = small_disk(tmp_path, ostree_karg=path)
    with pytest.raises(DamagedImage, match=words) as caught:
        system(image)
    assert "ostree-1-small.conf" in str(caught.value)


def test_an_encrypted_root_is_unsupported_in_words(tmp_path):
    image = small_disk(tmp_path)
    start = read_layout(FileBlock(image)).partition("root").start
    write(image, start, b"LUKS\xba\xbe\x00\x01" + bytes(4096))
    with pytest.raises(UnsupportedImage, match="crypto_LUKS"):
        system(image)
