"""A folder of builds as coreos-assembler keeps one (facts A9, B2): `builds/<id>/<arch>/` with meta.json and artifacts,
`builds.json` with the newest build first, `latest` leading to it.

A build appears whole: its folder first, then its place in the list, then the link. What a killed run left is no build.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from harness.compose.epoch import rfc3339
from harness.errors import BadInput, DamagedArtifact
from harness.images.formats.compression import LONGEST_MAGIC, detect, unpacked
from harness.store import new_folder, replacing

LIST: Final = "builds.json"
META: Final = "meta.json"
LATEST: Final = "latest"
INPUTS: Final = "coreos-assembler.image-input-checksum"
ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,100}")
LARGEST: Final = 16 * 2**20  # bytes of builds.json or meta.json
OSTREE: Final = "ostree"
PACKED: Final = {".gz", ".xz", ".zst"}


@dataclass(frozen=True, slots=True)
class Build:
    """What a build is, before it has a folder. `inputs` is a SHA-256 (hex) over all that went into it."""

    id: str
    name: str
    arch: str  # as `x86_64`
    ref: str
    commit: str
    timestamp: int  # of the commit, Unix seconds
    inputs: str
    overrides_active: bool = False
    images: Mapping[str, Path] = field(default_factory=dict)  # platform -> file to be taken over


class Builds:
    """The builds below `root`. Raises BadInput where what is there is no list of builds."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def ids(self) -> tuple[str, ...]:
        """All builds, the newest first."""
        found = _read(self.root / LIST)
        builds: list[object] = found.get("builds", [])
        ids = [entry.get("id") if isinstance(entry, dict) else None for entry in builds]
        named = tuple(each for each in ids if isinstance(each, str) and ID.fullmatch(each))
        if len(named) != len(builds):
            raise BadInput("is no list of builds", where=str(self.root / LIST), next_step="restore or remove it")
        return named

    def meta(self, build: str, arch: str) -> dict[str, Any]:
        """What a build says of itself; empty where it has none."""
        return _read(self.root / build / arch / META)

    def unchanged(self, inputs: str, arch: str) -> str:
        """The newest build, if it was made from the same inputs and is still there; else nothing."""
        newest = next(iter(self.ids()), "")
        return newest if newest and self.meta(newest, arch).get(INPUTS) == inputs else ""

    def next_id(self, version: str) -> str:
        """The first free id of a version: `36.1.dev.0`, `36.1.dev.1`, as cosa counts developers' builds."""
        taken = {*self.ids(), *(path.name for path in self.root.glob("*"))}
        return next(name for number in range(len(taken) + 1) if (name := f"{version}.dev.{number}") not in taken)

    def add(self, build: Build, ociarchive: Path, epoch: int) -> Path:
        """Take over the ociarchive and images of a build, which are moved or copied, and make it the newest.

        Returns its folder. Raises BadInput for an id that is taken or no name, StoreError.
        """
        if not ID.fullmatch(build.id) or build.id == LATEST:
            raise BadInput("is no id of a build", where=repr(build.id), next_step="as 41.20241215.dev.0")
        listed = _read(self.root / LIST)
        with new_folder(self.root / build.id) as folder:
            place = folder / build.arch
            place.mkdir()
            stem = f"{build.name}-{build.id}"
            archive = place / f"{stem}-ostree.{build.arch}.ociarchive"
            shutil.move(ociarchive, archive)
            images = {OSTREE: {**_described(archive), "skip-compression": True}}
            images |= {name: _taken_over(source, place, stem, name) for name, source in build.images.items()}
            _write(place / META, _meta(build, images, epoch))
        entries = [{"id": build.id, "arches": [build.arch]}, *listed.get("builds", [])]
        with replacing(self.root / LIST) as aside:
            _write(aside, {"schema-version": "1.0.0", "builds": entries, "timestamp": rfc3339(epoch)})
        link = self.root / f".{LATEST}.{os.getpid()}"
        link.unlink(missing_ok=True)
        link.symlink_to(build.id)
        link.rename(self.root / LATEST)
        return self.root / build.id / build.arch

    def newest(self) -> str:
        """The build that is added last. Raises BadInput where there is none."""
        ids = self.ids()
        if not ids:
            raise BadInput("has no builds", where=str(self.root), next_step="harness build ostree makes one")
        return ids[0]

    def commit(self, build: str, arch: str) -> tuple[Path, dict[str, Any]]:
        """The ociarchive of a build, and what its meta.json says. Raises BadInput."""
        meta = self.meta(build, arch)
        place = self.root / build / arch
        images = meta.get("images")
        named = images.get(OSTREE) if isinstance(images, dict) else None
        path = named.get("path") if isinstance(named, dict) else None
        if not isinstance(path, str) or Path(path).name != path or not (place / path).is_file():
            raise BadInput("has no ociarchive of its commit", where=str(place), next_step="harness build ostree")
        return place / path, meta

    @contextmanager
    def extending(self, build: str, arch: str, platform: str) -> Iterator[Callable[[Mapping[str, Path]], None]]:
        """`give(images)` takes the images of a platform over, and meta.json tells of them; a marker says meanwhile
        that they are being built, as cosa has it (facts B2).
        """
        place = self.root / build / arch
        marker = place / f".{platform}.building"

        def give(images: Mapping[str, Path]) -> None:
            meta = self.meta(build, arch)
            stem = f"{meta['name']}-{build}"
            told = {name: _taken_over(source, place, stem, name) for name, source in images.items()}
            with replacing(place / META) as aside:
                _write(aside, {**meta, "images": {**meta["images"], **told}})

        try:
            marker.touch()
        except OSError as cause:
            raise BadInput(f"cannot be written: {cause.strerror}", where=str(place)) from cause
        try:
            yield give
        finally:
            marker.unlink(missing_ok=True)


