"""squashfs metadata: a chain of packed blocks of at most 8 KiB, and the tables that lie in such blocks."""

from __future__ import annotations

import struct

from harness.errors import DamagedImage
from harness.images.filesystems.inodes import Remembering
from harness.images.filesystems.packed import unpack
from harness.images.lru import Recent

BLOCK = 8192  # bytes once unpacked
STORED = 0x8000  # a block that is not packed
REMEMBERED = 512  # blocks


class Metadata:
    """The metadata blocks of one filesystem by the byte at which their header lies."""

    def __init__(self, raw: Remembering, codec: str) -> None:
        self.raw = raw
        self._codec = codec
        self._blocks: Recent[int, tuple[bytes, int]] = Recent(REMEMBERED, self._unpack)

    @property
    def name(self) -> str:
        return self.raw.name

    def block(self, at: int) -> tuple[bytes, int]:
        """A block's bytes, and where the one after it lies."""
        return self._blocks[at]

    def _unpack(self, at: int) -> tuple[bytes, int]:
        (header,) = struct.unpack("<H", self.raw.read(at, 2))
        length = header & STORED - 1 or STORED
        if length > BLOCK:
            raise DamagedImage(f"the metadata block at {at:,} claims {length:,} bytes", where=self.name)
        packed = self.raw.read(at + 2, length)
        found = packed if header & STORED else unpack(self._codec, packed, BLOCK, self.name)
        if not found:
            raise DamagedImage(f"the metadata block at {at:,} is empty", where=self.name)
        return found, at + 2 + length

    def cursor(self, at: int, offset: int) -> Cursor:
        """Reading begins at byte `offset` of the block at `at`."""
        return Cursor(self, at, offset)


class Cursor:
    """A place in a chain of metadata blocks that moves on with every read."""

    def __init__(self, metadata: Metadata, at: int, offset: int) -> None:
        self._metadata = metadata
        self.at = at
        self.offset = offset

    @property
    def name(self) -> str:
        return self._metadata.name

    def read(self, length: int) -> bytes:
        """The next `length` bytes. Raises DamagedImage where the chain breaks."""
        parts = []
        while length:
            whole, following = self._metadata.block(self.at)
            part = whole[self.offset : self.offset + length]
            if self.offset > len(whole):
                raise DamagedImage(f"byte {self.offset} is not in its metadata block", where=self._metadata.name)
            parts.append(part)
            length -= len(part)
            self.offset += len(part)
            if self.offset == len(whole) and length:
                self.at, self.offset = following, 0
        return parts[0] if len(parts) == 1 else b"".join(parts)


class Table:
    """`count` records of equal size in metadata blocks; a list at `at` says where each block lies."""

    def __init__(self, metadata: Metadata, at: int, count: int, size: int) -> None:
        self._metadata = metadata
        self._at, self._count, self._size = at, count, size

    def __getitem__(self, index: int) -> bytes:
        """One record. Raises DamagedImage for a number that the table does not have."""
        if index >= self._count:
            raise DamagedImage(f"record {index} of a table of {self._count}", where=self._metadata.name)
        which, within = divmod(index * self._size, BLOCK)
        (start,) = struct.unpack("<Q", self._metadata.raw.read(self._at + which * 8, 8))
        return self._metadata.cursor(start, within).read(self._size)
