"""Why two image files differ around their virtual disks: container format, its header, where it keeps its clusters.

Works on what each format says of itself (`facts`), by the names of those facts: a new format needs nothing here
unless something follows from one of its facts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from harness.images.block import Part
from harness.images.difference.causes import Cause, Difference, knob
from harness.images.difference.differing import Changes
from harness.images.filesystems.files import shown
from harness.images.formats.disk import Fact
from harness.images.formats.qcow2 import Qcow2Block
from harness.images.formats.raw import FileBlock
from harness.images.source import Image

Area = tuple[int, int]  # start and end in bytes of the file

# Names of facts, the first that fits -> cause, knob.
KINDS: Final[tuple[tuple[re.Pattern[str], Cause, str], ...]] = (
    (re.compile(r"CID$|content_?id", re.IGNORECASE), "CID", "disk cid"),
    (re.compile(r"guid|uuid|_id$", re.IGNORECASE), "UUID", "disk uuid"),
    (re.compile(r"time|created|modified|date$", re.IGNORECASE), "timestamp", "disk timestamp"),
    (re.compile(r"^extent|^members$|^disk$|_extent$", re.IGNORECASE), "name", "disk name"),
    (re.compile(r"compress", re.IGNORECASE), "compression level", "disk compression"),
    (re.compile(r""), "format", "disk format"),
)
# What follows from another fact is not told beside it.
FOLLOWS: Final[Mapping[str, str]] = {"header_length": "version"}
DESCRIPTOR = (512, 512 * 21)  # bytes of a VMDK: 20 sectors of text as QEMU writes it
VHD_FOOTER = 512  # bytes, and a copy at the start of a dynamic one
VHDX_TABLES = 4 * 2**20  # bytes: headers, log, metadata and the block table as QEMU lays them out
AREAS: Final[Mapping[str, Callable[[int], tuple[Area, ...]]]] = {
    "vmdk": lambda _: (DESCRIPTOR,),
    "vhd": lambda size: ((size - VHD_FOOTER, size), (0, VHD_FOOTER)),
    "vhdx": lambda _: ((0, VHDX_TABLES),),
}


def explain_headers(one: Image, other: Image) -> Iterator[Difference]:
    """Compression, container format, size, and every fact of the header."""
    if one.compression != other.compression:
        kinds = (image.compression or "not compressed" for image in (one, other))
        yield _told("format", " / ".join(kinds))
    if one.container != other.container:
        yield _told("format", f"{one.container} / {other.container}")
    if one.block.size != other.block.size:
        yield _told("size", f"the virtual disk has {one.block.size:,} / {other.block.size:,} bytes")
    if one.container == other.container:
        yield from _facts(one.container, _known(one), _known(other))


def _known(image: Image) -> dict[str, Fact]:
    facts = dict(image.block.facts())
    if isinstance(image.block, Qcow2Block):
        facts["compressed_clusters"] = image.block.has_compressed_clusters()
    return facts


def _facts(container: str, mine: Mapping[str, Fact], theirs: Mapping[str, Fact]) -> Iterator[Difference]:
    changed = [name for name in dict.fromkeys((*mine, *theirs)) if mine.get(name) != theirs.get(name)]
    for name in changed:
        if FOLLOWS.get(name) in changed or name in {"current_size", "original_size"}:
            continue
        cause, key = next((cause, key) for pattern, cause, key in KINDS if pattern.search(name))
        first, second = (_text(facts.get(name)) for facts in (mine, theirs))
        yield _told(cause, f"{container} {name} {first} / {second}", key)


def _text(value: Fact) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:,}" if isinstance(value, int) else shown(value)


def explain_storage(one: Image, other: Image, told: list[Difference]) -> Iterator[Difference]:
    """The virtual disks are the same: what of their files is not explained by what was `told` of the headers."""
    if one.container != other.container or any(each.cause in {"format", "compression level"} for each in told):
        return
    with FileBlock(one.plain_path) as mine, FileBlock(other.plain_path) as theirs:
        changes = Changes(Part(mine, 0, mine.size, mine.name), Part(theirs, 0, theirs.size, theirs.name))
        areas = AREAS.get(one.container.lower(), _no_areas)(mine.size)
        text = changes.told(changes.left(areas if told else ()))
        if mine.size != theirs.size and not _is_other_order(one, other):
            text = text or f"files of {mine.size:,} / {theirs.size:,} bytes"
        if not text:
            return
        name, packed = one.container, any(_is_packed(image) for image in (one, other))
        if packed:
            yield _told("compression level", f"same disk, packed differently in its {name} file", "disk compression")
        elif _is_other_order(one, other):
            sizes = f"files of {mine.size:,} / {theirs.size:,} bytes"
            yield _told("allocation", f"same disk at other places of its {name} file, {sizes}", "disk allocation")
        else:
            yield Difference("bytes", "", "", "unexplained", f"same disk, but of the {name} file {text}")


def _no_areas(_size: int) -> tuple[Area, ...]:
    return ()


def _is_packed(image: Image) -> bool:
    facts = _known(image)
    return bool(facts.get("compressed_clusters") or facts.get("compressAlgorithm"))


def _is_other_order(one: Image, other: Image) -> bool:
    """Whether the disks' clusters lie elsewhere in their files; as far as the format lets us see."""
    mine, theirs = (getattr(image.block, "runs", None) for image in (one, other))
    return bool(mine and theirs and list(mine()) != list(theirs()))


def _told(cause: Cause, detail: str, key: str = "") -> Difference:
    return Difference("container", "", "", cause, detail, knob(key))
