"""What an image of a family is where it comes packed: what is inside, because that is what is signed and compared."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from harness.images.formats.compression import Compression, detect, unpacked
from harness.images.formats.raw import FileBlock
from harness.release.metadata import unpacked_name

HEAD = 512  # bytes
KEPT_PACKED = (".tar.gz", ".tgz")  # are published as they are: their checksum is that of the packed file


def image_name(path: Path) -> str:
    """What an image is called in its family. Raises BadInput for what cannot be read."""
    return path.name if _packing(path) is None else unpacked_name(path.name)


def plain_image(path: Path, stack: ExitStack) -> Path:
    """An image's file, unpacked for as long as the stack if its name says that it is packed (`rhcos.qcow2.gz`).

    An initramfs is compressed too, but nobody who asks for it wants what is inside.
    Raises BadInput for what cannot be read, DamagedImage for a broken compression, StoreError where there is no room.
    """
    kind = _packing(path)
    return path if kind is None else stack.enter_context(unpacked(path, kind)).path


def readings(path: Path, stack: ExitStack) -> Iterator[Path]:
    """What a file of any name may be meant as: itself, and what is inside if it is compressed.

    Raises what `plain_image` raises.
    """
    yield path
    if (kind := _compression(path)) is not None:
        yield stack.enter_context(unpacked(path, kind)).path


def _packing(path: Path) -> Compression | None:
    kind, name = _compression(path), path.name
    return None if name.lower().endswith(KEPT_PACKED) or unpacked_name(name) == name else kind


def _compression(path: Path) -> Compression | None:
    with FileBlock(path) as file:
        return detect(file.read(0, min(HEAD, file.size)))
