"""From what a user names, a URL or an image of a stream, to a verified local file.

The store keeps only what was verified: there a checksum must be known beforehand. Into a folder, https may do. Whoever
wants the same file at the same time waits for the one transfer. Signatures (.sig) are not checked.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform as host
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BadInput, DamagedImage
from harness.images.formats.compression import DEFAULT_LIMIT, LONGEST_MAGIC, detect, unpacked
from harness.release.checksums import META
from harness.release.digests import Digest, FileDigest, digest_file
from harness.release.download import Patience, Progress, Wanted, WrongContent, download
from harness.release.metadata import LARGEST, SHA256, Metadata, read_metadata
from harness.release.oddities import oddities
from harness.release.published import Published, published_of
from harness.release.streams import StreamImage, is_stream_image, parse_stream_image, stream_url
from harness.release.transport import checked_url, file_name, is_url, shown
from harness.release.verify import complaint
from harness.store import Store, content_key

KIND = "downloads"  # of the store's entries
PARTS = "partial"  # where the store's unfinished downloads lie
FORGOTTEN_AFTER = 7 * 24 * 3600.0  # seconds that an unfinished download is kept
CHECKSUM_IN_URL = re.compile(r"(.*)#sha256=([0-9a-fA-F]{64})")
ARCHITECTURES = {"arm64": "aarch64", "amd64": "x86_64"}


@dataclass(frozen=True, slots=True)
class Order:
    """A file to be fetched, and what was published about it; the SHA-256 is empty where nobody said it."""

    url: str
    published: Published
    platform: str = ""
    release: str = ""

    def __str__(self) -> str:
        release = f", release {self.release}" if self.release else ""
        return f"{self.published.name}{release}"


@dataclass(frozen=True, slots=True)
class Fetched:
    """A local file. `metadata` is a meta.json that says what was published, where the store keeps it."""

    path: Path
    sha256: str
    was_there: bool
    metadata: Path | None = None


def is_remote(text: str) -> bool:
    """Whether a user names something to be fetched rather than a path."""
    return is_url(text) or is_stream_image(text)


def order(
    text: str,
    store: Store,
    *,
    sha256: str = "",
    stream_source: str = "",
    architecture: str = "",
    patience: Patience | None = None,
) -> tuple[Order, tuple[str, ...]]:
    """What a URL or `STREAM:PLATFORM[:FORMAT]` means, and what is odd about the stream's metadata.

    `stream_source` is a URL or a file that is read instead of the stream's official metadata. Raises BadInput, or
    DownloadFailed where the metadata cannot be had.
    """
    if is_url(text):
        fragment = CHECKSUM_IN_URL.fullmatch(text)
        url, known = fragment.groups() if fragment else (text, sha256)
        if known and not SHA256.fullmatch(known.lower()):
            raise BadInput("is not a SHA-256 in hex", where=known[:80])
        return Order(checked_url(url), Published(file_name(url), known.lower())), ()
    image = parse_stream_image(text)
    source = stream_source or stream_url(image.stream)
    metadata = _metadata(source, store, patience)
    found = metadata.find(image.platform, format=image.format, architecture=architecture or _own_architecture())
    if sha256 and sha256.lower() != found.sha256:
        raise BadInput(f"publishes {found.sha256} for {image}, not {sha256}", where=_name_of(source))
    if not is_url(found.location):
        raise BadInput(f"does not say where {found.name} is to be had", where=_name_of(source))
    made = Order(found.location, published_of(found), found.platform, found.release)
    file_name(made.url)
    return made, (*_other_stream(image, metadata), *oddities(metadata))


def fetch_to_store(
    wanted: Order,
    store: Store,
    *,
    limit: int = DEFAULT_LIMIT,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Fetched:
    """The file in the store, downloaded if need be. Raises BadInput where no checksum is known, DownloadFailed."""
    published = wanted.published
    if not published.sha256:
        raise BadInput(
            "nobody said its SHA-256, and the store keeps only what was verified",
            where=shown(wanted.url),
            next_step=f"add it: {shown(wanted.url)}#sha256=...",
        )
    key = content_key({"name": published.name, "sha256": published.sha256})
    was_there = store.find(KIND, key) is not None
    unfinished = store.root / PARTS / key

    def build(folder: Path) -> None:
        _forget_old_parts(store)
        part = unfinished / f"{published.name}.part"
        target = folder / published.name
        _download(
            wanted, target, part, lambda path: _inside_by_store(path, published, store), progress, patience, limit
        )
        (folder / META).write_text(json.dumps(_meta(wanted), indent=4))
        shutil.rmtree(unfinished, ignore_errors=True)

    entry = store.entry(KIND, key, build)
    return Fetched(entry / published.name, published.sha256, was_there, entry / META)


def fetch_to_folder(
    wanted: Order,
    folder: Path,
    store: Store,
    *,
    limit: int = DEFAULT_LIMIT,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Fetched:
    """The file in a folder. Raises BadInput where another file of its name lies there, or nothing vouches for it."""
    published = wanted.published
    if not published.sha256 and not wanted.url.lower().startswith("https:"):
        raise BadInput(
            "comes over http and nobody said its SHA-256", where=shown(wanted.url), next_step="say it by --sha256"
        )
    target = folder / published.name
    with store.lock(f"fetch-{hashlib.sha256(os.fspath(target.absolute()).encode()).hexdigest()}"):
        if target.exists():
            return _already_there(target, published)
        part = target.with_name(f"{target.name}.part")
        done = _download(wanted, target, part, digest_file, progress, patience, limit)
    return Fetched(target, done, was_there=False)


def _download(
    wanted: Order,
    target: Path,
    part: Path,
    look_inside: Callable[[Path], FileDigest],
    progress: Progress | None,
    patience: Patience | None,
    limit: int,
) -> str:
    published = wanted.published

    def check(path: Path) -> None:
        if published.uncompressed_sha256:
            digest = look_inside(path)
            is_packed = digest.inside is not None or bool(digest.fault)
            if wrong := complaint(digest, published, is_packed=is_packed, name=published.name):
                raise WrongContent(wrong, where=shown(wanted.url), next_step="what was published contradicts itself")

    task = Wanted(wanted.url, published.sha256 or None, published.size, limit)
    return download(task, target, part=part, check=check, progress=progress, patience=patience).sha256


def _inside_by_store(path: Path, published: Published, store: Store) -> FileDigest:
    """As `digest_file` of what was just verified; what is inside stays in the store for whoever opens the image."""
    with path.open("rb") as file:
        kind = detect(file.read(LONGEST_MAGIC))
    if kind is None:
        return digest_file(path)
    whole = Digest(path.stat().st_size, published.sha256)
    try:
        with unpacked(path, kind, store=store) as inside:
            return FileDigest(whole, Digest(inside.size, inside.sha256))
    except DamagedImage as fault:
        return FileDigest(whole, None, fault.what)


def _already_there(target: Path, published: Published) -> Fetched:
    digest = digest_file(target)
    is_packed = digest.inside is not None or bool(digest.fault)
    wrong = complaint(digest, published, is_packed=is_packed, name=target.name) if published.sha256 else "is unverified"
    if wrong:
        raise BadInput(
            f"lies there already: {wrong}", where=str(target), next_step="remove it, or choose another folder"
        )
    return Fetched(target, digest.file.sha256, was_there=True)


def _metadata(source: str, store: Store, patience: Patience | None) -> Metadata:
    if not is_url(source):
        return read_metadata(Path(source))
    with store.scratch("stream") as folder:
        target = folder / "stream.json"
        download(Wanted(source, limit=LARGEST), target, patience=patience)
        try:
            return read_metadata(target)
        except BadInput as wrong:
            raise BadInput(wrong.what, where=shown(source), next_step=wrong.next_step) from wrong


def _meta(wanted: Order) -> dict[str, object]:
    published = wanted.published
    entry = {
        "path": published.name,
        "sha256": published.sha256,
        "size": published.size,
        "uncompressed-sha256": published.uncompressed_sha256,
        "uncompressed-size": published.uncompressed_size,
    }
    known = {name: value for name, value in entry.items() if value is not None}
    return {"buildid": wanted.release, "images": {wanted.platform or "disk": known}}


def _other_stream(image: StreamImage, metadata: Metadata) -> tuple[str, ...]:
    """Stream metadata calls itself stable, or rhcos-4.8."""
    said = metadata.stream
    if not said or image.stream in {said, f"fcos-{said}"}:
        return ()
    return (f"{image.stream} was asked for, and the metadata is of {said}",)


def _own_architecture() -> str:
    return ARCHITECTURES.get(host.machine(), host.machine())


def _name_of(source: str) -> str:
    return shown(source) if is_url(source) else source


def _forget_old_parts(store: Store) -> None:
    for folder in (store.root / PARTS).glob("*"):
        with contextlib.suppress(OSError):
            if time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir())) > FORGOTTEN_AFTER:
                shutil.rmtree(folder, ignore_errors=True)
