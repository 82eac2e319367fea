"""Is an archive of an image whole? Read once, in bounded memory, from a folder of this host or from inside an image.

It has to be what `archive.py` writes, or `tar czf` of the same folder; the order of members is free.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from harness.containers.folder import View
from harness.containers.manifest import LARGEST_MANIFEST
from harness.errors import DamagedArtifact, HarnessError
from harness.images.filesystems.files import shown
from harness.prestage.archives.archive import (
    BLOB,
    MANIFEST,
    OF_INSTANCE,
    SIGNATURE,
    SUFFIX,
    VERSION_NAME,
    instance_name,
)
from harness.prestage.archives.archive_stream import Fault, Head, TarStream
from harness.prestage.archives.image_manifest import MOST_INSTANCES, VERSION, ImageManifest, read_image_manifest
from harness.prestage.lists.reference import Reference

PIECE: Final = 2**20
MOST_FINDINGS: Final = 50  # of one archive
TOLD: Final = -1  # bytes of a blob of which it was told already what is wrong


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong: in which archive (its file name), in which member (empty for the whole), and what, in words."""

    archive: str
    member: str
    cause: str

    def __str__(self) -> str:
        return f"{self.archive}: {self.member}: {self.cause}" if self.member else f"{self.archive}: {self.cause}"


@dataclass(frozen=True, slots=True)
class ArchiveCheck:
    """What one reading of an archive told: SHA-256 (hex) and bytes of the file, digest of the manifest in it.

    `sha256` is empty where the file could not be read to its end, `digest` where there is no manifest.
    """

    findings: tuple[Finding, ...]
    sha256: str
    size: int
    digest: str
    is_list: bool

    @property
    def is_whole(self) -> bool:
        return not self.findings


def archive_findings(files: View, path: str, reference: Reference, *, digest: str = "") -> tuple[Finding, ...]:
    """Everything wrong with an archive; nothing if it is whole."""
    return check_archive(files, path, reference, digest=digest).findings


def check_archive(files: View, path: str, reference: Reference, *, digest: str = "") -> ArchiveCheck:
    """Read the archive of `reference` at `path`. Whatever is wrong becomes a finding; nothing is raised for it.

    The manifest has to be `digest`: that of the reference, if it has one, unless another is given.
    """
    return _Check(files, path, reference.archive, digest or reference.digest or "").done()


