"""Manifests, lists and configs of container images, of OCI (image-spec 1.1) and Docker (image manifest v2, schema 2).

Bounded and checked before anything in them is believed; whether what they name is there is `imagefolder`'s to ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from harness.containers.layout import (
    REF_NAME,
    TYPE_OF_CONFIG,
    TYPE_OF_INDEX,
    TYPE_OF_LAYER,
    TYPE_OF_MANIFEST,
)
from harness.containers.manifest import DIGEST, LARGEST_FILE, LARGEST_MANIFEST
from harness.containers.records import MOST_LAYERS
from harness.errors import DamagedArtifact

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
MANIFESTS = {TYPE_OF_MANIFEST, DOCKER_MANIFEST}
LISTS = {TYPE_OF_INDEX, DOCKER_LIST}
CONFIGS = {TYPE_OF_CONFIG, DOCKER_CONFIG}
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
OCI_FOREIGN = "application/vnd.oci.image.layer.nondistributable.v1.tar"
DOCKER_FOREIGN = "application/vnd.docker.image.rootfs.foreign.diff.tar"
LAYER_KINDS = (OCI_LAYER, DOCKER_LAYER, OCI_FOREIGN, DOCKER_FOREIGN)
# Media type of a layer -> how its tar is packed (`blobs.Packing`)
PACKINGS: Mapping[str, str] = {
    **dict.fromkeys(LAYER_KINDS, ""),
    **{f"{kind}{mark}": packing for kind in LAYER_KINDS for mark, packing in
       (("+gzip", "gz"), (".gzip", "gz"), ("+zstd", "zst"), (".zstd", "zst"))},
    TYPE_OF_LAYER: "gz",
}  # fmt: skip
FOREIGN = {kind for kind in PACKINGS if kind.startswith((OCI_FOREIGN, DOCKER_FOREIGN))}
MOST_INSTANCES = 1000  # of one list


class Descriptor(msgspec.Struct, rename="camel", frozen=True):
    """What a manifest says of a blob: `size` in bytes."""

    digest: str
    size: int
    media_type: str = ""
    annotations: dict[str, str] | None = None
    platform: dict[str, object] | None = None
    urls: tuple[str, ...] | None = None

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")

    @property
    def ref_name(self) -> str:
        """The name that a layout's index gives to an image."""
        return (self.annotations or {}).get(REF_NAME, "")

    @property
    def machine(self) -> str:
        """As `linux/arm64/v8`; empty where nothing is said."""
        platform = self.platform or {}
        parts = [platform.get(key) for key in ("os", "architecture", "variant")]
        return "/".join(str(part) for part in parts if part)


@dataclass(frozen=True, slots=True)
class ManifestList:
    """Manifests for several architectures, or the images of a layout."""

    manifests: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """One image: its config, and its layers from the bottom up."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


class _Raw(msgspec.Struct, rename="camel", frozen=True):
    schema_version: int = 2
    media_type: str = ""
    config: Descriptor | None = None
    layers: tuple[Descriptor, ...] | None = None
    manifests: tuple[Descriptor, ...] | None = None


class _RootFiles(msgspec.Struct, frozen=True):
    diff_ids: tuple[str, ...]


class _Config(msgspec.Struct, frozen=True):
    rootfs: _RootFiles


Kind = TypeVar("Kind")


def parse_manifest(data: bytes) -> ImageManifest | ManifestList:
    """What a manifest's bytes say. Raises DamagedArtifact, without saying where."""
    raw = _decoded(data, _Raw)
    if raw.schema_version != 2:
        raise DamagedArtifact(f"is a manifest of schema {raw.schema_version}; we know 2", next_step="pull it anew")
    if raw.manifests is not None and raw.media_type in {"", *LISTS}:
        _check(raw.manifests, MOST_INSTANCES)
        return ManifestList(raw.manifests)
    if raw.config is None or raw.layers is None or raw.media_type not in {"", *MANIFESTS}:
        raise DamagedArtifact(f"is neither an image manifest nor a list (media type {raw.media_type[:100]!r})")
    _check((raw.config, *raw.layers), MOST_LAYERS + 1)
    return ImageManifest(raw.config, raw.layers)


def parse_diff_ids(data: bytes) -> tuple[str, ...]:
    """The diff_ids of an image's config, from the bottom up. Raises DamagedArtifact, without saying where."""
    return _decoded(data, _Config).rootfs.diff_ids


def _check(descriptors: tuple[Descriptor, ...], most: int) -> None:
    if len(descriptors) > most:
        raise DamagedArtifact(f"names more than {most:,} blobs")
    for each in descriptors:
        if DIGEST.fullmatch(each.digest) is None:
            raise DamagedArtifact(f"{each.digest[:100]!r} is not a SHA-256 digest")
        if not 0 <= each.size <= LARGEST_FILE:
            raise DamagedArtifact(f"{each.digest} claims {each.size:,} bytes")


def _decoded(data: bytes, kind: type[Kind]) -> Kind:
    if len(data) > LARGEST_MANIFEST:
        raise DamagedArtifact(f"has more than {LARGEST_MANIFEST:,} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as cause:
        raise DamagedArtifact(f"is not what it should be: {cause}") from cause
