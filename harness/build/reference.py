"""Builds the reference image: a CoreOS-shaped disk from Debian packages, stage by stage, each from the store."""

from __future__ import annotations

import hashlib
import json
import time
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.build import disk
from harness.build.bootloader import module_files
from harness.build.flavour import Flavour, system_of
from harness.build.initramfs import make_initramfs
from harness.build.packages import Package, StaleLock, fetch, host_mirrors, read_lock, resolve, write_lock
from harness.build.rootfs import install
from harness.build.sandbox import run_stage
from harness.build.tree import digest_of_folder
from harness.errors import BuildFailed
from harness.images.extents import sha256_of
from harness.images.formats.raw import FileBlock
from harness.store import Store, content_key
from harness.tools import run

DEFINITION = Path(__file__).parents[2] / "fixtures/reference"
IMAGE = "reference.qcow2"
FACTS = "facts.json"
LOCK = "packages.lock"
WITHOUT_INFLUENCE = ("artifacts.py", "reproduction.py")  # modules of this folder that no byte of an image depends on
STAGES = ("packages", "root filesystem", "initramfs", "deployment", "disk", "qcow2")


class Progress(Protocol):
    """Told when a stage starts and when it ends."""

    def __call__(self, stage: str, seconds: float | None) -> None: ...


@dataclass(frozen=True, slots=True)
class Built:
    """A finished reference image. Digests are SHA-256 in hex: of the virtual disk, and of the qcow2 file."""

    path: Path
    sha256_raw: str
    sha256_qcow2: str
    unlocked: bool
    ostree_commit: str
    key: str
    seconds: Mapping[str, float] = field(default_factory=dict)


def build_reference(
    store: Store,
    *,
    definition: Path = DEFINITION,
    mirror: str | None = None,
    unlocked: bool = False,
    progress: Progress | None = None,
    flavour: Flavour | None = None,
) -> Built:
    """The reference image from the store, building what is not there; of a flavour, the same disk with its commit.

    With `unlocked`, packages are resolved anew when the lock is stale (see `usable_packages`).
    Raises StaleLock, BuildFailed, MissingTool.
    """
    clock = _Clock(progress or _say_nothing)
    settings = read_definition(definition)
    with clock.stage("packages"):
        packages, is_unlocked = usable_packages(settings, definition, store, mirror, unlocked=unlocked)
    with clock.stage("root filesystem"):
        rootfs = install(packages, settings["epoch"], store)
    with clock.stage("initramfs"):
        initramfs = make_initramfs(
            rootfs, definition / "initramfs", settings["initramfs"]["drivers"], settings["epoch"], store
        )
    settings = flavour.settings(settings) if flavour else settings
    inputs = {
        "commit": flavour.commit if flavour else None,
        "settings": settings,
        "rootfs": rootfs.parent.name,
        "initramfs": initramfs.name,
        "overlay": digest_of_folder(definition / "overlay"),
        "boot": digest_of_folder(definition / "boot"),
        "grub": [_digest(module) for modules in settings["grub_modules"].values() for module in modules],
        "tools": _tool_versions(),
        "code": [_digest(module) for module in sorted(Path(__file__).parent.glob("*.py")) if _matters(module)],
        "containers": digest_of_folder(Path(__file__).parents[1] / "containers"),
    }
    key = content_key(inputs)

    def build(folder: Path) -> None:
        with store.scratch("reference") as scratch:
            with clock.stage("deployment"):
                arguments = {
                    "system": system_of(flavour, definition, rootfs, initramfs),
                    "boot_files": str(definition / "boot"),
                    "settings": settings,
                    "scratch": str(scratch),
                    "target": str(scratch),
                }
                run_stage("filesystems:build_filesystems", arguments, settings["epoch"])
            with clock.stage("disk"):
                raw = disk.assemble(scratch, settings, scratch)
            # most of both is waiting: for the hashes of zeros, and for the disk
            with clock.stage("qcow2"), ThreadPoolExecutor(1) as beside:
                sha256_raw = beside.submit(_disk_digest, raw)
                disk.ship(raw, folder / IMAGE)
                facts = {
                    "sha256_qcow2": _digest(folder / IMAGE),
                    "sha256_raw": sha256_raw.result(),
                    "ostree_commit": (scratch / "commit").read_text(),
                }
            (folder / FACTS).write_text(json.dumps(facts))
            write_lock(folder / LOCK, packages)

    entry = store.entry("reference", key, build)
    facts = json.loads((entry / FACTS).read_text())
    return Built(entry / IMAGE, **facts, unlocked=is_unlocked, key=key, seconds=clock.seconds)


