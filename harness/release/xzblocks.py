"""An xz file made of blocks that can be packed, and unpacked, side by side (the .xz file format 1.1.0, chapters 2-4).

Each block is packed alone by liblzma and taken out of the stream that it comes in; its header is written anew with
both sizes, as xz's own threads do: the result is what `xz -9 --block-size=16MiB -T0` writes, byte for byte.
"""

from __future__ import annotations

import lzma
import zlib

BLOCK_SIZE = 16 * 2**20  # bytes; what fast-vm-image export gives xz
HEADER_SIZE = 12  # bytes of a stream's header, and of its footer
BLOCK_HEADER_SIZE = 20  # bytes: room for two sizes of four bytes each, which all blocks of BLOCK_SIZE fit in
CHECK_SIZE = 8  # bytes: CRC64
BOTH_SIZES = 0xC0  # block flags: one filter, compressed and uncompressed size present
LZMA2 = b"\x21\x01"  # filter ID, size of its properties

Block = tuple[bytes, int, int]  # a packed block with its padding, its size without that, the size of what is inside


class XzBlocks:
    """Puts packed blocks together to one file.

    >>> blocks = XzBlocks()
    >>> lzma.decompress(b"".join([blocks.header, blocks.place(pack_block(b"abc")), blocks.finish()]))
    b'abc'
    """

    def __init__(self) -> None:
        self.header = lzma.compress(b"", format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64)[:HEADER_SIZE]
        self._records: list[bytes] = []

    def place(self, packed: Block) -> bytes:
        """The next block, as `pack_block` gave it: its bytes for the file; the sizes are kept for the index."""
        block, unpadded, size = packed
        self._records.append(_varint(unpadded) + _varint(size))
        return block

    def finish(self) -> bytes:
        """Index and footer."""
        index = b"\0" + _varint(len(self._records)) + b"".join(self._records)
        index += bytes(-len(index) % 4)
        index += _crc(index)
        footer = (len(index) // 4 - 1).to_bytes(4, "little") + self.header[6:8]
        return index + _crc(footer) + footer + b"YZ"


def pack_block(data: bytes) -> Block:
    """Pack at most BLOCK_SIZE bytes."""
    stream = lzma.compress(data, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, preset=9)
    index_size = (int.from_bytes(stream[-8:-4], "little") + 1) * 4
    index = stream[-HEADER_SIZE - index_size : -HEADER_SIZE]
    old_header_size = (stream[HEADER_SIZE] + 1) * 4
    body = stream[HEADER_SIZE + old_header_size : -HEADER_SIZE - index_size]  # packed data, padding, check
    packed_size = _read_varint(index[2:]) - old_header_size - CHECK_SIZE
    dictionary = stream[HEADER_SIZE + 4 : HEADER_SIZE + 5]  # after size, flags, filter ID and size of properties
    header = _block_header(packed_size, len(data), dictionary)
    return header + body, len(header) + packed_size + CHECK_SIZE, len(data)


def _block_header(packed_size: int, size: int, dictionary: bytes) -> bytes:
    fields = bytes([BLOCK_HEADER_SIZE // 4 - 1, BOTH_SIZES]) + _varint(packed_size) + _varint(size)
    fields += LZMA2 + dictionary
    fields += bytes(BLOCK_HEADER_SIZE - 4 - len(fields))
    return fields + _crc(fields)


def _crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def _varint(number: int) -> bytes:
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _read_varint(data: bytes) -> int:
    number = 0
    for position, byte in enumerate(data):
        number |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            break
    return number
