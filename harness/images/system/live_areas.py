"""The places of a live ISO that `coreos-installer iso customize` writes to: the Ignition config and kernel arguments.

An area is announced by a JSON file in /coreos, or by a record in the last bytes of the ISO's system area (until 2022);
both formats are coreos-installer's. Offsets are bytes in the ISO. A place is believed only within bounds: kernel
arguments fit into 2048 bytes, and an area lies within the file it is said to be in.
"""

from __future__ import annotations

import hashlib
import lzma
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec

from harness.errors import DamagedImage
from harness.images.block import Block, Memory, Part
from harness.images.filesystems.files import shown
from harness.images.formats.cpio import is_cpio, read_cpio
from harness.images.manifest import EmbedArea, KargsArea, KargsFacts

Place = Callable[[str], Part]  # of a file in the ISO, by its path

EMBED_RECORD_AT, EMBED_MAGIC = 32744, b"coreiso+"
KARGS_RECORD_AT, KARGS_MAGIC = 32672, b"coreKarg"
KARGS_SLOTS = 6
LONGEST_KARGS = 2048  # bytes
MOST_AREAS = 16
LARGEST_AREA = 2**26  # bytes: 256 times as large as any so far
LARGEST_CONFIG = 2**24  # bytes unpacked, of each archive
XZ_MEMORY = 2**28  # bytes
MOST_ARCHIVES = 8  # in one area
MOST_SHOWN = 64  # members
CONFIG = "config.ign"


class _Named(msgspec.Struct, frozen=True):
    """An area as kargs.json names it; what ends and fills it is said since 2023."""

    path: str
    offset: int
    pad: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = "#"
    end: str = "\n"


def announced_embed_area(said: Mapping[str, Any], place: Place, where: str) -> EmbedArea:
    """The area that igninfo.json names: a file, or a part of one (s390x)."""
    path = said.get("file")
    if not isinstance(path, str):
        raise DamagedImage("names no file", where=where)
    file = place(path)
    offset, length = said.get("offset") or 0, said.get("length") or file.size
    if not isinstance(offset, int) or not isinstance(length, int) or not _is_place(offset, length, file.size):
        message = f"names bytes {offset!r} (+{length!r}) of {shown(path)}, which has {file.size:,}"
        raise DamagedImage(message[:400], where=where)
    return _embed_area(Part(file.whole, file.start + offset, length, file.name), path, where)


def recorded_embed_area(iso: Block) -> EmbedArea | None:
    """The area that the record `coreiso+` names, or None without one."""
    magic, offset, length = struct.unpack("<8sQQ", iso.read(EMBED_RECORD_AT, 24))
    if magic != EMBED_MAGIC:
        return None
    if not _is_place(offset, length, iso.size):
        raise DamagedImage(f"the record coreiso+ names bytes {offset:,} (+{length:,})", where=iso.name)
    return _embed_area(Part(iso, offset, length, iso.name), "", EMBED_MAGIC.decode())


def bare_embed_area(file: Part) -> EmbedArea:
    """images/ignition.img where nothing announces it, as in 2022."""
    return _embed_area(file, "images/ignition.img", "images/ignition.img")


def announced_kargs(said: Mapping[str, Any], place: Place, where: str) -> KargsFacts:
    """The areas that kargs.json names."""
    default, size, files = said.get("default"), said.get("size"), said.get("files")
    if not isinstance(default, str) or not isinstance(files, list) or len(files) > MOST_AREAS:
        raise DamagedImage("is not a default and a list of files", where=where)
    if not isinstance(size, int) or not 0 < size <= LONGEST_KARGS:
        raise DamagedImage(f"says areas of {size!r} bytes; they have at most {LONGEST_KARGS}", where=where)
    areas = []
    for each in files:
        try:
            known = msgspec.convert(each, _Named)
        except msgspec.ValidationError as cause:
            raise DamagedImage(f"names an area by {str(each)[:120]}", where=where) from cause
        file, path = place(known.path), shown(known.path)
        if not _is_place(known.offset, size, file.size):
            raise DamagedImage(f"names byte {known.offset:,} of {path}, which has {file.size:,}", where=where)
        kargs = _kargs(file.read(known.offset, size), known.pad, known.end)
        areas.append(KargsArea(path, file.start + known.offset, kargs))
    return KargsFacts(default, size, where, areas)


