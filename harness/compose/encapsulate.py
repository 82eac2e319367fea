"""An ostree commit as a container image (docs/encapsulation.md), the format of ostree-rs-ext's version 1 in one layer.

The layer is a tar of a repository in mode bare-split-xattrs below `sysroot/ostree/repo`, and of hard links to its files
where they lie in the tree, `usr/etc` as `etc`. The order matters to whoever imports it in one pass: the commit, folders
before what is in them, each file after its extended attributes. Labels say what is in it.
"""

from __future__ import annotations

import hashlib
import posixpath
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from harness.compose.epoch import rfc3339
from harness.compose.gvariant import decode
from harness.compose.ociimage import blob_path, to_json, write_blob
from harness.compose.ostreerepo import DIRMETA, Commit, OstreeRepo, parse_dirtree
from harness.compose.tarwriter import GzipSink, Header, TarWriter
from harness.containers.imagefolder import INDEX, LAYOUT
from harness.containers.layout import REF_NAME, TYPE_OF_CONFIG, TYPE_OF_INDEX, TYPE_OF_LAYER, TYPE_OF_MANIFEST
from harness.errors import DamagedArtifact

OBJECTS: Final = "sysroot/ostree/repo/objects"
CONFIG: Final = b"[core]\nrepo_version=1\nmode=bare-split-xattrs\n"
SUBFOLDERS: Final = ("extensions", "refs", "refs/heads", "refs/mirrors", "refs/remotes", "state", "tmp", "tmp/cache")
COMMIT_LABEL: Final = "ostree.commit"
DIFFID_LABEL: Final = "ostree.final-diffid"
BOOTABLE: Final = "ostree.bootable"
LINUX: Final = "ostree.linux"
DEEPEST: Final = 1000  # folders in folders
EPOCH: Final = 0  # as ostree's files have it


@dataclass(frozen=True, slots=True)
class Encapsulated:
    """A commit that became an image: digests as `sha256:<hex>`, files and bytes of the packed layer."""

    commit: str
    manifest: str
    layer: str
    diff_id: str
    size: int
    files: int


def encapsulate(
    repo: OstreeRepo, rev: str, layout: Path, *, tag: str = "latest", architecture: str = "amd64"
) -> Encapsulated:
    """Write the commit `rev` as the only image of a new OCI layout, the empty folder `layout`.

    The same commit gives the same bytes, but for those of zlib. Raises BadInput for what is not there, DamagedArtifact
    for an object that is not what it is named by.
    """
    commit = repo.commit(repo.resolve(rev))
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    incoming = layout / ".incoming"
    with incoming.open("wb") as out:
        sink = GzipSink(out)
        with TarWriter(sink.write, EPOCH) as tar:
            writer = _Writer(repo, tar)
            writer.write(commit)
        sink.close()
    incoming.chmod(0o644)
    incoming.rename(blob_path(layout, sink.digest))
    labels = _labels(commit, sink.diff_id)
    created = rfc3339(commit.timestamp)
    config = {
        "created": created,
        "architecture": architecture,
        "os": "linux",
        "config": {"Labels": labels},
        "rootfs": {"type": "layers", "diff_ids": [sink.diff_id]},
        "history": [{"created": created, "created_by": commit.subject or f"ostree export of commit {commit.checksum}"}],
    }
    manifest = write_blob(
        layout,
        {
            "schemaVersion": 2,
            "mediaType": TYPE_OF_MANIFEST,
            "config": write_blob(layout, config, TYPE_OF_CONFIG),
            "layers": [{"mediaType": TYPE_OF_LAYER, "digest": sink.digest, "size": sink.size}],
            "annotations": labels,
        },
        TYPE_OF_MANIFEST,
    )
    entry = {**manifest, "annotations": {REF_NAME: tag}, "platform": {"architecture": architecture, "os": "linux"}}
    (layout / INDEX).write_bytes(to_json({"schemaVersion": 2, "mediaType": TYPE_OF_INDEX, "manifests": [entry]}))
    (layout / LAYOUT).write_bytes(to_json({"imageLayoutVersion": "1.0.0"}))
    files = len(writer.paths)
    return Encapsulated(commit.checksum, manifest["digest"], sink.digest, sink.diff_id, sink.size, files)


