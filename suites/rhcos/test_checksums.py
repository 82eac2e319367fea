"""Bit for bit: the file is what was published, or for the image built here, what a second build gives."""

import pytest

from harness.release.published import read_published


@pytest.fixture(scope="module")
def published(pytestconfig, image, subject):
    given = pytestconfig.getoption("metadata")
    if given is None and subject.metadata is None:
        pytest.skip("nothing is published about this image: give its meta.json, stream JSON or checksums by --metadata")
    metadata = pytestconfig.invocation_params.dir / given if given else subject.metadata
    return read_published(metadata, image.path.name)


def test_file_has_the_published_sha256(image, published):
    if image.path.name != published.name:
        pytest.skip(f"{published.name} was published; this is its uncompressed form")
    assert image.file_sha256() == published.sha256


def test_uncompressed_image_has_the_published_sha256(image, published):
    if published.uncompressed_sha256 is None:
        pytest.skip(f"no uncompressed SHA-256 was published for {published.name}")
    assert image.uncompressed_sha256() == published.uncompressed_sha256


def test_file_is_as_large_as_published(image, published):
    if published.size is None or image.path.name != published.name:
        pytest.skip(f"no size was published for {image.path.name}")
    assert image.path.stat().st_size == published.size


def test_file_is_what_the_build_recorded(image, subject, request):
    """The store hands out what the build made: nobody wrote to it since."""
    if subject.built is None:
        pytest.skip("only the image built here has a record of its build")
    recorded = (subject.built.sha256_qcow2, subject.built.sha256_raw)
    assert (image.file_sha256(), request.getfixturevalue("disk_sha256")) == recorded


def test_a_second_build_gives_the_same_image(reproduction):
    """Another folder, clock, umask, time zone, host name, locale and core count; see the report for what was varied."""
    assert reproduction.equal, reproduction.differences[0]
