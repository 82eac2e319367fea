"""What an image of a family is where it comes packed: what is inside, because that is what is signed and compared."""

from __future__ import annotations

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


def _packing(path: Path) -> Compression | None:
    with FileBlock(path) as file:
        kind = detect(file.read(0, min(HEAD, file.size)))
    return None if path.name.lower().endswith(KEPT_PACKED) else kind


def plain_image(path: Path, stack: ExitStack) -> Path:
    """An image's file, unpacked for as long as the stack.

    Raises BadInput for what cannot be read, DamagedImage for a broken compression, StoreError where there is no room.
    """
    kind = _packing(path)
    if kind is None:
        return path
    return stack.enter_context(unpacked(path, kind)).path
