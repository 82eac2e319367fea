"""What QEMU makes up when it writes a container, replaced by what follows from the content.

Facts C3, seen with QEMU 7.2: two conversions of one disk differ in a VMDK's content id (`CID=`, 32 bits in its
descriptor; the descriptor also holds the file's own name), in a VHD's time stamp and UUID (twice where it is dynamic),
and in a VHDX's identifiers, sequence numbers and spent log (vhdx_marks.py). Nothing of it says anything about the
disk, but programs tell disks apart by it: so it becomes a digest of the disk's data and not a constant.
"""

from __future__ import annotations

import hashlib
import re
import struct
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from harness.errors import ToolFailed
from harness.images.block import Block
from harness.images.edits.copy import data_of
from harness.images.edits.shapes import Container
from harness.images.edits.vhdx_marks import set_vhdx_marks

STEP = 2**16  # bytes that count as one piece of data
VMDK_DESCRIPTOR = 28  # offset of its sector and its length in sectors (two u64)
NO_DATA = bytes(STEP)
SECTOR = 512
CID: Final = re.compile(rb"^CID=[0-9a-f]{1,8}$", re.MULTILINE)
NO_PARENT = 0xFFFFFFFF  # as a content id it means that there is none
FOOTER = 512  # bytes of a VHD's footer (Microsoft, Virtual Hard Disk Image Format Specification)
FOOTER_COOKIE = b"conectix"
FOOTER_TIME, FOOTER_SUM, FOOTER_UUID = 24, 64, 68


def digest_of(block: Block) -> bytes:
    """SHA-256 over the pieces of a disk that are not all zeroes, each with its place; holes do not count."""
    digest = hashlib.sha256(struct.pack("<Q", block.size))
    done = 0
    for start, end in data_of(block):
        for offset in range(max(done, start // STEP * STEP), end, STEP):
            piece = block.read(offset, min(STEP, block.size - offset))
            if piece != NO_DATA[: len(piece)]:
                digest.update(struct.pack("<Q", offset))
                digest.update(piece)
            done = offset + STEP
    return digest.digest()


def set_marks(path: Path, container: Container, digest: bytes) -> None:
    """Rewrite a file that QEMU wrote, in place. Raises ToolFailed where it does not look as QEMU 7.2 leaves it."""
    setter = SETTERS.get(container)
    if setter:
        setter(path, digest)


def _set_vmdk(path: Path, digest: bytes) -> None:
    with path.open("r+b") as file:
        head = file.read(SECTOR)
        sector, sectors = struct.unpack_from("<QQ", head, VMDK_DESCRIPTOR)
        if head[:4] != b"KDMV" or not 0 < sectors <= 64:
            raise _unexpected(path, "VMDK header")
        file.seek(sector * SECTOR)
        text = file.read(sectors * SECTOR).rstrip(b"\0")
        content_id = int.from_bytes(digest[:4], "big")
        content_id -= 2 if content_id >= NO_PARENT - 1 else 0
        changed, count = CID.subn(f"CID={content_id:08x}".encode(), text)
        if count != 1 or len(changed) > sectors * SECTOR:
            raise _unexpected(path, "VMDK descriptor")
        file.seek(sector * SECTOR)
        file.write(changed.ljust(sectors * SECTOR, b"\0"))


def _set_vhd(path: Path, digest: bytes) -> None:
    """The footer at the end, and its copy at the start of a dynamic disk."""
    with path.open("r+b") as file:
        file.seek(-FOOTER, 2)
        place = file.tell()
        footer = bytearray(file.read(FOOTER))
        if footer[:8] != FOOTER_COOKIE:
            raise _unexpected(path, "VHD footer")
        struct.pack_into(">I", footer, FOOTER_TIME, 0)  # seconds since 2000
        footer[FOOTER_UUID : FOOTER_UUID + 16] = uuid_of(digest).bytes
        struct.pack_into(">I", footer, FOOTER_SUM, 0)
        struct.pack_into(">I", footer, FOOTER_SUM, ~sum(footer) & 0xFFFFFFFF)
        file.seek(0)
        is_dynamic = file.read(8) == FOOTER_COOKIE
        for offset in (place, 0) if is_dynamic else (place,):
            file.seek(offset)
            file.write(footer)


def _set_vhdx(path: Path, digest: bytes) -> None:
    if not set_vhdx_marks(path, uuid_of(digest)):
        raise _unexpected(path, "VHDX headers")


def uuid_of(digest: bytes) -> uuid.UUID:
    """A UUID of version 8 (RFC 9562: made from whatever one likes)."""
    return uuid.UUID(int=int.from_bytes(digest[:16], "big") & ~(0xF << 76) & ~(0x3 << 62) | 0x8 << 76 | 0x2 << 62)


def _unexpected(path: Path, what: str) -> ToolFailed:
    return ToolFailed(f"qemu-img wrote a {what} that we do not understand", where=path.name)


SETTERS: Final[Mapping[str, Callable[[Path, bytes], None]]] = {"vmdk": _set_vmdk, "vhd": _set_vhd, "vhdx": _set_vhdx}