@dataclass(slots=True)
class _Check:
    files: View
    path: str
    stem: str
    wanted: str  # the manifest's digest, where it is known
    findings: list[Finding] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)
    blobs: dict[str, int] = field(default_factory=dict)  # digest to bytes of the blobs that are there
    manifests: dict[str, ImageManifest] = field(default_factory=dict)  # by member
    vouched: dict[str, int] = field(default_factory=dict)  # what has to be there, as far as a digest says so

    def done(self) -> ArchiveCheck:
        sha256 = hashlib.sha256()
        source = _Hashed(self.files, self.path, sha256)
        try:
            self._walk(TarStream(iter(source)))
            self._compare()
        except Fault as fault:
            self._find("", str(fault), is_last=True)
        except HarnessError as cause:
            self._find("", str(cause))
        try:
            for _ in source:  # to its end, whatever was wrong
                pass
        except HarnessError as cause:
            if not self.findings:
                self._find("", str(cause))
        manifest = self.manifests.get(MANIFEST)
        return ArchiveCheck(
            tuple(self.findings),
            sha256.hexdigest() if source.is_at_end else "",
            source.size,
            manifest.digest if manifest else "",
            manifest.is_list if manifest else False,
        )

    def _find(self, member: str, cause: str, *, is_last: bool = False) -> None:
        if len(self.findings) >= MOST_FINDINGS and not is_last:
            raise Fault("has more defects than are told here")
        self.findings.append(Finding(f"{self.stem}{SUFFIX}", shown(member)[:200], cause))

    def _walk(self, stream: TarStream) -> None:
        for head in stream.heads():
            name = self._name(head)
            if name is None:
                continue
            if name in self.seen:
                self._find(name, "is there twice")
                continue
            self.seen.add(name)
            if BLOB.fullmatch(name):
                self._blob(name, head, stream)
            elif name:
                self._small(name, head, stream)

    def _name(self, head: Head) -> str | None:
        """A member's name below the top folder, empty for that folder itself; None for one that does not belong."""
        top, slash, name = head.name.partition("/")
        shortly = head.name.rstrip("/") or head.name
        if head.name.startswith("/") or ".." in head.name.split("/"):
            self._find(shortly, "leads out of the archive")
        elif top != self.stem:
            self._find(shortly, f"is not in the top folder {self.stem}")
        elif head.kind == "directory" and name.strip("/"):
            self._find(name.rstrip("/"), "is a folder within the top folder")
        elif head.kind == "directory":
            return ""
        elif head.kind != "file":
            self._find(name or top, f"is a {head.kind}")
        elif not slash:
            self._find(shortly, "is a file, not the top folder")
        elif not _belongs(name):
            self._find(name, "belongs to no image")
        else:
            return name
        return None

    def _blob(self, name: str, head: Head, stream: TarStream) -> None:
        digest = f"sha256:{name}"
        if self.vouched and digest not in self.vouched:
            self._find(name, "is in no manifest")
            return
        if self.vouched.get(digest, head.size) != head.size:
            self._find(name, f"has {head.size:,} bytes instead of {self.vouched[digest]:,}")
            self.blobs[digest] = TOLD
            return
        if digest in self.vouched:
            stream.vouch(head.size)
        sha256 = hashlib.sha256()
        for piece in stream.content():
            sha256.update(piece)
        if sha256.hexdigest() != name:
            self._find(name, f"has the digest sha256:{sha256.hexdigest()} instead of its name's")
            self.blobs[digest] = TOLD
        else:
            self.blobs[digest] = head.size

    def _small(self, name: str, head: Head, stream: TarStream) -> None:
        """The members that are read whole: version, manifests, signatures."""
        if head.size > LARGEST_MANIFEST:
            self._find(name, f"has {head.size:,} bytes, more than {LARGEST_MANIFEST:,}")
            return
        data = b"".join(stream.content())
        if name == VERSION_NAME and data != VERSION:
            self._find(name, f"says {data[:60]!r} instead of {VERSION!r}")
        elif name == MANIFEST:
            self._manifest(name, data, self.wanted)
        elif match := OF_INSTANCE.fullmatch(name):
            self._manifest(name, data, f"sha256:{match[1]}")

    def _manifest(self, name: str, data: bytes, wanted: str) -> None:
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if wanted and found != wanted:
            self._find(name, f"has the digest {found} instead of {wanted}")
            return
        try:
            manifest = read_image_manifest(data, name)
        except DamagedArtifact as cause:
            self._find(name, cause.what)
            return
        if len(self.manifests) > MOST_INSTANCES:
            raise Fault(f"has more than {MOST_INSTANCES} manifests")
        self.manifests[name] = manifest
        if wanted and name == MANIFEST and not manifest.is_list:
            self.vouched = dict(manifest.blobs)

    def _compare(self) -> None:
        """What is there with what the manifests name; where one of those is wrong, that has been told."""
        for name in (VERSION_NAME, MANIFEST):
            if name not in self.seen:
                self._find(name, "is missing")
        manifest = self.manifests.get(MANIFEST)
        if manifest is None:
            return
        if self._compare_instances(manifest):
            self._compare_blobs(manifest)

    def _compare_instances(self, manifest: ImageManifest) -> bool:
        """The manifests of a list's images; False where one is not there: nobody knows then what else is missing."""
        named = {instance_name(each.digest): each for each in manifest.instances}
        for name in sorted(named.keys() - self.seen):
            self._find(name, "is missing")
        for name in sorted(self.manifests.keys() - named.keys() - {MANIFEST}):
            self._find(name, "is of no image of the list")
        for name in sorted(named.keys() & self.manifests.keys()):
            found = self.manifests[name]
            if found.is_list:
                self._find(name, "is a list within a list")
            if found.length != named[name].size:
                self._find(name, f"has {found.length:,} bytes instead of {named[name].size:,}")
        return named.keys() <= self.manifests.keys()

    def _compare_blobs(self, manifest: ImageManifest) -> None:
        images = [self.manifests[instance_name(each.digest)] for each in manifest.instances] or [manifest]
        expected = {digest: size for image in images for digest, size in image.blobs.items()}
        for digest, size in sorted(expected.items()):
            name = digest.removeprefix("sha256:")
            if name not in self.seen:
                self._find(name, "is missing")
            elif (found := self.blobs.get(digest, TOLD)) not in {size, TOLD}:
                self._find(name, f"has {found:,} bytes instead of {size:,}")
        for digest in sorted(self.blobs.keys() - expected.keys()):
            self._find(digest.removeprefix("sha256:"), "is in no manifest")


def _belongs(name: str) -> bool:
    is_fixed = name in {VERSION_NAME, MANIFEST}
    return is_fixed or any(kind.fullmatch(name) for kind in (BLOB, OF_INSTANCE, SIGNATURE))


class _Hashed:
    """The bytes of a file, hashed as they pass; what one reader leaves is there for the next."""

    def __init__(self, files: View, path: str, sha256: hashlib._Hash) -> None:
        self.size = 0
        self.is_at_end = False
        self._sha256 = sha256
        self._pieces = self._read(files, path)

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def _read(self, files: View, path: str) -> Iterator[bytes]:
        for piece in files.chunks(path, PIECE):
            self._sha256.update(piece)
            self.size += len(piece)
            yield piece
        self.is_at_end = True
