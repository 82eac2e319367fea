"""What an image of a family and era promises, as data: one TOML file each, read into frozen structs.

Facts and their sources are in the files themselves. A value that is None (or an empty tuple) is not promised, so no
check asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct, field

from harness.errors import BadInput
from harness.images.partitions.gpt import Table
from harness.images.partitions.layout import Layout
from harness.places import PROFILES


class PromisedPartition(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One row of the partition table; sectors are those of the disk. `sectors` None: whatever is left."""

    number: int
    label: str
    type_guid: UUID
    start: int
    sectors: int | None = None
    legacy_bios_bootable: bool = False


class PromisedFilesystem(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a partition holds before the first boot."""

    partition: str
    type: str
    label: str
    uuid: str | None = None
    features: tuple[str, ...] = ()
    details: dict[str, Any] = {}


class Disk(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The disk as shipped. Sizes are bytes."""

    sector_size: int
    virtual_size: int
    backup_gpt: str
    guid: UUID | None = None


class Qcow2(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Properties of a qcow2 file."""

    version: int
    cluster_size: int
    refcount_bits: int
    compressed: bool
    header_length: int | None = None


class Boot(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Boot configuration; in `options` a trailing * stands for any value."""

    platform: str
    options: tuple[str, ...]
    firmware: tuple[str, ...]
    platforms_json: bool
    options_in_order: bool = True
    grub_folder_mode: int | None = None
    removable_boot_path: str | None = None
    ignition_spec: str = "3.3.0"


class Identity(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the image says of itself; `os_release` are its keys in order."""

    readable: bool = True
    aleph: str | None = None
    os_release: tuple[str, ...] = ()
    values: dict[str, str] = {}


class Ostree(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The deployment and its repository's settings ("section.key" -> value)."""

    stateroot: str
    config: dict[str, str]


class ContainerRun(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A container that must run without network, and the line it prints."""

    image: str
    prints: str


class Containers(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Preloaded container images, by name."""

    images: tuple[str, ...]
    run: ContainerRun | None = None


class Unit(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What systemctl says of a unit once the system runs: on a disk and, where that is different, in a live system."""

    name: str
    enabled: str
    active: str
    active_live: str | None = None


class Profile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All that is promised."""

    name: str
    title: str
    architecture: str
    recognised_by: dict[str, str]
    disk: Disk
    partitions: tuple[PromisedPartition, ...] = field(name="partition")
    filesystems: tuple[PromisedFilesystem, ...] = field(name="filesystem")
    boot: Boot
    identity: Identity
    qcow2: Qcow2 | None = None
    ostree: Ostree | None = None
    containers: Containers | None = None
    units: tuple[Unit, ...] = field(name="unit", default=())


def known_profiles() -> tuple[str, ...]:
    """The names that `--profile` takes."""
    return tuple(sorted(path.stem for path in PROFILES.glob("*.toml")))


def read_profile(name: str) -> Profile:
    """A profile by name, or by the path of a TOML file of one's own. Raises BadInput with the key that is wrong."""
    path = Path(name) if name.endswith(".toml") else PROFILES / f"{name}.toml"
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Profile)
    except FileNotFoundError:
        known = ", ".join(known_profiles())
        raise BadInput("no such profile", where=name, next_step=f"known: {known}; or name a .toml file") from None
    except (OSError, msgspec.MsgspecError) as cause:
        raise BadInput(f"is not a profile: {cause}", where=str(path)) from cause


def recognise(os_release: Mapping[str, str] | None, labels: Iterable[str], *, where: str = "") -> str:
    """The profile of an image by its os-release, or by partition labels where that cannot be read.

    Raises BadInput naming what the image says, when no profile fits.
    """
    facts = dict(os_release or {})
    labels = set(labels)
    for name in known_profiles():
        wanted = read_profile(name).recognised_by
        if all(facts.get(key) == value or (key == "PARTLABEL" and value in labels) for key, value in wanted.items()):
            return name
    said = ", ".join(f"{key}={facts[key]}" for key in ("ID", "VARIANT_ID", "VERSION_ID") if key in facts)
    raise BadInput(
        f"no profile fits an image with {said or 'no readable os-release'} and partitions {sorted(labels)}",
        where=where,
        next_step=f"choose one with --profile: {', '.join(known_profiles())}",
    )


def partition_rows(layout: Layout, promised: Iterable[PromisedPartition]) -> tuple[PromisedPartition, ...]:
    """The partitions of an image in a profile's terms; sizes that the profile leaves open are left open here."""
    open_ended = {row.number for row in promised if row.sectors is None}
    table = layout.gpt
    sector = table.sector_size
    return tuple(
        PromisedPartition(
            number=partition.number,
            label=partition.label,
            type_guid=partition.type_guid,
            start=partition.start // sector,
            sectors=None if partition.number in open_ended else partition.size // sector,
            legacy_bios_bootable=partition.legacy_bios_bootable,
        )
        for partition in table.partitions
    )


def backup_place(table: Table) -> str:
    """Where the backup GPT lies, in a profile's words."""
    if not table.backup.found:
        return "lost"
    return "at the end" if table.backup_is_at_end else "before the end"


__all__ = ["Profile", "backup_place", "known_profiles", "partition_rows", "read_profile", "recognise"]
