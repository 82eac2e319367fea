"""Archives of images: a skopeo `dir:` folder in a tar.gz whose top folder has the archive's name without `.tgz`.

The same folder gives the same bytes on every host: members in a fixed order, owned by 0, of one time, and a gzip member
written here in stored blocks (RFC 1951, 3.2.4). Layers are compressed already, so deflating them again would cost a
core for nothing, here and in the guest. The manifests come first, so that a reader knows what to expect.

tar: POSIX.1-1988 (ustar); pax headers only for what that cannot say (a blob of 8 GiB or more).
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from harness.containers.layout import GZIP_HEADER, STORED_LIMIT
from harness.containers.manifest import LARGEST_MANIFEST, blamed
from harness.prestage.archives.image_manifest import VERSION, ImageManifest, digest_of, read_image_manifest

SUFFIX: Final = ".tgz"
MANIFEST: Final = "manifest.json"
VERSION_NAME: Final = "version"
OF_INSTANCE: Final = re.compile(r"([0-9a-f]{64})\.manifest\.json")
BLOB: Final = re.compile(r"[0-9a-f]{64}")
SIGNATURE: Final = re.compile(r"([0-9a-f]{64}\.)?signature-[0-9]{1,4}")
MTIME: Final = 0  # Unix seconds: what is in a folder of skopeo's has no time of its own
PIECE: Final = 2**20
BLOCK: Final = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class Archived:
    """An archive that was written: SHA-256 (hex) and bytes of the file, digest of the manifest in it."""

    sha256: str
    size: int
    digest: str


def write_archive(
    folder: Path, stem: str, out: BinaryIO, *, digest: str = "", look: Callable[[], None] = lambda: None
) -> Archived:
    """Write a skopeo folder as the archive of `stem` to `out`, and prove it whole on the way.

    `digest` is what the manifest has to be, where that is known. `look` is called between pieces and may raise, to
    stop. Raises DamagedArtifact unless each blob of each manifest is there, is what its name says, and nothing else is.
    """
    gzip = StoredGzip(out)
    expected = _expected(folder, stem, digest)
    extra = {path.name for path in folder.iterdir()} - expected.keys()
    if wrong := sorted(name for name in extra if not SIGNATURE.fullmatch(name)):
        raise blamed(stem, f"{wrong[0]!a} belongs to no image")
    gzip.write(_header(f"{stem}/", 0))
    for name in [*expected, *sorted(extra)]:
        path = folder / name
        size = path.stat().st_size
        if name in extra and size > LARGEST_MANIFEST:
            raise blamed(stem, f"{name} has {size:,} bytes, too many for a signature")
        gzip.write(_header(f"{stem}/{name}", size))
        sha256 = hashlib.sha256()
        with path.open("rb") as file:
            for piece in _pieces(file, size):
                look()
                sha256.update(piece)
                gzip.write(piece)
        wanted = expected.get(name)
        if wanted and (f"sha256:{sha256.hexdigest()}", size) != wanted:
            raise blamed(stem, f"{name} has {size:,} bytes of sha256:{sha256.hexdigest()}, not {wanted[1]:,}")
        gzip.write(bytes(-size % BLOCK))
    gzip.write(bytes(2 * BLOCK))
    gzip.close()
    manifest = expected[MANIFEST]
    return Archived(gzip.sha256.hexdigest(), gzip.size, manifest[0])


class StoredGzip:
    """A gzip member of stored blocks around what is written, the same however it is cut into pieces."""

    def __init__(self, out: BinaryIO) -> None:
        self.sha256 = hashlib.sha256()  # of all that was put out
        self.size = 0
        self._out, self._rest, self._crc, self._length = out, b"", 0, 0
        self._put(GZIP_HEADER)

    def write(self, data: bytes) -> None:
        """Take in some bytes; they are put out in blocks."""
        self._crc = zlib.crc32(data, self._crc)
        self._length += len(data)
        data = self._rest + data if self._rest else data
        whole = len(data) - len(data) % STORED_LIMIT
        blocks = [part for at in range(0, whole, STORED_LIMIT) for part in _stored(data[at : at + STORED_LIMIT])]
        if blocks:
            self._put(b"".join(blocks))
        self._rest = data[whole:]

    def close(self) -> None:
        """Put out the last block and the trailer (RFC 1952, 2.3.1)."""
        self._put(b"".join(_stored(self._rest, is_last=True)))
        self._put(self._crc.to_bytes(4, "little") + (self._length & 0xFFFFFFFF).to_bytes(4, "little"))

    def _put(self, data: bytes) -> None:
        self.sha256.update(data)
        self.size += len(data)
        self._out.write(data)


def _stored(block: bytes, *, is_last: bool = False) -> tuple[bytes, bytes]:
    size = len(block)
    return bytes([is_last]) + size.to_bytes(2, "little") + (size ^ 0xFFFF).to_bytes(2, "little"), block


def _expected(folder: Path, stem: str, digest: str) -> dict[str, tuple[str, int]]:
    """Digest and bytes of every file that a folder has to have, by name, in the order of the archive."""
    manifest = _manifest(folder, MANIFEST, stem)
    if digest and manifest.digest != digest:
        raise blamed(stem, f"the manifest is {manifest.digest}, not {digest}")
    files = {
        VERSION_NAME: (digest_of(VERSION), len(VERSION)),
        MANIFEST: (manifest.digest, manifest.length),
    }
    blobs = dict(manifest.blobs)
    for instance in sorted(manifest.instances, key=lambda each: each.digest):
        name = instance_name(instance.digest)
        files[name] = (instance.digest, instance.size)
        found = _manifest(folder, name, stem)
        if found.is_list:
            raise blamed(stem, f"{name} is a list within a list")
        blobs.update(found.blobs)
    files |= {digest.removeprefix("sha256:"): (digest, blobs[digest]) for digest in sorted(blobs)}
    for name in files:
        if not (folder / name).is_file() or (folder / name).is_symlink():
            raise blamed(stem, f"{name} is missing")
    return files


def instance_name(digest: str) -> str:
    """What skopeo calls the manifest of one image of a list."""
    return f"{digest.removeprefix('sha256:')}.manifest.json"


def _manifest(folder: Path, name: str, stem: str) -> ImageManifest:
    try:
        with (folder / name).open("rb") as file:
            data = file.read(LARGEST_MANIFEST + 1)
    except FileNotFoundError as cause:
        raise blamed(stem, f"{name} is missing") from cause
    return read_image_manifest(data, f"{stem}/{name}")


def _header(name: str, size: int) -> bytes:
    """The tar header of a folder (its name ends with a slash) or a file."""
    member = tarfile.TarInfo(name)
    member.mtime, member.mode = MTIME, 0o644
    if name.endswith("/"):
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    member.size = size
    try:
        return member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "surrogateescape")
    except ValueError:  # too long or too large for it
        return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Exactly `size` bytes. Raises DamagedArtifact for a file that changes while it is read."""
    left = size
    while left:
        piece = file.read(min(left, PIECE))
        if not piece:
            raise blamed(os.fspath(file.name), "became shorter while it was read")
        left -= len(piece)
        yield piece
