"""Whether the log of an XFS filesystem is clean: nothing in it still has to be done (XFS Algorithms & Data Structures).

The log is a ring of 512-byte blocks, each stamped with the number of the round that wrote it; the head is where the
number drops. A clean log ends there with a record of one operation, "unmount". What does not look exactly so counts
as dirty.
"""

from __future__ import annotations

import struct
import sys
from array import array

from harness.images.block import Block

BASIC = 512  # bytes
RECORD_MAGIC = 0xFEEDBABE
UNMOUNT = 0x20  # flag of an operation
RECORD_CHUNK = 32 * 1024  # bytes of a record that one block of its header describes
LONGEST_HEADER = 256 * 1024 // RECORD_CHUNK  # blocks
LARGEST_LOG = 2**31  # bytes, the limit of mkfs.xfs


def log_is_clean(block: Block, start: int, size: int) -> bool:
    """Judge the log at a place of the filesystem; a log that was never written is clean."""
    if size < 2 * BASIC or size > LARGEST_LOG:
        return False
    rounds = _rounds(block, start, size)
    head = _head(rounds)
    if head is None:
        return True
    for back in range(2, LONGEST_HEADER + 2):  # a header of so many blocks, then one of data
        at = (head - back) % len(rounds)
        header = block.read(start + at * BASIC, BASIC)
        if struct.unpack_from(">I", header)[0] == RECORD_MAGIC:
            return _is_unmount(block, start, header, at, head, len(rounds))
    return False


def _is_unmount(block: Block, start: int, header: bytes, at: int, head: int, count: int) -> bool:
    (length,), (operations,) = struct.unpack_from(">I", header, 12), struct.unpack_from(">I", header, 40)
    version, chunk = struct.unpack_from(">I", header, 8)[0], struct.unpack_from(">I", header, 320)[0]
    header_blocks = -(-chunk // RECORD_CHUNK) if version & 2 and chunk > RECORD_CHUNK else 1
    data = (at + header_blocks) % count
    if operations != 1 or (data + -(-length // BASIC)) % count != head % count:
        return False
    return bool(block.read(start + data * BASIC, BASIC)[9] & UNMOUNT)


def _rounds(block: Block, start: int, size: int) -> array[int]:
    """The number that each block is stamped with."""
    stamps = array("I")
    step = 2**20
    for offset in range(0, size // BASIC * BASIC, step):
        words = array("I", block.read(start + offset, min(step, size // BASIC * BASIC - offset)))
        if sys.byteorder == "little":
            words.byteswap()
        first, second = words[:: BASIC // 4], words[1 :: BASIC // 4]
        stamps.extend(two if one == RECORD_MAGIC else one for one, two in zip(first, second, strict=True))
    return stamps


def _head(rounds: array[int]) -> int | None:
    """The block after the last one written, or None in a log that nobody wrote."""
    first, last = rounds[0], rounds[-1]
    if first == 0:
        return None
    if first == last:
        return len(rounds)
    return rounds.index(last)
