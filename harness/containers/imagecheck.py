"""One image of a containers-storage: its big data (config, manifests, signatures) against the digests that name it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

import msgspec

from harness.containers.folder import View
from harness.containers.layercheck import Finding
from harness.containers.records import (
    IMAGES,
    MOST_LAYERS,
    OF_MANIFEST,
    ImageRecord,
    big_data_path,
    layer_ids,
    read_bounded,
)
from harness.errors import DamagedImage

LARGEST_BIG_DATA = 16 * 2**20  # bytes; registries refuse manifests above 4 MiB
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class _RootFiles(msgspec.Struct):
    diff_ids: tuple[str, ...]


class _Config(msgspec.Struct):
    rootfs: _RootFiles


class _Descriptor(msgspec.Struct):
    digest: str


class _Manifest(msgspec.Struct):
    config: _Descriptor
    layers: tuple[_Descriptor, ...]


def read_diff_ids(files: View, root: str, image: ImageRecord) -> tuple[str, ...] | None:
    """The diff_ids of an image's config, from the bottom up; None unless it is the config that names the image."""
    try:
        raw = read_bounded(files, f"{root}/{_config_path(image)}", LARGEST_BIG_DATA)
        if hashlib.sha256(raw).hexdigest() != image.id:
            return None
        diff_ids = msgspec.json.decode(raw, type=_Config).rootfs.diff_ids
    except (DamagedImage, msgspec.MsgspecError, RecursionError, ValueError):
        return None
    is_list = len(diff_ids) <= MOST_LAYERS and all(DIGEST.fullmatch(diff_id) for diff_id in diff_ids)
    return diff_ids if is_list else None


def image_findings(files: View, root: str, image: ImageRecord, diff_ids: tuple[str, ...] | None) -> Iterator[Finding]:
    """Everything wrong with an image apart from its layers; `diff_ids` as `read_diff_ids` gave them."""
    keys = image.big_data_names or ()
    bad = {}
    for key in dict.fromkeys((f"sha256:{image.id}", "manifest", *keys)):
        if what := _blob(files, root, image, key):
            bad[key] = Finding(big_data_path(image.id, key), what)
    yield from bad.values()
    if diff_ids is None and f"sha256:{image.id}" not in bad:
        yield Finding(_config_path(image), "is no image config that lists the layers by SHA-256")
    instances = [key.removeprefix(OF_MANIFEST) for key in keys if key.startswith(OF_MANIFEST)]
    if image.digest not in instances:
        yield Finding(IMAGES, f"says the manifest is {image.digest or 'nowhere'}, but no such manifest is stored")
    if diff_ids is not None:
        ids = layer_ids(diff_ids)
        top = ids[-1] if ids else ""
        if image.layer != top:
            yield Finding(IMAGES, f"says the topmost layer is {image.layer!r}, but by the config it is {top!r}")
        if "manifest" not in bad:
            yield from _manifest(files, root, image, len(diff_ids))


def _blob(files: View, root: str, image: ImageRecord, key: str) -> str:
    """What is wrong with one piece of big data, in words."""
    try:
        raw = read_bounded(files, f"{root}/{big_data_path(image.id, key)}", LARGEST_BIG_DATA)
    except DamagedImage as cause:
        return cause.what
    sizes: Mapping[str, int] = image.big_data_sizes or {}
    recorded = (image.big_data_digests or {}).get(key, "")
    named = key.removeprefix(OF_MANIFEST)
    expected = named if DIGEST.fullmatch(named) else recorded
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    if digest != expected:
        return f"has the digest {digest} instead of {expected or 'one recorded in images.json'}"
    if recorded != expected:
        return f"has the digest its name says, but images.json records {recorded or 'none'}"
    if sizes.get(key) != len(raw):
        return f"has {len(raw):,} bytes, but images.json records {sizes.get(key)}"
    return ""


def _manifest(files: View, root: str, image: ImageRecord, layers: int) -> Iterator[Finding]:
    path = big_data_path(image.id, "manifest")
    try:
        raw = read_bounded(files, f"{root}/{path}", LARGEST_BIG_DATA)
        manifest = msgspec.json.decode(raw, type=_Manifest)
    except (msgspec.MsgspecError, RecursionError, ValueError) as cause:
        yield Finding(path, f"is no image manifest: {cause}")
        return
    if manifest.config.digest != f"sha256:{image.id}":
        yield Finding(path, f"names the config {manifest.config.digest}, which is not this image's")
    if len(manifest.layers) != layers:
        yield Finding(path, f"lists {len(manifest.layers)} layers, the config {layers}")


def _config_path(image: ImageRecord) -> str:
    return big_data_path(image.id, f"sha256:{image.id}")