def read_definition(definition: Path) -> dict[str, Any]:
    """The settings of a reference definition with all that follows from them. Raises BuildFailed naming the file."""
    path = definition / "reference.toml"
    try:
        given = tomllib.loads(path.read_text())
        platforms = json.loads((definition / "boot/coreos/platforms.json").read_text())
        platform = platforms[given["platform"]]
        return {
            **given,
            **given["disk"],
            "disk_guid": given["disk"]["guid"],
            "boot_mib": disk.BOOT_MIB,
            "root_mib": disk.root_mib(given["disk"]["metal_mib"]),
            "platform_kargs": platform.get("kernel_arguments", []),
            "grub_commands": platform.get("grub_commands", []),
            "grub_modules": {name: module_files(name) for name in ("i386-pc", "x86_64-efi")},
            "os_release": os_release(given["version"]),
        }
    except (OSError, KeyError, ValueError) as cause:
        raise BuildFailed(f"is not a reference definition: {cause!r}", where=str(path)) from cause


def os_release(version: str) -> str:
    """os-release with the keys that tell a CoreOS variant (facts A5)."""
    rows = {
        "NAME": '"Reference CoreOS"',
        "ID": "reference",
        "ID_LIKE": "debian",
        "VERSION": f'"{version}"',
        "VERSION_ID": '"12"',
        "VARIANT": '"CoreOS"',
        "VARIANT_ID": "coreos",
        "PRETTY_NAME": f'"Reference CoreOS {version}"',
        "OSTREE_VERSION": f"'{version}'",
    }
    return "".join(f"{key}={value}\n" for key, value in rows.items())


def usable_packages(
    settings: Mapping[str, Any], definition: Path, store: Store, mirror: str | None, *, unlocked: bool
) -> tuple[Mapping[Package, Path], bool]:
    """The locked packages' files; or, where the archive lost some and `unlocked` allows it, newly resolved ones.

    The new lock is kept beside the store, so that all processes and later runs agree; the second value says so.
    """
    lock = definition / LOCK
    locked = read_lock(lock)
    if all(store.find("deb", package.sha256) for package in locked):
        return fetch(locked, (), store), False  # a warm store needs no apt that works
    mirrors = host_mirrors(mirror)
    try:
        return fetch(locked, mirrors, store), False
    except StaleLock:
        if not unlocked:
            raise
    wanted = {
        "names": settings["packages"],
        "instead of": _digest(lock),
        "mirror": mirror,
        "day": int(time.time()) // 86400,
    }

    def resolve_anew(folder: Path) -> None:
        with store.scratch("resolve") as scratch:
            write_lock(folder / LOCK, resolve(settings["packages"], mirrors, scratch))

    entry = store.entry("unlocked", content_key(wanted), resolve_anew)
    return fetch(read_lock(entry / LOCK), mirrors, store), True


def _tool_versions() -> list[str]:
    """Versions of the host programs whose output depends on them."""
    commands = (["ostree", "--version"], ["qemu-img", "--version"], ["sfdisk", "--version"], ["skopeo", "--version"])
    versions = [run(command).decode().splitlines()[0] for command in commands]
    packages = run(["dpkg-query", "-W", "-f", "${Package}=${Version} ", "e2fsprogs", "dosfstools", "mtools"]).decode()
    return [*versions, packages]


def _matters(module: Path) -> bool:
    return module.name not in WITHOUT_INFLUENCE


def _disk_digest(path: Path) -> str:
    with FileBlock(path) as block:
        return sha256_of(block)


def _digest(path: str | Path) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _say_nothing(stage: str, seconds: float | None) -> None:
    """For callers who do not want to be told."""
    del stage, seconds


class _Clock:
    """Seconds per stage, told as they pass."""

    def __init__(self, progress: Progress) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._progress(name, None)
        started = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - started
        self._progress(name, self.seconds[name])
