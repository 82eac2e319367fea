"""Manifests of container images, as registries and skopeo's `dir:` folders have them: what belongs to an image.

Four kinds are read: OCI image manifest and index (image-spec 1.1, manifest.md, image-index.md), and Docker's schema 2
manifest and list (distribution, manifest-v2-2.md). A document that could be taken for both an image and a list is
refused (CVE-2021-41190), as is schema 1, which names no sizes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from harness.containers.manifest import DIGEST, LARGEST_FILE, LARGEST_MANIFEST, blamed

VERSION = b"Directory Transport Version: 1.1\n"  # containers/image, directory/directory_transport.go
MOST_BLOBS = 4096  # of one image; the kernel cannot stack more than 500 layers
MOST_INSTANCES = 256


@dataclass(frozen=True, slots=True)
class Instance:
    """One image of a list: its manifest's digest and bytes, and the platform as Go calls it."""

    digest: str
    size: int
    architecture: str
    system: str


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """`digest` is `sha256:<hex>` of the manifest's bytes, `length` how many there are.

    `blobs` is digest to bytes of config and layers; a list has `instances` instead.
    """

    digest: str
    length: int
    blobs: Mapping[str, int]
    instances: tuple[Instance, ...] = ()

    @property
    def is_list(self) -> bool:
        return bool(self.instances)

    def instance(self, architecture: str) -> Instance | None:
        """The image of a list for Linux on this architecture."""
        for each in self.instances:
            if (each.architecture, each.system) == (architecture, "linux"):
                return each
        return None


class _Platform(msgspec.Struct, frozen=True):
    architecture: str = ""
    os: str = ""


class _Descriptor(msgspec.Struct, frozen=True):
    digest: str
    size: int
    platform: _Platform | None = None


class _Document(msgspec.Struct, rename="camel", frozen=True):
    schema_version: int
    config: _Descriptor | None = None
    layers: tuple[_Descriptor, ...] | None = None
    manifests: tuple[_Descriptor, ...] | None = None


def read_image_manifest(data: bytes, where: str) -> ImageManifest:
    """The image or the list of which `data` is the manifest; `where` names it in messages. Raises DamagedArtifact."""
    if len(data) > LARGEST_MANIFEST:
        raise blamed(where, f"the manifest has more than {LARGEST_MANIFEST:,} bytes")
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
        raise blamed(where, f"is no manifest of an image: {cause}") from cause
    if document.schema_version != 2:
        raise blamed(where, f"the manifest is of schema {document.schema_version}, we know 2")
    digest = digest_of(data)
    if document.manifests is not None:
        if document.config is not None or document.layers is not None:
            raise blamed(where, "the manifest could be taken for an image and for a list")
        return ImageManifest(digest, len(data), {}, _instances(document.manifests, where))
    if document.config is None or document.layers is None:
        raise blamed(where, "the manifest names no config or no layers")
    if len(document.layers) >= MOST_BLOBS:
        raise blamed(where, f"the manifest names {len(document.layers):,} layers")
    blobs: dict[str, int] = {}
    for descriptor in (document.config, *document.layers):
        _check(descriptor, where)
        if blobs.setdefault(descriptor.digest, descriptor.size) != descriptor.size:
            raise blamed(where, f"the manifest gives {descriptor.digest} two sizes")
    return ImageManifest(digest, len(data), blobs)


def digest_of(data: bytes) -> str:
    """How OCI names bytes.

    >>> digest_of(b"")[:20]
    'sha256:e3b0c44298fc1'
    """
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _instances(descriptors: tuple[_Descriptor, ...], where: str) -> tuple[Instance, ...]:
    if not 0 < len(descriptors) <= MOST_INSTANCES:
        raise blamed(where, f"the manifest is a list of {len(descriptors):,} images")
    found: dict[str, Instance] = {}
    for descriptor in descriptors:
        _check(descriptor, where)
        platform = descriptor.platform or _Platform()
        instance = Instance(descriptor.digest, descriptor.size, platform.architecture, platform.os)
        if found.setdefault(descriptor.digest, instance).size != descriptor.size:
            raise blamed(where, f"the list gives {descriptor.digest} two sizes")
    return tuple(found.values())


def _check(descriptor: _Descriptor, where: str) -> None:
    if DIGEST.fullmatch(descriptor.digest) is None:
        raise blamed(where, f"{descriptor.digest[:100]!a} is not a SHA-256 digest")
    if not 0 <= descriptor.size <= LARGEST_FILE:
        raise blamed(where, f"{descriptor.digest} claims {descriptor.size:,} bytes")
