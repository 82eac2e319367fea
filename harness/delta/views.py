"""What lies in a base and is better to copy from than the file as it is: the guest's disk, the files of a squashfs.

docs/recipe.md, "Views", says what the bytes of a view are: a recipe relies on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.delta.contents import contents_of
from harness.delta.recipe import MOST_SIZE, ViewKind
from harness.errors import BadInput, DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.files import open_files
from harness.images.formats.archived import ArchivedDisk
from harness.images.formats.compression import DEFAULT_LIMIT, detect, first_bytes
from harness.images.formats.cpio import is_cpio, member_block, read_cpio
from harness.images.formats.iso import is_iso
from harness.images.formats.qcow2 import Qcow2Block
from harness.images.formats.raw import FileBlock
from harness.images.formats.vhd import VhdBlock
from harness.images.source import BOOT_SIGNATURE, FORMATS, RAW, SNIFFED, Image, open_image
from harness.images.system.live import ROOTFS
from harness.images.system.live_places import place_of

SQUASHFS = b"hsqs"
ROOT = "root."  # what the filesystem's name in rootfs.img begins with: root.squashfs
PLAIN = ("raw", "iso", "vhdx")  # are the guest's disk, or hold it unpacked on 4 KiB bounds


@contextmanager
def viewed(file: Block, kind: ViewKind, *, most: int = MOST_SIZE) -> Iterator[Block]:
    """The bytes of a view, of which there may be `most`; of files 64 GiB.

    A view of files is unpacked to a temporary file, without a name, in $TMPDIR or /var/tmp. Raises BadInput where
    there is nothing of that kind to see, UnsupportedImage for more bytes than expected, StoreError where the disk
    has no room, and what reading the file raises.
    """
    if not isinstance(file, FileBlock):
        raise BadInput("is no file, so that nothing can be seen in it", where=file.name)
    if kind == "disk":
        with open_image(file.path) as image:
            if image.block.size > most:
                raise UnsupportedImage(f"its disk has more than {most:,} bytes", where=file.name)
            yield image.block
        return
    squashfs = squashfs_in(file)
    if squashfs is None:
        raise BadInput("holds no squashfs whose files could be seen", where=file.name)
    with contents_of(squashfs, min(most, DEFAULT_LIMIT)) as contents:
        yield contents


def squashfs_in(file: Block) -> Block | None:
    """The squashfs that a file is, or that a live rootfs.img or ISO holds; None where there is none.

    Raises DamagedImage for a broken archive or ISO.
    """
    head = file.read(0, min(SNIFFED, file.size))
    if is_iso(head):
        files = open_files(file)
        if not files.exists(ROOTFS):
            return None
        file = place_of(file, files, ROOTFS)
        head = file.read(0, min(SNIFFED, file.size))
    if is_cpio(head):
        root = next((member for member in read_cpio(file) if member.name.startswith(ROOT)), None)
        if root is None:
            return None
        file = member_block(file, root)
        head = file.read(0, min(SNIFFED, file.size))
    return file if head.startswith(SQUASHFS) else None


def kinds_of(path: Path) -> list[ViewKind]:
    """What is worth seeing in a file, by a look at its tables: what cannot be copied from it as it is.

    That is a disk that is packed or lies off the 4 KiB bounds of its file, and the files of a squashfs. A container
    that cannot be read has nothing to see. Raises BadInput where the file itself cannot be read.
    """
    with FileBlock(path) as file:
        try:
            if compression := detect(file.read(0, min(SNIFFED, file.size))):
                return ["disk"] if _is_disk(first_bytes(path, compression, SNIFFED)) else []
            if squashfs_in(file):
                return ["files"]
            with open_image(path) as image:
                return ["disk"] if _is_worth_seeing(image) else []
        except (DamagedImage, UnsupportedImage):
            return []


def _is_disk(head: bytes) -> bool:
    """Whether a compressed file begins as an image does: an initramfs, which is compressed too, is none."""
    known = any(form.recognises(head, None) for form in FORMATS if form is not RAW)
    return known or head[510:512] == BOOT_SIGNATURE


def _is_worth_seeing(image: Image) -> bool:
    disk = image.block
    if isinstance(disk, Qcow2Block):
        return disk.has_compressed_clusters()
    if isinstance(disk, VhdBlock):
        return disk.dynamic is not None
    if isinstance(disk, ArchivedDisk):
        return disk.inside != "raw"
    return image.container not in PLAIN
