"""The ostree deployment and the two ext4 filesystems that carry it: stages run inside the build's namespaces."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.build.ext4 import Ext4, make_filesystem
from harness.build.tree import shape, unpack
from harness.containers.images import busybox_images
from harness.containers.layout import write_layout
from harness.containers.storage import store_images

VAR_FOLDERS = {"home": 0o755, "roothome": 0o700, "opt": 0o755, "srv": 0o755, "mnt": 0o755, "usrlocal": 0o755,
               "lib": 0o755, "log": 0o755, "tmp": 0o1777, "cache": 0o755, "spool": 0o755}  # fmt: skip
# What ostree deploys into is scratch: nothing to sync, and no immutable folders that outlive a killed build.
IN_SCRATCH = {"OSTREE_SYSROOT_OPTS": "skip-sync", "OSTREE_SYSROOT_DEBUG": "mutable-deployments"}
IMMUTABLE = 0x10  # EXT4_IMMUTABLE_FL
EXTENTS = 0x80000  # EXT4_EXTENTS_FL


def build_filesystems(
    rootfs: str,
    overlay: str,
    boot_files: str,
    initramfs: str,
    settings: Mapping[str, Any],
    scratch: str,
    target: str,
) -> None:
    """Stage: leave `root.ext4`, `boot.ext4` and `busybox` (for nothing but the record of its digest) in `target`."""
    root, sysroot, boot = Path(scratch) / "root", Path(scratch) / "sysroot", Path(scratch) / "boot"
    version = (Path(initramfs) / "version").read_text()
    unpack(Path(rootfs), root)
    busybox = (root / "bin/busybox").read_bytes()
    shape(root, Path(overlay), settings["os_release"], version, Path(initramfs))
    commit = deploy(root, sysroot, settings)
    deployment = sysroot / f"ostree/deploy/{settings['stateroot']}/deploy/{commit}.0"
    fill_var(sysroot / f"ostree/deploy/{settings['stateroot']}/var", busybox, Path(scratch), settings["epoch"])
    write_aleph(sysroot, commit, settings)
    subprocess.run(["cp", "--archive", sysroot / "boot", boot], check=True)
    subprocess.run(["find", sysroot / "boot", "-mindepth", "1", "-delete"], check=True)
    fill_boot(boot, Path(boot_files), settings)
    for tree in (sysroot, boot):
        set_times(tree, settings["epoch"])
    inside = deployment.relative_to(sysroot)
    immutable = {"/": EXTENTS | IMMUTABLE, f"/{inside}": EXTENTS | IMMUTABLE}
    make_filesystem(Ext4("root", settings["root_uuid"], settings["root_mib"]), sysroot, Path(target), immutable)
    make_filesystem(Ext4("boot", settings["boot_uuid"], settings["boot_mib"]), boot, Path(target), {})


def deploy(root: Path, sysroot: Path, settings: Mapping[str, Any]) -> str:
    """Commit the tree and deploy it; returns the commit's checksum."""
    sysroot.mkdir()
    repo = sysroot / "ostree/repo"
    _ostree("admin", "init-fs", "--modern", sysroot)
    for key, value in (("bootloader", "none"), ("readonly", "true"), ("bls-append-except-default", 'grub_users=""')):
        _ostree("config", f"--repo={repo}", "set", f"sysroot.{key}", value)
    _ostree("admin", "os-init", f"--sysroot={sysroot}", settings["stateroot"])
    stamp = subprocess.run(
        ["date", "--utc", f"--date=@{settings['epoch']}", "+%Y-%m-%dT%H:%M:%SZ"], check=True, capture_output=True
    )
    commit = _ostree(
        "commit", f"--repo={repo}", f"--branch={settings['ref']}", f"--tree=dir={root}", "--bootable",
        f"--subject=Reference image {settings['version']}", f"--timestamp={stamp.stdout.decode().strip()}",
        f"--add-metadata-string=version={settings['version']}", "--consume", "--fsync=false",
    )  # fmt: skip
    kargs = [f"--karg-append={karg}" for karg in settings["kargs"]]
    _ostree("admin", "deploy", f"--sysroot={sysroot}", f"--os={settings['stateroot']}", *kargs, settings["ref"])
    order_kargs(sysroot, settings)
    shutil.rmtree(repo / "tmp")
    (repo / "tmp").mkdir()
    (sysroot.parent / "commit").write_text(commit)
    for leftover in (".lock", "ostree/lock", "../lock"):
        (repo / leftover).unlink(missing_ok=True)
    return commit


def order_kargs(sysroot: Path, settings: Mapping[str, Any]) -> None:
    """The order of CoreOS: rw, $ignition_firstboot, image kargs, ostree=, then platform id and the platform's own."""
    (entry,) = (sysroot / "boot/loader/entries").glob("*.conf")
    lines = entry.read_text().splitlines()
    (options,) = (line for line in lines if line.startswith("options "))
    (ostree,) = (word for word in options.split() if word.startswith("ostree="))
    first, *others = settings["kargs"]
    ordered = [first, "$ignition_firstboot", *others, ostree, f"ignition.platform.id={settings['platform']}"]
    ordered += settings["platform_kargs"]
    lines[lines.index(options)] = "options " + " ".join(ordered)
    entry.write_text("\n".join(lines) + "\n")


def fill_var(var: Path, busybox: bytes, scratch: Path, epoch: int) -> None:
    """What first boot needs to find in /var, and the preloaded container images."""
    for name, mode in VAR_FOLDERS.items():
        (var / name).mkdir(exist_ok=True)
        (var / name).chmod(mode)
    (var / ".updated").touch()
    (var / "log/journal").mkdir()
    (var / "lib/containers").mkdir(mode=0o755)
    (var / "lib/dpkg").symlink_to("/usr/lib/dpkg-db")
    written = write_layout(scratch / "layout", busybox_images(busybox), epoch)
    store_images(scratch / "layout", [image.name for image in written], var / "lib/containers/storage", epoch)


def write_aleph(sysroot: Path, commit: str, settings: Mapping[str, Any]) -> None:
    """What was installed here first, in the format of osbuild's ostree.aleph stage (facts A5)."""
    aleph = {
        "osbuild-version": "image-harness",
        "ostree-commit": commit,
        "ref": settings["ref"],
        "version": settings["version"],
    }
    (sysroot / ".aleph-version.json").write_text(json.dumps(aleph, indent=4, sort_keys=True) + "\n")
    (sysroot / ".coreos-aleph-version.json").symlink_to(".aleph-version.json")


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


def _ostree(*arguments: str | Path) -> str:
    done = subprocess.run(["ostree", *arguments], check=False, capture_output=True, env={**os.environ, **IN_SCRATCH})
    if done.returncode:
        message = f"ostree {arguments[0]} {arguments[1]}: {done.stderr.decode(errors='replace').strip()}"
        raise SystemExit(message)
    return done.stdout.decode().strip()
