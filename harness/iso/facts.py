"""A live ISO described: how it boots, what may be customised and has been, and what it installs from."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from harness.errors import HarnessError, MissingFile
from harness.images.filesystems.files import shown
from harness.images.formats.iso import read_catalog
from harness.images.manifest import LiveFacts, OsmetFacts
from harness.images.system.live import MINIMAL_ISO, read_live
from harness.images.system.live_places import EmbedPlace, KargsPlace
from harness.iso.claims import claims_of, file_of
from harness.iso.initrd import NETWORK
from harness.iso.miniso import read_recipe
from harness.iso.opened import LiveIso, open_live_iso
from harness.iso.undo import is_cut

T = TypeVar("T")
LIVE_ISO = re.compile(r"(?:^|\s)coreos\.liveiso=(\S*)")


class Boot(msgspec.Struct, frozen=True):
    """An El Torito entry; `offset` is in the ISO, `size` what the firmware loads, in bytes."""

    platform: str
    bootable: bool
    offset: int
    size: int


class Room(msgspec.Struct, frozen=True):
    """A place that may be written; `used` counts its bytes up to the padding."""

    file: str
    offset: int
    length: int
    used: int


class KargsRoom(msgspec.Struct, frozen=True):
    """A place for kernel arguments, what stands there (None where it is garbled), and how it is filled."""

    room: Room
    kargs: str | None
    pad: str
    end: str


class Ignition(msgspec.Struct, frozen=True):
    """The room for a config. `state`: empty, config, initrd (only other files) or other."""

    announced_by: str
    room: Room
    state: str
    config_sha256: str | None
    network: list[str]
    members: list[str]


class Kargs(msgspec.Struct, frozen=True):
    """Kernel arguments as shipped and as they stand; `current` is None where the places do not agree."""

    announced_by: str
    default: str
    current: str | None
    rooms: list[KargsRoom]


class Minimal(msgspec.Struct, frozen=True):
    """The recipe of the minimal ISO: who made it, how many files and bytes it takes from this one, its SHA-256."""

    app_version: str
    files: int
    shared_bytes: int
    packed_bytes: int
    sha256: str


class Root(msgspec.Struct, frozen=True):
    """The live root: its filesystem and where that lies in rootfs.img, the build, the osmet files beside it."""

    filesystem: str
    offset: int
    build: str | None
    osmet: list[OsmetFacts]


class IsoFacts(msgspec.Struct, frozen=True):
    """All of it. What cannot be read is None, with a note; notes are also what contradicts itself."""

    name: str
    size: int
    volume_id: str
    boot: list[Boot]
    ignition: Ignition | None
    kargs: Kargs | None
    features: dict[str, Any] | None
    pxe: dict[str, int]
    root: Root | None
    minimal_iso: Minimal | None
    writable: bool
    notes: list[str]


def describe(path: Path) -> IsoFacts:
    """Describe a live ISO. Raises what opening one raises; what is wrong inside is a note."""
    with open_live_iso(path) as iso:
        return _Description(iso).facts()


class _Description:
    def __init__(self, iso: LiveIso) -> None:
        self._iso = iso
        self._notes: list[str] = []
        live = read_live(iso.block, self._note)
        if live is None:
            raise MissingFile("is no CoreOS live ISO", where=str(iso.path))
        self._live = live
        self._claims = self._tried(lambda: claims_of(iso.block, iso.files)) or []

    def facts(self) -> IsoFacts:
        iso = self._iso
        live = self._live
        kargs = self._kargs(live)
        facts = {
            "boot": self._boot(),
            "ignition": self._ignition(live),
            "kargs": kargs,
            "root": self._root(live),
            "minimal_iso": self._tried(self._minimal) if live.minimal_iso else None,
            "writable": self._tried(lambda: bool(iso.embed)) or False,
        }
        self._contradictions(live, kargs)
        return IsoFacts(
            name=shown(iso.path.name),
            size=iso.block.size,
            volume_id=live.volume_id,
            features=live.features,
            pxe=live.pxe,
            notes=list(dict.fromkeys(self._notes)),
            **facts,  # type: ignore[arg-type]
        )

    def _note(self, error: HarnessError) -> None:
        self._notes.append(shown(str(error)))

    def _tried(self, make: Callable[[], T]) -> T | None:
        try:
            return make()
        except HarnessError as error:
            self._note(error)
            return None

    def _boot(self) -> list[Boot]:
        catalog = read_catalog(self._iso.block)
        if catalog and catalog.problem:
            self._notes.append(catalog.problem)
        images = catalog.images if catalog else ()
        return [Boot(each.platform, each.is_bootable, each.start_lba * 2048, each.sectors * 512) for each in images]

    def _room(self, place: EmbedPlace | KargsPlace, padding: str) -> Room:
        area = place.area
        path = file_of(area, self._claims) or place.path
        used = len(area.read(0, area.size).rstrip(padding.encode()))
        return Room(shown(path.lstrip("/")), area.start, area.size, used)

    def _ignition(self, live: LiveFacts) -> Ignition | None:
        found = live.ignition
        if found is None:
            return None
        network = [name.removeprefix(NETWORK) for name in found.members if name.startswith(NETWORK)]
        room = self._room(self._iso.places.embed(), "\0")
        return Ignition(found.announced_by, room, found.state, found.config_sha256, network, found.members)

    def _kargs(self, live: LiveFacts) -> Kargs | None:
        places = self._iso.places.kargs() if live.kargs else None
        if places is None:
            return None
        rooms = [KargsRoom(self._room(each, each.pad), each.text(), each.pad, each.end) for each in places.places]
        texts = {each.kargs for each in rooms}
        return Kargs(places.announced_by, places.default, texts.pop() if len(texts) == 1 else None, rooms)

    def _root(self, live: LiveFacts) -> Root | None:
        found = live.rootfs
        return Root(found.filesystem, found.offset, found.build, found.osmet) if found else None

    def _minimal(self) -> Minimal:
        recipe = read_recipe(self._iso.places.place(MINIMAL_ISO))
        shared = sum(each.size for each in recipe.shared)
        return Minimal(recipe.app_version, len(recipe.shared), shared, len(recipe.packed), recipe.sha256)

    def _contradictions(self, live: LiveFacts, kargs: Kargs | None) -> None:
        if is_cut(self._iso.path):
            self._notes.append("an edit in place was cut short: harness iso recover takes it back")
        if kargs is None:
            return
        if kargs.rooms and kargs.current is None:
            self._notes.append("the places do not agree on the kernel arguments: harness iso kargs reset")
        named = LIVE_ISO.search(kargs.default)
        if named and named[1] != live.volume_id:
            self._notes.append(f"coreos.liveiso={shown(named[1])} is not the volume id {live.volume_id}")
