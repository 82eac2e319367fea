"""One disk from one container into another, as each platform is shipped; the same disk always gives the same bytes.

qemu-img writes; what it makes up meanwhile is replaced by what follows from the content (marks.py). Chains of qcow2
files are flattened over the bases that the user names: a name inside an image is never followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import BadInput
from harness.images.edits.archives import VMDK, guest_of, write_gcp, write_ova
from harness.images.edits.copy import copy_disk, copy_sparsely
from harness.images.edits.draft import DISK, Workshop, creating
from harness.images.edits.marks import digest_of, set_marks
from harness.images.edits.shapes import Shape, shape_of
from harness.images.edits.stages import Progress, silent, stage
from harness.images.formats.raw import FileBlock
from harness.images.partitions.layout import read_layout
from harness.images.source import Image, open_chain
from harness.tools import run

MARKED = frozenset({"vmdk", "vhd", "vhdx", "ova"})  # containers that carry identifiers


@dataclass(frozen=True, slots=True)
class Converted:
    """The new file: its container, its length, and the length of the disk inside."""

    container: str
    size: int
    disk_size: int


def convert(
    source: Path, to: str, target: Path, *, bases: Sequence[Path] = (), progress: Progress = silent
) -> Converted:
    """Write `target`: the disk of `source` as a platform or format (see shapes.py) has it.

    `bases` are the backing files of a qcow2, the nearest first. Raises BadInput for a platform we do not know,
    UnsupportedImage for a source that needs a base and was given none, ToolFailed with qemu-img's words.
    """
    shape = shape_of(to)
    with creating(target, source, *bases) as shop, open_chain(source, bases) as image:
        size = image.block.size
        if not size:
            raise BadInput("has no bytes to convert", where=str(source))
        raw = _as_raw(image, shape, shop, progress)
        with stage(progress, f"write {shape.container}"):
            _write(raw, image, shape, shop)
        length = shop.result.stat().st_size
    return Converted(shape.container, length, size)


def _as_raw(image: Image, shape: Shape, shop: Workshop, progress: Progress) -> Path:
    """The disk as a raw file; a raw source serves as it is where nobody takes the file away or reads its name."""
    if image.container == "raw" and shape.container not in {"raw", "tar.gz"}:
        return image.plain_path.absolute()
    raw = shop.folder / DISK
    with stage(progress, "copy"):
        if shape.container == "tar.gz":  # tar looks for zeroes only in a file that has holes
            copy_sparsely(image.block, raw)
        else:
            copy_disk(image.block, raw)
    return raw


def _write(raw: Path, image: Image, shape: Shape, shop: Workshop) -> None:
    if shape.container == "raw":
        raw.rename(shop.result)
    elif shape.container == "tar.gz":
        write_gcp(shop.folder, shop.result)
    elif shape.container == "ova":
        vmdk = shop.folder / VMDK
        _qemu(raw, Shape("vmdk", "vmdk", shape.options), vmdk)
        archive = shop.folder / "image.ova"
        write_ova(vmdk, image.block.size, shape, guest_of(read_layout(image.block)), archive)
        archive.rename(shop.result)
    else:
        written = shop.folder / f"disk.{shape.suffix}"  # a VMDK holds its own name
        _qemu(raw, shape, written)
        written.rename(shop.result)


def _qemu(raw: Path, shape: Shape, target: Path) -> None:
    run(["qemu-img", "convert", "-f", "raw", *shape.options, raw, target])
    if shape.container in MARKED:
        with FileBlock(raw) as block:
            set_marks(target, shape.container, digest_of(block))
