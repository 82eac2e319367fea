"""A CoreOS live ISO opened to be customised: its files, and the places that may be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from harness.errors import MissingFile, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.files import Files, open_files
from harness.images.formats.compression import detect
from harness.images.formats.raw import FileBlock
from harness.images.source import SNIFFED, open_image
from harness.images.system.live import SIGNS
from harness.images.system.live_places import EmbedPlace, KargsPlaces, Places
from harness.iso.claims import check_places


@dataclass(frozen=True)
class LiveIso:
    """An opened live ISO; what it announces is checked when it is asked for."""

    path: Path
    block: Block
    files: Files
    places: Places

    @property
    def embed(self) -> EmbedPlace:
        """The room for a config. Raises DamagedImage unless it and the rooms of kernel arguments may be written."""
        return self._checked[0]

    @property
    def has_kargs(self) -> bool:
        """Whether there is room for kernel arguments at all; raises as `embed`."""
        found = self._checked[1]
        return found is not None and bool(found.places)

    @property
    def kargs(self) -> KargsPlaces:
        """The rooms for kernel arguments; raises as `embed`, and UnsupportedImage for an ISO without."""
        found = self._checked[1]
        if found is None or not found.places:
            raise UnsupportedImage(
                "has no room for kernel arguments",
                where=str(self.path),
                next_step="ISOs have it since January 2021; on s390x since July 2023",
            )
        return found

    @cached_property
    def _checked(self) -> tuple[EmbedPlace, KargsPlaces | None]:
        embed, kargs = self.places.embed(), self.places.kargs()
        check_places(self.places, embed, kargs)
        return embed, kargs


@contextmanager
def open_live_iso(path: Path) -> Iterator[LiveIso]:
    """Open a live ISO for reading. Raises BadInput, DamagedImage or UnsupportedImage for whatever else it is."""
    with FileBlock(path) as file:
        if compression := detect(file.read(0, min(SNIFFED, file.size))):
            raise UnsupportedImage(f"is {compression}-compressed", where=str(path), next_step="unpack it first")
    with open_image(path) as image:
        if image.container != "iso":
            raise UnsupportedImage(f"is no ISO, but {image.container}", where=str(path), next_step="name a live ISO")
        files = open_files(image.block)
        if not any(files.exists(sign) for sign in SIGNS):
            raise MissingFile(
                "is no CoreOS live ISO",
                where=str(path),
                next_step=f"one has {', '.join(SIGNS[:2])} or {SIGNS[3]}",
            )
        yield LiveIso(path, image.block, files, Places(image.block, files))