def _taken_over(source: Path, place: Path, stem: str, name: str) -> dict[str, Any]:
    """Copy an image to its place, whole or not at all, and describe it as meta.json does."""
    endings = source.suffixes[-2 if source.suffix in PACKED else -1 :]
    target = place / f"{stem}-{name}.{place.name}{''.join(endings)}"
    with replacing(target) as aside:
        copied = subprocess.run(["/bin/cp", "--reflink=auto", "--sparse=always", source, aside], check=False)
        if copied.returncode:
            shutil.copyfile(source, aside)
    return {**_described(target), **_unpacked(target)}


def _meta(build: Build, images: Mapping[str, Any], epoch: int) -> dict[str, Any]:
    return {
        "name": build.name,
        "summary": f"{build.name} {build.id}",
        "buildid": build.id,
        "ref": build.ref,
        "ostree-commit": build.commit,
        "ostree-version": build.id,
        "ostree-timestamp": rfc3339(build.timestamp),
        "coreos-assembler.basearch": build.arch,
        "coreos-assembler.build-timestamp": rfc3339(epoch),
        "coreos-assembler.code-source": "image-harness",
        "coreos-assembler.overrides-active": build.overrides_active,
        INPUTS: build.inputs,
        "images": dict(images),
    }


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": path.name, "sha256": digest, "size": path.stat().st_size}


def _unpacked(path: Path) -> dict[str, Any]:
    """What is in a compressed image (facts A9); nothing is said of others, not even of an initramfs."""
    if path.suffix not in PACKED:
        return {}
    with path.open("rb") as file:
        kind = detect(file.read(LONGEST_MAGIC))
    if kind is None:
        raise DamagedArtifact(f"is called {path.suffix} and is not packed", where=str(path))
    with unpacked(path, kind) as inner:
        return {"uncompressed-sha256": inner.sha256, "uncompressed-size": inner.size}


def _read(path: Path) -> dict[str, Any]:
    try:
        data = path.read_bytes() if path.stat().st_size <= LARGEST else b""
        found: object = msgspec.json.decode(data)
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.MsgspecError, ValueError, RecursionError) as cause:
        raise BadInput(f"cannot be read: {cause}", where=str(path), next_step="restore or remove it") from cause
    if not isinstance(found, dict):
        raise BadInput("is no JSON object", where=str(path), next_step="restore or remove it")
    return found


def _write(path: Path, document: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=4) + "\n")
    path.chmod(0o644)
