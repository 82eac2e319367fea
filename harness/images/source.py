"""An image file as a user names it: recognised by content, unpacked if need be, opened as a virtual disk.

A new container format has its row in `FORMATS` (and leaves `FOREIGN` then); a new compression in compression.py.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import BadInput, DamagedImage, HarnessError, UnsupportedImage
from harness.images.block import Block
from harness.images.extents import sha256_of
from harness.images.filesystems.superblock import identify
from harness.images.formats import qcow2
from harness.images.formats.compression import Compression, detect, first_bytes, unpacked
from harness.images.formats.disk import Disk, Format, Opening
from harness.images.formats.qcow2_header import Qcow2Header
from harness.images.formats.raw import FileBlock
from harness.images.partitions.gpt_header import SIGNATURE as GPT_SIGNATURE

if TYPE_CHECKING:
    from harness.store import Store

SNIFFED = 36 * 1024  # bytes: reaches the ISO 9660 descriptor at 32 KiB
SECTOR_SIZES = (512, 4096)
BOOT_SIGNATURE = b"\x55\xaa"
VHD_FOOTER = 512  # bytes, at the end of the file
LARGEST_HASHED = 2**44  # bytes of virtual disk: 16 TiB take hours, what claims more is not meant to be read

# Formats that we recognise and do not read: name, offset of the magic, magic, way out.
CONVERT = "convert it: qemu-img convert -O qcow2 {path} disk.qcow2"
UNPACK = "unpack it with tar and name the disk inside"
FOREIGN: tuple[tuple[str, int, bytes, str], ...] = (
    ("VMDK", 0, b"KDMV", CONVERT),
    ("VMDK", 0, b"COWD", CONVERT),
    ("VMDK descriptor", 0, b"# Disk DescriptorFile", CONVERT),
    ("VHDX", 0, b"vhdxfile", CONVERT),
    ("VHD", 0, b"conectix", CONVERT),
    ("VDI", 64, b"\x7f\x10\xda\xbe", CONVERT),
    ("QED", 0, b"QED\0", CONVERT),
    ("tar archive (OVA, gcp)", 257, b"ustar", UNPACK),
    ("ISO 9660", 32769, b"CD001", "live ISO images are not disk images; use the disk image of the same build"),
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
                _refuse_foreign(path, head, file)
        disk = found.open(Opening(plain, str(path), backing))
        stack.callback(disk.close)
        yield Image(path, found.name, compression, disk, plain, digests)


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


RAW = Format("raw", lambda _head, _file: True, _open_raw)
FORMATS: tuple[Format, ...] = (
    Format("qcow2", lambda head, _file: head.startswith(qcow2.MAGIC), _open_qcow2),
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
        _refuse_foreign(path, head, None)
        if _is_text(head):
            raise _no_image(str(path), head)


def _refuse_foreign(path: Path, head: bytes, file: Block | None) -> None:
    for name, offset, magic, way_out in FOREIGN:
        if head[offset : offset + len(magic)] == magic:
            raise _foreign(path, name, way_out)
    if file is not None and file.size > VHD_FOOTER and file.read(file.size - VHD_FOOTER, 8) == b"conectix":
        raise _foreign(path, "VHD (fixed)", CONVERT)


def _foreign(path: Path, name: str, way_out: str) -> HarnessError:
    return UnsupportedImage(f"is {name}; we read raw and qcow2", where=str(path), next_step=way_out.format(path=path))


def _check_plausible(disk: FileBlock) -> None:
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
        next_step="expected a raw or qcow2 disk, plain or as .gz .xz .zst",
    )


def _is_text(head: bytes) -> bool:
    return all(byte >= 0x20 or byte in b"\t\r\n\f" for byte in head[:512])  # space