def _labels(commit: Commit, diff_id: str) -> dict[str, str]:
    labels = {COMMIT_LABEL: commit.checksum, DIFFID_LABEL: diff_id}
    if commit.metadata.get(BOOTABLE) is True:
        labels |= {BOOTABLE: "true", "containers.bootc": "1"}
    if isinstance(linux := commit.metadata.get(LINUX), str):
        labels[LINUX] = linux
    if isinstance(version := commit.metadata.get("version"), str):
        labels |= {"version": version, "org.opencontainers.image.version": version}
    return dict(sorted(labels.items()))


@dataclass(slots=True)
class _Writer:
    """One commit on its way into a tar."""

    repo: OstreeRepo
    tar: TarWriter
    written: set[str] = field(default_factory=set)  # checksums of metadata
    paths: dict[str, list[str]] = field(default_factory=dict)  # of each file in the tree

    def write(self, commit: Commit) -> None:
        root = self.metadata("dirmeta", commit.meta, is_told=False)
        self.folder(".", root)
        self.structure()
        self.metadata("commit", commit.checksum)
        self.metadata("dirmeta", commit.meta)
        self.dirtree("", commit.tree, 0)
        if not any(path.startswith("var/tmp/") for paths in self.paths.values() for path in paths):
            self.tar.add(Header("var/tmp", "directory", 0o1777))
        for checksum in sorted(self.paths):
            self.file(checksum, sorted(self.paths[checksum]))

    def structure(self) -> None:
        """The repository around the objects."""
        parts = OBJECTS.split("/")
        folders = ["/".join(parts[: number + 1]) for number in range(len(parts))]
        folders += [f"{OBJECTS}/{number:02x}" for number in range(256)]
        folders += [f"sysroot/ostree/repo/{name}" for name in SUBFOLDERS]
        for name in folders:
            self.tar.add(Header(name, "directory", 0o755))
        self.tar.add(Header("sysroot/ostree/repo/config", size=len(CONFIG)), [CONFIG])

    def metadata(self, kind: str, checksum: str, *, is_told: bool = True) -> bytes:
        data = self.repo.metadata(kind, checksum)
        if is_told and f"{checksum}.{kind}" not in self.written:
            self.written.add(f"{checksum}.{kind}")
            self.tar.add(Header(_object(checksum, kind), size=len(data)), [data])
        return data

    def folder(self, path: str, dirmeta: bytes) -> None:
        uid, gid, mode, _ = decode(DIRMETA, dirmeta)
        self.tar.add(Header(path, "directory", stat.S_IMODE(mode), uid, gid))

    def dirtree(self, path: str, checksum: str, depth: int) -> None:
        if depth > DEEPEST:
            raise DamagedArtifact(f"has more than {DEEPEST} folders in each other", where=checksum)
        files, folders = parse_dirtree(self.metadata("dirtree", checksum))
        for name, file in files:
            self.paths.setdefault(file, []).append(_in_image(posixpath.join(path, name)))
        for name, tree, meta in folders:
            inside, data = posixpath.join(path, name), self.metadata("dirmeta", meta)
            if inside == "sysroot":  # is there already, and no layer may have a name twice
                self.metadata("dirtree", tree)
                continue
            self.folder(_in_image(inside), data)
            self.dirtree(inside, tree, depth + 1)

    def file(self, checksum: str, paths: list[str]) -> None:
        header, content = self.repo.file(checksum)
        place, of_xattrs = _object(checksum, "file"), hashlib.sha256(header.xattrs).hexdigest()
        if of_xattrs not in self.written:
            self.written.add(of_xattrs)
            data = header.xattrs
            self.tar.add(Header(_object(of_xattrs, "file-xattrs"), size=len(data)), [data])
        link = Header(_object(checksum, "file-xattrs-link"), "hardlink", target=_object(of_xattrs, "file-xattrs"))
        self.tar.add(link)
        kind, mode = ("symlink", 0o777) if header.is_symlink else ("file", stat.S_IMODE(header.mode))
        told: Mapping[str, Any] = {"mode": mode, "uid": header.uid, "gid": header.gid}
        self.tar.add(Header(place, kind, size=header.size, target=header.target, **told), content)
        for path in paths:  # an empty file of its own is safe from being changed by another name
            is_empty = kind == "file" and not header.size
            self.tar.add(Header(path, **told) if is_empty else Header(path, "hardlink", target=place, **told))


def _object(checksum: str, kind: str) -> str:
    return f"{OBJECTS}/{checksum[:2]}/{checksum[2:]}.{kind}"


def _in_image(path: str) -> str:
    """Where a path of the tree lies in an image: /usr/etc is /etc there."""
    return path.removeprefix("usr/") if f"{path}/".startswith("usr/etc/") else path
