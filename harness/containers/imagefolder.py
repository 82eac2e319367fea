"""Images outside a store, blob by blob: skopeo's `dir:` folders and OCI layouts, also inside an image or an archive.

Every file is read once, in whichever order it comes: its SHA-256, and the diff_id of what is packed in it. Then from
the manifest or index to configs and layers: is each there, is it what names it, of the size and packing that is said of
it, and does the config list the layers that are there? What is left over belongs to nobody.

`dir:` (containers/image, directory_transport.go): `version`, `manifest.json`, blobs by hex, `signature-N`; for a list
also `<hex>.manifest.json`, and `<hex>.signature-N`. Layout: image-spec 1.1, image-layout.md.
"""

from __future__ import annotations

import posixpath
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import msgspec

from harness.containers.blobs import Blob, read_blob
from harness.containers.descriptors import (
    CONFIGS,
    FOREIGN,
    PACKINGS,
    Descriptor,
    ImageManifest,
    ManifestList,
    parse_diff_ids,
    parse_manifest,
)
from harness.containers.folder import View
from harness.containers.layercheck import Finding
from harness.containers.records import PIECE, StoredLayer
from harness.errors import BadInput, DamagedArtifact, DamagedImage, HarnessError

VERSION = b"Directory Transport Version: 1."
LAYOUT_VERSION = "1.0.0"
MOST_FILES = 100_000  # in one folder
MOST_KEPT = 256 * 2**20  # bytes of all manifests and configs; those of a release are 2 MiB
MOST_IMAGES = 10_000
MOST_FINDINGS = 1000
DEEPEST_LIST = 4  # lists in lists
SIGNATURE = re.compile(r"([0-9a-f]{64}\.)?signature-[0-9]{1,4}")
INDEX, LAYOUT, MANIFEST = "index.json", "oci-layout", "manifest.json"


@dataclass(frozen=True, slots=True)
class FolderImage:
    """One image of a folder; layers from the bottom up, with digests of what is packed in them."""

    name: str  # in a layout, if it has one there
    digest: str  # of its manifest
    machine: str  # as `linux/arm64`, where a list says it
    layers: tuple[StoredLayer, ...]


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What a folder holds and what is wrong with it; paths are relative to the folder. `digest` is the top's."""

    digest: str
    images: tuple[FolderImage, ...]
    problems: tuple[Finding, ...]
    size: int = 0  # bytes of all files


def verify_folder(files: View, folder: str, digest: str = "") -> FolderReport:
    """Check the `dir:` folder or OCI layout at `folder`; `digest` is what its manifest must have, if that is known.

    Raises BadInput where there is neither.
    """
    folder = folder.rstrip("/")
    if not any(files.exists(f"{folder}/{name}") for name in (INDEX, MANIFEST)):
        raise BadInput("is neither a folder of skopeo's dir: nor an OCI layout", where=folder or "/")
    return verify_members(_members(files, folder), digest)


def verify_members(members: Iterable[tuple[str, Iterable[bytes]]], digest: str = "") -> FolderReport:
    """The same for files that come by as (path, pieces), as out of an archive. Damage never raises."""
    blobs: dict[str, Blob] = {}
    unread: dict[Finding, None] = {}
    try:
        for path, blob in _read(members, blobs):
            if isinstance(blob, Finding):
                unread[blob] = None
            else:
                blobs[path] = blob
    except HarnessError as cause:
        unread[Finding(cause.where, cause.what)] = None
    check = (_Layout if INDEX in blobs or LAYOUT in blobs else _SkopeoFolder)(blobs, unread)
    images = tuple(islice(check.images(), MOST_IMAGES))
    top = blobs.get(check.top)
    if digest and top and digest not in check.digests:
        check.note(check.top, f"has the digest {top.digest}, not {digest}")
    size = sum(blob.size for blob in blobs.values())
    return FolderReport(top.digest if top else "", images, tuple(islice(check.problems, MOST_FINDINGS)), size)


def _read(
    members: Iterable[tuple[str, Iterable[bytes]]], blobs: Mapping[str, Blob]
) -> Iterator[tuple[str, Blob | Finding]]:
    """Each member's blob, or why there is none; `blobs` are those before it."""
    kept = 0
    for path, given in members:
        if len(blobs) >= MOST_FILES or kept > MOST_KEPT:
            raise DamagedImage(f"holds more than {MOST_FILES:,} files, or {MOST_KEPT:,} bytes of manifests")
        if path in blobs:
            yield path, Finding(path, "is there twice")
        try:
            blob = read_blob(path, given)
        except HarnessError as cause:
            yield path, Finding(path, cause.what)
        else:
            kept += len(blob.content or b"")
            yield path, blob


def _members(files: View, folder: str) -> Iterator[tuple[str, Iterable[bytes]]]:
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        for name in files.listdir(posixpath.join(folder, inside) if inside else folder or "/"):
            path = posixpath.join(inside, name)
            kind = files.stat(f"{folder}/{path}").kind
            if kind == "directory" and path.count("/") < 3:
                waiting.append(path)
            else:
                yield path, files.chunks(f"{folder}/{path}", PIECE) if kind == "file" else _refused(kind)


def _refused(kind: str) -> Iterator[bytes]:
    if kind:
        raise DamagedImage(f"is a {kind}, not a file")
    yield b""


