"""An image file as a user names it: recognised by content, unpacked if need be, opened as a virtual disk.

A new container format has its row in `FORMATS` (and leaves `FOREIGN` then); a new compression in compression.py.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BadInput, DamagedImage, HarnessError, UnsupportedImage
from harness.images.block import Block
from harness.images.extents import sha256_of
from harness.images.filesystems.superblock import identify
from harness.images.formats import iso, qcow2, vhd, vhdx, vmdk
from harness.images.formats.archived import UNPACK, ArchivedDisk
from harness.images.formats.compression import Compression, detect, first_bytes, unpacked
from harness.images.formats.disk import Disk, Format, Opening
from harness.images.formats.ova import OvaDisk, begins_ova
from harness.images.formats.qcow2_header import Qcow2Header
from harness.images.formats.raw import FileBlock
from harness.images.formats.tar import is_tar
from harness.images.partitions.gpt_header import SIGNATURE as GPT_SIGNATURE

if TYPE_CHECKING:
    from harness.store import Store

SNIFFED = 36 * 1024  # bytes: reaches the ISO 9660 descriptor at 32 KiB
SECTOR_SIZES = (512, 4096)
BOOT_SIGNATURE = b"\x55\xaa"
LARGEST_HASHED = 2**44  # bytes of virtual disk: 16 TiB take hours, what claims more is not meant to be read

# Formats that we recognise and do not read: name, offset of the magic, magic, way out.
CONVERT = "convert it: qemu-img convert -O qcow2 {path} disk.qcow2"
FOREIGN: tuple[tuple[str, int, bytes, str], ...] = (
    ("VDI", 64, b"\x7f\x10\xda\xbe", CONVERT),
    ("QED", 0, b"QED\0", CONVERT),
    ("zip", 0, b"PK\x03\x04", "unpack it and name the disk inside"),
    ("bzip2", 0, b"BZh", "unpack it with bzip2 -d"),
    ("7z", 0, b"7z\xbc\xaf\x27\x1c", "unpack it and name the disk inside"),
)


@dataclass(frozen=True, slots=True)
class Image:
    """An opened image. `plain_path` is the uncompressed container file, which QEMU can be given."""

    path: Path
    container: str  # the name of its row in FORMATS
    compression: Compression | None
    block: Disk  # the virtual disk
    plain_path: Path
    _digests: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def qcow2(self) -> Qcow2Header | None:
        """The header of a qcow2 file."""
        return self.block.header if isinstance(self.block, qcow2.Qcow2Block) else None

    def file_sha256(self) -> str:
        """SHA-256 of the file as it lies there, as a checksum file has it."""
        return self._digest("file" if self.compression else "uncompressed", lambda: _file_sha256(self.path))

    def uncompressed_sha256(self) -> str:
        """SHA-256 of the container file without compression: CoreOS metadata's `uncompressed-sha256`."""
        return self._digest("uncompressed", lambda: _file_sha256(self.plain_path))

    def disk_sha256(self) -> str:
        """SHA-256 of the virtual disk's bytes, the same in every container; reads only what is not a hole."""
        if self.block.size > LARGEST_HASHED:
            raise UnsupportedImage(f"a disk of {self.block.size:,} bytes is too large to hash", where=str(self.path))
        name = "uncompressed" if self.container == "raw" else "disk"
        return self._digest(name, lambda: sha256_of(self.block))

    def _digest(self, name: str, make: Callable[[], str]) -> str:
        if name not in self._digests:
            self._digests[name] = make()
        return self._digests[name]


def _file_sha256(path: Path) -> str:
    with FileBlock(path) as file:
        return sha256_of(file)


@contextmanager
def open_image(path: Path, *, store: Store | None = None, backing: Block | None = None) -> Iterator[Image]:
    """Open an image read-only, whatever it wears, for as long as the block lasts.

    A compressed image is unpacked into `store`, where the next opening finds it, or without one into a folder that
    goes away. Raises BadInput for what is no file to read, DamagedImage for what is no image or a damaged one,
    UnsupportedImage for what we recognise and do not read.
    """
    _check_file(path)
    with ExitStack() as stack:
        head = _head(path)
        compression = detect(head)
        plain, digests = path, {}
        if compression:
            _check_inside(path, first_bytes(path, compression, SNIFFED))
            inside = stack.enter_context(unpacked(path, compression, store=store))
            plain, digests = inside.path, {"uncompressed": inside.sha256}
            head = _head(plain)
        with FileBlock(plain) as file:
            found = _format(path, head, file)
            if found is RAW:
                _refuse_foreign(path, head)
        disk = found.open(Opening(plain, str(path), backing))
        stack.callback(disk.close)
        yield Image(path, found.name, compression, disk, plain, digests)


@contextmanager
def open_chain(path: Path, bases: Sequence[Path], *, store: Store | None = None) -> Iterator[Image]:
    """Open an image over the backing files that the user names, the nearest first; names inside are never followed.

    Raises what `open_image` raises, and BadInput for a base that nobody needs.
    """
    with ExitStack() as stack:
        below: Block | None = None
        for base in reversed(bases):
            below = stack.enter_context(open_image(base, store=store, backing=below)).block
        image = stack.enter_context(open_image(path, store=store, backing=below))
        if bases and not (image.qcow2 and image.qcow2.backing_file is not None):
            raise BadInput("needs no base: it is whole", where=str(path), next_step="leave --base away")
        yield image


