"""Archives in the embed area of a live ISO, as the kernel takes an initramfs: cpio, compressed or not, in a row.

Facts: Linux, driver-api/early-userspace/buffer-format.rst. Zeroes between archives mean nothing; of two members of
the same name the later one counts. All of it comes from outside, and is bounded.
"""

from __future__ import annotations

import lzma
import zlib
from dataclasses import dataclass

from harness.errors import DamagedImage, HarnessError
from harness.images.block import Memory
from harness.images.formats.cpio import is_cpio, read_cpio

LARGEST_CONFIG = 2**24  # bytes unpacked, of each archive
XZ_MEMORY = 2**28  # bytes
MOST_ARCHIVES = 8  # in one area
TRAILER = 124  # bytes: a header, and a name of eleven with its padding
XZ, GZIP = b"\xfd7zXZ\0", b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of an archive; `mode` with the bits of its kind."""

    name: str
    mode: int
    content: bytes


def read_archives(content: bytes, where: str) -> list[Member] | None:
    """The members of all archives in an area, in order; None where something else is in it, or a broken archive."""
    found: list[Member] = []
    try:
        for _ in range(MOST_ARCHIVES):
            if not (content := content.lstrip(b"\0")):
                return found
            if content.startswith((XZ, GZIP)):
                plain, behind = _unpacked(content)
                inside, rest = _one_archive(plain, where)
                content = rest.lstrip(b"\0") + behind
            else:
                inside, content = _one_archive(content, where)
            found += inside
    except (lzma.LZMAError, zlib.error, HarnessError):
        return None
    return found if not content.strip(b"\0") else None


def _one_archive(plain: bytes, where: str) -> tuple[list[Member], bytes]:
    """The members of the archive that begins here, and what follows its trailer."""
    if not is_cpio(plain):
        raise DamagedImage("is not a cpio archive", where=where)
    block, end = Memory(plain, where), 0
    members = []
    for member in read_cpio(block):
        members.append(Member(member.name, member.mode, block.read(member.start, member.size)))
        end = member.start + member.size
    return members, plain[-(-end // 4) * 4 + TRAILER :]


def _unpacked(packed: bytes) -> tuple[bytes, bytes]:
    """A compressed archive, and what follows it. Raises DamagedImage where it has more than LARGEST_CONFIG bytes."""
    xz = packed.startswith(XZ)
    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY) if xz else zlib.decompressobj(31)
    plain = stream.decompress(packed, LARGEST_CONFIG)
    if not stream.eof:
        raise DamagedImage("an embedded archive is cut, or unpacks to more than any config", where="embed area")
    return plain, stream.unused_data
