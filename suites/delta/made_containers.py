"""Disk containers as qemu-img writes them, of patchy disks."""

from __future__ import annotations

from pathlib import Path

from suites.harness.patchy_disk import patchy, qemu_img

STREAM = ("-c", "-O", "vmdk", "-o", "adapter_type=lsilogic,compat6,subformat=streamOptimized")
CONTAINERS = {
    "qcow2": ("-O", "qcow2", "-o", "compat=1.1"),
    "qcow2 of version 2": ("-O", "qcow2", "-o", "compat=0.10"),
    "qcow2 with small clusters": ("-O", "qcow2", "-o", "cluster_size=4096"),
    "qcow2 with narrow counts": ("-O", "qcow2", "-o", "refcount_bits=1"),
    "qcow2 packed": ("-c", "-O", "qcow2"),
    "qcow2 packed by zstd": ("-c", "-O", "qcow2", "-o", "compression_type=zstd"),
    "qcow2 preallocated": ("-O", "qcow2", "-o", "preallocation=metadata"),
    "vmdk stream": STREAM,
    "vmdk sparse": ("-O", "vmdk", "-o", "subformat=monolithicSparse"),
    "vhd fixed": ("-O", "vpc", "-o", "subformat=fixed,force_size"),
}
PACKED = ("qcow2 packed", "qcow2 packed by zstd", "vmdk stream")


def made(folder: Path, form: str, size: int, seed: int, patches: int = 12) -> Path:
    """A container of a patchy disk."""
    raw, target = folder / "disk.raw", folder / f"disk.{form.replace(' ', '-')}"
    patchy(raw, size, seed, patches)
    qemu_img("convert", "-f", "raw", *CONTAINERS[form], raw, target)
    return target
