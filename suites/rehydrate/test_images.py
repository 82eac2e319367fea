"""Every image of a family comes back as it was, and is what its platform wants (facts C1 to C5).

`pytest suites/rehydrate --family DIR` judges a family of one's own; with none it is that of the reference image.
"""

import hashlib
import re

import pytest

from harness.errors import HarnessError
from harness.images.difference.explain import explain_difference
from harness.images.edits.platform import platform_of
from harness.images.edits.shapes import PLATFORMS
from harness.images.partitions.gpt import read_table
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image

SIBLING = 2**16  # bytes: more than a recipe takes whose image differs in boot entries and packing only
OTHER_INSTANCE = 1000  # times smaller than its disk is the recipe of another instance of the file systems
METAL4K = "metal4k.raw"
OF_A_PLATFORM = re.compile(r"/loader[.0-9]*/entries/[^/]+\.conf|/grub2/(console|grub)\.cfg")
TAR_RECORD = 10240  # bytes: tar files are padded to it
SECTOR = 512
STREAM = {
    "version": 3,
    "flags": "0x30003",
    "grain_size": 65536,
    "compressAlgorithm": "deflate",
    "createType": "streamOptimized",
    "adapterType": "lsilogic",
    "virtualHWVersion": "6",
    "uncleanShutdown": False,
}
WANTED = {
    "qcow2": {"version": 3, "cluster_size": 65536, "refcount_bits": 16, "backing_file": None, "snapshots": 0},
    "vmdk": STREAM,
    "ova": {
        "members": "coreos.ovf, disk.vmdk",
        "dialect": "ustar",
        "owner": "0/0",
        "disk": "disk.vmdk",
        "disagreements": None,
        "sparse": False,
        **{f"vmdk_{name}": value for name, value in STREAM.items()},
    },
    "vhd": {"disk_type": "fixed", "creator_application": "qem2", "sized_by": "current_size", "saved_state": False},
    "vhdx": {"subformat": "dynamic", "version": 1, "logical_sector_size": SECTOR},
    "tar.gz": {"members": "disk.raw", "dialect": "gnu", "sparse": True},
}
MULTIPLES = {"vmdk": SECTOR, "vhd": SECTOR, "ova": TAR_RECORD}


def sha256(path):
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.fixture(scope="session")
def platform(made_image):
    """Which platform the image tells Ignition that it is on."""
    try:
        return platform_of(read_layout(made_image.block))
    except HarnessError as cause:
        pytest.skip(f"no boot entry to read: {cause}")


@pytest.fixture(scope="session")
def container(platform):
    """The container that this platform wants, as shapes.py calls it."""
    if platform not in PLATFORMS:
        pytest.skip(f"nothing is known about images for {platform}")
    return PLATFORMS[platform].container


def test_it_has_the_digest_that_the_index_says(listed, made):
    assert (made.stat().st_size, sha256(made)) == (listed.listed.size, listed.listed.sha256)


def test_it_is_bit_for_bit_what_was_dehydrated(listed, made):
    if listed.original is None:
        pytest.skip("the images that this family was made from are not here, only their digests")
    assert sha256(made) == sha256(listed.original)


def test_it_is_stored_whole_or_as_a_small_recipe(listed, made_image):
    image = listed.listed
    assert image.stored < (max(SIBLING, made_image.block.size / OTHER_INSTANCE) if image.bases else image.size)


def test_its_container_is_the_platforms(made_image, container):
    packed = ".gz" if made_image.compression == "gz" else ""
    assert f"{made_image.container}{packed}" == container


def test_its_container_has_the_platforms_options(made_image, container):
    facts = made_image.block.facts()
    wanted = WANTED.get(container, {})
    assert {name: facts.get(name) for name in wanted} == wanted


def test_its_length_is_what_readers_of_the_format_expect(made, container):
    assert made.stat().st_size % MULTIPLES.get(container, 1) == 0


def test_it_differs_from_qemu_in_what_belongs_to_its_platform(listed, made_image, platform, reference):
    """Boot entries and console settings, and the times of the filesystem they lie in (facts C1)."""
    if listed.original is None or listed.listed.name == METAL4K:
        pytest.skip("only the reference image's own platforms are known to be made of one disk")
    with open_image(reference.path) as qemu:
        found = explain_difference(qemu, made_image)
    files = {(each.partition, each.path) for each in found if each.area == "file"}
    assert {each for each in files if not (each[0] == "boot" and OF_A_PLATFORM.fullmatch(each[1]))} == set()
    assert {each.area for each in found} <= {"container", "filesystem", "file"}
    assert bool(files) == (platform != "qemu")


def test_its_partition_table_is_whole(made_image):
    table = read_table(made_image.block)
    assert table.partitions
    assert table.primary.problem == ""
