"""Mutants of the qcow2 file around the disk (header fields: QEMU's docs/interop/qcow2.txt)."""

import struct

from harness.tools import run
from suites.harness.mutants.copies import Copy
from suites.harness.mutants.mutant import mutant

HEADER = "test_qcow2.py::test_qcow2_header_is_that_of_the_profile"
LENGTH = "test_qcow2.py::test_qcow2_header_is_as_long_as_promised"
SNAPSHOTS = "test_qcow2.py::test_qcow2_carries_no_snapshots"
CLOSED = "test_qcow2.py::test_qcow2_is_neither_dirty_nor_corrupt"
COMPRESSED = "test_qcow2.py::test_qcow2_clusters_are_compressed_only_where_promised"
ENDS = "test_qcow2.py::test_uncompressed_qcow2_ends_on_a_cluster"
SHA256 = "test_checksums.py::test_file_has_the_published_sha256"
PLAIN_SHA256 = "test_checksums.py::test_uncompressed_image_has_the_published_sha256"
SIZE = "test_checksums.py::test_file_is_as_large_as_published"
INCOMPATIBLE_FEATURES = 79  # the lowest byte of the field at 72


@mutant(HEADER, cause="cluster size.*expected 65,536, found 131,072", kind="file")
def clusters_are_large(file: Copy) -> None:
    """Clusters of 128 KiB."""
    convert(file, "cluster_size=128k")


@mutant(HEADER, LENGTH, cause="version.*expected 3, found 2", kind="file")
def qcow2_is_of_the_old_version(file: Copy) -> None:
    """compat=0.10."""
    run(["qemu-img", "amend", "-f", "qcow2", "-o", "compat=0.10", file.replaced()])


@mutant(HEADER, cause="refcount bits.*expected 16, found 32", kind="file")
def refcounts_are_wide(file: Copy) -> None:
    """32 bits a refcount."""
    convert(file, "refcount_bits=32")


@mutant(COMPRESSED, cause="True", kind="file")
def a_cluster_is_compressed(file: Copy) -> None:
    """One cluster was written compressed, in the hole behind the backup GPT."""
    run(["qemu-io", "-f", "qcow2", "-c", "write -c -P 0 5G 64k", file.replaced()])
    size = file.path.stat().st_size
    file.resize(size + -size % 65536)


@mutant(SNAPSHOTS, ENDS, cause="1 snapshots are inside: the image was used", kind="file")
def a_snapshot_is_inside(file: Copy) -> None:
    """qemu-img snapshot -c: somebody booted it and wanted to go back."""
    run(["qemu-img", "snapshot", "-c", "before", file.replaced()])


@mutant(CLOSED, cause="the dirty or corrupt bit is set: the file was not closed properly", kind="file")
def dirty_bit_is_set(file: Copy) -> None:
    """Refcounts may be wrong: lazy refcounts, and the writer was killed."""
    file.flip(INCOMPATIBLE_FEATURES, 1)


@mutant(cause="marked corrupt by the program that wrote it", kind="file", is_refused=True)
def corrupt_bit_is_set(file: Copy) -> None:
    """QEMU found damaged metadata and refuses to write."""
    file.flip(INCOMPATIBLE_FEATURES, 2)


@mutant(ENDS, cause="17 bytes of a cluster lie behind the last whole one", kind="file")
def file_has_a_tail(file: Copy) -> None:
    """17 bytes of a broken download tool behind the last cluster."""
    size = file.path.stat().st_size
    file.resize(size + 17)


@mutant(SHA256, PLAIN_SHA256, cause="expected '[0-9a-f]{64}', found '[0-9a-f]{64}'", kind="file", is_published=True)
def a_byte_nobody_reads_is_wrong(file: Copy) -> None:
    """One byte in free space: the image works, but it is not what was published."""
    (l1_table,) = struct.unpack(">Q", file.read(40, 8))
    file.flip(l1_table - 1)


@mutant(SHA256, PLAIN_SHA256, SIZE, cause="expected|==", kind="file", is_published=True)
def file_has_a_cluster_too_many(file: Copy) -> None:
    """64 KiB behind the end: the image works, but it is not what was published."""
    size = file.path.stat().st_size
    file.resize(size + 65536)


@mutant(
    cause="needs its backing file '/etc/passwd', which we do not open on an image's word", kind="file", is_refused=True
)
def file_has_a_backing_file(file: Copy) -> None:
    """An overlay without its base was shipped; and its base is a file of ours."""
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", "/etc/passwd", "-F", "raw", file.replaced(), "10G"])


@mutant(cause="beyond the end of the file|truncated", kind="file", is_refused=True)
def file_is_cut_off(file: Copy) -> None:
    """A download that ended a little early."""
    file.resize(file.path.stat().st_size - 1_000_000)


def convert(file: Copy, options: str) -> None:
    """Write the whole disk anew with other options of the format."""
    run(["qemu-img", "convert", "-f", "qcow2", "-O", "qcow2", "-o", options, file.base, file.replaced()])
