"""An ostree commit out of a container image that encapsulates one (docs/encapsulation.md), back into a repository.

Every object is proven to be what it is named by, and the commit to be all there, before the repository appears. Layers
above the commit's are not looked into; they are told.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from harness.compose.encapsulate import COMMIT_LABEL, DIFFID_LABEL, OBJECTS
from harness.compose.imagetree import layer_path
from harness.compose.ociimage import OciImage, unpacked_layer
from harness.compose.ostreerepo import (
    CHECKSUM,
    LARGEST_METADATA,
    FileHeader,
    NewRepo,
    parse_commit,
    parse_dirtree,
)
from harness.compose.tarstream import Member, TarStream
from harness.errors import BadInput, DamagedArtifact
from harness.store import new_folder

OBJECT: Final = re.compile(rf"{OBJECTS}/([0-9a-f]{{2}})/([0-9a-f]{{62}})\.([a-z-]+)")
METADATA: Final = {"commit", "commitmeta", "dirtree", "dirmeta"}
LARGEST_XATTRS: Final = 2**20  # bytes of one file's
MOST_XATTRS: Final = 64 * 2**20  # bytes of all


@dataclass(frozen=True, slots=True)
class Imported:
    """A commit that came out of an image: its checksum, its files, and the diff_ids of the layers above it."""

    commit: str
    version: str
    files: int
    layers_above: tuple[str, ...]


def unencapsulate(image: OciImage, target: Path, *, ref: str = "", where: str = "") -> Imported:
    """Write the commit of `image` as the new repository `target`, in archive mode, and name it `ref` if that is given.

    Raises BadInput for an image without a commit, DamagedArtifact for one that contradicts itself, StoreError.
    """
    where = where or str(image.layout)
    commit, last = _labelled(image, where)
    try:
        with new_folder(target) as folder:
            intake = _Intake(NewRepo(folder))
            for number in range(last + 1):
                intake.layer(unpacked_layer(image, number))
            version, files = intake.complete(commit)
            if ref:
                intake.repo.add_ref(ref, commit)
    except DamagedArtifact as cause:
        what = f"{cause.where} {cause.what}" if cause.where else cause.what
        raise DamagedArtifact(what, where=where, next_step="get it from where it is published, again") from cause
    return Imported(commit, version, files, image.diff_ids[last + 1 :])


def _labelled(image: OciImage, where: str) -> tuple[str, int]:
    """The commit's checksum and the number of the last layer it is in, by the image's labels."""
    labels = (image.config.get("config") or {}).get("Labels") or {}
    commit, diff_id = (
        (labels.get(name, "") for name in (COMMIT_LABEL, DIFFID_LABEL)) if isinstance(labels, dict) else ("", "")
    )
    if not isinstance(commit, str) or not CHECKSUM.fullmatch(commit):
        raise BadInput(f"encapsulates no ostree commit: it has no label {COMMIT_LABEL}", where=where)
    if diff_id not in image.diff_ids:
        raise DamagedArtifact(f"its label {DIFFID_LABEL} names none of its layers", where=where)
    return commit, image.diff_ids.index(diff_id)


@dataclass(slots=True)
class _Intake:
    """Objects on their way into a repository."""

    repo: NewRepo
    xattrs: dict[str, bytes] = field(default_factory=dict)  # by their digest
    xattrs_of: dict[str, str] = field(default_factory=dict)  # file -> digest
    kept: int = 0

    def layer(self, pieces: Iterator[bytes]) -> None:
        stream = TarStream(pieces)
        for member in stream.members():
            match = OBJECT.fullmatch(layer_path(member.name) or "")
            if match is None:
                continue  # the tree itself, whose files are hard links to objects
            checksum, kind = match[1] + match[2], match[3]
            if self.repo.has(checksum, kind.replace("file", "filez", 1) if kind == "file" else kind):
                raise DamagedArtifact(f"the {kind} {checksum} is there twice")
            self.take(checksum, kind, member, stream.content)

    def take(self, checksum: str, kind: str, member: Member, content: Callable[[], Iterator[bytes]]) -> None:
        if kind == "file":
            self.repo.add_file(checksum, self.header(checksum, member), content())
        elif kind == "file-xattrs-link":
            target = OBJECT.fullmatch(layer_path(member.target) or "")
            if member.kind != "hardlink" or target is None:
                raise DamagedArtifact(f"the file-xattrs-link of {checksum} leads nowhere")
            self.xattrs_of[checksum] = target[1] + target[2]
        elif member.kind != "file" or member.size > (LARGEST_XATTRS if kind == "file-xattrs" else LARGEST_METADATA):
            raise DamagedArtifact(f"the {kind} {checksum} is a {member.kind} of {member.size:,} bytes")
        elif kind == "file-xattrs":
            data = b"".join(content())
            self.kept += len(data)
            if hashlib.sha256(data).hexdigest() != checksum or self.kept > MOST_XATTRS:
                raise DamagedArtifact(f"the extended attributes {checksum} have another digest, or are too many")
            self.xattrs[checksum] = data
        elif kind in METADATA:
            self.repo.add_metadata(kind, checksum, b"".join(content()))
        else:
            raise DamagedArtifact(f"holds an object of the unknown kind {kind!a}")

    def header(self, checksum: str, member: Member) -> FileHeader:
        xattrs = self.xattrs.get(self.xattrs_of.get(checksum, ""))
        if xattrs is None or member.kind not in {"file", "symlink"}:
            raise DamagedArtifact(f"the file {checksum} comes without its extended attributes, or is a {member.kind}")
        is_symlink = member.kind == "symlink"
        kind, mode = (stat.S_IFLNK, 0o777) if is_symlink else (stat.S_IFREG, member.mode)
        return FileHeader(member.uid, member.gid, kind | mode, member.target if is_symlink else "", xattrs, member.size)

    def complete(self, checksum: str) -> tuple[str, int]:
        """Prove that all of a commit is there; its version and how many files it has."""
        commit = parse_commit(checksum, self._metadata(checksum, "commit"))
        self._metadata(commit.meta, "dirmeta")
        waiting, seen, files = [commit.tree], {commit.tree}, set[str]()
        while waiting:
            own, folders = parse_dirtree(self._metadata(waiting.pop(), "dirtree"))
            for name, file in own:
                if file not in files and not self.repo.has(file, "filez"):
                    raise DamagedArtifact(f"the file {name!a} ({file}) is missing")
                files.add(file)
            for _, tree, meta in folders:
                self._metadata(meta, "dirmeta")
                if tree not in seen:
                    seen.add(tree)
                    waiting.append(tree)
        version = commit.metadata.get("version")
        return version if isinstance(version, str) else "", len(files)

    def _metadata(self, checksum: str, kind: str) -> bytes:
        if not self.repo.has(checksum, kind):
            raise DamagedArtifact(f"the {kind} {checksum} is missing")
        return self.repo.path(checksum, kind).read_bytes()
