"""The live system's root filesystem: the sysroot of the reference image, kernel and boot entry included, as squashfs.

It is committed and deployed anew from what the image was made of, which gives the same commit, and checked to have.
"""

from __future__ import annotations

import filecmp
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.build.filesystems import set_times
from harness.build.initramfs import IMAGE as INITRAMFS
from harness.build.initramfs import KERNEL
from harness.build.sysroot import COMMIT, deployment_path, lay_sysroot

SQUASHFS = "root.squashfs"
BUILD = ".coreos-live-build"  # in the squashfs: the version, for an initramfs that has not unpacked the archive


def make_squashfs(
    system: Mapping[str, str], settings: Mapping[str, Any], commit: str, level: int, scratch: str, target: str
) -> None:
    """Stage: leave `root.squashfs` in `target`. Exits with a message where the commit is not the image's."""
    sysroot = lay_sysroot(system, settings, Path(scratch))
    made = (Path(scratch) / COMMIT).read_text()
    if made != commit:
        message = f"the live system has commit {made}, the disk image {commit}: what it was built from has changed"
        raise SystemExit(message)
    check_kernel(sysroot / deployment_path(settings, commit), Path(system["initramfs"]))
    (sysroot / BUILD).write_text(f"{settings['version']}\n")
    set_times(sysroot, settings["epoch"])
    read_links(sysroot)
    environment = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
    subprocess.run(
        ["mksquashfs", sysroot, Path(target) / SQUASHFS, "-noappend", "-no-progress", "-comp", "zstd",
         "-Xcompression-level", str(level), "-mkfs-time", str(settings["epoch"])],
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment,  # with SOURCE_DATE_EPOCH it would also take the zero from ostree's files
    )  # fmt: skip


def check_kernel(deployment: Path, initramfs: Path) -> None:
    """Exit with a message where the commit's kernel is another one than the live system starts with."""
    modules = deployment / "usr/lib/modules" / (initramfs / "version").read_text()
    for name in (KERNEL, INITRAMFS):
        if not (modules / name).is_file() or not filecmp.cmp(modules / name, initramfs / name, shallow=False):
            message = f"the commit has another {name} than the reference system: a live ISO of it cannot be built here"
            raise SystemExit(message)


def read_links(tree: Path) -> None:
    """Read every link once. mksquashfs takes two names for one file only if even their access times are equal.

    It reads links as it goes, which sets the access time of those never read: their next name then looks like another
    file, and whether that is so depends on the filesystem and its mount options.
    """
    for inside, folders, files in os.walk(tree):
        for name in (*files, *folders):
            path = os.path.join(inside, name)  # noqa: PTH118 - tens of thousands of them
            if os.path.islink(path):  # noqa: PTH114
                os.readlink(path)  # noqa: PTH115
