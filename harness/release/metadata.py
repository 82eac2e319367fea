"""What CoreOS publishes about images as JSON, in any of its dialects, as one list of artifacts.

Formats: stream metadata and release metadata (coreos/stream-metadata-go), coreos-assembler's meta.json (its schema
v1.json), and the installer's rhcos.json before 4.8, where sizes may be strings and paths may lack the .gz of what they
name. Nothing here opens a network connection.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urljoin

from harness.errors import BadInput

Kind = Literal["stream", "release", "build"]
LARGEST = 4 * 2**20  # bytes of JSON that are read; the largest published is 62 kB
MOST_FILES = 5000  # in one document; streams have 60
LONGEST_TEXT = 4096  # characters
LARGEST_SIZE = 2**60  # bytes
PACKED = (".gz", ".xz", ".zst", ".zip")
FORMATS = ("qcow2", "raw", "vmdk", "vhd", "vhdx", "ova", "tar", "iso", "ociarchive", "img")
SHA256 = re.compile(r"[0-9a-f]{64}")
NO_IMAGES = "expected stream metadata, a release's JSON, a build's meta.json or the installer's rhcos.json"


@dataclass(frozen=True, slots=True)
class Artifact:
    """One published file. Digests are SHA-256 in hex, sizes are bytes; None where nothing was said."""

    platform: str
    architecture: str
    format: str  # qcow2.gz; empty where the name does not tell
    part: str  # disk; or kernel, initramfs, rootfs
    release: str
    location: str  # a URL, or a path beside the metadata
    sha256: str
    uncompressed_sha256: str | None = None
    size: int | None = None
    uncompressed_size: int | None = None
    signature: str | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.location.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Metadata:
    """All that one document publishes. `stream` is as it says: stable, rhcos-4.12, or empty for a build."""

    kind: Kind
    stream: str
    artifacts: tuple[Artifact, ...]
    where: str

    def find(self, platform: str, *, format: str = "", architecture: str = "x86_64") -> Artifact:  # noqa: A002
        """The disk of a platform. `format` is one of the platform's, with or without the compression.

        Raises BadInput naming what there is instead.
        """
        known = self._known((a for a in self.artifacts), "architecture", architecture)
        disks = [a for a in self._known(known, "platform", platform) if a.part == "disk"]
        if format:
            exact = [a for a in disks if a.format == format] or [a for a in disks if unpacked_name(a.format) == format]
            disks = exact or self._known(disks, "format", format)
        usual = [a for a in disks if "iso" not in a.format and not a.format.startswith("4k")]
        choice = disks if len(disks) == 1 else usual
        if len(choice) != 1:
            formats = ", ".join(sorted(a.format for a in disks)) or "no disk, only parts of one"
            raise BadInput(
                f"{platform} comes as {formats}", where=self.where, next_step=f"say which: {platform}:FORMAT"
            )
        return choice[0]

    def _known(self, artifacts: Any, field: str, wanted: str) -> list[Artifact]:
        artifacts = list(artifacts)
        found = [artifact for artifact in artifacts if getattr(artifact, field) == wanted]
        if not found:
            known = ", ".join(sorted({getattr(artifact, field) for artifact in artifacts})[:40])
            raise BadInput(f"has no {field} {wanted}; it knows {known or 'none'}", where=self.where)
        return found


def read_metadata(path: Path) -> Metadata:
    """Read a document. Raises BadInput where it is none, or says what its format does not allow."""
    return parse_metadata(read_text(path), str(path))


def read_text(path: Path) -> str:
    """The text of a file of metadata. Raises BadInput for what cannot be one."""
    try:
        if path.stat().st_size > LARGEST:
            raise BadInput(f"is larger than {LARGEST:,} bytes", where=str(path))
        with path.open("rb") as file:
            return file.read(LARGEST).decode()
    except (OSError, UnicodeDecodeError) as cause:
        raise BadInput(f"cannot be read: {cause}", where=str(path)) from cause


def parse_metadata(text: str, where: str) -> Metadata:
    """As `read_metadata`, from text; `where` is what errors call it."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as cause:
        raise BadInput(f"is not JSON: {str(cause)[:100]}", where=where) from cause
    top = _Value(document, "", where)
    if "architectures" in top:
        kind: Kind = "stream" if "metadata" in top else "release"
        return Metadata(kind, top.text("stream"), _bounded(_of_architectures(top), where), where)
    if "images" in top:
        return Metadata("build", "", _bounded(_of_images(top), where), where)
    if "releases" in top:
        raise BadInput("is an index of releases", where=where, next_step="give the JSON of one: its key 'metadata'")
    raise BadInput("publishes no images", where=where, next_step=NO_IMAGES)


