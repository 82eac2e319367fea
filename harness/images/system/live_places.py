"""Where a live ISO has room for an Ignition config and for kernel arguments, by every announcement there has been.

A place is announced by a JSON file in /coreos, or by a record in the last bytes of the ISO's system area (until 2022);
both formats are coreos-installer's. Offsets are bytes in the ISO. A place is believed only within bounds: kernel
arguments fit into 2048 bytes, and a place lies within the file it is said to be in.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Protocol, runtime_checkable

import msgspec

from harness.errors import DamagedImage, MissingFile, UnsupportedImage
from harness.images.block import Block, Part
from harness.images.filesystems.files import Files, shown
from harness.images.filesystems.inodes import Run

IGNINFO = "/coreos/igninfo.json"
KARGS = "/coreos/kargs.json"
IGNITION_IMAGE = "/images/ignition.img"
EMBED_RECORD_AT, EMBED_MAGIC = 32744, b"coreiso+"
KARGS_RECORD_AT, KARGS_MAGIC = 32672, b"coreKarg"
KARGS_SLOTS = 6
LONGEST_KARGS = 2048  # bytes
MOST_AREAS = 16
LARGEST_AREA = 2**26  # bytes: 256 times as large as any so far
LARGEST_JSON = 2**20  # bytes
PAD, END = "#", "\n"  # of kernel arguments, where nothing else is said


@dataclass(frozen=True, slots=True)
class EmbedPlace:
    """Room for archives; `path` is empty where only bytes are announced."""

    path: str
    area: Part
    announced_by: str


@dataclass(frozen=True, slots=True)
class KargsPlace:
    """Room for a line of kernel arguments, what ends it and what fills the rest."""

    path: str
    area: Part
    pad: str = PAD
    end: str = END

    def text(self) -> str | None:
        """What stands there; None where it is no line of text."""
        return kargs_in(self.area.read(0, self.area.size), self.pad, self.end)


@dataclass(frozen=True, slots=True)
class KargsPlaces:
    """All places for kernel arguments, of `size` bytes each, and what stood there as shipped."""

    default: str
    size: int
    announced_by: str
    places: tuple[KargsPlace, ...]


class _Named(msgspec.Struct, frozen=True):
    """A place as kargs.json names it; what ends and fills it is said since 2023."""

    path: str
    offset: int
    pad: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = PAD
    end: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = END


@runtime_checkable
class InRuns(Protocol):
    """A filesystem that tells where a file's bytes lie."""

    def runs(self, number: int) -> Iterable[Run]: ...


def place_of(iso: Block, files: Files, path: str) -> Part:
    """Where a file lies in the ISO. Raises UnsupportedImage for one that is not in one piece, which no area may be."""
    entry = files.stat(path, follow=True)
    inodes = files.mount("/").inodes
    if entry.kind != "file" or not isinstance(inodes, InRuns):
        raise MissingFile(f"{shown(path)} is a {entry.kind}, not a file of an ISO", where=files.name)
    runs = [run for run in inodes.runs(entry.inode) if run.length]
    start = at = runs[0].offset or 0 if runs else 0
    for run in runs:
        if run.offset != at:
            raise UnsupportedImage(f"{shown(path)} is scattered over the ISO", where=files.name)
        at += run.length
    return Part(iso, start, entry.size, f"{iso.name}: {shown(path)}")


