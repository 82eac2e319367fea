"""btrfs' chunks: which bytes of the device a logical address stands for (Linux btrfs_tree.h)."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator

from harness.errors import DamagedImage, UnsupportedImage

CHUNK_TREE, CHUNK_ITEM = 256, 228
KEY = struct.Struct("<QBQ")
CHUNK, STRIPE = struct.Struct("<Q16xQ12xHH"), struct.Struct("<QQ16x")
SPREAD = 0x8 | 0x40 | 0x80 | 0x100  # RAID 0, 10, 5, 6: a chunk is cut into stripes
MOST_CHUNKS = 2**18


class Chunks:
    """A growing map of logical addresses. Every chunk but a striped one is whole in its first stripe."""

    def __init__(self, device_size: int, name: str) -> None:
        self._device_size, self._name = device_size, name
        self._starts: list[int] = []
        self._chunks: list[tuple[int, int]] = []  # length, first byte on the device

    def bootstrap(self, array: bytes) -> Iterator[tuple[int, bytes]]:
        """The chunks that the superblock names, as address and item."""
        at = 0
        while at < len(array):
            if at + KEY.size + CHUNK.size > len(array):
                raise DamagedImage("its superblock's chunks are cut short", where=self._name)
            _number, kind, start = KEY.unpack_from(array, at)
            at += KEY.size
            length = CHUNK.size + CHUNK.unpack_from(array, at)[2] * STRIPE.size
            if kind != CHUNK_ITEM:
                raise DamagedImage("its superblock's chunks are damaged", where=self._name)
            yield start, array[at : at + length]
            at += length

    def add(self, start: int, item: bytes) -> None:
        """Take a chunk in. Raises DamagedImage where it overlaps others, UnsupportedImage for a striped one."""
        if len(item) < CHUNK.size + STRIPE.size:
            raise DamagedImage(f"the chunk at {start:,} is cut short", where=self._name)
        length, form, stripes, _sub = CHUNK.unpack_from(item)
        if form & SPREAD and stripes != 1:
            raise UnsupportedImage("its chunks are striped (RAID)", where=self._name)
        _device, place = STRIPE.unpack_from(item, CHUNK.size)
        index = bisect_right(self._starts, start)
        if index and self._starts[index - 1] == start and self._chunks[index - 1] == (length, place):
            return  # the superblock's are in the tree again
        before_ends = self._starts[index - 1] + self._chunks[index - 1][0] if index else 0
        after = self._starts[index] if index < len(self._starts) else 2**64
        if not length or start < before_ends or start + length > after or len(self._starts) >= MOST_CHUNKS:
            raise DamagedImage(f"the chunk at {start:,} overlaps another", where=self._name)
        self._starts.insert(index, start)
        self._chunks.insert(index, (length, place))

    def place(self, address: int, length: int) -> int:
        """The byte on the device where `length` bytes lie. Raises DamagedImage where no one chunk holds them."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0:
            size, start = self._chunks[index]
            within = address - self._starts[index]
            if within + length <= size and start + within + length <= self._device_size:
                return start + within
        raise DamagedImage(f"no chunk holds the {length:,} bytes at {address:,}", where=self._name)
