"""The sysroot that a disk and a live ISO share: one deployment of one commit, and what first boot finds in /var.

The commit is made here of the reference system's tree, or is that of a flavour, pulled as it is. Runs inside the
build's namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.build.tree import shape, unpack
from harness.containers.images import busybox_images
from harness.containers.layout import write_layout
from harness.containers.storage import store_images

VAR_FOLDERS = {"home": 0o755, "roothome": 0o700, "opt": 0o755, "srv": 0o755, "mnt": 0o755, "usrlocal": 0o755,
               "lib": 0o755, "log": 0o755, "tmp": 0o1777, "cache": 0o755, "spool": 0o755}  # fmt: skip
# What ostree deploys into is scratch: nothing to sync, and no immutable folders that outlive a killed build.
IN_SCRATCH = {"OSTREE_SYSROOT_OPTS": "skip-sync", "OSTREE_SYSROOT_DEBUG": "mutable-deployments"}
COMMIT = "commit"  # in the scratch folder: the checksum
BUSYBOX = "usr/bin/busybox"  # of the deployment; it is static


def lay_sysroot(system: Mapping[str, str], settings: Mapping[str, Any], scratch: Path) -> Path:
    """Fill `sysroot` in the scratch folder, and tell the commit in the file COMMIT beside it.

    `system` says where things are: rootfs, overlay and initramfs of the reference system; repo and commit of a flavour,
    or neither.
    """
    sysroot, stateroot = scratch / "sysroot", settings["stateroot"]
    repo = begin(sysroot, settings)
    if commit := system.get("commit", ""):
        _ostree("pull-local", f"--repo={repo}", "--disable-fsync", system["repo"], commit)
        _ostree("refs", f"--repo={repo}", f"--create={settings['ref']}", commit)
    else:
        root, initramfs = scratch / "root", Path(system["initramfs"])
        unpack(Path(system["rootfs"]), root)
        shape(root, Path(system["overlay"]), settings["os_release"], (initramfs / "version").read_text(), initramfs)
        commit = commit_tree(root, repo, settings)
    (scratch / COMMIT).write_text(commit)
    deploy(sysroot, repo, settings)
    deployment = sysroot / deployment_path(settings, commit)
    var = sysroot / f"ostree/deploy/{stateroot}/var"
    # A new system finds in /var what its commit has there; after that no commit changes it.
    subprocess.run(["cp", "--archive", "--no-clobber", f"{deployment}/var/.", var], check=True)
    fill_var(var, (deployment / BUSYBOX).read_bytes(), scratch, settings["epoch"])
    write_aleph(sysroot, commit, settings)
    return sysroot


def deployment_path(settings: Mapping[str, Any], commit: str) -> str:
    """Where the deployment is, below the sysroot."""
    return f"ostree/deploy/{settings['stateroot']}/deploy/{commit}.0"


def begin(sysroot: Path, settings: Mapping[str, Any]) -> Path:
    """A new sysroot with a stateroot and nothing in it; returns its repository."""
    sysroot.mkdir()
    repo = sysroot / "ostree/repo"
    _ostree("admin", "init-fs", "--modern", sysroot)
    for key, value in (("bootloader", "none"), ("readonly", "true"), ("bls-append-except-default", 'grub_users=""')):
        _ostree("config", f"--repo={repo}", "set", f"sysroot.{key}", value)
    _ostree("admin", "os-init", f"--sysroot={sysroot}", settings["stateroot"])
    return repo


def commit_tree(root: Path, repo: Path, settings: Mapping[str, Any]) -> str:
    """Commit the tree, which is used up; returns the commit's checksum."""
    stamp = subprocess.run(
        ["date", "--utc", f"--date=@{settings['epoch']}", "+%Y-%m-%dT%H:%M:%SZ"], check=True, capture_output=True
    )
    return _ostree(
        "commit", f"--repo={repo}", f"--branch={settings['ref']}", f"--tree=dir={root}", "--bootable",
        f"--subject=Reference image {settings['version']}", f"--timestamp={stamp.stdout.decode().strip()}",
        f"--add-metadata-string=version={settings['version']}", "--consume", "--fsync=false",
    )  # fmt: skip


def deploy(sysroot: Path, repo: Path, settings: Mapping[str, Any]) -> None:
    """Deploy the commit that the ref names, and leave nothing of the work behind."""
    kargs = [f"--karg-append={karg}" for karg in settings["kargs"]]
    _ostree("admin", "deploy", f"--sysroot={sysroot}", f"--os={settings['stateroot']}", *kargs, settings["ref"])
    order_kargs(sysroot, settings)
    shutil.rmtree(repo / "tmp")
    (repo / "tmp").mkdir()
    for leftover in (".lock", "ostree/lock", "../lock"):
        (repo / leftover).unlink(missing_ok=True)


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


def _ostree(*arguments: str | Path) -> str:
    done = subprocess.run(["ostree", *arguments], check=False, capture_output=True, env={**os.environ, **IN_SCRATCH})
    if done.returncode:
        message = f"ostree {arguments[0]} {arguments[1]}: {done.stderr.decode(errors='replace').strip()}"
        raise SystemExit(message)
    return done.stdout.decode().strip()
