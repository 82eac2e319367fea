"""cpio archives of the newc kind, as an initramfs is (Linux, driver-api/early-userspace/buffer-format.rst).

Only headers are read; a member's bytes are a window on the archive. Names are never paths to us.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block, Part

HEADER = 110  # bytes: a magic of six digits, then thirteen numbers of eight
HEX: Final = re.compile(rb"070701([0-9A-Fa-f]{8}){13}")
END = "TRAILER!!!"
LONGEST_NAME = 4096
MOST_MEMBERS = 100_000


@dataclass(frozen=True, slots=True)
class CpioMember:
    """A member; `start` is where its bytes begin in the archive."""

    name: str
    mode: int
    start: int
    size: int


def is_cpio(head: bytes) -> bool:
    """Whether an archive of this kind begins like this."""
    return HEX.match(head) is not None


def read_cpio(archive: Block, at: int = 0) -> Iterator[CpioMember]:
    """The members of the archive that begins at `at`, up to its trailer.

    Raises DamagedImage for a garbled header or a member beyond the end, UnsupportedImage for too many members.
    """
    for _ in range(MOST_MEMBERS):
        if at + HEADER > archive.size:
            raise _damaged(archive, at, "ends without a trailer")
        header = archive.read(at, HEADER)
        if not HEX.match(header):
            raise _damaged(archive, at, f"starts with {header[:12]!r}")
        mode, size, length = (int(header[place : place + 8], 16) for place in (14, 54, 94))
        start = _aligned(at + HEADER + length)
        if not 0 < length <= LONGEST_NAME or start + size > archive.size:
            raise _damaged(archive, at, f"has a name of {length:,} and {size:,} bytes, and the archive ends before")
        raw = archive.read(at + HEADER, length)
        name = raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        if name == END:
            return
        yield CpioMember(name, mode, start, size)
        at = _aligned(start + size)
    raise UnsupportedImage(f"a cpio archive of more than {MOST_MEMBERS:,} members", where=archive.name)


def member_block(archive: Block, member: CpioMember) -> Part:
    """A member's bytes."""
    return Part(archive, member.start, member.size, f"{archive.name}: {member.name!r}")


def _aligned(at: int) -> int:
    return -(-at // 4) * 4


def _damaged(archive: Block, at: int, what: str) -> DamagedImage:
    return DamagedImage(f"cpio header at {at:,} {what}", where=archive.name)
