"""The config of a live system's boot: in the ISO's own room for it, or in an initrd behind those of PXE.

An ISO is written in the overlay over it, never itself: as `coreos-installer iso ignition embed` would, but for this one
machine. Where the ISO has room for kernel arguments and names no serial console, it is told ours.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from harness.images.formats.newc import FILE, filled
from harness.images.system.live_archives import Member
from harness.iso.edit import embed_config, kargs_patches
from harness.iso.initrd import CONFIG, pack
from harness.iso.kargs import changed, current
from harness.iso.opened import LiveIso, open_live_iso
from harness.iso.undo import Patch
from harness.machine.hardware.spec import Kernel
from harness.machine.qemu.layers import Layer
from harness.tools import run


def archive_of(config: bytes) -> bytes:
    """A compressed initrd that holds the config and nothing else; equal configs give equal bytes."""
    return pack([Member(CONFIG, FILE, config)], "gzip")


def embed_in_overlay(iso: Layer, overlay: Layer, config: bytes, console: str) -> None:
    """Write a config into the room for it as the overlay shows it, and the console where none is named.

    Raises UnsupportedImage where the image is no live ISO, BadInput where the config does not fit, DamagedImage where
    the room is not what the ISO says.
    """
    with open_live_iso(iso.path) as live:
        patches = [*embed_config(config, replace=True)(live), *_naming_console(live, console)]
    commands = []
    for number, patch in enumerate(patches):
        file = overlay.path.with_name(f"{number}.patch")
        file.write_bytes(patch.new)
        commands += ["-c", f"write -q -s {file.name} {patch.offset} {len(patch.new)}"]  # it splits at blanks
    below = {"driver": "raw", "read-only": True, "file": {"driver": "file", "filename": str(iso.path.absolute())}}
    both = {"driver": "qcow2", "file": {"driver": "file", "filename": overlay.path.name}, "backing": below}
    run(["qemu-io", *commands, f"json:{json.dumps(both)}"], timeout=60, cwd=overlay.path.parent)
    for number in range(len(patches)):
        overlay.path.with_name(f"{number}.patch").unlink()


def join_initrds(kernel: Kernel, scratch: Path) -> Path:
    """All initrds of a kernel in one file, each at a multiple of four bytes, where the kernel looks for it."""
    target = scratch / "initrd"
    with target.open("wb") as joined:
        for initrd in kernel.initrds:
            with initrd.open("rb") as source:
                shutil.copyfileobj(source, joined, 2**20)
            joined.write(bytes(filled(joined.tell()) - joined.tell()))
    return target


def append_config(initrd: Path, config: bytes) -> None:
    """Put an initrd with the config behind the others."""
    with initrd.open("ab") as joined:
        joined.write(archive_of(config))


def _naming_console(iso: LiveIso, console: str) -> list[Patch]:
    """What makes the kernel speak on the console that is read; nothing if it does already, or there is no room."""
    if not iso.has_kargs:
        return []
    line, argument = current(iso.kargs), f"console={console}"
    if any(word.split(",")[0] == argument for word in line.split()):
        return []
    return kargs_patches(changed(line, append=[f"{argument},115200n8"]), iso.kargs)
