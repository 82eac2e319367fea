"""What a live ISO is taken apart into: the files for network boot, and the minimal ISO.

The root filesystem is shared with the ISO where the file system can (reflinks), else copied by the kernel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BadInput, DamagedImage, MissingFile
from harness.images.block import Part
from harness.images.edits.draft import creating
from harness.images.filesystems.files import shown
from harness.images.system.live import MINIMAL_ISO, PXE
from harness.images.system.live_places import KARGS
from harness.iso.edit import kargs_patches
from harness.iso.initrd import embedded, pack
from harness.iso.kargs import changed, checked, current
from harness.iso.miniso import read_recipe, unpack
from harness.iso.opened import open_live_iso
from harness.store import check_replaceable, replacing

STEP = 2**26  # bytes that the kernel copies at a time
MOST_PXE_FILES = 64
LIVE_ISO = "coreos.liveiso="
ROOTFS_URL = "coreos.live.rootfs_url="


@dataclass(frozen=True, slots=True)
class PxeFiles:
    """The files written, and the kernel arguments for them: the ISO's without those for its own medium."""

    files: tuple[Path, ...]
    kargs: str | None


def extract_pxe(path: Path, folder: Path, *, force: bool = False) -> PxeFiles:
    """Write the files of /images/pxeboot, and what is embedded as one more initrd, into a folder, as STEM-NAME.

    Raises BadInput where one is there already and `force` is not said.
    """
    with open_live_iso(path) as iso:
        names = iso.files.listdir(PXE)
        if not names or len(names) > MOST_PXE_FILES or not all(_is_plain(name) for name in names):
            raise DamagedImage(f"{PXE} holds {len(names)} files, not a kernel and its initrds", where=str(path))
        parts = {folder / f"{path.stem}-{name}": iso.places.place(f"{PXE}/{name}") for name in names}
        members = embedded(iso.embed)
        ignition = folder / f"{path.stem}-ignition.img"
        targets = [*parts, *([ignition] if members else [])]
        for target in targets:
            check_replaceable(target)
            if target.exists() and not force:
                raise BadInput("is there already", where=str(target), next_step="say --force to replace it")
        try:
            for target, part in parts.items():
                with replacing(target) as aside:
                    _copy_part(path, part, aside)
            if members:
                with replacing(ignition) as aside:
                    aside.write_bytes(pack(members))
        except OSError as cause:
            raise BadInput(f"cannot be written: {cause.strerror or cause}", where=str(folder)) from cause
        kargs = _without_medium(current(iso.kargs)) if iso.has_kargs else None
        return PxeFiles(tuple(targets), kargs)


def extract_minimal(path: Path, output: Path, *, rootfs_url: str | None = None) -> None:
    """Write the minimal ISO that a pristine full one has the recipe of, which fetches its root filesystem.

    As coreos-installer, its default kernel arguments lose `coreos.liveiso=`. Raises BadInput for a customised ISO,
    MissingFile for one without recipe, DamagedImage where what comes out is not what the recipe promises.
    """
    url = checked(ROOTFS_URL + rootfs_url) if rootfs_url is not None else None
    with open_live_iso(path) as full:
        if not full.files.exists(MINIMAL_ISO):
            raise MissingFile("has no recipe for a minimal ISO", where=str(path), next_step=f"no {MINIMAL_ISO} in it")
        is_customised = bool(embedded(full.embed)) or current(full.kargs) != full.kargs.default
        if is_customised:
            raise BadInput("is customised", where=str(path), next_step="harness iso reset gives it its own bytes back")
        recipe = read_recipe(full.places.place(MINIMAL_ISO))
        with creating(output, path) as shop:
            with shop.result.open("wb") as out:
                unpack(recipe, full.block, out)
            _set_kargs(shop.result, url)


def _set_kargs(minimal: Path, url: str | None) -> None:
    """Write kernel arguments and their default in a minimal ISO, which nobody has seen yet."""
    with open_live_iso(minimal) as iso:
        found = iso.kargs
        default = _without_medium(current(found))
        line = changed(default, append=[url]) if url else default
        patches = [(each.offset, each.new) for each in kargs_patches(line, found)]
        if iso.files.exists(KARGS):
            said = iso.places.json(KARGS) | {"default": default}
            place = iso.places.place(KARGS)
            text = json.dumps(said, indent=2).encode()
            if len(text) > place.size:  # written by somebody without so much white space
                text = json.dumps(said, separators=(",", ":")).encode()
            if len(text) > place.size:
                raise DamagedImage(f"has no room for {len(text):,} bytes", where=place.name)
            patches.append((place.start, text.ljust(place.size)))
    _write(minimal, patches)


def _write(path: Path, patches: Sequence[tuple[int, bytes]]) -> None:
    with path.open("r+b") as file:
        for offset, content in patches:
            file.seek(offset)
            file.write(content)


def _without_medium(line: str) -> str:
    return " ".join(word for word in line.split() if not word.startswith(LIVE_ISO))


def _copy_part(source: Path, part: Part, target: Path) -> None:
    """Copy a file of an ISO, inside the kernel where it can."""
    with source.open("rb") as file, target.open("wb") as out:
        at = 0
        while at < part.size:
            try:
                done = os.copy_file_range(file.fileno(), out.fileno(), min(STEP, part.size - at), part.start + at, at)
            except OSError:  # what is wrong, writing says
                done = 0
            if not done:
                content = part.read(at, min(2**20, part.size - at))
                done = os.pwrite(out.fileno(), content, at)
            at += done


def _is_plain(name: str) -> bool:
    return shown(name) == name and name not in {".", ".."} and "/" not in name
