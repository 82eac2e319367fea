"""A CoreOS live ISO: what it carries to be customised and to install from, besides being an ISO.

Facts: coreos-installer's documentation and its sources for the places (embed areas, kargs, osmet, miniso); osbuild's
stage org.osbuild.coreos.live-artifacts.mono for the files. Two generations are read: today's JSON files in /coreos,
and the records at the end of the ISO's system area that did their work until 2022. Offsets are bytes in the ISO.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from harness.errors import DamagedImage, HarnessError
from harness.images.block import Block
from harness.images.filesystems.files import Files, open_files, shown
from harness.images.filesystems.superblock import identify
from harness.images.formats.cpio import CpioMember, is_cpio, member_block, read_cpio
from harness.images.manifest import EmbedArea, KargsFacts, LiveFacts, OsmetFacts, RootfsFacts
from harness.images.system.live_areas import embed_area, kargs_facts
from harness.images.system.live_places import IGNINFO, IGNITION_IMAGE, KARGS, Places
from harness.images.system.live_recipes import read_minimal_iso, read_osmet

T = TypeVar("T")
FEATURES = "/coreos/features.json"
MINIMAL_ISO = "/coreos/miniso.dat"
PXE = "/images/pxeboot"
ROOTFS = f"{PXE}/rootfs.img"
ROOTFS_BUILD = "etc/coreos-live-rootfs"
SIGNS = (IGNINFO, KARGS, FEATURES, IGNITION_IMAGE)
LARGEST_BUILD = 4096  # bytes
MOST_SHOWN = 64  # members of an archive


def read_live(iso: Block, note: Callable[[HarnessError], None]) -> LiveFacts | None:
    """What a live ISO carries, or None for an ISO that is no CoreOS one.

    What cannot be read is None and told to `note`. Raises what `open_files` raises.
    """
    files = open_files(iso)
    volume = identify(iso)
    if not any(files.exists(path) for path in SIGNS):
        return None
    look = _Look(iso, files)

    def tried(make: Callable[[], T]) -> T | None:
        try:
            return make()
        except HarnessError as error:
            note(error)
            return None

    return LiveFacts(
        volume_id=shown(volume.label or "") if volume else "",
        ignition=tried(look.ignition),
        kargs=tried(look.kargs),
        features=tried(look.features),
        minimal_iso=tried(look.minimal_iso),
        pxe=tried(look.pxe) or {},
        rootfs=tried(look.rootfs),
    )


class _Look:
    """One look at one live ISO."""

    def __init__(self, iso: Block, files: Files) -> None:
        self._files = files
        self._places = Places(iso, files)

    def ignition(self) -> EmbedArea:
        return embed_area(self._places.embed())

    def kargs(self) -> KargsFacts | None:
        found = self._places.kargs()
        return kargs_facts(found) if found else None

    def features(self) -> dict[str, Any] | None:
        return self._places.json(FEATURES) if self._files.exists(FEATURES) else None

    def minimal_iso(self) -> str | None:
        return read_minimal_iso(self._places.place(MINIMAL_ISO)) if self._files.exists(MINIMAL_ISO) else None

    def pxe(self) -> dict[str, int]:
        if not self._files.exists(PXE):
            return {}
        return {shown(name): self._files.stat(f"{PXE}/{name}").size for name in self._files.listdir(PXE)[:MOST_SHOWN]}

    def rootfs(self) -> RootfsFacts | None:
        """The archive with the live root; None where the ISO has none, as a minimal one."""
        return read_rootfs(self._places.place(ROOTFS)) if self._files.exists(ROOTFS) else None


def read_rootfs(archive: Block) -> RootfsFacts:
    """What rootfs.img holds: a cpio whose first member is the filesystem of the live system."""
    if not is_cpio(archive.read(0, min(110, archive.size))):
        raise DamagedImage("is not a cpio archive", where=archive.name)
    members = list(read_cpio(archive))
    root = next((member for member in members if member.name.startswith("root.")), None)
    if root is None:
        raise DamagedImage(f"holds no root filesystem, only {_names(members)}", where=archive.name)
    filesystem = identify(member_block(archive, root))
    return RootfsFacts(
        filesystem=filesystem.type if filesystem else "unknown",
        offset=root.start,
        build=_build(archive, members),
        members=[shown(member.name) for member in members[:MOST_SHOWN]],
        osmet=list(_osmet(archive, members)),
    )


def _build(archive: Block, members: Iterable[CpioMember]) -> str | None:
    found = [member for member in members if member.name == ROOTFS_BUILD and member.size <= LARGEST_BUILD]
    return shown(archive.read(found[0].start, found[0].size).decode("utf-8", "replace").strip()) if found else None


def _osmet(archive: Block, members: Iterable[CpioMember]) -> Iterable[OsmetFacts]:
    for member in members:
        if member.name.endswith(".osmet"):
            yield read_osmet(member_block(archive, member), shown(member.name))


def _names(members: Iterable[CpioMember]) -> str:
    return json.dumps([shown(member.name) for member in members][:8])
