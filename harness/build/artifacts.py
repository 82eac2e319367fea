"""What a build is shipped as: the files of a platform, by the names that coreos-assembler gives them in meta.json."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from harness.build.flavour import Flavour
from harness.build.live.live import build_live
from harness.build.reference import DEFINITION, Progress, build_reference, read_definition
from harness.images.edits.platform import set_platform
from harness.iso.extract import extract_pxe
from harness.store import Store

MIB = 2**20
PLATFORMS = ("qemu", "metal", "live")
PXE = {"vmlinuz": "live-kernel", "initrd.img": "live-initramfs", "rootfs.img": "live-rootfs"}


def build_artifacts(
    platform: str,
    flavour: Flavour,
    scratch: Path,
    *,
    store: Store,
    definition: Path = DEFINITION,
    unlocked: bool = False,
    progress: Progress | None = None,
) -> Mapping[str, Path]:
    """Files by name, in the store or below `scratch`: the caller copies them. `platform` is one of PLATFORMS.

    The disk for metal ends at its backup GPT, and its console and platform id are those of metal.
    Raises what build_reference and build_live raise.
    """
    if platform == "live":
        live = build_live(store, definition=definition, unlocked=unlocked, progress=progress, flavour=flavour)
        files = extract_pxe(live.path, scratch).files
        named = {PXE[file.name.removeprefix(f"{live.path.stem}-")]: file for file in files}
        return {"live-iso": live.path} | named
    disk = build_reference(store, definition=definition, unlocked=unlocked, progress=progress, flavour=flavour).path
    if platform == "metal":
        raw = scratch / "metal.raw"
        set_platform(disk, "metal", raw, form="raw")
        os.truncate(raw, read_definition(definition)["metal_mib"] * MIB)
        disk = raw
    return {platform: disk}
