"""One layer more on an image of an OCI layout, under the same tag, written here.

The layer is as `umoci repack` writes one (facts B3): only what the overlay says, no entries for folders that are there
anyway; the manifest gets one layer, the config one diff_id and one history entry, and everything else stays.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.compose.epoch import rfc3339
from harness.compose.imagetree import Placed, above, read_tree
from harness.compose.ociimage import OciImage, blob_path, drop_unreachable, open_image, to_json, write_blob
from harness.compose.overlay import Overlay
from harness.compose.tarwriter import GzipSink, Header, TarWriter
from harness.containers.imagefolder import INDEX
from harness.containers.layout import TYPE_OF_CONFIG, TYPE_OF_LAYER, TYPE_OF_MANIFEST, WHITEOUT
from harness.errors import BadInput, DamagedArtifact

CREATED_BY = "harness layer add"


@dataclass(frozen=True, slots=True)
class AddedLayer:
    """What an image became: digests as `sha256:<hex>`, and the paths in the new layer as its tar has them."""

    tag: str
    manifest: str
    config: str
    layer: str
    diff_id: str
    size: int  # bytes of the packed layer
    paths: tuple[str, ...]


def add_layer(layout: Path, overlay: Overlay, epoch: int, *, tag: str = "", where: str = "") -> AddedLayer:
    """Lay `overlay` over the image `tag` of the layout, in place; what no image needs any more is removed.

    The layout must be the caller's own. Raises BadInput where the overlay does not fit the image, and as `open_image`.
    """
    where = where or str(layout)
    image = open_image(layout, tag, where=where)
    check_fits(image, overlay, where)
    incoming = layout / "blobs" / ".incoming"
    with incoming.open("wb") as out:
        sink = GzipSink(out)
        paths = write_layer(sink, overlay, epoch)
        sink.close()
    incoming.chmod(0o644)
    incoming.rename(blob_path(layout, sink.digest))
    layer = {"mediaType": TYPE_OF_LAYER, "digest": sink.digest, "size": sink.size}
    config = write_blob(layout, _config(image, sink.diff_id, epoch), TYPE_OF_CONFIG)
    manifest = _replace_image(image, {**image.manifest["config"], **config}, layer)
    return AddedLayer(image.tag, manifest, config["digest"], sink.digest, sink.diff_id, sink.size, paths)


def write_layer(sink: GzipSink, overlay: Overlay, epoch: int) -> tuple[str, ...]:
    """Write an overlay as the tar of a layer, whiteouts first; returns its paths in their order."""
    paths = []
    with TarWriter(sink.write, epoch) as tar:
        for removed in overlay.removed:
            folder, name = posixpath.split(removed)
            tar.add(Header(posixpath.join(folder, f"{WHITEOUT}{name}")))
            paths.append(posixpath.join(folder, f"{WHITEOUT}{name}"))
        for file in overlay.entries:
            is_file = file.header.kind == "file"
            tar.add(file.header, file.content() if is_file else ())
            paths.append(file.header.name)
    return tuple(paths)


def check_fits(image: OciImage, overlay: Overlay, where: str) -> None:
    """Raise BadInput where laying `overlay` over `image` would not do what it says, or do nothing at all.

    Every layer is read once and proven to have its diff_id: DamagedArtifact.
    """
    if not overlay.entries and not overlay.removed:
        raise BadInput("there is nothing to add or remove", where=where, next_step="give a folder with files in it")
    try:
        tree = read_tree(image)
    except DamagedArtifact as cause:
        raise DamagedArtifact(cause.what, where=where, next_step=cause.next_step) from cause
    for path in overlay.removed:
        if path not in tree and not any(name.startswith(f"{path}/") for name in tree):
            raise BadInput(f"{path!a} cannot be removed: it is not there", where=where)
        _check_way(tree, path, where)
    for path, file in overlay.files.items():  # folders of an overlay too: where they stand for symlinks, they hide them
        is_folder = path in tree and tree[path].member.kind == "directory"
        if path in tree and is_folder != (file.header.kind == "directory"):
            what = f"is a {file.header.kind}, but {path!a} is a {_kind(tree[path])} in {where}"
            raise BadInput(what, where=str(file.source), next_step="put it elsewhere, or remove what is there first")


def _check_way(tree: Mapping[str, Placed], path: str, where: str) -> None:
    """A path must not lead through symlinks: container stores would make folders of them, and hide what they show."""
    for folder in above(path):
        if folder in tree and tree[folder].member.kind != "directory":
            raise BadInput(f"{path!a} cannot be removed: {folder!a} is a {_kind(tree[folder])}", where=where)


def _kind(placed: Placed) -> str:
    member = placed.member
    return f"symlink to {member.target!a}" if member.kind == "symlink" else member.kind


def _config(image: OciImage, diff_id: str, epoch: int) -> dict[str, Any]:
    """The config with one layer more; `created` stays, as umoci leaves it."""
    config = dict(image.config)
    config["rootfs"] = {**config["rootfs"], "diff_ids": [*image.diff_ids, diff_id]}
    history = config.get("history")
    if history is not None and not isinstance(history, list):
        raise DamagedArtifact("its config's history is no list", where=str(image.layout))
    if history or not image.layers:  # image-spec: optional; one entry for many layers would be wrong
        config["history"] = [*(history or []), {"created": rfc3339(epoch), "created_by": CREATED_BY}]
    return config


def _replace_image(image: OciImage, config: Mapping[str, Any], layer: Mapping[str, Any]) -> str:
    manifest = {**image.manifest, "config": config, "layers": [*image.manifest["layers"], layer]}
    written = write_blob(image.layout, manifest, TYPE_OF_MANIFEST)
    entries: list[Any] = list(image.index["manifests"])
    entries[image.position] = {**entries[image.position], "digest": written["digest"], "size": written["size"]}
    aside = image.layout / ".index.json"
    aside.write_bytes(to_json({**image.index, "manifests": entries}))
    aside.chmod(0o644)
    aside.rename(image.layout / INDEX)
    drop_unreachable(image.layout)
    return str(written["digest"])


def named_paths(paths: Iterable[str]) -> str:
    """Paths of a layer for one line of text."""
    shown = [ascii(path)[1:-1] for path in paths]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")
