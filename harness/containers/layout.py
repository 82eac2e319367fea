"""OCI image layouts (image-spec 1.0, image-layout.md): container images written from plain Python values.

The same images and epoch give the same bytes on every host: tar headers carry only what is stated here, JSON is
canonical, and the gzip members are written here with a fixed header and stored blocks (RFC 1951, 3.2.4), because the
header that `gzip.compress` writes depends on the Python version and deflate's output on the zlib that is installed.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from harness.errors import BadInput

TYPE_OF_INDEX = "application/vnd.oci.image.index.v1+json"
TYPE_OF_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TYPE_OF_CONFIG = "application/vnd.oci.image.config.v1+json"
TYPE_OF_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
REF_NAME = "org.opencontainers.image.ref.name"

WHITEOUT = ".wh."  # image-spec, layer.md: prefix of a name that is hidden
OPAQUE = ".wh..wh..opq"  # image-spec, layer.md: hides all lower entries of its folder
GZIP_HEADER = bytes.fromhex("1f8b08000000000000ff")  # RFC 1952: deflate, no name, mtime 0, no extra flags, OS unknown
STORED_LIMIT = 0xFFFF  # bytes in one stored block

FileKind = Literal["file", "directory", "symlink", "whiteout", "opaque"]


@dataclass(frozen=True, slots=True)
class LayerFile:
    """One entry of a layer; `path` is relative to the container's root, without a leading slash.

    A whiteout hides `path` of the layers below; an opaque folder is created empty and hides all that was in it.
    """

    path: str
    kind: FileKind = "file"
    mode: int = 0o644  # permission bits; symlinks are always 0o777
    uid: int = 0
    gid: int = 0
    content: bytes = b""
    target: str = ""  # of a symlink


@dataclass(frozen=True, slots=True)
class Image:
    """A container image: its full name with tag, its layers from the bottom up, and what it runs."""

    name: str
    layers: tuple[tuple[LayerFile, ...], ...]
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = "amd64"  # as Go calls it


@dataclass(frozen=True, slots=True)
class WrittenImage:
    """What an image became in a layout: digests as `sha256:<hex>`, layers from the bottom up."""

    name: str
    manifest: str
    config: str
    layers: tuple[str, ...]
    diff_ids: tuple[str, ...]


def write_layout(folder: Path, images: Sequence[Image], epoch: int) -> tuple[WrittenImage, ...]:
    """Write `images` as an OCI layout into `folder`, which is created; every time stamp is `epoch` (Unix seconds).

    Raises BadInput for two images of one name and for a layer that no tar could hold.
    """
    names = [image.name for image in images]
    if len(set(names)) != len(names):
        raise BadInput("two images have the same name", where=", ".join(names), next_step="give each its own tag")
    blobs = _Blobs(folder / "blobs" / "sha256")
    written, descriptors = [], []
    for image in images:
        tars = [layer_tar(layer, epoch) for layer in image.layers]
        diff_ids = tuple(_digest(tar) for tar in tars)
        layers = [blobs.add(TYPE_OF_LAYER, stored_gzip(tar)) for tar in tars]
        config = blobs.add(TYPE_OF_CONFIG, _json(_config(image, diff_ids, epoch)))
        manifest = {"schemaVersion": 2, "mediaType": TYPE_OF_MANIFEST, "config": config, "layers": layers}
        descriptor = blobs.add(TYPE_OF_MANIFEST, _json(manifest))
        platform = {"architecture": image.architecture, "os": "linux"}
        descriptors.append({**descriptor, "annotations": {REF_NAME: image.name}, "platform": platform})
        digests = tuple(layer["digest"] for layer in layers)
        written.append(WrittenImage(image.name, descriptor["digest"], config["digest"], digests, diff_ids))
    index = {"schemaVersion": 2, "mediaType": TYPE_OF_INDEX, "manifests": descriptors}
    _write(folder / "index.json", _json(index))
    _write(folder / "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
    return tuple(written)


def layer_tar(files: Sequence[LayerFile], epoch: int) -> bytes:
    """The uncompressed tar of one layer; its SHA-256 is the layer's diff_id. Entries keep their order."""
    out = io.BytesIO()
    seen: set[str] = set()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in files:
            for member in _members(file):
                if member.name in seen:
                    raise BadInput("is in one layer twice", where=member.name)
                seen.add(member.name)
                member.mtime = epoch
                tar.addfile(member, io.BytesIO(file.content))
    return out.getvalue()


def stored_gzip(data: bytes) -> bytes:
    """`data` as a gzip member of stored blocks: valid for every reader, the same from every writer."""
    parts = [GZIP_HEADER]
    for start in range(0, len(data) or 1, STORED_LIMIT):
        block = data[start : start + STORED_LIMIT]
        last = start + STORED_LIMIT >= len(data)
        size = len(block)
        parts += [bytes([last]), size.to_bytes(2, "little"), (size ^ 0xFFFF).to_bytes(2, "little"), block]
    parts += [zlib.crc32(data).to_bytes(4, "little"), (len(data) & 0xFFFFFFFF).to_bytes(4, "little")]
    return b"".join(parts)


def _members(file: LayerFile) -> list[tarfile.TarInfo]:
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts or not path.parts or path.name.startswith(WHITEOUT):
        raise BadInput("is not a path inside a container", where=repr(file.path), next_step="write it as etc/motd")
    member = tarfile.TarInfo(str(path))
    member.uid, member.gid, member.mode = file.uid, file.gid, file.mode
    if file.kind == "file":
        member.size = len(file.content)
    elif file.kind == "symlink":
        member.type, member.linkname, member.mode = tarfile.SYMTYPE, file.target, 0o777
    elif file.kind == "whiteout":
        member.name, member.mode = str(path.with_name(WHITEOUT + path.name)), 0o644
    else:
        member.type = tarfile.DIRTYPE
    if file.kind != "opaque":
        return [member]
    mark = tarfile.TarInfo(str(path / OPAQUE))
    return [member, mark]


def _config(image: Image, diff_ids: Sequence[str], epoch: int) -> dict[str, Any]:
    created = datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    settings = {
        "Entrypoint": list(image.entrypoint),
        "Cmd": list(image.cmd),
        "Env": list(image.env),
        "Labels": dict(image.labels),
    }
    return {
        "created": created,
        "architecture": image.architecture,
        "os": "linux",
        "config": {name: value for name, value in settings.items() if value},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [{"created": created, "created_by": f"layer {n}"} for n in range(1, len(diff_ids) + 1)],
    }


@dataclass(frozen=True, slots=True)
class _Blobs:
    folder: Path

    def add(self, media_type: str, data: bytes) -> dict[str, Any]:
        digest = _digest(data)
        _write(self.folder / digest.removeprefix("sha256:"), data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(0o644)
