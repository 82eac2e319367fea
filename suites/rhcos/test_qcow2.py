"""The container file: what a release fixes about its qcow2."""

import pytest


@pytest.fixture(scope="module")
def header(image):
    if image.qcow2 is None:
        pytest.skip(f"{image.path.name} is {image.container}, not qcow2")
    return image.qcow2


@pytest.mark.needs("qcow2")
def test_qcow2_header_is_that_of_the_profile(header, profile):
    promised = {
        "version": profile.qcow2.version,
        "cluster size": profile.qcow2.cluster_size,
        "refcount bits": profile.qcow2.refcount_bits,
    }
    found = {
        "version": header.version,
        "cluster size": header.cluster_size,
        "refcount bits": 1 << header.refcount_order,
    }
    assert found == promised


@pytest.mark.needs("qcow2.header_length")
def test_qcow2_header_is_as_long_as_promised(header, profile):
    assert header.header_length == profile.qcow2.header_length


def test_qcow2_has_no_backing_file(header):
    assert header.backing_file is None


def test_qcow2_carries_no_snapshots(header):
    assert header.snapshots == 0, f"{header.snapshots} snapshots are inside: the image was used"


def test_qcow2_is_neither_dirty_nor_corrupt(header):
    assert header.incompatible_features & 0b11 == 0, "the dirty or corrupt bit is set: the file was not closed properly"


@pytest.mark.needs("qcow2")
def test_qcow2_clusters_are_compressed_only_where_promised(image, header, profile):
    assert image.block.has_compressed_clusters() == profile.qcow2.compressed


@pytest.mark.needs("qcow2")
def test_uncompressed_qcow2_ends_on_a_cluster(image, header, profile):
    if profile.qcow2.compressed:
        pytest.skip("compressed clusters end anywhere")
    tail = image.plain_path.stat().st_size % header.cluster_size
    assert tail == 0, f"{tail:,} bytes of a cluster lie behind the last whole one of {header.cluster_size:,} bytes"