def unpacked_name(name: str) -> str:
    """The name, or format, without its compression."""
    return next((name.removesuffix(suffix) for suffix in PACKED if name.endswith(suffix)), name)


def _bounded(artifacts: Iterator[Artifact], where: str) -> tuple[Artifact, ...]:
    found = tuple(islice(artifacts, MOST_FILES + 1))
    if len(found) > MOST_FILES:
        raise BadInput(f"publishes more than {MOST_FILES:,} files", where=where)
    return found


def _of_architectures(top: _Value) -> Iterator[Artifact]:
    """Stream metadata has artifacts.PLATFORM.{release, formats}, release metadata media.PLATFORM.artifacts."""
    for architecture, here in top.child("architectures").items():
        for outer, inner in (("artifacts", "formats"), ("media", "artifacts")):
            for platform, offer in here.child(outer).items():
                release = offer.text("release") or top.text("release")
                for form, parts in offer.child(inner).items():
                    for part, entry in parts.items():
                        yield _artifact(entry, platform, architecture, form, part, release, entry.text("location"))


def _of_images(top: _Value) -> Iterator[Artifact]:
    """meta.json, and the installer's rhcos.json, which adds where its paths are; it came for x86_64 alone at first."""
    architecture = top.text("coreos-assembler.basearch") or "x86_64"
    base, release = top.text("baseURI"), top.text("buildid")
    for platform, entry in top.child("images").items():
        if "path" in entry and "sha256" in entry:  # others are container images in a registry
            path = entry.text("path")
            location = urljoin(base, path) if base else path
            yield _artifact(entry, platform, architecture, _format_of(path), "disk", release, location)


def _artifact(
    entry: _Value, platform: str, architecture: str, form: str, part: str, release: str, location: str
) -> Artifact:
    if not location:
        raise BadInput(f"{entry.path} names no file", where=entry.where)
    return Artifact(
        platform=platform,
        architecture=architecture,
        format=form,
        part=part,
        release=release,
        location=location,
        sha256=entry.sha256("sha256"),
        uncompressed_sha256=entry.sha256("uncompressed-sha256") if "uncompressed-sha256" in entry else None,
        size=entry.size("size"),
        uncompressed_size=entry.size("uncompressed-size"),
        signature=entry.text("signature") or None,
    )


def _format_of(path: str) -> str:
    bare = unpacked_name(path)
    last = bare.rpartition(".")[2]
    return last + path.removeprefix(bare) if last in FORMATS else ""


class _Value:
    """A value in a document of strangers, which knows its path and complains in words."""

    def __init__(self, value: Any, path: str, where: str) -> None:
        if not isinstance(value, dict):
            raise BadInput(f"{path or 'the document'} is not an object", where=where, next_step=NO_IMAGES)
        self._members: Mapping[str, Any] = value
        self.path = path
        self.where = where

    def __contains__(self, name: str) -> bool:
        return self._members.get(name) is not None

    def child(self, name: str) -> _Value:
        """A member that is an object; an empty one where it is missing."""
        value = self._members.get(name)
        return _Value({} if value is None else value, self._below(name), self.where)

    def items(self) -> Iterator[tuple[str, _Value]]:
        for name in self._members:
            yield self._checked(name, name), self.child(name)

    def text(self, name: str) -> str:
        """A member that is a short printable text; an empty one where it is missing."""
        value = self._members.get(name)
        return "" if value is None else self._checked(value, name)

    def sha256(self, name: str) -> str:
        value = self.text(name)
        if not SHA256.fullmatch(value):
            raise BadInput(f"{self._below(name)} is not a SHA-256 in hex: {value[:80]!r}", where=self.where)
        return value

    def size(self, name: str) -> int | None:
        """A number of bytes; RHCOS 4.1 wrote them as strings."""
        value = self._members.get(name)
        if value is None:
            return None
        number = int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value) else value
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= LARGEST_SIZE:
            raise BadInput(f"{self._below(name)} is not a number of bytes", where=self.where)
        return number

    def _checked(self, value: Any, name: str) -> str:
        if not isinstance(value, str) or len(value) > LONGEST_TEXT or not value.isprintable():
            raise BadInput(f"{self._below(name)} is not a short printable text", where=self.where)
        return value

    def _below(self, name: str) -> str:
        shown = name if len(name) <= 60 and name.isprintable() else f"{name[:60]!r}..."
        return f"{self.path}.{shown}" if self.path else shown
