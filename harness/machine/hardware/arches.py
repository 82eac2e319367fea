"""What differs between architectures: one row each, so that nothing else asks which one it is.

Program, machine type, bus and console names are QEMU's. How Ignition gets its config, and the console that an image
names on its kernel command line, are CoreOS's (coreos-assembler, mantle/platform/qemu.go). Only rows with `is_tried`
have booted, saved and restored a guest here; the others are written from those sources, and QEMU has parsed what we
make of them.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Literal

Arch = Literal["x86_64", "aarch64", "ppc64le", "s390x"]
Bus = Literal["virtio", "scsi", "nvme", "cd"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """One architecture as QEMU and CoreOS know it."""

    program: str
    machine: str  # QEMU's machine type
    cpu: str  # what TCG emulates; with KVM it is the host's
    console: str  # what the guest's kernel calls the serial port we read
    firmwares: tuple[str, ...]  # that it can have, the usual one first; "bios" is what QEMU itself brings
    ignition_by: Literal["fw_cfg", "disk"]  # `disk`: a read-only virtio disk whose serial is "ignition"
    devices: Literal["pci", "ccw"]  # how the names of virtio devices end
    buses: tuple[Bus, ...]  # that disks can be on
    has_generation_id: bool  # vmgenid: tells a guest's kernel that it was restored
    is_tried: bool


ARCHES: dict[str, Architecture] = {
    "x86_64": Architecture(
        program="qemu-system-x86_64",
        machine="q35",
        # x86-64-v2, what RHEL 9 asks for. TCG's `max` adds AVX2, nested virtualisation and five-level paging, all of
        # which the guest's kernel and libc then use and TCG emulates slowly: a boot costs 82 s of CPU instead of 58.
        cpu="Nehalem",
        console="ttyS0",
        firmwares=("bios", "uefi", "uefi-secure"),
        ignition_by="fw_cfg",
        devices="pci",
        buses=("virtio", "scsi", "nvme", "cd"),
        has_generation_id=True,
        is_tried=True,
    ),
    "aarch64": Architecture(
        program="qemu-system-aarch64",
        machine="virt,gic-version=max",
        cpu="cortex-a72",  # ARMv8.0, what RHEL 9 asks for; `max` computes pointer signatures, which TCG does slowly
        console="ttyAMA0",
        firmwares=("uefi",),
        ignition_by="fw_cfg",
        devices="pci",
        buses=("virtio", "scsi", "nvme"),
        has_generation_id=False,
        is_tried=True,  # with Debian's kernel and a root of a dozen files (test_machine_aarch64.py), no CoreOS image
    ),
    "ppc64le": Architecture(
        program="qemu-system-ppc64",
        machine="pseries",
        cpu="POWER9",  # what RHEL 9 asks for
        console="hvc0",
        firmwares=("bios",),  # SLOF
        ignition_by="disk",
        devices="pci",
        buses=("virtio", "scsi"),
        has_generation_id=False,
        is_tried=False,
    ),
    "s390x": Architecture(
        program="qemu-system-s390x",
        machine="s390-ccw-virtio",
        cpu="max",  # the only one that TCG has whole; RHEL 9 asks for z14
        console="ttysclp0",
        firmwares=("bios",),  # s390-ccw
        ignition_by="disk",
        devices="ccw",
        buses=("virtio", "scsi"),
        has_generation_id=False,
        is_tried=False,
    ),
}


def is_foreign(arch: str) -> bool:
    """Whether this host's processor runs other instructions, so that KVM is of no use."""
    return arch != platform.machine()
