"""An image of a family that is stored as it is, packed by zstd where that pays: any zstd unpacks it, without us."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from harness.delta.coding import Effort
from harness.delta.errors import DamagedRecipe
from harness.delta.family.listing import PACKED_SUFFIX, Listed
from harness.delta.recipe import Identity
from harness.delta.sparse import STEP, ZEROES, Content
from harness.errors import BadInput, StoreError
from harness.images.block import Block
from harness.images.formats.compression import pieces
from harness.images.formats.raw import FileBlock
from harness.release.digests import pieces_of
from harness.release.packing import Setting, packer
from harness.store import replacing

LEVELS: dict[Effort, int] = {"fast": 10, "normal": 15, "best": 19}
WINDOW_LOG = 27  # 128 MiB: kernel and initramfs are in an image twice, farther apart than zstd looks by itself
WORTH_PACKING = 0.95  # of its size: what zstd makes no smaller than that stays as it is, a base that needs no unpacking
Told = Callable[[int], None]  # how many more bytes are done


def store(image: Block, folder: Path, name: str, effort: Effort) -> Path:
    """Write an image into a folder, packed if that pays, and return its file.

    That is found out by packing: what is compressed already may still be there twice.
    Raises StoreError where it cannot be written.
    """
    packed, plain = folder / (name + PACKED_SUFFIX), folder / name
    if _written(_packed(image, effort), packed) < WORTH_PACKING * image.size:
        return packed
    packed.unlink()
    _written(pieces_of(image), plain)
    return plain


def _written(content: Iterable[bytes], target: Path) -> int:
    """Bytes written."""
    try:
        with target.open("xb") as file:
            file.writelines(content)
            os.fsync(file.fileno())
            return file.tell()
    except OSError as cause:
        raise StoreError(f"cannot be written: {cause.strerror}", where=str(target)) from cause


def _packed(image: Block, effort: Effort) -> Iterator[bytes]:
    inner = packer("zst", Setting(LEVELS[effort], window_log=WINDOW_LOG), image.size)
    try:
        for piece in pieces_of(image):
            yield inner.pack(piece)
        yield inner.finish()
    finally:
        inner.close()


def restore(path: Path, image: Listed, target: Path, told: Told, *, is_packed: bool) -> Identity:
    """Write a stored image to `target`, as it was. Raises DamagedRecipe where it is another, BadInput for no room."""
    digest, size = hashlib.sha256(), 0
    try:
        with replacing(target) as aside, aside.open("r+b", buffering=0) as out:
            for piece in _unpacked(path) if is_packed else _read(path):
                if size + len(piece) > image.size:
                    raise wrong(path, image, None)
                digest.update(piece)
                if piece != ZEROES[: len(piece)]:
                    _write(out.fileno(), piece, size)
                size += len(piece)
                told(len(piece))
            out.truncate(size)
            made = Identity(size, digest.hexdigest())
            if made != image.identity:
                raise wrong(path, image, made)
    except OSError as cause:
        raise BadInput(f"cannot be written: {cause.strerror}", where=str(target)) from cause
    return made


def _unpacked(path: Path) -> Iterator[bytes]:
    with path.open("rb") as packed:
        yield from pieces(packed, path, "zst")


def _read(path: Path) -> Iterator[bytes]:
    with FileBlock(path) as block:
        content = Content(block)
        try:
            for start in range(0, content.size, STEP):
                yield content.read(start, min(STEP, content.size - start))
        finally:
            content.close()


def _write(descriptor: int, piece: bytes, offset: int) -> None:
    view = memoryview(piece)
    while view:
        done = os.pwrite(descriptor, view, offset)
        view, offset = view[done:], offset + done


def wrong(path: Path, image: Listed, found: Identity | None) -> DamagedRecipe:
    """The error for a stored image that is another, or longer than it may be."""
    what = f"{found.size:,} bytes with SHA-256 {found.sha256}" if found else f"more than {image.size:,} bytes"
    return DamagedRecipe(
        f"holds {what}, and {image.name} has {image.size:,} bytes with SHA-256 {image.sha256}",
        where=str(path),
        next_step="get the folder again",
    )
