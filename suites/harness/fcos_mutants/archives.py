"""A small image with a layer more, and hands to break it."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.compose.layering import add_layer
from harness.compose.ociarchive import pack
from harness.compose.ociimage import OciImage, blob_path, open_image
from harness.compose.overlay import read_overlays
from harness.containers.layout import stored_gzip
from suites.harness.small_image import EPOCH, overlay, small_layout

SEED = {"var/ybettan.txt": b"ybettan was here\n"}
Document = dict[str, Any]
Change = Callable[[Document], object]


def member(path: str = "var/ybettan.txt", content: bytes = SEED["var/ybettan.txt"], **more: Any) -> tuple[Any, bytes]:
    """A file of a layer, as the seed's unless something else is said."""
    header = tarfile.TarInfo(path)
    header.size, header.mtime = len(content), EPOCH
    for name, value in more.items():
        setattr(header, name, value)
    return header, content


class LayeredImage:
    """The layout of a base, and of that with the seed's file, which may be changed at will; each is packed in the end.

    `layout` is the layered one, `files` the folder that was added.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = small_layout(folder / "base")
        self.files = overlay(folder / "files", SEED)
        self.layout = folder / "layered"
        shutil.copytree(self.base, self.layout)
        add_layer(self.layout, read_overlays([self.files]), EPOCH)

    @property
    def image(self) -> OciImage:
        return open_image(self.layout)

    def store(self, data: bytes, layout: Path | None = None) -> Document:
        """A new blob, and what a document says of it."""
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        blob_path(layout or self.layout, digest).write_bytes(data)
        return {"digest": digest, "size": len(data)}

    def rewrite(
        self, config: Change = id, manifest: Change = id, index: Change = id, *, layout: Path | None = None
    ) -> None:
        """Change documents; those that name them go along, and the old ones go."""
        layout = layout or self.layout
        image = open_image(layout)
        stale = {image.named["digest"], image.manifest["config"]["digest"]}
        config(image.config)
        image.manifest["config"] |= self.store(json.dumps(image.config).encode(), layout)
        manifest(image.manifest)
        named = self.store(json.dumps(image.manifest).encode(), layout)
        image.index["manifests"][0] |= named
        index(image.index)
        (layout / "index.json").write_text(json.dumps(image.index))
        for digest in stale - {named["digest"], image.manifest["config"]["digest"]}:
            blob_path(layout, digest).unlink()

    def put_layer(self, *members: tuple[Any, bytes]) -> None:
        """Another layer instead of the new one, of which the documents know."""
        blob_path(self.layout, self.image.layers[-1].digest).unlink()
        diff_id, stored = self.layer(*members)
        self.rewrite(
            config=lambda config: config["rootfs"]["diff_ids"].__setitem__(-1, diff_id),
            manifest=lambda manifest: manifest["layers"][-1].update(stored),
        )

    def layer(self, *members: tuple[Any, bytes]) -> tuple[str, Document]:
        """A new layer's diff_id, and what a manifest says of its blob."""
        tar = tar_of(*members)
        return f"sha256:{hashlib.sha256(tar).hexdigest()}", self.store(stored_gzip(tar))

    def packed(self) -> tuple[Path, Path]:
        """Both as archives."""
        archives = self.folder / "base.ociarchive", self.folder / "layered.ociarchive"
        for layout, archive in zip((self.base, self.layout), archives, strict=True):
            pack(layout, archive, EPOCH)
        return archives


def tar_of(*members: tuple[Any, bytes]) -> bytes:
    """A layer's tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for header, content in members:
            tar.addfile(header, io.BytesIO(content))
    return out.getvalue()
