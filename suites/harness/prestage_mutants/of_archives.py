"""Mutants of what lies on the data partition: archives, lists, sums, the script."""

import hashlib

from harness.prestage.archives.folder import archive_name
from suites.harness.mutants.mutant import Mutants
from suites.harness.prestage_mutants.checks import ARCHIVES, READERS_OF_LISTS, SCRIPT, STAGES, STRANGERS
from suites.harness.prestage_mutants.disks import ETCD, OF_ETCD, OF_POD, POD, TOOL, DataDisk

MUTANTS = Mutants()
mutant = MUTANTS.mutant

LAYER = OF_POD.keys() - {"version", "manifest.json"}
A_LAYER = max(LAYER, key=lambda name: len(OF_POD[name]))
NAME_OF_POD, NAME_OF_ETCD = archive_name(POD), archive_name(ETCD)


@mutant(ARCHIVES, kind="ext4", cause=r"ocp-v4\.0-art-dev@sha256_[0-9a-f]{64}\.tgz: ends before")
def archive_is_truncated(disk: DataDisk) -> None:
    """A download ended early."""
    disk.data.replace(f"/{NAME_OF_POD}", disk.archive(POD)[:-1000])


@mutant(ARCHIVES, kind="ext4", cause=f"{NAME_OF_POD}: its compression is corrupt")
def byte_of_an_archive_is_flipped(disk: DataDisk) -> None:
    """A byte rotted on the disk, in the middle of a layer."""
    disk.data.flip(f"/{NAME_OF_POD}", disk.archive(POD).index(OF_POD[A_LAYER][:100]))


@mutant(ARCHIVES, kind="ext4", cause=f"{A_LAYER}: has the digest sha256:[0-9a-f]{{64}} instead of its name's")
def layer_is_altered(disk: DataDisk) -> None:
    """A layer is another of the same length; checksums of archive and folder agree with it."""
    disk.pack(POD, lambda files: files.update({A_LAYER: files[A_LAYER].upper()}))


@mutant(ARCHIVES, kind="ext4", cause="has the SHA-256 [0-9a-f]{64} instead of [0-9a-f]{64} of SHA256SUMS")
def archive_was_packed_anew(disk: DataDisk) -> None:
    """Whole by all it says of itself, but not the file that was published: the time in gzip's header."""
    disk.data.flip(f"/{NAME_OF_POD}", 4)


@mutant(ARCHIVES, kind="ext4", cause="manifest.json: has the digest sha256:[0-9a-f]{64} instead of")
def archive_holds_another_image(disk: DataDisk) -> None:
    """The archive of pod holds etcd, whole."""

    def change(files: dict[str, bytes]) -> None:
        files.clear()
        files.update(OF_ETCD)

    disk.pack(POD, change)


@mutant(ARCHIVES, kind="ext4", cause="tool_1.tgz: manifest.json: has the digest sha256:[0-9a-f]{64} instead of")
def tag_was_moved(disk: DataDisk) -> None:
    """By its tag another image was packed than the one that digests.txt tells of."""

    def change(files: dict[str, bytes]) -> None:
        files.clear()
        files.update(OF_POD)

    disk.pack(TOOL, change)


@mutant(ARCHIVES, kind="ext4", cause=f"{A_LAYER}: is missing")
def blob_is_missing(disk: DataDisk) -> None:
    """The archive lacks a layer."""
    disk.pack(POD, lambda files: files.__delitem__(A_LAYER))


@mutant(ARCHIVES, kind="ext4", cause=f"{hashlib.sha256(b'extra').hexdigest()}: is in no manifest")
def blob_is_extra(disk: DataDisk) -> None:
    """The archive holds a layer that belongs to no image."""
    disk.pack(POD, lambda files: files.update({hashlib.sha256(b"extra").hexdigest(): b"extra"}))


@mutant(ARCHIVES, kind="ext4", cause="version: says .*1\\.0")
def archive_is_of_another_version(disk: DataDisk) -> None:
    """The folder in the archive says it is of skopeo's older format."""
    disk.pack(POD, lambda files: files.update({"version": b"Directory Transport Version: 1.0\n"}))


@mutant(ARCHIVES, kind="ext4", cause=f"{NAME_OF_ETCD}: is missing")
def archive_is_missing(disk: DataDisk) -> None:
    """An image of the lists has no archive."""
    disk.data.remove(f"/{NAME_OF_ETCD}")


