"""Whose bytes are whose in an ISO: what may be written is within one file, and nobody else's.

Announcements come from outside. Before anything is written each place is held against the ISO's own metadata (system
area, descriptors, path tables, directories of every tree, boot catalogs, backup GPT), against its files, against the
other places, and against what an older announcement in the same ISO says. Facts: ECMA-119, 8.4, 9.1 and 9.4.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block, Part
from harness.images.filesystems.files import Files, shown
from harness.images.formats.iso import MAGIC, MOST_DESCRIPTORS, SECTOR, SYSTEM_AREA, read_catalog
from harness.images.system.live_places import EmbedPlace, InRuns, KargsPlaces, Places

VOLUMES = (1, 2)  # descriptors that have trees: primary, supplementary (Joliet)
LONGEST_PATH_TABLE = 2**20  # bytes
MOST_FILES = 10_000  # a live ISO has some twenty
KEPT = ("/coreos/", "/images/pxeboot/")  # what is never customised
GPT_BACKUP = 33 * 512  # bytes at the end: 32 sectors of entries, a header
MARK = b"COREOS_KARG_EMBED_AREA"  # in a boot loader's file, a comment right behind the place
AROUND = 96  # bytes in which the mark is looked for


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """Bytes from `start` to before `end` that belong to `owner`; `is_file` where that is a file's path."""

    start: int
    end: int
    owner: str
    is_file: bool = False

    def holds(self, area: Part) -> bool:
        return self.start <= area.start and area.start + area.size <= self.end

    def touches(self, area: Part) -> bool:
        return self.start < area.start + area.size and area.start < self.end


def claims_of(iso: Block, files: Files) -> list[Claim]:
    """Every claim of an ISO's metadata and files, in order. Raises UnsupportedImage for more files than expected."""
    return sorted({*_metadata(iso), *_files(files)})


def check_places(places: Places, embed: EmbedPlace, kargs: KargsPlaces | None) -> None:
    """Raise DamagedImage, naming place and owner, unless every place may be written."""
    areas = [embed.area, *(place.area for place in (kargs.places if kargs else ()))]
    claims = claims_of(places.iso, places.files)
    for area in areas:
        _check(area, claims, places.iso.name)
    for first, second in pairwise(sorted(areas, key=lambda area: area.start)):
        if first.start + first.size > second.start:
            raise DamagedImage(f"the areas {_at(first)} and {_at(second)} overlap", where=places.iso.name)
    _check_records(places, embed, kargs)
    for place in kargs.places if kargs else ():
        _check_mark(place.area, places.iso)


def file_of(area: Part, claims: list[Claim]) -> str | None:
    """The path of the file that an area lies in, the first by name."""
    return next((claim.owner for claim in claims if claim.is_file and claim.holds(area)), None)


def _check(area: Part, claims: list[Claim], where: str) -> None:
    homes = [claim for claim in claims if claim.is_file and claim.holds(area)]
    if not homes:
        raise DamagedImage(f"the area {_at(area)} lies in no file of the ISO", where=where)
    home = homes[0]
    for claim in claims:
        is_home = claim.is_file and (claim.start, claim.end) == (home.start, home.end)  # or a hard link to it
        if claim.touches(area) and not is_home:
            raise DamagedImage(f"the area {_at(area)} lies over {shown(claim.owner)}", where=where)
        if claim in homes and claim.owner.startswith(KEPT):
            raise DamagedImage(
                f"the area {_at(area)} lies in {shown(claim.owner)}, which is never written", where=where
            )


