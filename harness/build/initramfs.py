"""The initramfs: dracut in the installed root, with real Ignition and the stages that CoreOS puts around it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from harness.build.sandbox import run_stage
from harness.build.tree import copy_checkout, digest_of_folder, unpack
from harness.store import Store, content_key

KERNEL = "vmlinuz"
IMAGE = "initramfs.img"
VERSION = "version"
MADE = "tmp/initramfs.img"  # where dracut leaves it, in the chroot
MODULE = "usr/lib/dracut/modules.d/50reference"


def make_initramfs(rootfs: Path, module: Path, drivers: Sequence[str], epoch: int, store: Store) -> Path:
    """A folder with `vmlinuz`, `initramfs.img` and `version` (the kernel's release), from the store."""
    inputs = {
        "rootfs": rootfs.parent.name,
        "module": digest_of_folder(module),
        "drivers": list(drivers),
        "recipe": digest_of_folder(Path(__file__)),
    }
    arguments = {"rootfs": str(rootfs), "module": str(module), "drivers": list(drivers)}

    def build(folder: Path) -> None:
        with store.scratch("initramfs") as scratch:
            run_stage("initramfs:run_dracut", {**arguments, "scratch": str(scratch), "target": str(folder)}, epoch)

    return store.entry("initramfs", content_key(inputs), build)


def run_dracut(rootfs: str, module: str, drivers: Sequence[str], scratch: str, target: str) -> None:
    """Stage: unpack, run dracut in a chroot, leave kernel and initramfs in `target`."""
    root, out = Path(scratch) / "root", Path(target)
    unpack(Path(rootfs), root)
    copy_checkout(Path(module), root / MODULE)
    for source in ("/proc", "/dev"):
        subprocess.run(["mount", "--rbind", source, root / source[1:]], check=True)
    for folder in ("tmp", "var/tmp"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", root / folder], check=True)
    version = next((root / "usr/lib/modules").iterdir()).name
    subprocess.run(
        [
            "chroot", root, "dracut", "--force", "--no-hostonly", "--reproducible", "--no-early-microcode", "--nostrip",
            "--add", "ignition ostree reference", "--omit", "lvm mdraid dmraid multipath iscsi nfs nbd cifs fcoe btrfs",
            "--add-drivers", " ".join(drivers), "--drivers", " ".join(drivers),
            "--compress", "zstd -3 -q -T1", f"/{MADE}", version,
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    shutil.copyfile(root / MADE, out / IMAGE)
    shutil.copyfile(root / f"boot/vmlinuz-{version}", out / KERNEL)
    (out / VERSION).write_text(version)
    for folder in ("tmp", "var/tmp", "dev", "proc"):
        subprocess.run(["umount", "--lazy", root / folder], check=True)
