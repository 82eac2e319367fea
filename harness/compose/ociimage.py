"""One image of an OCI layout, by its tag: index, manifest and config as they are, checked before they are believed.

The documents are kept whole, so that what we do not know of them survives (image-spec 1.1, extensibility).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from harness.containers.blobs import FREE, LARGEST_LAYER, LARGEST_RATIO
from harness.containers.descriptors import (
    DOCKER_MANIFEST,
    PACKINGS,
    Descriptor,
    ManifestList,
    parse_diff_ids,
    parse_manifest,
)
from harness.containers.imagefolder import INDEX, LAYOUT, LAYOUT_VERSION
from harness.containers.layout import REF_NAME, TYPE_OF_CONFIG
from harness.containers.manifest import LARGEST_MANIFEST
from harness.errors import BadInput, DamagedArtifact, HarnessError, UnsupportedImage
from harness.images.formats.compression import LONGEST_MAGIC, detect, pieces

Document = dict[str, Any]
DEEPEST_LIST: Final = 4
OF_US: Final = "get it from where it is published, again"


@dataclass(frozen=True, slots=True)
class OciImage:
    """An image in the layout `layout`: its documents, where it stands in the index, its layers from the bottom up."""

    layout: Path
    tag: str
    position: int
    index: Document
    manifest: Document
    config: Document
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]

    @property
    def named(self) -> Mapping[str, Any]:
        """What the index says of it."""
        named: Mapping[str, Any] = self.index["manifests"][self.position]
        return named


def open_image(layout: Path, tag: str = "", *, where: str = "") -> OciImage:
    """The image `tag` of a layout, or its only one; `where` names the layout in messages.

    Raises BadInput where the tag is not there or has to be given, UnsupportedImage for a list of several architectures
    and for Docker's manifests, DamagedArtifact for what contradicts itself.
    """
    where = where or str(layout)
    try:
        return _opened(layout, tag, where)
    except DamagedArtifact as cause:
        raise cause if cause.where else DamagedArtifact(cause.what, where=where, next_step=OF_US) from cause


def _opened(layout: Path, tag: str, where: str) -> OciImage:
    marked = _document(_small(layout / LAYOUT))
    if marked.get("imageLayoutVersion") != LAYOUT_VERSION:
        raise DamagedArtifact(f"its {LAYOUT} says {str(marked)[:100]}")
    data = _small(layout / INDEX)
    listed = parse_manifest(data)
    if not isinstance(listed, ManifestList):
        raise DamagedArtifact("its index.json lists no images")
    position = _position(listed, tag, where)
    named = listed.manifests[position]
    manifest = blob_bytes(layout, named)
    parsed = parse_manifest(manifest)
    if isinstance(parsed, ManifestList):
        raise UnsupportedImage("is a list for several architectures", where=where, next_step="copy one with skopeo")
    document = _document(manifest)
    if document.get("mediaType") == DOCKER_MANIFEST or parsed.config.media_type != TYPE_OF_CONFIG:
        raise UnsupportedImage("is no OCI image", where=where, next_step="skopeo copy --format oci makes it one")
    config = blob_bytes(layout, parsed.config)
    diff_ids = parse_diff_ids(config)
    if len(diff_ids) != len(parsed.layers):
        raise DamagedArtifact(f"its config lists {len(diff_ids)} layers, its manifest {len(parsed.layers)}")
    return OciImage(
        layout=layout,
        tag=named.ref_name,
        position=position,
        index=_document(data),
        manifest=document,
        config=_document(config),
        layers=parsed.layers,
        diff_ids=diff_ids,
    )


def blob_path(layout: Path, digest: str) -> Path:
    """Where a blob lies; `digest` must have been checked to be one."""
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


def blob_bytes(layout: Path, named: Descriptor) -> bytes:
    """A manifest or config, proven to be what names it. Raises DamagedArtifact without saying where."""
    data = _small(blob_path(layout, named.digest))
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if (found, len(data)) != (named.digest, named.size):
        raise DamagedArtifact(f"{named.digest} of {named.size:,} bytes is {found} of {len(data):,}")
    return data


def unpacked_layer(image: OciImage, number: int) -> Iterator[bytes]:
    """The tar of layer `number` in pieces, bounded; proven to have its diff_id once the last piece was taken.

    Raises DamagedArtifact without saying where.
    """
    named, path = image.layers[number], blob_path(image.layout, image.layers[number].digest)
    packing = PACKINGS.get(named.media_type)
    if packing is None:
        raise DamagedArtifact(f"layer {number + 1} is of the unknown type {named.media_type[:100]!r}")
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as packed:
            if (length := path.stat().st_size) != named.size:
                raise DamagedArtifact(f"{named.digest} has {length:,} bytes, the manifest says {named.size:,}")
            kind = detect(packed.read(LONGEST_MAGIC))
            packed.seek(0)
            if (kind or "") != packing:
                raise DamagedArtifact(f"layer {number + 1} is {kind or 'not packed'}, but called {named.media_type}")
            for piece in pieces(packed, path, kind) if kind else iter(lambda: packed.read(2**20), b""):
                digest.update(piece)
                size += len(piece)
                if size > LARGEST_LAYER or (size > FREE and size > packed.tell() * LARGEST_RATIO):
                    raise DamagedArtifact(f"layer {number + 1} unpacks to more than {size:,} bytes: a bomb?")
                yield piece
    except OSError as cause:
        raise DamagedArtifact(f"{named.digest} cannot be read: {cause.strerror}") from cause
    except HarnessError as cause:
        raise DamagedArtifact(cause.what) from cause
    if f"sha256:{digest.hexdigest()}" != image.diff_ids[number]:
        found = digest.hexdigest()
        raise DamagedArtifact(f"layer {number + 1} unpacks to sha256:{found}, its diff_id is {image.diff_ids[number]}")


def reachable(layout: Path) -> set[str]:
    """The digests of all blobs that the layout's index leads to. Raises DamagedArtifact without saying where."""
    found: set[str] = set()
    waiting = [(each, 0) for each in _entries(_small(layout / INDEX))]
    while waiting:
        named, depth = waiting.pop()
        if named.digest in found:
            continue
        found.add(named.digest)
        if depth > DEEPEST_LIST:
            raise DamagedArtifact(f"has lists within {depth} lists")
        parsed = parse_manifest(blob_bytes(layout, named))
        if isinstance(parsed, ManifestList):
            waiting += [(each, depth + 1) for each in parsed.manifests]
        else:
            found |= {parsed.config.digest, *(layer.digest for layer in parsed.layers)}
    return found