class _Folder(ABC):
    """One run over the blobs of a folder; a subclass knows where they lie."""

    top = MANIFEST
    mark = "version"

    def __init__(self, blobs: dict[str, Blob], problems: dict[Finding, None]) -> None:
        self.blobs, self.problems = blobs, problems
        self.unread = {finding.path for finding in problems}  # told already
        self.wanted = {self.top, self.mark}
        self.digests: set[str] = set()  # of all manifests and lists
        self.is_known_whole = True  # no manifest is lacking that might want what nobody else wants

    @abstractmethod
    def place(self, named: Descriptor) -> str:
        """Where a blob lies."""

    @abstractmethod
    def place_of_manifest(self, named: Descriptor) -> str:
        """Where the manifest of an instance lies."""

    @abstractmethod
    def is_marked(self, mark: bytes) -> bool:
        """Whether the file that tells what kind of folder this is says so."""

    def images(self) -> Iterator[FolderImage]:
        """All images, noting everything wrong on the way."""
        mark, top = self.blobs.get(self.mark), self.blobs.get(self.top)
        if mark is None:
            self.note(self.mark, "is missing")
        elif not self.is_marked(mark.content or b""):
            self.note(self.mark, f"says {(mark.content or b'')[:40]!r}: another kind of folder, or version")
        if top is None:
            self.note(self.top, "is missing")
            return
        yield from self.manifest(top, Descriptor(top.digest, top.size), 0)
        for path in sorted(self.blobs.keys() - self.wanted) if self.is_known_whole else ():
            if not SIGNATURE.fullmatch(path):
                self.note(path, "belongs to no image here")

    def manifest(self, blob: Blob, named: Descriptor, depth: int) -> Iterator[FolderImage]:
        is_new = blob.digest not in self.digests
        self.digests.add(blob.digest)
        try:
            if blob.content is None:
                raise DamagedArtifact("is no manifest: too large, or no JSON object")
            manifest = parse_manifest(blob.content)
            if isinstance(manifest, ManifestList) and depth >= DEEPEST_LIST:
                raise DamagedArtifact(f"is a list within {depth} lists")
        except HarnessError as cause:
            self.is_known_whole = False
            self.note(blob.name, cause.what)
            return
        if isinstance(manifest, ImageManifest):
            yield self.image(blob, named, manifest)
        elif is_new:
            for each in manifest.manifests:
                if instance := self.blob(each, self.place_of_manifest(each)):
                    yield from self.manifest(instance, _with_name(each, named), depth + 1)
                else:
                    self.is_known_whole = False

    def image(self, blob: Blob, named: Descriptor, manifest: ImageManifest) -> FolderImage:
        layers = [self.layer(each) for each in manifest.layers]
        config = self.blob(manifest.config, self.place(manifest.config))
        if config and (manifest.config.media_type in CONFIGS or not manifest.config.media_type):
            self.config(config, layers)
        held = (StoredLayer(layer.digest, layer.diff_id, layer.inner_size) for layer in layers if layer)
        return FolderImage(named.ref_name, blob.digest, named.machine, tuple(held))

    def config(self, config: Blob, layers: list[Blob | None]) -> None:
        """Compare a config's diff_ids with what the layers came to."""
        try:
            diff_ids = parse_diff_ids(config.content or b"")
        except HarnessError as cause:
            self.note(config.name, cause.what)
            return
        if len(diff_ids) != len(layers):
            self.note(config.name, f"lists {len(diff_ids)} layers, the manifest {len(layers)}")
            return
        for diff_id, layer in zip(diff_ids, layers, strict=True):
            if layer and layer.diff_id and layer.diff_id != diff_id:
                self.note(layer.name, f"unpacks to {layer.diff_id}, but the config's diff_id is {diff_id[:80]}")

    def layer(self, named: Descriptor) -> Blob | None:
        """The blob of a layer, if it is there and sound."""
        place = self.place(named)
        if named.media_type in FOREIGN and place not in self.blobs:
            return None  # to be had from its URLs only: image-spec, layer.md
        blob = self.blob(named, place)
        if blob is None:
            return None
        packing = PACKINGS.get(named.media_type)
        if packing is not None and blob.damage:
            self.note(place, blob.damage)
        elif packing is not None and packing != blob.packing:
            self.note(place, f"is {blob.packing or 'not packed'}, but the manifest calls it {named.media_type}")
        return blob

    def blob(self, named: Descriptor, place: str) -> Blob | None:
        """The blob at `place`, if it is what names it. Told once, however many images share it."""
        self.wanted.add(place)
        blob = self.blobs.get(place)
        if blob is None:
            if place not in self.unread:
                self.note(place, "is missing")
        elif blob.digest != named.digest:
            self.note(place, f"has the digest {blob.digest} instead of {named.digest} ({blob.size:,} bytes)")
        elif blob.size != named.size:
            self.note(place, f"has {blob.size:,} bytes, but a manifest says {named.size:,}")
        else:
            return blob
        return None

    def note(self, path: str, what: str) -> None:
        self.problems[Finding(path, what)] = None


def _with_name(named: Descriptor, above: Descriptor) -> Descriptor:
    """A list's entry, with the name of the list if it has none of its own."""
    return named if named.ref_name else msgspec.structs.replace(named, annotations=above.annotations)


class _SkopeoFolder(_Folder):
    """A folder of skopeo's `dir:`."""

    def place(self, named: Descriptor) -> str:
        return named.hex

    def place_of_manifest(self, named: Descriptor) -> str:
        return f"{named.hex}.manifest.json"

    def is_marked(self, mark: bytes) -> bool:
        return mark.startswith(VERSION)


class _Layout(_Folder):
    """An OCI image layout."""

    top = INDEX
    mark = LAYOUT

    def place(self, named: Descriptor) -> str:
        return f"blobs/sha256/{named.hex}"

    def place_of_manifest(self, named: Descriptor) -> str:
        return self.place(named)

    def is_marked(self, mark: bytes) -> bool:
        try:
            said: object = msgspec.json.decode(mark)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return False
        return isinstance(said, dict) and said.get("imageLayoutVersion") == LAYOUT_VERSION
