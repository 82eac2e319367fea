"""ISO 9660 images as virtual disks: the disk's bytes are the file's. What is read here is how an ISO is made to boot.

Facts: ECMA-119 (volume descriptors, sector numbers as in its chapter 8); El Torito 1.0, chapters 2 and 3; the system
area in front, where a hybrid ISO has an MBR and often a GPT, is whatever the ISO's maker wants. Sizes are bytes unless
a name ends in _lba or says sectors.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from harness.errors import DamagedImage
from harness.images.block import Block
from harness.images.formats.disk import Fact
from harness.images.formats.raw import FileBlock

SECTOR = 2048
SYSTEM_AREA = 16 * SECTOR
MAGIC = b"CD001"
MAGIC_AT = SYSTEM_AREA + 1
MOST_DESCRIPTORS = 64
END_OF_DESCRIPTORS = 255
EL_TORITO = b"EL TORITO SPECIFICATION"
LONGEST_CATALOG = 16  # sectors; one holds 64 entries
ENTRY = 32
PLATFORMS: Final[Mapping[int, str]] = {0: "x86 BIOS", 1: "PowerPC", 2: "Mac", 0xEF: "UEFI"}
MEDIA: Final[Mapping[int, str]] = {0: "none", 1: "floppy 1.2M", 2: "floppy 1.44M", 3: "floppy 2.88M", 4: "hard disk"}
TEXTS: Final[Mapping[str, slice]] = {  # of the primary volume descriptor
    "system_id": slice(8, 40),
    "volume_id": slice(40, 72),
    "volume_set_id": slice(190, 318),
    "publisher_id": slice(318, 446),
    "preparer_id": slice(446, 574),
    "application_id": slice(574, 702),
}


@dataclass(frozen=True, slots=True)
class BootImage:
    """An entry of the El Torito catalog. `start_lba` counts sectors of 2048 bytes, `sectors` those of 512."""

    platform: str
    is_bootable: bool
    emulation: str
    start_lba: int
    sectors: int


@dataclass(frozen=True, slots=True)
class Catalog:
    """The El Torito catalog. `problem` is empty, or says what is wrong with it; images before that were read."""

    start_lba: int
    images: tuple[BootImage, ...]
    problem: str = ""


def is_iso(head: bytes) -> bool:
    """Whether a file that begins like this has a volume descriptor where ISO 9660 wants it."""
    return head[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


class IsoDisk(FileBlock):
    """An ISO as a disk."""

    def check_length(self) -> None:
        """Raise DamagedImage for a file that is shorter than its volume: a broken download."""
        primary = _primary(self)
        (sectors,), (sector,) = struct.unpack_from("<I", primary, 80), struct.unpack_from("<H", primary, 128)
        if sectors * sector > self.size:
            raise DamagedImage(
                f"the volume has {sectors * sector:,} bytes, the file {self.size:,}",
                where=self.name,
                next_step="truncated? download it again and compare its checksum",
            )

    def facts(self) -> Mapping[str, Fact]:
        primary = _primary(self)
        catalog = read_catalog(self)
        images = catalog.images if catalog else ()
        boot: dict[str, Fact] = {f"boot_{number}": _shown(image) for number, image in enumerate(images, 1)}
        return {
            **{name: primary[place].decode("latin-1").rstrip(" \0") or None for name, place in TEXTS.items()},
            "volume_bytes": struct.unpack_from("<I", primary, 80)[0] * struct.unpack_from("<H", primary, 128)[0],
            "system_area_used": any(self.read(0, SYSTEM_AREA)),
            "mbr": self.read(510, 2) == b"\x55\xaa",
            "gpt": self.read(512, 8) == b"EFI PART",
            "boot_catalog_lba": catalog.start_lba if catalog else None,
            "boot_catalog_problem": (catalog.problem or None) if catalog else None,
            **boot,
        }


def read_catalog(iso: Block) -> Catalog | None:
    """The El Torito catalog, or None for an ISO that is not made to boot from a CD."""
    record = next((each for each in _descriptors(iso) if each[0] == 0 and each[7:30] == EL_TORITO), None)
    if record is None:
        return None
    (start_lba,) = struct.unpack_from("<I", record, 71)
    length = min(LONGEST_CATALOG * SECTOR, iso.size - start_lba * SECTOR)
    if length < SECTOR:
        return Catalog(start_lba, (), f"the catalog at sector {start_lba:,} lies beyond the end of the ISO")
    return _catalog(start_lba, iso.read(start_lba * SECTOR, length))


def _catalog(start_lba: int, raw: bytes) -> Catalog:
    """A validation entry, the default image, then sections, each a header and so many images."""
    words = struct.unpack_from("<16H", raw)
    if raw[0] != 1 or raw[30:32] != b"\x55\xaa" or sum(words) & 0xFFFF:
        return Catalog(start_lba, (), f"the catalog at sector {start_lba:,} has no valid first entry")
    images = [_image(raw[1], raw[ENTRY : 2 * ENTRY])]
    at, is_last = 2 * ENTRY, False
    while not is_last and at + ENTRY <= len(raw) and raw[at] in {0x90, 0x91}:
        is_last, platform = raw[at] == 0x91, raw[at + 1]
        (count,) = struct.unpack_from("<H", raw, at + 2)
        for _ in range(count):
            at += ENTRY
            while raw[at : at + 1] == b"\x44":  # an extension of the entry before
                at += ENTRY
            if at + ENTRY > len(raw):
                return Catalog(start_lba, tuple(images), f"a section of {count:,} images leaves the catalog")
            images.append(_image(platform, raw[at : at + ENTRY]))
        at += ENTRY
    return Catalog(start_lba, tuple(images))


def _image(platform: int, entry: bytes) -> BootImage:
    sectors, start = struct.unpack_from("<HI", entry, 6)
    return BootImage(
        PLATFORMS.get(platform, f"platform {platform:#x}"),
        entry[0] == 0x88,
        MEDIA.get(entry[1] & 0xF, f"medium {entry[1] & 0xF}"),
        start,
        sectors,
    )


def _shown(image: BootImage) -> str:
    kind = "bootable" if image.is_bootable else "not bootable"
    return f"{image.platform}, {kind}, emulation {image.emulation}, LBA {image.start_lba}, {image.sectors} sectors"


def _primary(iso: Block) -> bytes:
    for descriptor in _descriptors(iso):
        if descriptor[0] == 1:
            return descriptor
    raise DamagedImage("has no primary volume descriptor", where=iso.name)


def _descriptors(iso: Block) -> list[bytes]:
    """The volume descriptors up to the one that says it is the last."""
    found: list[bytes] = []
    for index in range(MOST_DESCRIPTORS):
        at = SYSTEM_AREA + index * SECTOR
        if at + SECTOR > iso.size:
            break
        descriptor = iso.read(at, SECTOR)
        if descriptor[1:6] != MAGIC or descriptor[0] == END_OF_DESCRIPTORS:
            break
        found.append(descriptor)
    return found