def drop_unreachable(layout: Path) -> None:
    """Remove the blobs that no image of the layout needs, as `umoci gc` does."""
    needed = reachable(layout)
    for path in (layout / "blobs" / "sha256").iterdir():
        if f"sha256:{path.name}" not in needed:
            path.unlink()


def write_blob(layout: Path, document: Mapping[str, Any], media_type: str) -> Document:
    """Write a manifest or config; returns its descriptor."""
    data = to_json(document)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    place = blob_path(layout, digest)
    place.unlink(missing_ok=True)  # a hard link of somebody's must not be written to
    place.write_bytes(data)
    place.chmod(0o644)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def to_json(document: Mapping[str, Any]) -> bytes:
    """A document in the order it has, the same bytes everywhere."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _entries(data: bytes) -> tuple[Descriptor, ...]:
    listed = parse_manifest(data)
    return listed.manifests if isinstance(listed, ManifestList) else ()


def _position(listed: ManifestList, tag: str, where: str) -> int:
    tags = [each.ref_name for each in listed.manifests]
    if not tag and len(tags) == 1:
        return 0
    if not tags:
        raise DamagedArtifact("its index.json is empty")
    shown = ", ".join(sorted(ascii(name)[1:-1] for name in tags)[:20])
    if not tag:
        raise BadInput(f"holds {len(tags)} images", where=where, next_step=f"choose one by its tag: {shown}")
    if tags.count(tag) != 1:
        what = f"has no tag {tag!a}" if tag not in tags else f"has the tag {tag!a} {tags.count(tag)} times"
        raise BadInput(what, where=where, next_step=f"its tags: {shown} (annotation {REF_NAME})")
    return tags.index(tag)


def _document(data: bytes) -> Document:
    try:
        found: object = msgspec.json.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as cause:
        raise DamagedArtifact(f"is not what it should be: {cause}") from cause
    if not isinstance(found, dict):
        raise DamagedArtifact("has a document that is no JSON object")
    return found


def _small(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_MANIFEST + 1)
    except OSError as cause:
        raise DamagedArtifact(f"{path.name} cannot be read: {cause.strerror}") from cause
    if len(data) > LARGEST_MANIFEST:
        raise DamagedArtifact(f"{path.name} has more than {LARGEST_MANIFEST:,} bytes")
    return data
