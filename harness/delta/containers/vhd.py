"""Fixed VHD: the raw disk and a footer behind it (Microsoft's "Virtual Hard Disk Image Format Specification" 1.0)."""

from __future__ import annotations

from collections.abc import Iterator

from harness.delta.containers.plan import Splice
from harness.delta.containers.splice import spliced
from harness.images.block import Block, Part
from harness.images.extents import Extent, SparseBlock, extents_of
from harness.images.formats.vhd_header import COOKIE, FIXED, FOOTER_SIZE, read_footer


def recognises(file: Block) -> bool:
    """Whether a file ends with a footer; one that also begins with it is dynamic."""
    return file.size > FOOTER_SIZE and file.read(file.size - FOOTER_SIZE, len(COOKIE)) == COOKIE


def dissect(file: Block) -> tuple[Splice, SparseBlock] | None:
    """The plan and the disk of a fixed VHD, None for a dynamic one. Raises DamagedImage as its reader does."""
    if read_footer(file, file.name).disk_type != FIXED:
        return None
    size = file.size - FOOTER_SIZE
    plan = spliced(file, [(0, 0, size)])
    return (plan, Beginning(file, size)) if plan else None


class Beginning:
    """The first bytes of a block, with its holes."""

    def __init__(self, whole: Block, size: int) -> None:
        self.name, self.size = whole.name, size
        self._whole = whole
        self._part = Part(whole, 0, size, whole.name)

    def read(self, offset: int, length: int) -> bytes:
        return self._part.read(offset, length)

    def extents(self) -> Iterator[Extent]:
        for offset, length, kind in extents_of(self._whole):
            if offset < self.size:
                yield Extent(offset, min(length, self.size - offset), kind)
