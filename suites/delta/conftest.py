"""A small family, dehydrated once for all tests of families."""

import shutil

import pytest

from harness.delta.family.dehydrate import dehydrate
from suites.delta.small_family import small_family


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return small_family(tmp_path_factory.mktemp("family") / "images")


@pytest.fixture(scope="session")
def family(images, tmp_path_factory):
    """The family dehydrated; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("family") / "set"
    dehydrate(images, folder, effort="fast")
    return folder


@pytest.fixture
def own(family, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(family, tmp_path / "own")
