"""Preloaded container images: complete offline, every layer and blob; and alive in the guest."""

import json

import pytest

from harness.containers.stores import read_settings
from harness.containers.verify import verify_storage

pytestmark = pytest.mark.needs("containers")


@pytest.fixture(scope="module")
def storage(system):
    """All stores that the image's storage.conf names."""
    settings = read_settings(system)
    return verify_storage(system, settings.root, settings.additional)


def test_every_promised_image_is_preloaded(storage, profile):
    found = sorted(name for image in storage.images for name in image.names)
    assert found == sorted(profile.containers.images)


def test_every_layer_and_blob_is_what_its_digest_says(storage):
    problems = [str(problem) for problem in storage.problems]
    assert not problems, problems[0]


def test_nothing_is_left_over_from_filling_the_storage(storage):
    leftovers = [str(problem) for problem in storage.leftovers]
    assert not leftovers, leftovers[0]


def test_podman_knows_the_preloaded_images(guest, profile):
    done = guest.run("podman images --format json")
    assert done.rc == 0, done.stderr
    names = sorted(name for image in json.loads(done.stdout) for name in image["Names"])
    assert names == sorted(profile.containers.images)


@pytest.mark.needs("containers.run")
def test_a_container_runs_without_network(fresh_guest, profile):
    done = fresh_guest.run("podman run --rm --network=none %s", profile.containers.run.image)
    assert (done.rc, done.stdout.strip()) == (0, profile.containers.run.prints), done.stderr
