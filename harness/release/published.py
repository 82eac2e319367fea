"""What was published about an image: digests from a coreos-assembler meta.json, a stream JSON, or a checksum file.

Formats: cosa's schema v1.json (images.<platform>), stream-metadata-go's stream.go (artifacts.<platform>.formats),
sha256sum(1). The legacy installer JSON (before 4.8) has meta.json's shape with sizes as strings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import BadInput

LARGEST = 32 * 2**20  # bytes of metadata that are read
CHECKSUM_LINE = re.compile(r"^([0-9a-f]{64}) [ *](.+)$", re.MULTILINE)
SUFFIXES = (".gz", ".xz", ".zst")


@dataclass(frozen=True, slots=True)
class Published:
    """Digests in hex of one file; None where nothing was published. `size` is in bytes."""

    name: str
    sha256: str
    uncompressed_sha256: str | None
    size: int | None

    @property
    def plain_name(self) -> str:
        """The name once decompressed."""
        return next((self.name.removesuffix(suffix) for suffix in SUFFIXES if self.name.endswith(suffix)), self.name)


def read_published(metadata: Path, image: str) -> Published:
    """What `metadata` says of the image of this file name, compressed or not.

    Raises BadInput where the file is none of the formats, or does not mention the image.
    """
    try:
        if metadata.stat().st_size > LARGEST:
            raise BadInput(f"is larger than {LARGEST:,} bytes", where=str(metadata))
        text = metadata.read_text()
    except (OSError, UnicodeDecodeError) as cause:
        raise BadInput(f"cannot be read: {cause}", where=str(metadata)) from cause
    known = list(_entries(text, metadata))
    for entry in known:
        if image in {entry.name, entry.plain_name}:
            return entry
    names = ", ".join(sorted(entry.name for entry in known)[:4])
    raise BadInput(f"says nothing about {image}; it knows {names or 'no image'}", where=str(metadata))


def _entries(text: str, where: Path) -> Iterator[Published]:
    if not text.lstrip().startswith("{"):
        yield from (Published(match[2], match[1], None, None) for match in CHECKSUM_LINE.finditer(text))
        return
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise BadInput(f"is not JSON: {str(cause)[:100]}", where=str(where)) from cause
    for entry in (*_of_meta(document), *_of_stream(document)):
        if all(isinstance(text, str) for text in (entry.name, entry.sha256)):  # what JSON gave, whatever we hoped
            yield entry


def _of_meta(document: Mapping[str, Any]) -> Iterator[Published]:
    images = document.get("images")
    for entry in images.values() if isinstance(images, dict) else ():
        if isinstance(entry, dict) and "path" in entry and "sha256" in entry:
            size = str(entry.get("size", ""))
            yield Published(
                entry["path"],
                entry["sha256"],
                entry.get("uncompressed-sha256"),
                int(size) if size.isdecimal() else None,
            )


def _of_stream(document: Mapping[str, Any]) -> Iterator[Published]:
    architectures = document.get("architectures")
    for found in _objects(architectures, depth=8):
        location = found.get("location")
        if isinstance(location, str) and "sha256" in found:
            yield Published(location.rpartition("/")[2], found["sha256"], found.get("uncompressed-sha256"), None)


def _objects(value: Any, depth: int) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, dict) and depth:
        yield value
        for member in value.values():
            yield from _objects(member, depth - 1)
