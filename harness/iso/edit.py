"""Edits of a live ISO: planned as patches on an ISO that was checked, then written in place or to a new file.

Nothing outside of the places changes, and an edit that changes nothing writes nothing. Undoing an edit of a pristine
ISO gives its bytes back.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from harness.errors import BadInput
from harness.images.edits.copy import copy_disk
from harness.images.edits.draft import creating
from harness.images.formats.newc import FILE
from harness.images.system.live import FEATURES
from harness.images.system.live_archives import Member
from harness.images.system.live_places import KargsPlaces
from harness.iso.initrd import CONFIG, NETWORK, Compression, area_of, embedded, with_member, without
from harness.iso.kargs import changed as changed_line
from harness.iso.kargs import current, written
from harness.iso.opened import LiveIso, open_live_iso
from harness.iso.undo import Patch, is_cut, locked, write_in_place

STEP = 2**20  # bytes
STDOUT = Path("-")
Plan = Callable[[LiveIso], list[Patch]]


def change(path: Path, plan: Plan, output: Path | None = None) -> int:
    """Carry out a plan in place, or on a copy at `output` (`-` is standard output); returns how many bytes differ.

    Raises BadInput where something cannot be written, what opening an ISO raises, and what the plan raises: then
    nothing was written.
    """
    if output is None:
        with locked(path) as descriptor:
            with open_live_iso(path) as iso:
                patches = _needed(plan(iso))
            if patches:
                write_in_place(path, descriptor, patches)
            return _differing(patches)
    if is_cut(path):
        raise BadInput(
            "an edit of it was cut short, or goes on", where=str(path), next_step="harness iso recover takes it back"
        )
    with open_live_iso(path) as iso:
        patches = _needed(plan(iso))
        if output == STDOUT:
            _stream(iso, patches, sys.stdout.buffer)
        else:
            _copy(iso, patches, output)
    return _differing(patches)


def embed_config(config: bytes, *, replace: bool = False, compression: Compression = "xz") -> Plan:
    """Embed an Ignition config, beside what else is embedded. The plan raises BadInput where there is one already."""

    def plan(iso: LiveIso) -> list[Patch]:
        members = embedded(iso.embed)
        if not replace and any(each.name == CONFIG for each in members):
            raise BadInput("has an Ignition config already", where=str(iso.path), next_step="say --replace")
        return _embedding(iso, with_member(members, Member(CONFIG, FILE, config)), compression)

    return plan


def remove_config(iso: LiveIso) -> list[Patch]:
    """Take the Ignition config out; what else is embedded stays."""
    members = embedded(iso.embed)
    kept = [each for each in members if each.name != CONFIG]
    return _embedding(iso, kept) if kept != members else []


def embed_network(keyfiles: Sequence[tuple[str, bytes]], *, replace: bool = False) -> Plan:
    """Embed NetworkManager keyfiles (name, content). The plan raises BadInput where the system would not read them."""

    def plan(iso: LiveIso) -> list[Patch]:
        features = iso.places.json(FEATURES) if iso.files.exists(FEATURES) else {}
        if features.get("live-initrd-network") is not True:
            raise BadInput("its system reads no embedded network settings", where=str(iso.path))
        members = embedded(iso.embed)
        if not replace and any(each.name.startswith(NETWORK) for each in members):
            raise BadInput("has network settings already", where=str(iso.path), next_step="say --replace")
        members = without(members, NETWORK)
        for name, content in keyfiles:
            members = with_member(members, Member(NETWORK + name, 0o100600, content))
        return _embedding(iso, members)

    return plan


def remove_network(iso: LiveIso) -> list[Patch]:
    """Take all network settings out."""
    members = embedded(iso.embed)
    kept = without(members, NETWORK)
    return _embedding(iso, kept) if kept != members else []


def modify_kargs(*, append: Sequence[str] = (), delete: Sequence[str] = (), replace: Sequence[str] = ()) -> Plan:
    """Change the kernel arguments as they stand."""

    def plan(iso: LiveIso) -> list[Patch]:
        found = iso.kargs
        return kargs_patches(changed_line(current(found), append=append, delete=delete, replace=replace), found)

    return plan


def reset_kargs(iso: LiveIso) -> list[Patch]:
    """Give every place the kernel arguments as shipped, whatever stands there."""
    found = iso.kargs
    return kargs_patches(found.default, found)


def reset(iso: LiveIso) -> list[Patch]:
    """Give an ISO its own bytes back: nothing embedded, and the kernel arguments as shipped."""
    patches = _embedding(iso, [])
    return patches + (reset_kargs(iso) if iso.has_kargs else [])


def kargs_patches(line: str, found: KargsPlaces) -> list[Patch]:
    """The same line in every place."""
    return [
        Patch(place.area.start, place.area.read(0, place.area.size), written(line, found, place))
        for place in found.places
    ]


def _embedding(iso: LiveIso, members: Sequence[Member], compression: Compression = "xz") -> list[Patch]:
    place = iso.embed
    area = place.area
    return [Patch(area.start, area.read(0, area.size), area_of(members, place, compression))]


def _needed(patches: Sequence[Patch]) -> list[Patch]:
    return [each for each in patches if each.old != each.new]


def _differing(patches: Sequence[Patch]) -> int:
    return sum(sum(old != new for old, new in zip(each.old, each.new, strict=True)) for each in patches)


def _copy(iso: LiveIso, patches: Sequence[Patch], output: Path) -> None:
    """A whole new ISO: cloned where the file system can, else copied by the kernel, holes left out."""
    with creating(output, iso.path) as shop:
        copy_disk(iso.block, shop.result)
        with shop.result.open("r+b") as file:
            for each in patches:
                file.seek(each.offset)
                file.write(each.new)


def _stream(iso: LiveIso, patches: Sequence[Patch], out: BinaryIO) -> None:
    if out.isatty():
        raise BadInput("an ISO does not go to a terminal", next_step="name a file, or pipe it somewhere")
    at = 0
    for each in sorted(patches, key=lambda patch: patch.offset):
        _pass_on(iso, at, each.offset, out)
        out.write(each.new)
        at = each.offset + len(each.new)
    _pass_on(iso, at, iso.block.size, out)
    out.flush()


def _pass_on(iso: LiveIso, start: int, end: int, out: BinaryIO) -> None:
    out.writelines(iso.block.read(at, min(STEP, end - at)) for at in range(start, end, STEP))
