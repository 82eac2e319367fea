"""Everything that inspection finds in an image, as one versioned document (described in docs/manifest.md).

A section is None where it was not asked for or could not be read; `notes` then says why. Sizes are bytes, offsets
bytes from the start of the disk, GUIDs lower case.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import msgspec
from msgspec import Struct

from harness.errors import BadInput

SCHEMA: Literal["1"] = "1"
Section = Literal["hashes", "container", "disk", "boot", "ignition", "system", "containers"]
SECTIONS: tuple[Section, ...] = get_args(Section)
SLOW_SECTIONS: frozenset[Section] = frozenset({"hashes"})


class FileFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """The file as it lies there."""

    name: str
    size: int
    container: str
    compression: str | None
    virtual_size: int


class Hashes(Struct, frozen=True, forbid_unknown_fields=True):
    """SHA-256 of the file, of the container without compression, and of the virtual disk."""

    file_sha256: str
    uncompressed_sha256: str
    disk_sha256: str


class FilesystemFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """What a superblock says; `details` differ by type."""

    type: str
    label: str | None
    uuid: str | None
    size: int
    details: dict[str, Any]


class PartitionFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """One partition. `missing` is what lies beyond the end of a truncated disk."""

    number: int
    label: str
    type_guid: str
    part_guid: str
    start: int
    size: int
    attributes: int
    missing: int
    filesystem: FilesystemFacts | None


class DiskFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """The partition table; a `problem` is empty for a sound copy."""

    sector_size: int
    disk_guid: str
    alternate_lba: int
    last_lba: int
    backup_is_at_end: bool
    primary_problem: str
    backup_problem: str
    partitions: list[PartitionFacts]


class BootEntryFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """One boot loader entry."""

    path: str
    title: str
    version: str
    linux: str
    initrd: str
    options: list[str]


class PlatformFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """One platform of platforms.json."""

    kernel_arguments: list[str]
    grub_commands: list[str]


class BootFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """The boot filesystem. `default` is the path of the entry that an unattended boot takes."""

    entries: list[BootEntryFacts]
    default: str
    kernel_version: str
    console_path: str | None
    console_commands: list[str] | None
    platforms: dict[str, PlatformFacts] | None


class IgnitionFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """The first-boot stamp: absent, empty, network (kargs in it) or other; and the user's config."""

    stamp: str
    network_kargs: str
    user_config_sha256: str | None


class DeploymentFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """The ostree deployment that boots."""

    stateroot: str
    checksum: str
    serial: int
    boot_checksum: str


class AlephFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """The aleph file: cosa, osbuild or bootc format."""

    path: str
    format: str
    fields: dict[str, Any]
    links: dict[str, str]


class SystemFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """The system as it would run. os-release keeps the order of its keys."""

    os_release: dict[str, str] | None
    kernels: list[str]
    deployment: DeploymentFacts | None
    aleph: AlephFacts | None


class StoredImage(Struct, frozen=True, forbid_unknown_fields=True):
    """A container image in containers-storage."""

    store: str
    id: str
    digest: str
    names: list[str]


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """One image."""

    schema: Literal["1"]
    file: FileFacts
    hashes: Hashes | None = None
    container: dict[str, str | int | bool | None] | None = None
    disk: DiskFacts | None = None
    boot: BootFacts | None = None
    ignition: IgnitionFacts | None = None
    system: SystemFacts | None = None
    containers: list[StoredImage] | None = None
    notes: list[str] = []


def to_json(manifest: Manifest) -> bytes:
    """The manifest as indented JSON with a newline; the same manifest gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def from_json(raw: bytes, where: str = "manifest") -> Manifest:
    """A manifest that `to_json` wrote. Raises BadInput for anything else, naming the field."""
    try:
        return msgspec.json.decode(raw, type=Manifest)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as cause:
        raise BadInput(
            f"is not a manifest of schema {SCHEMA}: {cause}",
            where=where,
            next_step="make it with harness inspect --json",
        ) from cause
