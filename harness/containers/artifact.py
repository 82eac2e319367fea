"""A folder of files as an OCI artifact (image-spec 1.1, manifest.md: "Guidelines for Artifact Usage"), and back.

The manifest has the `artifactType`, the empty descriptor as its config, and a layer for each file, whose name is in
the annotation `org.opencontainers.image.title`, as ORAS has it. skopeo 1.9.3 and docker-registry 2.8.2, both older than
OCI 1.1, carry it through `oci:` and `docker://` with every digest kept, so no other shape is needed for old ones.

The same folder and epoch give the same bytes. Files keep name and content, and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from harness.containers.layout import TYPE_OF_INDEX, TYPE_OF_MANIFEST
from harness.containers.manifest import (
    CREATED,
    EMPTY,
    EMPTY_TYPE,
    LARGEST_MANIFEST,
    TITLE,
    Artifact,
    ArtifactFile,
    blamed,
    is_file_name,
    is_media_type,
    read_index,
    read_manifest,
)
from harness.errors import BadInput, DamagedArtifact
from harness.store import new_folder

TYPE_OF_SET = "application/vnd.image-harness.set.v1"  # a base, its recipes and their index
OTHER = "application/octet-stream"
MEDIA_TYPES = {
    ".recipe": "application/vnd.image-harness.recipe.v1",
    ".json": "application/json",
    ".gz": "application/gzip",
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
    ".iso": "application/vnd.efi.iso",
}
LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
SMALL = 4096  # bytes: more than any oci-layout file needs
FICLONE = 0x40049409  # ioctl: share all blocks of a file (linux/fs.h)
LAST_EPOCH = 253_402_300_799  # the last second of the year 9999


def pack(folder: Path, layout: Path, *, artifact_type: str, epoch: int | None = None) -> Artifact:
    """Write the files of `folder` as an OCI layout, the folder `layout`.

    Blobs share the files' blocks, or are hard links to the files, where the file system can: change a file by replacing
    it. `epoch` (Unix seconds) is when the artifact says it was made; if not given, SOURCE_DATE_EPOCH or else 0.
    Raises BadInput for a folder that holds anything but plain files, and StoreError where nothing can be written.
    """
    if not is_media_type(artifact_type):
        raise BadInput("is not a media type", where=repr(artifact_type), next_step="as application/vnd.example.v1")
    created = _created(epoch)
    sources = _plain_files(folder)
    with new_folder(layout) as aside:
        blobs = aside / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        _add(blobs, EMPTY)  # first: a link to a user's file of the same content is put in its place, never written to
        files = tuple(_packed(source, blobs) for source in sources)
        manifest = _json(_manifest(files, artifact_type, created))
        if len(manifest) > LARGEST_MANIFEST:
            raise BadInput(f"holds too many files: {len(files):,}", where=str(folder), next_step="make several of it")
        digest = _add(blobs, manifest)
        descriptor = {"mediaType": TYPE_OF_MANIFEST, "digest": digest, "size": len(manifest)}
        manifests = [{**descriptor, "artifactType": artifact_type}]
        (aside / "index.json").write_bytes(
            _json({"schemaVersion": 2, "mediaType": TYPE_OF_INDEX, "manifests": manifests})
        )
        (aside / "oci-layout").write_bytes(LAYOUT)
    return Artifact(digest, artifact_type, files)


def unpack(layout: Path, folder: Path, *, artifact_type: str = "", moving: bool = False) -> Artifact:
    """Write the files of an artifact into the new folder `folder`: all of them, or nothing.

    With `moving` the layout is the caller's to lose: its blobs become the files. Raises BadInput where `folder` holds
    something or the artifact is not of `artifact_type`, DamagedArtifact for one that contradicts itself, StoreError.
    """
    artifact = read_artifact(layout, artifact_type=artifact_type)
    seen: set[str] = set()
    with new_folder(folder) as aside:
        for file in artifact.files:
            written = aside / file.name
            _share(_blob(layout, file.digest), written, linking=moving and file.digest not in seen)
            seen.add(file.digest)
            if (found := _digest_of(written)) != (file.digest, file.size):
                raise blamed(layout, f"{file.name!r} should be {file.digest}, its blob is {found[0]}")
            written.chmod(0o644)
    return artifact


def read_artifact(layout: Path, *, artifact_type: str = "") -> Artifact:
    """What the one artifact of an OCI layout says of itself, and that each blob is there and as long as it says.

    Raises BadInput where `layout` is none or the artifact not of `artifact_type`, else DamagedArtifact.
    """
    if not is_layout(layout):
        raise BadInput("is not an OCI layout", where=str(layout), next_step="it has an oci-layout and an index.json")
    for place in (layout / "blobs", layout / "blobs" / "sha256"):
        if not place.is_dir() or place.is_symlink():
            raise blamed(layout, f"{place.relative_to(layout)} is not a folder")
    _small_file(layout / "oci-layout", SMALL, layout)
    digest, size = read_index(_small_file(layout / "index.json", LARGEST_MANIFEST, layout), layout)
    data = _small_file(_blob(layout, digest), LARGEST_MANIFEST, layout)
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if (found, len(data)) != (digest, size):
        raise blamed(layout, f"the manifest should be {digest} of {size:,} bytes, it is {found} of {len(data):,}")
    artifact = read_manifest(data, layout, artifact_type=artifact_type)
    for file in artifact.files:
        with _opened(_blob(layout, file.digest), layout) as blob:
            if (length := os.fstat(blob.fileno()).st_size) != file.size:
                raise blamed(layout, f"{file.name!r} should have {file.size:,} bytes, its blob has {length:,}")
    return artifact


def is_layout(folder: Path) -> bool:
    """Whether a folder is an OCI layout rather than files to be packed."""
    return (folder / "oci-layout").is_file() and (folder / "index.json").is_file() and (folder / "blobs").is_dir()


def _plain_files(folder: Path) -> tuple[Path, ...]:
    """The files directly in a folder, by name. Raises BadInput for anything that a set cannot hold."""
    try:
        entries = sorted(folder.iterdir())
        kinds = [entry.lstat().st_mode for entry in entries]
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(folder), next_step="give a folder") from cause
    for entry, kind in zip(entries, kinds, strict=True):
        if not stat.S_ISREG(kind):
            what = "a folder" if stat.S_ISDIR(kind) else "a symlink" if stat.S_ISLNK(kind) else "not a plain file"
            raise BadInput(f"is {what}; only files directly in the folder are packed", where=_shown(entry))
        if not is_file_name(entry.name):
            raise BadInput("has a name that does not travel", where=_shown(entry), next_step="rename it")
    if not entries:
        raise BadInput("is empty", where=str(folder), next_step="give a folder of files")
    return tuple(entries)


def _shown(path: Path) -> str:
    text = str(path)
    return text if text.isprintable() else ascii(text)


def _packed(source: Path, blobs: Path) -> ArtifactFile:
    aside = blobs / ".incoming"
    try:
        _share(source, aside, linking=True)
    except DamagedArtifact as cause:
        raise BadInput(cause.what, where=str(source)) from cause
    digest, size = _digest_of(aside)
    blob = blobs / digest.removeprefix("sha256:")
    blob.unlink(missing_ok=True)  # renaming one link of a file over another does nothing
    aside.rename(blob)
    return ArtifactFile(source.name, MEDIA_TYPES.get(source.suffix.lower(), OTHER), digest, size)


def _manifest(files: tuple[ArtifactFile, ...], artifact_type: str, created: str) -> dict[str, Any]:
    empty = {"mediaType": EMPTY_TYPE, "digest": f"sha256:{hashlib.sha256(EMPTY).hexdigest()}", "size": len(EMPTY)}
    layers = [
        {"mediaType": file.media_type, "digest": file.digest, "size": file.size, "annotations": {TITLE: file.name}}
        for file in files
    ]
    return {
        "schemaVersion": 2,
        "mediaType": TYPE_OF_MANIFEST,
        "artifactType": artifact_type,
        "config": empty,
        "layers": layers,
        "annotations": {CREATED: created},
    }


def _created(epoch: int | None) -> str:
    """The time as RFC 3339 has it (image-spec, annotations.md)."""
    said = os.environ.get("SOURCE_DATE_EPOCH", "0") if epoch is None else str(epoch)
    if not (said.isascii() and said.isdecimal() and len(said) <= len(str(LAST_EPOCH)) and int(said) <= LAST_EPOCH):
        raise BadInput("is not a time in Unix seconds", where=f"SOURCE_DATE_EPOCH={said}")
    return datetime.fromtimestamp(int(said), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _share(source: Path, target: Path, *, linking: bool) -> None:
    """Make `target` a file of the same content: sharing its blocks, as a link where that is fine, else as a copy."""
    with _opened(source, source.parent) as old, target.open("xb") as new:
        with contextlib.suppress(OSError):
            fcntl.ioctl(new, FICLONE, old.fileno())
            return
        if linking:
            with contextlib.suppress(OSError):
                linked = target.with_name(f"{target.name}.link")
                linked.hardlink_to(source)
                linked.rename(target)
                return
        shutil.copyfileobj(old, new, 2**20)


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")


@contextlib.contextmanager
def _opened(path: Path, where: Path) -> Iterator[BinaryIO]:
    """A plain file, opened. Raises DamagedArtifact for anything else, without waiting for a pipe's other end."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as cause:
        raise blamed(where, f"{path.name} cannot be read: {cause.strerror}") from cause
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise blamed(where, f"{path.name} is not a plain file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


def _small_file(path: Path, limit: int, where: Path) -> bytes:
    with _opened(path, where) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise blamed(where, f"{path.name} has more than {limit:,} bytes")
    return data


def _digest_of(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return f"sha256:{digest}", file.tell()


def _add(blobs: Path, data: bytes) -> str:
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return f"sha256:{digest}"


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
