"""What the tables of a format say of a unit, and what lies around a unit in its file.

QEMU's docs/interop/qcow2.txt; VMware's "Virtual Disk Format 5.0"; Microsoft's "Virtual Hard Disk Image Format
Specification" 1.0 and [MS-VHDX].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

SECTOR = 512
MIB = 2**20
COPIED, COMPRESSED = 1 << 63, 1 << 62  # flags of a qcow2 L2 entry: cluster used once, cluster packed
PRESENT = 6  # state of a VHDX block that is there
WHOLE = 2**64 - 1

Dialect = Literal["vmdk", "qcow2", "vhd", "vhdx"]
Entry = Callable[[int, int, int, bool], int]  # of unit's size, offset, bytes in the file, whether it is packed


@dataclass(frozen=True, slots=True)
class Grammar:
    """How a format speaks of its units."""

    width: Literal["I", "Q"]  # of an entry, as array names it
    order: Literal["little", "big"]
    entry: Entry
    step: Callable[[int, bool], int]  # bytes, of the unit's size and whether it is packed: where units begin
    marker: int = 0  # bytes before a packed unit: its sector of the disk, and its length
    filler: bytes = b"\0"  # of a table that is longer than the disk
    has_bitmaps: bool = False  # before each unit, one bit a sector

    def bitmap(self, unit: int) -> int:
        """Bytes of ones before a unit of this size, in whole sectors."""
        return -(-unit // SECTOR // 8 // SECTOR) * SECTOR if self.has_bitmaps else 0


def _of_qcow2(unit: int, offset: int, length: int, is_packed: bool) -> int:  # noqa: FBT001 - of type Entry
    if not is_packed:
        return offset | COPIED
    sectors = (offset + length - 1) // SECTOR - offset // SECTOR
    return (offset | COMPRESSED | sectors << 62 - (unit.bit_length() - 1 - 8)) & WHOLE


GRAMMARS: Mapping[Dialect, Grammar] = {
    "qcow2": Grammar("Q", "big", _of_qcow2, lambda unit, is_packed: 1 if is_packed else unit),
    "vmdk": Grammar("I", "little", lambda _, offset, *__: offset // SECTOR & 0xFFFF_FFFF, lambda *_: SECTOR, marker=12),
    "vhd": Grammar(
        "I",
        "big",
        lambda unit, offset, *_: (offset - GRAMMARS["vhd"].bitmap(unit)) // SECTOR & 0xFFFF_FFFF,
        lambda *_: SECTOR,
        filler=b"\xff",
        has_bitmaps=True,
    ),
    "vhdx": Grammar("Q", "little", lambda _, offset, *__: offset | PRESENT, lambda *_: MIB),
}
