"""Builds the live ISO of the reference system: two stages after those of the reference image, each from the store."""

from __future__ import annotations

import hashlib
import json
import tarfile
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.build.flavour import Flavour, system_of
from harness.build.initramfs import IMAGE as INITRAMFS
from harness.build.initramfs import KERNEL, make_initramfs
from harness.build.live.initrd import write_initrd, write_rootfs
from harness.build.live.medium import ISOLINUX, ISOLINUX_LIBRARY, MBR, Medium, lay_out, link_or_copy, write_iso
from harness.build.live.root import SQUASHFS
from harness.build.reference import DEFINITION, Built, Progress, build_reference, read_definition, usable_packages
from harness.build.rootfs import install
from harness.build.sandbox import run_stage
from harness.build.tree import digest_of_folder
from harness.errors import BuildFailed
from harness.store import Store, content_key
from harness.tools import find_tool, run

ISO = "reference-live.iso"
FACTS = "facts.json"
BUSYBOX = "./usr/bin/busybox"  # in the tar of the root filesystem; it is static
STAGES = ("live root", "live ISO")
OF_THE_ROOT = ("root.py",)  # modules of this folder that the squashfs depends on


@dataclass(frozen=True, slots=True)
class BuiltLive:
    """A finished live ISO, and the reference image with the same deployment. The digest is SHA-256 in hex."""

    path: Path
    sha256: str
    volume_id: str
    reference: Built
    key: str
    seconds: Mapping[str, float] = field(default_factory=dict)


def build_live(
    store: Store,
    *,
    definition: Path = DEFINITION,
    mirror: str | None = None,
    unlocked: bool = False,
    progress: Progress | None = None,
    flavour: Flavour | None = None,
) -> BuiltLive:
    """The live ISO from the store, building what is not there, the disk image with the same deployment first.

    Raises what `build_reference` raises, and BuildFailed for a flavour with another kernel or initramfs.
    """
    reference = build_reference(
        store, definition=definition, mirror=mirror, unlocked=unlocked, progress=progress, flavour=flavour
    )
    seconds = dict(reference.seconds)
    settings, live = read_definition(definition), read_live_definition(definition)
    settings = flavour.settings(settings) if flavour else settings
    packages, _ = usable_packages(settings, definition, store, mirror, unlocked=unlocked)
    rootfs = install(packages, settings["epoch"], store)
    initramfs = make_initramfs(
        rootfs, definition / "initramfs", settings["initramfs"]["drivers"], settings["epoch"], store
    )
    medium = Medium.of(settings, live)
    level = live["compression_level"]
    root_key = content_key(
        {
            "reference": reference.key,
            "level": level,
            "code": [_digest(module) for module in _modules() if module.name in OF_THE_ROOT],
            "mksquashfs": run(["mksquashfs", "-version"]).decode().splitlines()[0],
        }
    )

    def make_root(folder: Path) -> None:
        with store.scratch("live-root") as scratch:
            arguments = {
                "system": system_of(flavour, definition, rootfs, initramfs),
                "settings": settings,
                "commit": reference.ostree_commit,
                "level": level,
                "scratch": str(scratch),
                "target": str(folder),
            }
            run_stage("live.root:make_squashfs", arguments, settings["epoch"])

    with _timed("live root", seconds, progress):
        root = store.entry("live-root", root_key, make_root)
    key = content_key(
        {
            "root": root_key,
            "definition": digest_of_folder(definition / "live"),
            "code": [_digest(module) for module in _modules()],
            "tools": _tool_versions(),
        }
    )
    facts = {"commit": reference.ostree_commit, "stateroot": settings["stateroot"], "version": settings["version"]}

    def make_iso(folder: Path) -> None:
        with store.scratch("live") as scratch:
            files = Inputs(root / SQUASHFS, initramfs, definition / "live", busybox_of(rootfs), live["without"], facts)
            assemble(medium, files, scratch, folder / ISO)
        (folder / FACTS).write_text(json.dumps({"sha256": _digest(folder / ISO)}))

    with _timed("live ISO", seconds, progress):
        entry = store.entry("live", key, make_iso)
    sha256 = json.loads((entry / FACTS).read_text())["sha256"]
    return BuiltLive(entry / ISO, sha256, medium.volume, reference, key, seconds)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What an ISO is put together from; `initramfs` is a folder with the kernel as well."""

    squashfs: Path
    initramfs: Path
    definition: Path
    busybox: bytes
    without: list[str]
    facts: dict[str, str]  # stateroot, commit, version


def assemble(medium: Medium, files: Inputs, scratch: Path, target: Path) -> None:
    """Put an ISO together: seconds, no root, the same bytes from the same inputs."""
    tree = scratch / "iso"
    pxe = tree / "images/pxeboot"
    pxe.mkdir(parents=True)
    write_rootfs(files.squashfs, files.facts["version"], pxe / "rootfs.img")
    write_initrd(
        files.initramfs / INITRAMFS,
        files.definition / "initrd",
        files.busybox,
        files.without,
        files.facts,
        pxe / "rootfs.img",
        pxe / "initrd.img",
    )
    link_or_copy(files.initramfs / KERNEL, pxe / "vmlinuz")
    lay_out(medium, files.definition, tree, scratch)
    write_iso(medium, tree, target)


def read_live_definition(definition: Path) -> dict[str, Any]:
    """live.toml, checked for its keys. Raises BuildFailed naming the file."""
    path = definition / "live/live.toml"
    try:
        found = tomllib.loads(path.read_text())
        return {key: found[key] for key in ("vendor", "kargs", "console", "compression_level", "without")}
    except (OSError, KeyError, ValueError) as cause:
        raise BuildFailed(f"is not a definition of a live ISO: {cause!r}", where=str(path)) from cause


def busybox_of(rootfs: Path) -> bytes:
    """The static busybox of an installed system, from its tar. Raises BuildFailed."""
    with tarfile.open(rootfs) as archive:
        found = archive.extractfile(BUSYBOX)
        if found is None:
            raise BuildFailed(f"{BUSYBOX} is not a file", where=str(rootfs))
        return found.read()


def _modules() -> list[Path]:
    return sorted(Path(__file__).parent.glob("*.py"))


def _tool_versions() -> list[str]:
    """Whatever of the host ends up in the ISO, or makes it."""
    files = [_digest(find_tool(str(path))) for path in (ISOLINUX, ISOLINUX_LIBRARY, MBR)]
    packages = ["xorriso", "dosfstools", "mtools", "grub-common", "grub-efi-amd64-bin"]
    return [*files, run(["dpkg-query", "-W", "-f", "${Package}=${Version} ", *packages]).decode()]


def _digest(path: str | Path) -> str:
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _timed(stage: str, seconds: dict[str, float], progress: Progress | None) -> Iterator[None]:
    started = time.monotonic()
    if progress:
        progress(stage, None)
    yield
    seconds[stage] = time.monotonic() - started
    if progress:
        progress(stage, seconds[stage])