def _open_raw(opening: Opening) -> FileBlock:
    disk = FileBlock(opening.path, opening.name)
    try:
        _check_plausible(disk)
    except BaseException:
        disk.close()
        raise
    return disk


def _open_qcow2(opening: Opening) -> qcow2.Qcow2Block:
    disk = qcow2.Qcow2Block(opening.path, backing=opening.backing, name=opening.name)
    try:
        disk.check_length()
    except BaseException:
        disk.close()
        raise
    return disk


def _open_archived(opening: Opening) -> ArchivedDisk:
    return _archived(opening, ArchivedDisk)


def _open_ova(opening: Opening) -> ArchivedDisk:
    return _archived(opening, OvaDisk)


def _archived(opening: Opening, kind: Callable[[FileBlock], ArchivedDisk]) -> ArchivedDisk:
    archive = FileBlock(opening.path, opening.name)
    try:
        disk = kind(archive)
        if disk.inside == "raw":
            head = disk.read(0, min(SNIFFED, disk.size))
            _refuse_foreign(disk.name, head, UNPACK)
            _check_plausible(disk)
    except BaseException:
        archive.close()
        raise
    return disk


def _open_iso(opening: Opening) -> iso.IsoDisk:
    disk = iso.IsoDisk(opening.path, opening.name)
    try:
        disk.check_length()
    except BaseException:
        disk.close()
        raise
    return disk


RAW = Format("raw", lambda _head, _file: True, _open_raw)
FORMATS: tuple[Format, ...] = (
    Format("qcow2", lambda head, _file: head.startswith(qcow2.MAGIC), _open_qcow2),
    Format("vmdk", vmdk.recognises, vmdk.open_disk),
    Format("vhdx", vhdx.recognises, vhdx.open_disk),
    Format("vhd", vhd.recognises, vhd.open_disk),
    Format("ova", lambda head, _file: begins_ova(head), _open_ova),
    Format("tar", lambda head, _file: is_tar(head), _open_archived),
    Format("iso", lambda head, _file: iso.is_iso(head), _open_iso),
    RAW,  # has no magic, so it comes last
)


def _format(path: Path, head: bytes, file: Block | None) -> Format:
    if detect(head):
        raise UnsupportedImage("is compressed twice", where=str(path), next_step="unpack it once yourself")
    return next(known for known in FORMATS if known.recognises(head, file))


def _check_file(path: Path) -> None:
    """Refuse what cannot be read as a file, before a FIFO can make us wait."""
    where = str(path)
    try:
        found = path.stat()
    except OSError as cause:
        raise BadInput(f"cannot be opened: {cause.strerror}", where=where, next_step="check the path") from cause
    except ValueError as cause:  # a NUL in the name
        raise BadInput("is not a path", where=repr(where)) from cause
    if stat.S_ISDIR(found.st_mode):
        raise BadInput("is a directory, not a disk image", where=where, next_step="name the image file in it")
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISBLK(found.st_mode):
        raise BadInput("is neither a file nor a block device", where=where)
    if not os.access(path, os.R_OK):
        raise BadInput("cannot be read: permission denied", where=where)
    if stat.S_ISREG(found.st_mode) and found.st_size == 0:
        raise DamagedImage("is empty (0 bytes)", where=where, next_step="was the download or build interrupted?")


def _head(path: Path) -> bytes:
    with FileBlock(path) as file:
        return file.read(0, min(SNIFFED, file.size))


def _check_inside(path: Path, head: bytes) -> None:
    """Refuse a compressed file by its first bytes, before gigabytes are unpacked for nothing."""
    if not head:
        raise DamagedImage("is compressed, with nothing inside", where=str(path))
    if _format(path, head, None) is RAW:
        _refuse_foreign(path, head)
        if _is_text(head):
            raise _no_image(str(path), head)


def _refuse_foreign(path: Path | str, head: bytes, instead: str = "") -> None:
    for name, offset, magic, way_out in FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            raise _foreign(path, name, instead or way_out)


def _foreign(path: Path | str, name: str, way_out: str) -> HarnessError:
    return UnsupportedImage(f"is {name}, which we do not read", where=str(path), next_step=way_out.format(path=path))


def _check_plausible(disk: Block) -> None:
    """A raw disk has no magic of its own: ask for a boot signature, a GPT or a known superblock."""
    head = disk.read(0, min(disk.size, 2 * max(SECTOR_SIZES)))
    if head[510:512] == BOOT_SIGNATURE:
        return
    for size in SECTOR_SIZES:
        for offset in (size, (disk.size // size - 1) * size):
            if 0 < offset <= disk.size - size and disk.read(offset, len(GPT_SIGNATURE)) == GPT_SIGNATURE:
                return
    if identify(disk) is None:
        raise _no_image(disk.name, head)


def _no_image(where: str, head: bytes) -> HarnessError:
    if not any(head[:512]):
        return DamagedImage("is not a disk image: starts with zeroes and has no partition table", where=where)
    kind = "text" if _is_text(head) else "bytes"
    return DamagedImage(
        f"is not a disk image: starts with the {kind} {head[:24]!r}",
        where=where,
        next_step=f"expected a disk as {', '.join(known.name for known in FORMATS)}, plain or as .gz .xz .zst",
    )


def _is_text(head: bytes) -> bool:
    return all(byte >= 0x20 or byte in b"\t\r\n\f" for byte in head[:512])  # space
