"""A live ISO in the family of the disk that has the same files: neither is stored twice, and both come back."""

import hashlib

import pytest

from fixtures.rehydration import rehydrated
from harness.build.live.live import build_live
from harness.delta.family.listing import read_index

MOST = 2**20  # bytes of the ISO's recipe: 0.4 % of it, most of that the names, sizes and places in its metadata
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def built(store):
    return build_live(store, unlocked=True)


@pytest.fixture(scope="module")
def live_family(built, family_of):
    return family_of([built.reference.path, built.path], "fast")


def test_the_iso_is_a_recipe_from_the_disk(live_family, built):
    disk, iso = read_index(live_family).images
    assert (disk.name, disk.bases, iso.bases, iso.formats) == (
        built.reference.path.name,
        (),
        (disk.name,),
        ("squashfs",),
    )
    assert iso.stored < MOST


def test_the_iso_comes_back_bit_for_bit(live_family, built, store):
    with rehydrated(live_family, built.path.name, store).open("rb") as made:
        assert hashlib.file_digest(made, "sha256").hexdigest() == built.sha256
