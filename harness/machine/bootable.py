"""What QEMU needs of an image in any container: a disk file for an overlay, and a kernel to try KVM with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness.errors import HarnessError
from harness.images.edits.copy import copy_disk
from harness.images.filesystems.files import open_files
from harness.images.partitions.layout import Layout, read_layout
from harness.images.source import Image
from harness.images.system.bls import read_entries
from harness.images.system.tree import find_boot, open_system
from harness.machine.hardware.disks import Disk
from harness.machine.hardware.spec import MachineSpec
from harness.store import Store, content_key

LIVE_MEMORY = 2048  # MiB
PLAIN = frozenset({"raw", "qcow2", "iso"})  # containers that QEMU puts an overlay on


def disk_of(image: Image, digest: str, store: Store) -> Path:
    """The image as a raw or qcow2 file; what lies in another container is unpacked into the store, once.

    `digest` is the SHA-256 of the image's file without compression; a plain file does not need it.
    """
    if image.container in PLAIN:
        return image.plain_path

    def unpack(folder: Path) -> None:
        copy_disk(image.block, folder / "disk.raw")

    key = content_key({"container": image.container, "file": digest})
    return store.entry("disk", key, unpack) / "disk.raw"


def on_a_cd(spec: MachineSpec) -> MachineSpec:
    """The machine for an ISO: it lies in a CD drive, and what a live system writes needs memory, unless told else."""
    usual = MachineSpec()
    return replace(
        spec,
        primary=Disk(bus="cd") if spec.primary == usual.primary else spec.primary,
        memory=LIVE_MEMORY if spec.memory == usual.memory else spec.memory,
    )


def kernel_of(layout: Layout, store: Store) -> Path:
    """The kernel of the image's default boot entry, as a file of the store. Raises HarnessError where it has none."""
    boot = find_boot(layout)
    tree = open_files(layout.part_block(boot.label)) if boot else open_system(layout)
    linux = read_entries(tree).default.linux.removeprefix("/boot")

    def extract(folder: Path) -> None:
        with (folder / "vmlinuz").open("wb") as target:
            target.writelines(tree.chunks(linux))

    return store.entry("kernel", tree.sha256(linux), extract) / "vmlinuz"


def readable_kernel(image: Image, store: Store) -> Path | None:
    """The same, or None where we cannot read the image that far (LUKS, a foreign boot loader): it may boot anyway."""
    try:
        return kernel_of(read_layout(image.block), store)
    except HarnessError:
        return None
