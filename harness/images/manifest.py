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
Section = Literal["hashes", "container", "layout", "boot", "ignition", "system", "containers", "packages", "live"]
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
    """One partition. `missing` is what lies beyond the end of a truncated disk. In an MBR there are no GUIDs."""

    number: int
    label: str
    type_guid: str | None
    part_guid: str | None
    start: int
    size: int
    attributes: int
    missing: int
    filesystem: FilesystemFacts | None
    mbr_type: int | None = None


class LayoutFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """The partition table; a `problem` is empty for a sound copy. Without a table the disk is `filesystem`."""

    sector_size: int
    disk_guid: str | None
    alternate_lba: int | None
    last_lba: int
    backup_is_at_end: bool | None
    primary_problem: str
    backup_problem: str | None
    partitions: list[PartitionFacts]
    table: Literal["gpt", "mbr", "none"] = "gpt"
    mbr_disk_id: str | None = None
    filesystem: FilesystemFacts | None = None


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


class PackageFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """An installed package; `version` as its own tools write it (epoch:version-release), `kind` dpkg or rpm."""

    name: str
    version: str
    arch: str
    kind: Literal["dpkg", "rpm"]


class EmbedArea(Struct, frozen=True, forbid_unknown_fields=True):
    """Room for a user's Ignition config. `offset` is in the ISO.

    `state`: empty, config, initrd (archives without a config, as network settings alone are) or other.
    """

    file: str
    offset: int
    size: int
    announced_by: str
    state: str
    config_sha256: str | None
    members: list[str]


class KargsArea(Struct, frozen=True, forbid_unknown_fields=True):
    """One place where the kernel arguments stand; `offset` is in the ISO, `kargs` None where the place is garbled."""

    file: str
    offset: int
    kargs: str | None


class KargsFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """The kernel arguments of a live system: as shipped, and as they stand in every area of `size` bytes."""

    default: str
    size: int
    announced_by: str
    areas: list[KargsArea]


class OsmetFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """A recipe from which coreos-installer makes a disk image out of the live root."""

    name: str
    size: int
    version: int
    app_version: str
    sector_size: int
    os_description: str
    architecture: str


class RootfsFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """The archive with the live root. `offset` is that of the filesystem in rootfs.img."""

    filesystem: str
    offset: int
    build: str | None
    members: list[str]
    osmet: list[OsmetFacts]


class LiveFacts(Struct, frozen=True, forbid_unknown_fields=True):
    """What a CoreOS live ISO carries. `pxe` is the size of each file in /images/pxeboot."""

    volume_id: str
    ignition: EmbedArea | None
    kargs: KargsFacts | None
    features: dict[str, Any] | None
    minimal_iso: str | None
    pxe: dict[str, int]
    rootfs: RootfsFacts | None


class Manifest(Struct, frozen=True, forbid_unknown_fields=True):
    """One image."""

    schema: Literal["1"]
    file: FileFacts
    hashes: Hashes | None = None
    container: dict[str, str | int | bool | None] | None = None
    layout: LayoutFacts | None = None
    boot: BootFacts | None = None
    ignition: IgnitionFacts | None = None
    system: SystemFacts | None = None
    containers: list[StoredImage] | None = None
    packages: list[PackageFacts] | None = None
    live: LiveFacts | None = None
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
