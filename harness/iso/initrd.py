"""What is embedded in a live ISO: an initramfs of its own that the boot loader appends to the real one.

As coreos-installer writes it: one cpio archive (newc), compressed by xz with CRC32, which the kernel's decoder wants;
zeroes fill the area. The same members give the same bytes (of one version of liblzma).
"""

from __future__ import annotations

import gzip
import io
import lzma
import stat
from collections.abc import Iterable, Sequence
from typing import Literal

from harness.errors import BadInput, DamagedImage
from harness.images.formats.newc import Entry, write_archive
from harness.images.system.live_archives import Member, read_archives
from harness.images.system.live_places import EmbedPlace

Compression = Literal["xz", "gzip"]
CONFIG = "config.ign"
NETWORK = "etc/coreos-firstboot-network/"
SMALLEST_DICTIONARY = 4096  # bytes, of LZMA2


def embedded(place: EmbedPlace) -> list[Member]:
    """The members in an area, each name once, sorted. Raises DamagedImage for what is not an initramfs."""
    found = read_archives(place.area.read(0, place.area.size), place.area.name)
    if found is None:
        raise DamagedImage(
            f"the area at {place.area.start:,} holds something that is no initramfs",
            where=place.area.name,
            next_step="harness iso reset empties it",
        )
    latest = {member.name: member for member in found}
    return [latest[name] for name in sorted(latest)]


def embedded_config(place: EmbedPlace) -> bytes | None:
    """The Ignition config in an area, None where there is none. Raises DamagedImage as `embedded`."""
    return next((each.content for each in embedded(place) if each.name == CONFIG), None)


def with_member(members: Iterable[Member], new: Member) -> list[Member]:
    """The members with one more, which takes the place of one of its name."""
    return sorted([*(each for each in members if each.name != new.name), new], key=lambda each: each.name)


def without(members: Iterable[Member], prefix: str) -> list[Member]:
    """The members without those whose names begin so, and without folders that then hold nothing."""
    kept = [each for each in members if not each.name.startswith(prefix) and each.name != prefix.rstrip("/")]
    while empty := [each for each in kept if _is_folder(each) and not _holds(each, kept)]:
        kept = [each for each in kept if each not in empty]
    return kept


def area_of(members: Sequence[Member], place: EmbedPlace, compression: Compression = "xz") -> bytes:
    """What an area with these members holds, all zeroes for none. Raises BadInput where it is too small."""
    packed = pack(members, compression) if members else b""
    if len(packed) > place.area.size:
        raise BadInput(
            f"what is to be embedded has {len(packed):,} bytes when packed, the area {place.area.size:,}",
            where=place.area.name,
            next_step="let the config fetch large contents by URL",
        )
    return packed.ljust(place.area.size, b"\0")


def pack(members: Sequence[Member], compression: Compression = "xz") -> bytes:
    """A compressed archive of the members, and of the folders they are in, which the kernel does not make itself."""
    archive = io.BytesIO()
    write_archive(archive, (Entry(each.name, each.content, each.mode) for each in members))
    plain = archive.getvalue()
    if compression == "gzip":
        return gzip.compress(plain, 9, mtime=0)
    dictionary = max(SMALLEST_DICTIONARY, 1 << (len(plain) - 1).bit_length())  # preset 9 would take 64 MiB
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": dictionary}]
    return lzma.compress(plain, check=lzma.CHECK_CRC32, filters=filters)


def _is_folder(member: Member) -> bool:
    return stat.S_ISDIR(member.mode)


def _holds(folder: Member, members: Iterable[Member]) -> bool:
    return any(each.name.startswith(f"{folder.name}/") for each in members)
