"""An `ociarchive`: a plain tar of an OCI layout (image-spec 1.1, image-layout.md), unpacked and packed.

What is unpacked is bounded and proven on the way: nothing but the files of a layout, each blob the one its name says.
What is packed is the same bytes for the same layout: sorted names without a leading `./`, owner 0, one time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from harness.compose.tarstream import PIECE, Member, TarStream, inside
from harness.compose.tarwriter import Header, TarWriter
from harness.containers.imagefolder import INDEX, LAYOUT
from harness.containers.manifest import LARGEST_MANIFEST
from harness.errors import BadInput, DamagedArtifact, StoreError
from harness.images.formats.compression import LONGEST_MAGIC, detect
from harness.store import replacing

BLOB: Final = re.compile(r"blobs/sha256/([0-9a-f]{64})")
FOLDERS: Final = {"", "blobs", "blobs/sha256"}
MOST_FILES: Final = 100_000
NEXT: Final = "get it from where it is published, again"


@contextlib.contextmanager
def opened_layout(path: Path, scratch: Path) -> Iterator[Path]:
    """The OCI layout at `path`, a folder or an archive that is unpacked below `scratch` for as long as the block lasts.

    Raises BadInput for what is neither, DamagedArtifact for an archive that contradicts itself.
    """
    if path.is_dir():
        if not (path / LAYOUT).is_file():
            raise BadInput("is not an OCI layout: it has no oci-layout file", where=str(path))
        yield path
        return
    number = sum(1 for _ in scratch.glob("unpacked-*"))
    folder = scratch / f"unpacked-{number}"
    try:
        unpack(path, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def copied_layout(path: Path, folder: Path) -> Path:
    """A copy of the layout or archive at `path` as the new folder `folder`, every blob proven. Raises as unpack."""
    if not path.is_dir():
        unpack(path, folder)
        return folder
    if not (path / LAYOUT).is_file():
        raise BadInput("is not an OCI layout: it has no oci-layout file", where=str(path))
    (folder / "blobs" / "sha256").mkdir(parents=True)
    try:
        for name in sorted(_files_of(path)):
            with _plain_file(path / name, path) as file:
                _receive(name, iter(lambda: file.read(PIECE), b""), folder, path)
    except OSError as cause:
        raise StoreError(f"cannot be written: {cause.strerror}", where=str(folder)) from cause
    return folder


def unpack(archive: Path, folder: Path, *, proven: bool = True) -> None:
    """Unpack an archive into the new folder `folder`.

    Raises BadInput where it cannot be read, DamagedArtifact for anything in it that no layout holds, for links, devices
    and members that are there twice, and for a blob that is not what its name says (unless they need not be `proven`:
    for who judges them afterwards); StoreError where it does not fit.
    """
    (folder / "blobs" / "sha256").mkdir(parents=True)
    seen: set[str] = set()
    try:
        with _opened(archive) as file:
            stream = TarStream(iter(lambda: file.read(PIECE), b""), most=MOST_FILES)
            for member in stream.members():
                if name := _checked(member, seen):
                    _receive(name, stream.content(), folder, archive, proven=proven)
    except DamagedArtifact as cause:
        raise cause if cause.where else DamagedArtifact(cause.what, where=str(archive), next_step=NEXT) from cause
    except OSError as cause:
        raise StoreError(f"cannot be written: {cause.strerror}", where=str(folder)) from cause
    if lacking := sorted({LAYOUT, INDEX} - seen):
        raise DamagedArtifact(f"has no {lacking[0]}: not an OCI layout in a tar", where=str(archive), next_step=NEXT)


def pack(layout: Path, archive: Path, epoch: int) -> None:
    """Write the layout at `layout` as the archive `archive`, which appears whole or not at all."""
    with replacing(archive) as aside, aside.open("wb") as out, TarWriter(out.write, epoch) as tar:
        for folder in ("blobs", "blobs/sha256"):
            tar.add(Header(folder, "directory", 0o755))
        for name in sorted(_files_of(layout)):
            with _plain_file(layout / name, layout) as file:
                size = os.fstat(file.fileno()).st_size
                if tar.add(Header(name, size=size), iter(lambda: file.read(PIECE), b"")) != size:
                    raise BadInput("changed while it was read", where=str(layout / name), next_step="try again")


def _files_of(layout: Path) -> list[str]:
    """The files that belong to a layout; whatever else lies there stays where it is."""
    blobs = (f"blobs/sha256/{path.name}" for path in (layout / "blobs" / "sha256").iterdir())
    return [INDEX, LAYOUT, *(name for name in blobs if BLOB.fullmatch(name))]


def _checked(member: Member, seen: set[str]) -> str:
    """The path of a member that is a file of a layout; empty for a folder of one."""
    name, shown = inside(member.name), ascii(member.name[:100])
    if name is None:
        raise DamagedArtifact(f"{shown} leads out of the archive")
    if member.kind == "directory":
        if name not in FOLDERS:
            raise DamagedArtifact(f"holds the folder {shown}, which no OCI layout has")
        return ""
    if member.kind != "file":
        raise DamagedArtifact(f"{shown} is a {member.kind}, not a file")
    if name not in {INDEX, LAYOUT} and not BLOB.fullmatch(name):
        raise DamagedArtifact(f"holds {shown}, which no OCI layout has")
    if name in {INDEX, LAYOUT} and member.size > LARGEST_MANIFEST:
        raise DamagedArtifact(f"{name} has {member.size:,} bytes")
    if name in seen:
        raise DamagedArtifact(f"holds {shown} twice")
    seen.add(name)
    return name


def _receive(name: str, pieces: Iterator[bytes], folder: Path, where: Path, *, proven: bool = True) -> None:
    digest = hashlib.sha256()
    with (folder / name).open("xb") as out:
        for piece in pieces:
            digest.update(piece)
            out.write(piece)
    (folder / name).chmod(0o644)
    blob = BLOB.fullmatch(name)
    if proven and blob and blob[1] != digest.hexdigest():
        what = f"the blob {blob[1]} has the digest {digest.hexdigest()}"
        raise DamagedArtifact(what, where=str(where), next_step=NEXT)


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[BinaryIO]:
    try:
        if not stat.S_ISREG(archive.stat().st_mode):
            raise BadInput("is not a file", where=str(archive), next_step="name an ociarchive or a folder")
        file = archive.open("rb")
    except (OSError, ValueError) as cause:
        raise BadInput(f"cannot be read: {getattr(cause, 'strerror', cause)}", where=str(archive)) from cause
    with file:
        if kind := detect(file.read(LONGEST_MAGIC)):
            raise BadInput(f"is compressed ({kind}); an ociarchive is not", where=str(archive), next_step="unpack it")
        file.seek(0)
        yield file


@contextlib.contextmanager
def _plain_file(path: Path, where: Path) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as cause:
        raise DamagedArtifact(f"{path.name} cannot be read: {cause.strerror}", where=str(where)) from cause
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise DamagedArtifact(f"{path.name} is not a plain file", where=str(where))
        yield file