@mutant(ARCHIVES, STRANGERS, kind="ext4", cause=f"{NAME_OF_ETCD}: is of no listed image")
def image_is_in_no_list(disk: DataDisk) -> None:
    """An image whose archive is there is missing from the list."""
    disk.data.edit("/ocp-images.txt", {f"{ETCD}\n": ""})
    disk.data.replace("/mapping.txt", b"")


@mutant(ARCHIVES, STRANGERS, kind="ext4", cause="stranger_1.tgz: is of no listed image")
def archive_is_extra(disk: DataDisk) -> None:
    """An archive of an earlier release was left."""
    disk.data.add("/stranger_1.tgz", disk.archive(POD))


@mutant(ARCHIVES, STRANGERS, kind="ext4", cause="scratch-abc: was left by a pull that was killed")
def killed_pull_left_its_folder(disk: DataDisk) -> None:
    """A folder that a killed pull left was staged."""
    disk.data.debugfs("mkdir /scratch-abc")


@mutant(STRANGERS, kind="ext4", cause="imageset.yaml")
def stranger_lies_there(disk: DataDisk) -> None:
    """A file that nobody needs."""
    disk.data.add("/imageset.yaml", b"kind: ImageSetConfiguration\n")


@mutant(ARCHIVES, kind="ext4", cause="instead of 0{64} of SHA256SUMS")
def sum_is_wrong(disk: DataDisk) -> None:
    """SHA256SUMS gives an archive another sum."""
    disk.data.edit("/SHA256SUMS", {hashlib.sha256(disk.archive(POD)).hexdigest(): "0" * 64})


@mutant(ARCHIVES, kind="ext4", cause=f"{NAME_OF_POD}: is not in SHA256SUMS")
def sum_is_missing(disk: DataDisk) -> None:
    """SHA256SUMS lacks an archive."""
    disk.data.edit("/SHA256SUMS", {f"{hashlib.sha256(disk.archive(POD)).hexdigest()}  {NAME_OF_POD}\n": ""})


@mutant(ARCHIVES, kind="ext4", cause="SHA256SUMS: gone_1.tgz: is of no listed image")
def sum_is_of_no_archive(disk: DataDisk) -> None:
    """SHA256SUMS knows an archive that no list wants."""
    disk.data.replace("/SHA256SUMS", disk.files.read("/SHA256SUMS") + b"0" * 64 + b"  gone_1.tgz\n")


@mutant(
    READERS_OF_LISTS, kind="ext4", cause="partition 'data': mapping.txt: gives a tag to quay.io/me/other:1, which no"
)
def tag_is_for_no_image(disk: DataDisk) -> None:
    """mapping.txt has an image that no list names."""
    disk.data.replace("/mapping.txt", b"quay.io/me/other:1=quay.io/me/other:2\n")


@mutant(READERS_OF_LISTS, kind="ext4", cause="partition 'data': ocp-images.txt:2: ")
def list_has_names_of_archives(disk: DataDisk) -> None:
    """As the real list of 4.10.20 (facts D1): names of archives where pull specs belong."""
    disk.data.edit("/ocp-images.txt", {str(ETCD): NAME_OF_ETCD})


@mutant(READERS_OF_LISTS, kind="ext4", cause="ai-images.txt")
def list_is_gone(disk: DataDisk) -> None:
    """There is no list of the discovery stage."""
    disk.data.remove("/ai-images.txt")


@mutant(STAGES, kind="ext4", cause="discovery")
def discovery_list_is_empty(disk: DataDisk) -> None:
    """The list of the discovery stage has a comment and nothing else."""
    disk.data.replace("/ai-images.txt", b"# to do\n")


@mutant(SCRIPT, kind="ext4", cause=hashlib.sha256(b"#!/bin/sh\n").hexdigest())
def script_is_another(disk: DataDisk) -> None:
    """The script on the partition is not the one that was tried."""
    disk.data.replace("/extract-images.sh", b"#!/bin/sh\n")


@mutant(SCRIPT, kind="ext4", cause=str(0o644))
def script_cannot_be_executed(disk: DataDisk) -> None:
    """The script has lost its mode."""
    disk.data.debugfs("sif /extract-images.sh mode 0100644")
