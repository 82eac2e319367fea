"""The two ext4 filesystems that carry a deployment: a stage that runs inside the build's namespaces."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.build.ext4 import Ext4, make_filesystem
from harness.build.sysroot import COMMIT, deployment_path, lay_sysroot

IMMUTABLE = 0x10  # EXT4_IMMUTABLE_FL
EXTENTS = 0x80000  # EXT4_EXTENTS_FL


def build_filesystems(
    system: Mapping[str, str], boot_files: str, settings: Mapping[str, Any], scratch: str, target: str
) -> None:
    """Stage: leave `root.ext4` and `boot.ext4` in `target`, and the commit's checksum in the file `commit` in scratch.

    What `system` is, lay_sysroot says.
    """
    sysroot, boot = lay_sysroot(system, settings, Path(scratch)), Path(scratch) / "boot"
    inside = deployment_path(settings, (Path(scratch) / COMMIT).read_text())
    subprocess.run(["cp", "--archive", sysroot / "boot", boot], check=True)
    subprocess.run(["find", sysroot / "boot", "-mindepth", "1", "-delete"], check=True)
    fill_boot(boot, Path(boot_files), settings)
    for tree in (sysroot, boot):
        set_times(tree, settings["epoch"])
    immutable = {"/": EXTENTS | IMMUTABLE, f"/{inside}": EXTENTS | IMMUTABLE}
    make_filesystem(Ext4("root", settings["root_uuid"], settings["root_mib"]), sysroot, Path(target), immutable)
    make_filesystem(Ext4("boot", settings["boot_uuid"], settings["boot_mib"]), boot, Path(target), {})


def fill_boot(boot: Path, files: Path, settings: Mapping[str, Any]) -> None:
    """Our own files on the boot filesystem: GRUB's configuration and modules, platforms, the first-boot stamp."""
    shutil.copytree(files, boot, dirs_exist_ok=True, copy_function=shutil.copyfile)
    commands = "\n".join(settings["grub_commands"])
    (boot / "grub2/console.cfg").write_text(f"# CONSOLE-SETTINGS-START\n{commands}\n# CONSOLE-SETTINGS-END\n")
    for platform, modules in settings["grub_modules"].items():
        folder = boot / "grub2" / platform
        folder.mkdir()
        for module in modules:
            shutil.copyfile(module, folder / Path(module).name)
    for folder in (boot, *boot.rglob("*")):
        if not folder.is_symlink():
            folder.chmod(0o755 if folder.is_dir() else 0o644)
    (boot / "grub2").chmod(0o700)
    (boot / "efi").mkdir(exist_ok=True)
    if not (boot / "boot").is_symlink():
        (boot / "boot").symlink_to(".")
    (boot / "ignition.firstboot").touch()


def set_times(tree: Path, epoch: int) -> None:
    """ostree's objects keep the zero it gives them; all else gets the epoch."""
    for inside, folders, files in os.walk(tree, topdown=False):
        for name in (*files, *folders):
            path = os.path.join(inside, name)  # noqa: PTH118 - tens of thousands of them
            if os.lstat(path).st_mtime not in (0.0, 1.0) and "/containers/storage/" not in path:
                os.utime(path, (epoch, epoch), follow_symlinks=False)
    os.utime(tree, (epoch, epoch))
