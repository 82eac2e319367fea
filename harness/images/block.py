"""A disk's bytes, wherever they come from: the one interface that every reader above the container formats uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.errors import DamagedImage


class Block(Protocol):
    """A read-only disk or part of one. `size` is in bytes; `name` is what error messages call it."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> int: ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises DamagedImage where the disk ends before that."""
        ...


@dataclass(frozen=True, slots=True)
class Part:
    """A window on a block: a partition, or a file inside an archive."""

    whole: Block
    start: int  # bytes
    size: int  # bytes
    name: str

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DamagedImage(
                f"read of {length:,} bytes at {offset:,} lies beyond its end at {self.size:,}", where=self.name
            )
        return self.whole.read(self.start + offset, length)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at hand as a block: what was unpacked from a small compressed piece of an image."""

    content: bytes
    name: str

    @property
    def size(self) -> int:
        return len(self.content)

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DamagedImage(
                f"read of {length:,} bytes at {offset:,} lies beyond its end at {self.size:,}", where=self.name
            )
        return self.content[offset : offset + length]