class Places:
    """What an ISO announces. All methods raise DamagedImage or MissingFile where it announces the impossible."""

    def __init__(self, iso: Block, files: Files) -> None:
        self.iso = iso
        self.files = files

    def place(self, path: str) -> Part:
        """Where a file lies; a path from a JSON file has no slash in front."""
        return place_of(self.iso, self.files, "/" + path.lstrip("/"))

    def json(self, path: str) -> dict[str, Any]:
        """A JSON file that is an object."""
        where = f"{self.files.name}: {path}"
        try:
            parsed = msgspec.json.decode(self.files.read(path, LARGEST_JSON))
        except (ValueError, RecursionError) as cause:
            raise DamagedImage(f"is not JSON: {str(cause)[:120]}", where=where) from cause
        if not isinstance(parsed, dict):
            raise DamagedImage("is JSON but not an object", where=where)
        return parsed

    def embed(self) -> EmbedPlace:
        """The room for a config: as igninfo.json names it, else as the record does, else images/ignition.img."""
        if self.files.exists(IGNINFO):
            return self._announced_embed(self.json(IGNINFO))
        return self.recorded_embed() or EmbedPlace(
            IGNITION_IMAGE[1:], self.place(IGNITION_IMAGE), announced_by=IGNITION_IMAGE[1:]
        )

    def kargs(self) -> KargsPlaces | None:
        """The rooms for kernel arguments, as kargs.json names them, else as the record does; None without either."""
        return self._announced_kargs(self.json(KARGS)) if self.files.exists(KARGS) else self.recorded_kargs()

    def _announced_embed(self, said: Mapping[str, Any]) -> EmbedPlace:
        """A file, or a part of one (s390x)."""
        path = said.get("file")
        if not isinstance(path, str):
            raise DamagedImage("names no file", where=IGNINFO)
        file = self.place(path)
        offset = said.get("offset") or 0
        if not isinstance(offset, int):
            raise DamagedImage(f"names byte {str(offset)[:80]!r} of {shown(path)}", where=IGNINFO)
        length = said.get("length") or file.size - offset
        if not isinstance(length, int) or not _is_place(offset, length, file.size):
            message = f"names bytes {offset!r} (+{length!r}) of {shown(path)}, which has {file.size:,}"
            raise DamagedImage(message[:400], where=IGNINFO)
        return EmbedPlace(path, Part(file.whole, file.start + offset, length, file.name), IGNINFO)

    def recorded_embed(self) -> EmbedPlace | None:
        """The room that the record `coreiso+` names, or None without one."""
        magic, offset, length = struct.unpack("<8sQQ", self.iso.read(EMBED_RECORD_AT, 24))
        if magic != EMBED_MAGIC:
            return None
        if not _is_place(offset, length, self.iso.size):
            raise DamagedImage(f"the record coreiso+ names bytes {offset:,} (+{length:,})", where=self.iso.name)
        return EmbedPlace("", Part(self.iso, offset, length, self.iso.name), EMBED_MAGIC.decode())

    def _announced_kargs(self, said: Mapping[str, Any]) -> KargsPlaces:
        default, size, files = said.get("default"), said.get("size"), said.get("files")
        if not isinstance(default, str) or not isinstance(files, list) or len(files) > MOST_AREAS:
            raise DamagedImage("is not a default and a list of files", where=KARGS)
        if not isinstance(size, int) or not 0 < size <= LONGEST_KARGS:
            raise DamagedImage(f"says areas of {str(size)[:80]} bytes; they have at most {LONGEST_KARGS}", where=KARGS)
        return KargsPlaces(default, size, KARGS, tuple(self._named(each, size) for each in files))

    def _named(self, said: object, size: int) -> KargsPlace:
        try:
            known = msgspec.convert(said, _Named)
        except msgspec.ValidationError as cause:
            raise DamagedImage(f"names an area by {str(said)[:120]}", where=KARGS) from cause
        file, path = self.place(known.path), shown(known.path)
        if not _is_place(known.offset, size, file.size):
            raise DamagedImage(f"names byte {known.offset:,} of {path}, which has {file.size:,}", where=KARGS)
        area = Part(file.whole, file.start + known.offset, size, file.name)
        return KargsPlace(path, area, known.pad, known.end)

    def recorded_kargs(self) -> KargsPlaces | None:
        """The rooms that the record `coreKarg` names, or None without one. The first offset of zero ends the list."""
        record = self.iso.read(KARGS_RECORD_AT, 24 + 8 * KARGS_SLOTS)
        magic, size, default_at, *places = struct.unpack(f"<8s{2 + KARGS_SLOTS}Q", record)
        if magic != KARGS_MAGIC:
            return None
        used = places[: places.index(0)] if 0 in places else places
        for offset in (default_at, *used):
            if size > LONGEST_KARGS or not _is_place(offset, size, self.iso.size):
                raise DamagedImage(f"the record coreKarg names bytes {offset:,} (+{size:,})", where=self.iso.name)
        default = kargs_in(self.iso.read(default_at, size))
        if default is None:
            raise DamagedImage(f"the default kernel arguments at {default_at:,} are garbled", where=self.iso.name)
        areas = tuple(KargsPlace("", Part(self.iso, offset, size, self.iso.name)) for offset in used)
        return KargsPlaces(default, size, KARGS_MAGIC.decode(), areas)


def kargs_in(area: bytes, pad: str = PAD, end: str = END) -> str | None:
    """What stands in an area before its end mark and padding; None where that is no line of text."""
    text = area.decode("utf-8", "surrogateescape").rstrip(pad)
    if end and end != pad and not text.endswith(end):
        return "" if not text else None
    found = text.removesuffix(end).rstrip()
    return found if found.isprintable() else None


def _is_place(offset: int, length: int, size: int) -> bool:
    """Whether numbers from outside name a stretch within `size` bytes."""
    return offset >= 0 and 0 < length <= LARGEST_AREA and offset + length <= size