def recorded_kargs(iso: Block) -> KargsFacts | None:
    """The areas that the record `coreKarg` names, or None without one."""
    magic, size, default_at, *places = struct.unpack(
        f"<8s{2 + KARGS_SLOTS}Q", iso.read(KARGS_RECORD_AT, 24 + 8 * KARGS_SLOTS)
    )
    if magic != KARGS_MAGIC:
        return None
    used = [place for place in places if place]
    for offset in (default_at, *used):
        if size > LONGEST_KARGS or not _is_place(offset, size, iso.size):
            raise DamagedImage(f"the record coreKarg names bytes {offset:,} (+{size:,})", where=iso.name)
    areas = [KargsArea("", offset, _kargs(iso.read(offset, size), "#", "\n")) for offset in used]
    default = _kargs(iso.read(default_at, size), "#", "\n")
    if default is None:
        raise DamagedImage(f"the default kernel arguments at {default_at:,} are garbled", where=iso.name)
    return KargsFacts(default, size, KARGS_MAGIC.decode(), areas)


def _kargs(area: bytes, pad: str, end: str) -> str | None:
    """What stands in an area before its end mark and padding; None where that is no line of text."""
    text = area.decode("utf-8", "surrogateescape").rstrip(pad)
    if end and not text.endswith(end):
        return "" if not text else None
    found = text.removesuffix(end).rstrip()
    return found if found.isprintable() else None


def _embed_area(area: Part, path: str, announced_by: str) -> EmbedArea:
    state, config, members = "empty", None, []
    content = area.read(0, area.size)
    if content.strip(b"\0"):
        state = "other"
        if (archives := _archives(content, area.name)) is not None:
            members = [name for archive in archives for name in archive]
            configs = [raw for archive in archives for name, raw in archive.items() if name == CONFIG]
            state = "config" if configs else "initrd"
            config = hashlib.sha256(configs[-1]).hexdigest() if configs else None
    names = [shown(name) for name in members[:MOST_SHOWN]]
    return EmbedArea(shown(path), area.start, area.size, announced_by, state, config, names)


def _archives(content: bytes, where: str) -> list[dict[str, bytes]] | None:
    """The archives in an area, members by name: each a cpio, compressed or not, zeroes between; None if it is else."""
    found: list[dict[str, bytes]] = []
    while (content := content.lstrip(b"\0")) and len(found) < MOST_ARCHIVES:
        try:
            plain, content = _unpacked(content)
            if not is_cpio(plain):
                return None
            block = Memory(plain, where)
            found.append({member.name: block.read(member.start, member.size) for member in read_cpio(block)})
        except (lzma.LZMAError, zlib.error, DamagedImage):
            return None
    return found


def _unpacked(packed: bytes) -> tuple[bytes, bytes]:
    """A compressed archive, and what follows it. Raises DamagedImage where it has more than LARGEST_CONFIG bytes."""
    xz, gz = packed.startswith(b"\xfd7zXZ\0"), packed.startswith(b"\x1f\x8b")
    if not xz and not gz:
        return packed, b""
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY) if xz else zlib.decompressobj(31)
    plain = stream.decompress(packed, LARGEST_CONFIG)
    if not stream.eof:
        raise DamagedImage("an embedded archive is cut, or unpacks to more than any config", where="embed area")
    return plain, stream.unused_data


def _is_place(offset: int, length: int, size: int) -> bool:
    """Whether numbers from outside name a stretch within `size` bytes."""
    return offset >= 0 and 0 < length <= LARGEST_AREA and offset + length <= size
