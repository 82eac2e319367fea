"""The manifest of an OCI artifact whose layers are files (image-spec 1.1, manifest.md and descriptor.md).

What is read here comes from a registry, or from whoever wrote to it: everything is checked before it is believed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from harness.containers.layout import TYPE_OF_INDEX, TYPE_OF_MANIFEST
from harness.errors import BadInput, DamagedArtifact

EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
TITLE = "org.opencontainers.image.title"
CREATED = "org.opencontainers.image.created"
LISTS = {TYPE_OF_INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"}
LARGEST_MANIFEST = 4 * 2**20  # bytes: what skopeo and registries take
LARGEST_FILE = 2**44  # bytes, as in recipes
LONGEST_NAME = 255  # bytes, of a file on Linux
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MEDIA_TYPE = re.compile(r"[A-Za-z0-9][\w!#$&^.+-]{0,126}/[A-Za-z0-9][\w!#$&^.+-]{0,126}", re.ASCII)  # RFC 6838, 4.2

Kind = TypeVar("Kind")


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """A file of an artifact: `digest` is `sha256:<hex>` of its content, `size` is bytes."""

    name: str
    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact: `digest` is its manifest's, by which any registry knows it."""

    digest: str
    artifact_type: str
    files: tuple[ArtifactFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files; what two of them share counts twice."""
        return sum(file.size for file in self.files)


class _Descriptor(msgspec.Struct, rename="camel", frozen=True):
    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None


class _Manifest(msgspec.Struct, rename="camel", frozen=True):
    schema_version: int
    config: _Descriptor
    layers: tuple[_Descriptor, ...]
    media_type: str = TYPE_OF_MANIFEST
    artifact_type: str = ""


class _Index(msgspec.Struct, rename="camel", frozen=True):
    manifests: tuple[_Descriptor, ...]


class _Kind(msgspec.Struct, rename="camel", frozen=True):
    media_type: str = ""


def read_manifest(data: bytes, where: os.PathLike[str] | str, *, artifact_type: str = "") -> Artifact:
    """The artifact of which `data` is the manifest; `where` names it in messages.

    Raises BadInput for what is sound but no artifact of `artifact_type` (any type if empty), else DamagedArtifact.
    """
    if len(data) > LARGEST_MANIFEST:
        raise blamed(where, f"the manifest has more than {LARGEST_MANIFEST:,} bytes")
    if _decoded(data, _Kind, where).media_type in LISTS:
        raise BadInput("is a list of images for several architectures, no artifact", where=os.fspath(where))
    manifest = _decoded(data, _Manifest, where)
    if manifest.schema_version != 2:
        raise blamed(where, f"the manifest is of version {manifest.schema_version}, we know 2")
    found = manifest.artifact_type or manifest.config.media_type  # image-spec 1.1, manifest.md: artifactType
    for descriptor in (manifest.config, *manifest.layers):
        _check(descriptor, where)
    if not is_media_type(found):
        raise blamed(where, f"{found[:100]!r} is not a media type")
    if artifact_type and found != artifact_type:
        raise BadInput(f"is {found}, not {artifact_type}", where=os.fspath(where), next_step="is it the right one?")
    if manifest.media_type != TYPE_OF_MANIFEST:
        raise blamed(where, f"the manifest is {manifest.media_type[:100]!r}, not {TYPE_OF_MANIFEST}")
    files = tuple(_file(layer, where) for layer in manifest.layers)
    if twice := sorted(name for name, count in Counter(file.name for file in files).items() if count > 1):
        raise blamed(where, f"two files are called {twice[0]!r}")
    return Artifact(f"sha256:{hashlib.sha256(data).hexdigest()}", found, files)


def read_index(data: bytes, where: os.PathLike[str] | str) -> tuple[str, int]:
    """Digest and size of the one manifest that a layout's index.json names. Raises DamagedArtifact."""
    manifests = _decoded(data, _Index, where).manifests
    if len(manifests) != 1:
        raise blamed(where, f"index.json names {len(manifests)} manifests, we take one")
    _check(manifests[0], where)
    return manifests[0].digest, manifests[0].size


def is_file_name(name: str) -> bool:
    """Whether a file can have this name in any folder without surprising anyone: printable, not hidden, no path."""
    if not name.isprintable() or name.startswith(".") or "/" in name:
        return False  # isprintable is also false for lone surrogates, which are names that are not UTF-8
    return 0 < len(name.encode()) <= LONGEST_NAME


def is_media_type(text: str) -> bool:
    """Whether a text is a media type without parameters."""
    return MEDIA_TYPE.fullmatch(text) is not None


def blamed(where: os.PathLike[str] | str, what: str) -> DamagedArtifact:
    """The error for an artifact that cannot be trusted."""
    return DamagedArtifact(what, where=os.fspath(where), next_step="get it from where it is published, again")


def _check(descriptor: _Descriptor, where: os.PathLike[str] | str) -> None:
    if DIGEST.fullmatch(descriptor.digest) is None:
        raise blamed(where, f"{descriptor.digest[:100]!r} is not a SHA-256 digest")
    if not is_media_type(descriptor.media_type):
        raise blamed(where, f"{descriptor.media_type[:100]!r} is not a media type")
    if not 0 <= descriptor.size <= LARGEST_FILE:
        raise blamed(where, f"{descriptor.digest} claims {descriptor.size:,} bytes")


def _file(layer: _Descriptor, where: os.PathLike[str] | str) -> ArtifactFile:
    name = (layer.annotations or {}).get(TITLE)
    if name is None:
        raise blamed(where, f"{layer.digest} has no name ({TITLE})")
    if not is_file_name(name):
        raise blamed(where, f"{name[:100]!a} is not a name we give a file")
    return ArtifactFile(name, layer.media_type, layer.digest, layer.size)


def _decoded(data: bytes, kind: type[Kind], where: os.PathLike[str] | str) -> Kind:
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise blamed(where, f"is not what OCI has there: {cause}") from cause