def _check_records(places: Places, embed: EmbedPlace, kargs: KargsPlaces | None) -> None:
    """Between 2021 and 2022 an ISO had two announcements: both must mean the same."""
    old = places.recorded_embed()
    if old is not None and (old.area.start, old.area.size) != (embed.area.start, embed.area.size):
        what = f"the record coreiso+ names {_at(old.area)}, {embed.announced_by} {_at(embed.area)}"
        raise DamagedImage(what, where=places.iso.name)
    recorded = places.recorded_kargs() if kargs else None
    if kargs is None or recorded is None:
        return
    ours, theirs = ({(place.area.start, place.area.size) for place in each.places} for each in (kargs, recorded))
    if ours != theirs:
        what = (
            f"the record coreKarg names other places than {kargs.announced_by}: {_starts(theirs)}, not {_starts(ours)}"
        )
        raise DamagedImage(what, where=places.iso.name)


def _check_mark(area: Part, iso: Block) -> None:
    """A place announced a few bytes off would tear what stands around it: a word in front, the end mark behind."""
    end = area.start + area.size
    start = max(area.start, end - AROUND)
    found = iso.read(start, min(end + AROUND, iso.size) - start).find(MARK)
    if found < 0:  # not in a text, as on s390x
        return
    if not end <= start + found <= end + 2:
        what = f"the area {_at(area)} is announced wrongly: its end mark stands at {start + found:,}"
        raise DamagedImage(what, where=iso.name)
    if not iso.read(area.start - 1, 1).isspace():
        raise DamagedImage(f"the area {_at(area)} is announced wrongly: it begins within a word", where=iso.name)


def _metadata(iso: Block) -> Iterator[Claim]:
    yield Claim(0, SYSTEM_AREA, "the system area")
    at = SYSTEM_AREA
    for _ in range(MOST_DESCRIPTORS):
        if at + SECTOR > iso.size or (raw := iso.read(at, SECTOR))[1:6] != MAGIC:
            break
        yield Claim(at, at + SECTOR, "a volume descriptor")
        if raw[0] in VOLUMES:
            yield from _tree(iso, raw)
        at += SECTOR
    catalog = read_catalog(iso)
    if catalog:
        yield Claim(catalog.start_lba * SECTOR, (catalog.start_lba + 1) * SECTOR, "the boot catalog")
    if iso.read(iso.size - 512, 8) == b"EFI PART":
        yield Claim(iso.size - GPT_BACKUP, iso.size, "the backup GPT")


def _tree(iso: Block, descriptor: bytes) -> Iterator[Claim]:
    """A volume's path tables, in both byte orders, and the directories that the first lists."""
    (size,) = struct.unpack_from("<I", descriptor, 132)
    (block,) = struct.unpack_from("<H", descriptor, 128)
    places = (*struct.unpack_from("<II", descriptor, 140), *struct.unpack_from(">II", descriptor, 148))
    if size > LONGEST_PATH_TABLE:
        raise UnsupportedImage(f"has a path table of {size:,} bytes", where=iso.name)
    for place in filter(None, places):
        yield Claim(place * block, place * block + size, "a path table")
    table, at = iso.read(places[0] * block, size), 0
    while at + 8 <= len(table) and table[at]:
        (start,) = struct.unpack_from("<I", table, at + 2)
        start = (start + table[at + 1]) * block
        (length,) = struct.unpack("<I", iso.read(start + 10, 4))  # in the directory's record for itself
        yield Claim(start, start + length, "a directory")
        at += 8 + table[at] + (table[at] & 1)


def _files(files: Files) -> Iterator[Claim]:
    inodes = files.mount("/").inodes
    if not isinstance(inodes, InRuns):
        raise UnsupportedImage("is no ISO 9660 volume", where=files.name)
    for count, entry in enumerate(files.walk("/")):
        if count > MOST_FILES:
            raise UnsupportedImage(f"has more than {MOST_FILES:,} files, as no live ISO has", where=files.name)
        for run in inodes.runs(entry.inode) if entry.kind == "file" else ():
            if run.length and run.offset is not None:
                yield Claim(run.offset, run.offset + run.length, entry.path, is_file=True)


def _at(area: Part) -> str:
    return f"at {area.start:,} (+{area.size:,})"


def _starts(areas: set[tuple[int, int]]) -> str:
    return " ".join(f"{start:,}" for start, _ in sorted(areas)) or "none"
