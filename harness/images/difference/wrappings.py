"""Why two compressed files with the same inside differ: what their headers say, one fact a line.

Facts: RFC 1952 (gzip), RFC 8878 (zstd), the .xz file format 1.1.0 (sections 2.1, 3.1 and 4). Headers only: nothing is
unpacked here, and every length is bounded before it is believed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from harness.errors import HarnessError
from harness.images.block import Block, Part
from harness.images.difference.causes import Cause, Difference, knob, moment
from harness.images.difference.differing import Changes
from harness.images.filesystems.files import shown
from harness.images.formats.compression import Compression
from harness.images.formats.disk import Fact
from harness.images.formats.raw import FileBlock
from harness.images.source import Image

LONGEST_HEADER = 65536 + 1024  # bytes: gzip's extra field, its name and comment
LARGEST_INDEX = 2**24  # bytes of an xz index: two million blocks
EXTRA, NAME, COMMENT, HEADER_CRC = 4, 8, 16, 2  # gzip's flags
GZIP_LEVELS: Final = {0: "neither", 2: "best (-9)", 4: "fastest (-1)"}
GZIP_SYSTEMS: Final = {0: "FAT", 3: "Unix", 7: "Macintosh", 10: "NTFS", 11: "NTFS", 255: "unknown"}
XZ_CHECKS: Final = {0: "none", 1: "CRC32", 4: "CRC64", 10: "SHA-256"}
XZ_HEADER, XZ_FOOTER = 12, 12
LZMA2 = 0x21
SKIPPABLE = range(0x184D2A50, 0x184D2A60)
ZSTD_MAGIC = 0xFD2FB528

# Fact of a header -> its cause and its knob. What is not here follows from level and implementation.
CAUSES: Final[Mapping[str, tuple[Cause, str]]] = {
    "mtime": ("timestamp", "gz mtime"),
    "name": ("name", "gz name"),
    "comment": ("name", "gz name"),
    "system": ("compression level", "gz system"),
}


def explain_wrapping(one: Image, other: Image, *, same_inside: bool) -> Iterator[Difference]:
    """What differs in the compression of two images that wear the same one."""
    kind = one.compression
    if kind is None:
        return
    with FileBlock(one.path) as first, FileBlock(other.path) as second:
        wholes = [Part(file, 0, file.size, file.name) for file in (first, second)]
        changes = Changes(wholes[0], wholes[1])
        if not changes and first.size == second.size:
            return
        facts, ends = zip(*(wrapping_facts(kind, file) for file in (first, second)), strict=True)
        yield from _facts(kind, facts)
        if same_inside and not _same_rest(wholes, ends) and not _says_level(facts):
            detail = f"{first.size:,} / {second.size:,} bytes of {kind} with the same header and the same inside"
            yield Difference("container", "", "", "compression level", detail, knob(f"{kind} level"))


def _facts(kind: Compression, facts: Sequence[Mapping[str, Fact]]) -> Iterator[Difference]:
    """One difference for each cause that stands alone, one for all that the level decides."""
    levels = []
    for name in dict.fromkeys((*facts[0], *facts[1])):
        first, second = (each.get(name) for each in facts)
        if first == second:
            continue
        if name in CAUSES:
            cause, key = CAUSES[name]
            yield Difference("container", "", "", cause, f"{kind} {name} {first} / {second}", knob(key))
        else:
            levels.append(f"{name} {first} / {second}")
    if levels:
        detail = f"{kind} {', '.join(levels)}"
        yield Difference("container", "", "", "compression level", detail, knob(f"{kind} level"))


def _says_level(facts: Sequence[Mapping[str, Fact]]) -> bool:
    names = {*facts[0], *facts[1]} - {*CAUSES}
    return any(facts[0].get(name) != facts[1].get(name) for name in names)


def _same_rest(wholes: Sequence[Part], ends: Sequence[int]) -> bool:
    """Whether what follows the headers is the same."""
    rests = [Part(whole.whole, end, whole.size - end, whole.name) for whole, end in zip(wholes, ends, strict=True)]
    return rests[0].size == rests[1].size and not Changes(rests[0], rests[1])


def wrapping_facts(kind: Compression, file: Block) -> tuple[Mapping[str, Fact], int]:
    """What the headers of a compressed file say, and where the first of them ends; nothing for a damaged one."""
    reader = {"gz": _gzip, "xz": _xz, "zst": _zstd}[kind]
    try:
        return reader(file)
    except (HarnessError, struct.error, IndexError, ValueError):
        return {}, 0


def _gzip(file: Block) -> tuple[Mapping[str, Fact], int]:
    head = file.read(0, min(LONGEST_HEADER, file.size))
    bits, mtime, level, system = struct.unpack_from("<BIBB", head, 3)
    at = 10
    if bits & EXTRA:
        at += 2 + struct.unpack_from("<H", head, at)[0]
    texts: dict[str, Fact] = {}
    for flag, name in ((NAME, "name"), (COMMENT, "comment")):
        if bits & flag:
            end = head.index(b"\0", at)
            texts[name] = shown(head[at:end].decode("latin-1"))
            at = end + 1
    at += 2 * bool(bits & HEADER_CRC)
    facts = {"mtime": moment(mtime) if mtime else "none", "name": None, "comment": None} | texts
    told = {"level flag": GZIP_LEVELS.get(level, level), "system": GZIP_SYSTEMS.get(system, system)}
    return facts | told, at


def _xz(file: Block) -> tuple[Mapping[str, Fact], int]:
    """The stream header, the header of the first block, and the index before the footer."""
    flags = file.read(6, 2)
    header = file.read(XZ_HEADER, 1024)[: 4 * (file.read(XZ_HEADER, 1)[0] + 1)] if file.size > 1100 else b""
    footer = file.read(file.size - XZ_FOOTER, XZ_FOOTER)
    (backward,) = struct.unpack_from("<I", footer, 4)
    length = 4 * (backward + 1)
    facts: dict[str, Fact] = {"check": XZ_CHECKS.get(flags[1] & 15, flags[1] & 15)}
    if header and header[0]:
        facts |= _xz_block(header)
    if footer[10:] == b"YZ" and length <= min(LARGEST_INDEX, file.size - XZ_HEADER - XZ_FOOTER):
        blocks = _xz_index(file.read(file.size - XZ_FOOTER - length, length))
        facts["blocks"] = len(blocks)
        facts["block size"] = max((size for _, size in blocks), default=0)
    return facts, XZ_HEADER


def _xz_block(header: bytes) -> Mapping[str, Fact]:
    bits, at = header[1], 2
    for flag in (0x40, 0x80):  # compressed size, uncompressed size: written by the threaded encoder
        if bits & flag:
            _, at = _varint(header, at)
    names: list[str] = []
    dictionary = 0
    for _ in range((bits & 3) + 1):
        filter_id, at = _varint(header, at)
        size, at = _varint(header, at)
        names.append("LZMA2" if filter_id == LZMA2 else f"{filter_id:#x}")
        if filter_id == LZMA2:
            code = header[at] & 63
            dictionary = (2 | code & 1) << (code // 2 + 11)
        at += size
    return {"filters": ", ".join(names), "dictionary": dictionary, "sizes in block headers": bool(bits & 0xC0)}


def _xz_index(raw: bytes) -> list[tuple[int, int]]:
    """Stored and unpacked size of each block."""
    count, at = _varint(raw, 1)
    blocks: list[tuple[int, int]] = []
    while len(blocks) < min(count, len(raw) // 2):
        stored, at = _varint(raw, at)
        size, at = _varint(raw, at)
        blocks.append((stored, size))
    return blocks


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 63, 7):
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise ValueError


def _zstd(file: Block) -> tuple[Mapping[str, Fact], int]:
    """The header of the first frame that is none to skip."""
    at = skipped = 0
    while file.size >= at + 18 and struct.unpack("<I", file.read(at, 4))[0] in SKIPPABLE and skipped < 1000:
        at += 8 + struct.unpack("<I", file.read(at + 4, 4))[0]
        skipped += 1
    head = file.read(at, min(18, file.size - at))
    magic, descriptor = struct.unpack_from("<IB", head)
    if magic != ZSTD_MAGIC:
        raise ValueError
    single, has_checksum = bool(descriptor & 0x20), bool(descriptor & 4)
    size_bytes = (1 if single else 0, 2, 4, 8)[descriptor >> 6]
    end = 5
    window: Fact = None
    if not single:
        exponent, mantissa = head[5] >> 3, head[5] & 7
        window = (1 << 10 + exponent) + (1 << 10 + exponent) // 8 * mantissa
        end += 1
    end += (0, 1, 2, 4)[descriptor & 3] + size_bytes
    return {
        "skippable frames": skipped,
        "window": window,
        "checksum": has_checksum,
        "content size": bool(size_bytes),
    }, at + end
