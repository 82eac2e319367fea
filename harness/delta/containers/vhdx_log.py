"""The spent entries that QEMU leaves in the log of a VHDX ([MS-VHDX] 2.3, QEMU's block/vhdx-log.c).

Each block that is allocated gets its place in the table through the log: an entry of a header with one descriptor and
the table's page as it was at that moment. All of that follows from the order of the blocks, but for a random
identifier and the checksum of each entry, which are patched over.
"""

from __future__ import annotations

import struct
import sys
from array import array
from collections.abc import Iterator

from harness.delta.containers.dialects import GRAMMARS
from harness.delta.containers.layout import Layout, Units
from harness.delta.containers.plan import WHERE, Mapped
from harness.errors import DamagedImage

SIGNATURE = b"loge"
PAGE = 4096  # bytes of the table that an entry carries, and of each of its two sectors
ENTRY = 2 * PAGE
LARGEST = 2**22  # bytes of log
CHECKSUM = 4  # bytes
GUID = 16
_HEADER = struct.Struct(f"<4s{CHECKSUM}xIIQI4x{GUID}xQQ")  # length, tail, sequence, descriptors, sizes of the file
_DESCRIPTOR = struct.Struct("<4s4s8sQQ")  # the page's last bytes, its first, its place, sequence
_DATA = struct.Struct(f"<4sI{PAGE - 12}sI")  # sequence's upper half, the rest of the page, sequence's lower half


def predicted(mapped: Mapped, units: Units, layout: Layout) -> Iterator[tuple[int, bytes]]:
    """Offset and bytes of each entry: one a unit, of which the last remain. Raises DamagedImage for an absurd log."""
    offset, length = mapped.log
    if not length:
        return
    if (
        mapped.entries != "vhdx"
        or length > LARGEST
        or length % ENTRY
        or offset + length > mapped.size
        or len(mapped.tables) != 1
    ):
        raise DamagedImage("has a log that cannot be", where=WHERE)
    table_at, slots = mapped.tables[0].offset, length // ENTRY
    table = _blank(mapped)
    entry = GRAMMARS[mapped.entries].entry
    for index, guest in enumerate(units.guests):
        slot = (guest + guest // mapped.per_table) * 8
        start = layout.offsets[index]
        struct.pack_into("<Q", table, slot, entry(mapped.unit, start, mapped.unit, False))  # noqa: FBT003 - not packed
        if index >= len(units.guests) - slots:
            page = slot - slot % PAGE
            at = index % slots * ENTRY
            made = _entry(index + 1, at, start + mapped.unit, table_at + page, bytes(table[page : page + PAGE]))
            yield offset + at, made


def _blank(mapped: Mapped) -> bytearray:
    """The table before the first unit was written: after each `per_table` entries comes one of zero."""
    count = -(-mapped.disk // mapped.unit)
    entries = array("Q", [mapped.absent]) * (count + count // mapped.per_table)
    for slot in range(mapped.per_table, len(entries), mapped.per_table + 1):
        entries[slot] = 0
    if sys.byteorder == "big":
        entries.byteswap()
    table = bytearray(entries.tobytes())
    return table.ljust(-(-len(table) // PAGE) * PAGE, b"\0")


def _entry(sequence: int, tail: int, size: int, place: int, page: bytes) -> bytes:
    header = _HEADER.pack(SIGNATURE, ENTRY, tail, sequence, 1, size, size)
    descriptor = _DESCRIPTOR.pack(b"desc", page[-4:], page[:8], place, sequence)
    data = _DATA.pack(b"data", sequence >> 32, page[8:-4], sequence & 0xFFFF_FFFF)
    return (header + descriptor).ljust(PAGE, b"\0") + data
