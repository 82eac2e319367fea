"""An image's files as the running system would see them, put together from its partitions without booting.

In an ostree image `/` is the deployment that the default boot entry names, `/var` its stateroot's var and `/sysroot`
the physical root (ostree-prepare-root(1)). In a plain image `/` is the root filesystem.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from harness.errors import DamagedImage, MissingFile
from harness.images.filesystems.files import READERS, Files, Mount, open_mount, shown
from harness.images.partitions.layout import Layout, LayoutPartition, part_of
from harness.images.system.bls import read_entries

ESP_TYPE = UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
ESP_MBR_TYPE = 0xEF
DEPLOYMENT_PATH: Final = re.compile(r"/ostree/deploy/([^/]+)/deploy/([0-9a-f]{64})\.(\d{1,9})")
OSTREE_KARG: Final = re.compile(r"/ostree/boot\.[01](?:\.[01])?/([^/]+)/([0-9a-f]{64})/(\d{1,9})/?")


@dataclass(frozen=True, slots=True)
class Deployment:
    """The ostree deployment that boots."""

    stateroot: str
    checksum: str  # of the commit
    serial: int
    boot_checksum: str  # of kernel and initramfs
    path: str  # within the physical root


class SystemTree(Files):
    """Files of the whole system; see the module's text for what lies where."""

    def __init__(self, mounts: Mapping[str, Mount], deployment: Deployment | None) -> None:
        super().__init__(mounts)
        self.deployment = deployment


def open_system(layout: Layout) -> SystemTree:
    """The system on a disk: `boot`, `root` and the ESP, found by partition label, filesystem label or type.

    A disk without a partition table is its own root.

    Raises UnsupportedImage where the root filesystem cannot be read (LUKS), and DamagedImage where there is no root
    or the default boot entry names a deployment that is not there.
    """
    physical = open_mount(part_of(layout.block, find_root(layout)) if layout.table else layout.block)
    boot_partition, esp = find_boot(layout), find_esp(layout)
    mounts = {"/": physical}
    if boot_partition:
        mounts["/boot"] = open_mount(part_of(layout.block, boot_partition))
    deployment = _deployment(mounts)
    if deployment:
        mounts |= _ostree_mounts(physical, deployment)
    if esp and esp.filesystem:
        mounts["/boot/efi"] = open_mount(part_of(layout.block, esp))
    return SystemTree(mounts, deployment)


def find_root(layout: Layout) -> LayoutPartition:
    """The partition with the physical root: labelled so, or the only one that could be it."""
    if named := _named(layout, "root", "luks_root"):
        return named
    known = [p for p in layout.partitions if p.filesystem and p.filesystem.type in READERS and not _is_esp(p)]
    candidates = [p for p in known if p is not find_boot(layout)]
    if len(candidates) != 1:
        labels = ", ".join(shown(p.title) for p in layout.partitions) or "none at all"
        raise DamagedImage(f"no partition is recognisable as root; there are: {labels}", where=layout.block.name)
    return candidates[0]


def find_boot(layout: Layout) -> LayoutPartition | None:
    """The partition with the boot filesystem, or None where /boot lies on root."""
    return _named(layout, "boot")


def _named(layout: Layout, *labels: str) -> LayoutPartition | None:
    """By partition label; only where no partition has it, by the label of its filesystem."""
    by_table = [partition for partition in layout.partitions if partition.label in labels]
    by_filesystem = [p for p in layout.partitions if p.filesystem and p.filesystem.label in labels]
    return next(iter(by_table + by_filesystem), None)


def find_esp(layout: Layout) -> LayoutPartition | None:
    """The EFI system partition, or None."""
    found = [p for p in layout.partitions if p.label == "EFI-SYSTEM" or _is_esp(p)]
    return found[0] if found else None


def _is_esp(partition: LayoutPartition) -> bool:
    return partition.type_guid == ESP_TYPE or partition.mbr_type == ESP_MBR_TYPE


def _deployment(mounts: Mapping[str, Mount]) -> Deployment | None:
    """The deployment of the default boot entry; None for a system that does not boot by ostree."""
    physical = Files({"/": mounts["/"]})
    try:
        entry = read_entries(Files(mounts), "/boot/loader/entries").default
    except MissingFile:
        if physical.exists("/ostree/deploy"):
            raise
        return None
    named = entry.karg("ostree")
    if not named:
        return None
    karg = OSTREE_KARG.fullmatch(named[-1])
    try:
        path = physical.canonical(named[-1])
    except MissingFile as cause:
        message = f"{shown(entry.path)} boots ostree={shown(named[-1])}, which is not there"
        raise DamagedImage(message, where=physical.name, next_step=cause.what) from cause
    match = DEPLOYMENT_PATH.fullmatch(path)
    if not karg or not match:
        message = f"{shown(entry.path)} boots ostree={shown(named[-1])}, which leads to {shown(path)}: no deployment"
        raise DamagedImage(message, where=physical.name)
    return Deployment(match[1], match[2], int(match[3]), karg[2], path)


def _ostree_mounts(physical: Mount, deployment: Deployment) -> dict[str, Mount]:
    root = Files({"/": physical})
    mounts = {"/sysroot": physical, "/": Mount(physical.inodes, root.stat(deployment.path).inode)}
    var = f"/ostree/deploy/{deployment.stateroot}/var"
    if root.exists(var):
        mounts["/var"] = Mount(physical.inodes, root.stat(var, follow=True).inode)
    return mounts
