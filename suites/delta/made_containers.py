"""Disk containers as qemu-img writes them, of patchy disks; and whether one comes back."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from harness.delta.containers.dissection import dissect, rebuild
from harness.images.block import Memory
from harness.tools import run
from suites.harness.patchy_disk import check_reads_as, patchy, qemu_img

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
    "vhd dynamic": ("-O", "vpc", "-o", "subformat=dynamic,force_size"),
    "vhd dynamic of geometry": ("-O", "vpc", "-o", "subformat=dynamic"),
    "vhdx": ("-O", "vhdx"),
    "vhdx of small blocks": ("-O", "vhdx", "-o", "block_size=1M"),
    "vhdx without zero blocks": ("-O", "vhdx", "-o", "block_size=1M,block_state_zero=off"),
    "vhdx fixed": ("-O", "vhdx", "-o", "subformat=fixed,block_size=1M"),
    "vhd fixed": ("-O", "vpc", "-o", "subformat=fixed,force_size"),
}
PACKED = ("qcow2 packed", "qcow2 packed by zstd", "vmdk stream")


def made(folder: Path, form: str, size: int, seed: int, patches: int = 12) -> Path:
    """A container of a patchy disk."""
    raw, target = folder / "disk.raw", folder / f"disk.{form.replace(' ', '-')}"
    patchy(raw, size, seed, patches)
    qemu_img("convert", "-f", "raw", *CONTAINERS[form], raw, target)
    return target


def made_squashfs(folder: Path) -> Path:
    """A small squashfs: blocks, one of them not packed, fragments of several ends, a file that is there twice."""
    tree, dice = folder / "tree", random.Random(6)
    (tree / "folder").mkdir(parents=True)
    words = [str(dice.randrange(99)) for _ in range(90_000)]
    for name, count in (("large", 90_000), ("small", 500), ("other", 3000), ("folder/twice", 3000)):
        (tree / name).write_text(" ".join(words[:count]))
    (tree / "noise").write_bytes(dice.randbytes(2**17 + 99))
    target = folder / "root.squashfs"
    run(["mksquashfs", tree, target, "-quiet", "-no-progress", "-comp", "zstd", "-Xcompression-level", "3"])
    return target


def comes_back(path: Path) -> bool:
    """Whether the file is taken apart. If it is, this asserts that it is the same again, from a dense content too."""
    taken = dissect(path)
    if taken is None:
        return False
    with taken:
        expected = path.read_bytes()
        assert taken.sha256 == hashlib.sha256(expected).hexdigest()
        assert b"".join(rebuild(taken.plan, taken.content)) == expected
        content = taken.content.read(0, taken.content.size)
        check_reads_as(taken.content, content)
        assert b"".join(rebuild(taken.plan, Memory(content, "content"))) == expected
    return True
