"""The config of a live system's boot: in the ISO's own room for it, or in an initrd behind those of PXE.

An ISO is written in the overlay over it, never itself: as `coreos-installer iso ignition embed` would, but for this one
machine. Where the ISO has room for kernel arguments and names no serial console, it is told ours.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.build.live.newc import Member, filled, write_archive
from harness.errors import BadInput, HarnessError, UnsupportedImage
from harness.images.block import Block
from harness.images.formats.raw import FileBlock
from harness.images.manifest import KargsFacts, LiveFacts
from harness.images.system.live import read_live
from harness.machine.hardware.spec import Kernel
from harness.machine.qemu.layers import Layer
from harness.tools import run

SECTOR = 512  # bytes: what is written begins and ends at one
CONFIG = "config.ign"
PATCH = "patch.bin"


def archive_of(config: bytes) -> bytes:
    """A compressed initrd that holds the config and nothing else; equal configs give equal bytes."""
    plain = io.BytesIO()
    write_archive(plain, [Member(CONFIG, config)])
    return gzip.compress(plain.getvalue(), mtime=0)


def embed_in_overlay(iso: Layer, overlay: Layer, config: bytes, console: str) -> None:
    """Write a config into the room for it as the overlay shows it, and the console where none is named.

    Raises UnsupportedImage where the image is no live ISO, BadInput where the config does not fit.
    """
    with FileBlock(iso.path) as block:
        facts = _facts(block, iso.path)
        room = facts.ignition
        packed = archive_of(config)
        if room is None or len(packed) > room.size:
            has = f"{room.size:,} bytes of room" if room else "no room"
            raise BadInput(f"has {has} for a config of {len(packed):,} bytes", where=str(iso.path))
        patches = [(room.offset, packed.ljust(room.size, b"\0")), *_with_console(facts.kargs, console)]
        commands = []
        for number, (offset, content) in enumerate(patches):
            start, end = offset // SECTOR * SECTOR, -(-(offset + len(content)) // SECTOR) * SECTOR
            whole = bytearray(block.read(start, end - start))
            whole[offset - start : offset - start + len(content)] = content
            file = overlay.path.with_name(f"{number}-{PATCH}")
            file.write_bytes(whole)
            commands += ["-c", f"write -q -s {file.name} {start} {len(whole)}"]  # it splits at blanks
    below = {"driver": "raw", "read-only": True, "file": {"driver": "file", "filename": str(iso.path.absolute())}}
    both = {"driver": "qcow2", "file": {"driver": "file", "filename": overlay.path.name}, "backing": below}
    run(["qemu-io", *commands, f"json:{json.dumps(both)}"], timeout=60, cwd=overlay.path.parent)
    for number in range(len(patches)):
        overlay.path.with_name(f"{number}-{PATCH}").unlink()


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


def _facts(iso: Block, path: Path) -> LiveFacts:
    notes: list[HarnessError] = []
    facts = read_live(iso, notes.append)
    if facts is None:
        raise UnsupportedImage("is no CoreOS live ISO: a config cannot be embedded in it", where=str(path))
    if facts.ignition is None and notes:
        raise notes[0]
    return facts


def _with_console(kargs: KargsFacts | None, console: str) -> Iterator[tuple[int, bytes]]:
    """What to write where, so that the kernel speaks on the console that is read; nothing if it does already."""
    for area in kargs.areas if kargs else ():
        if area.kargs is None or f"console={console}" in area.kargs:
            continue
        line = f"{area.kargs} console={console},115200n8\n".encode()
        if kargs and len(line) <= kargs.size:
            yield area.offset, line.ljust(kargs.size, b"#")
