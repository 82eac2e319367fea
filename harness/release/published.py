"""What was published about one file: from CoreOS metadata in any dialect, or from a checksum file.

Checksum files are sha256sum(1)'s, plain, tagged as BSD does, or clearsigned (whose signature is not checked here).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from harness.errors import BadInput
from harness.release.metadata import MOST_FILES, Artifact, parse_metadata, read_text, unpacked_name

PLAIN_LINE = re.compile(r"(\\?)([0-9a-fA-F]{64}) [ *](.+)")
TAGGED_LINE = re.compile(r"(\\?)SHA256 \((.+)\) = ([0-9a-fA-F]{64})")
ESCAPES = re.compile(r"\\([\\nr])")


@dataclass(frozen=True, slots=True)
class Published:
    """Digests in hex of one file; None where nothing was published. Sizes are in bytes."""

    name: str
    sha256: str
    uncompressed_sha256: str | None = None
    size: int | None = None
    uncompressed_size: int | None = None

    @property
    def plain_name(self) -> str:
        """The name once decompressed."""
        return unpacked_name(self.name)

    def concerns(self, name: str) -> bool:
        """Whether it speaks of a file of this name, packed or not. RHCOS 4.1 left the .gz out of what it published."""
        return name in {self.name, self.plain_name} or (
            self.uncompressed_sha256 is not None and name == f"{self.name}.gz"
        )


def read_published(metadata: Path, image: str) -> Published:
    """What `metadata` says of the image of this file name, compressed or not.

    Raises BadInput where the file is none of the formats, or does not mention the image.
    """
    return find_published(read_all_published(metadata), image, metadata)


def find_published(known: Sequence[Published], image: str, where: Path) -> Published:
    """The entry that speaks of the image of this name, by its very name before any other. Raises BadInput."""
    by_own_name = [entry for entry in known if entry.name == image]
    for entry in (*by_own_name, *known):
        if entry.concerns(image):
            return entry
    names = ", ".join(sorted(entry.name for entry in known)[:4])
    raise BadInput(f"says nothing about {image}; it knows {names or 'no image'}", where=str(where))


def read_all_published(metadata: Path) -> tuple[Published, ...]:
    """Everything that is said there, in its order. Raises BadInput where the file is none of the formats."""
    text = read_text(metadata)
    if text.lstrip().startswith(("{", "[")):
        return tuple(map(published_of, parse_metadata(text, str(metadata)).artifacts))
    found = tuple(islice(_of_checksums(text), MOST_FILES + 1))
    if len(found) > MOST_FILES:
        raise BadInput(f"speaks of more than {MOST_FILES:,} files", where=str(metadata))
    return found


def published_of(artifact: Artifact) -> Published:
    """What metadata says of one file."""
    return Published(
        artifact.name, artifact.sha256, artifact.uncompressed_sha256, artifact.size, artifact.uncompressed_size
    )


def _of_checksums(text: str) -> Iterator[Published]:
    for line in text.splitlines():
        if plain := PLAIN_LINE.fullmatch(line):
            escaped, digest, name = plain.groups()
        elif tagged := TAGGED_LINE.fullmatch(line):
            escaped, name, digest = tagged.groups()
        else:
            continue
        if escaped:
            name = ESCAPES.sub(lambda match: {"\\": "\\", "n": "\n", "r": "\r"}[match[1]], name)
        if file_name := name.rpartition("/")[2]:
            yield Published(file_name, digest.lower())
