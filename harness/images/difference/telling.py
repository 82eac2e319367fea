"""Differences as people and programs read them: text that begins with the sum, and JSON (docs/difference.md)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from harness.images.difference.causes import Area, Difference
from harness.images.filesystems.files import shown
from harness.images.source import Image

SCHEMA: Final = "1"
TITLES: Final[dict[Area, str]] = {
    "container": "container", "partition table": "partition table", "filesystem": "filesystem", "file": "files",
    "package": "packages", "bytes": "bytes",
}  # fmt: skip


def to_json(one: Image, other: Image, found: Sequence[Difference], most: int) -> bytes:
    """The document: both images, sums over everything found, and the first `most` differences."""
    document = {
        "schema": SCHEMA,
        "first": _image(one),
        "second": _image(other),
        "equal": not found,
        "total": len(found),
        "by_cause": dict(_causes(found)),
        "differences": [
            {
                "area": each.area,
                "partition": shown(each.partition) or None,
                "path": shown(each.path) or None,
                "cause": each.cause,
                "detail": shown(each.detail),
                "knob": each.knob or None,
            }
            for each in found[:most]
        ],
    }
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def render(one: Image, other: Image, found: Sequence[Difference], most: int) -> str:
    """The sum in one line, then the first `most` by place, then what would remove their causes."""
    return "\n".join(_lines(one, other, found, most)) + "\n"


def _lines(one: Image, other: Image, found: Sequence[Difference], most: int) -> Iterator[str]:
    names = f"{shown(one.path.name)} / {shown(other.path.name)}"
    if not found:
        yield f"{names}: equal, byte by byte"
        return
    sums = ", ".join(f"{number:,} {cause}" for cause, number in _causes(found))
    yield f"{names}: {len(found):,} difference{'s' * (len(found) > 1)}: {sums}"
    for place, members in groupby(found[:most], key=_place):
        told = list(members)
        yield f"\n{place}"
        width = max(len(each.cause) for each in told)
        for each in told:
            subject = f"{shown(each.path)}: " if each.path else ""
            yield f"  {each.cause:<{width}}  {subject}{shown(each.detail)}"
    if len(found) > most:
        yield f"\n... and {len(found) - most:,} more: --most {len(found)} shows them"
    if knobs := Counter((each.cause, each.knob) for each in found if each.knob):
        yield "\nwhat removes them"
        width = max(len(cause) for cause, _ in knobs)
        for (cause, knob), number in sorted(knobs.items(), key=lambda item: (-item[1], item[0])):
            yield f"  {cause:<{width}}  {number:>5,} x  {knob}"


def _place(each: Difference) -> str:
    place = TITLES[each.area]
    return f"{place} in {shown(each.partition)}" if each.partition else place


def _causes(found: Sequence[Difference]) -> list[tuple[str, int]]:
    counted = Counter(each.cause for each in found)
    return sorted(counted.items(), key=lambda item: (-item[1], item[0]))


def _image(image: Image) -> dict[str, str | int | None]:
    return {
        "name": shown(image.path.name),
        "container": image.container,
        "compression": image.compression,
        "virtual_size": image.block.size,
    }
