"""Why two partition tables differ, and which bytes of them that explains.

What follows from something reported is not reported: a moved backup takes its last usable sector and the protective
entry along, and any change the checksums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from harness.images.block import Block
from harness.images.difference.causes import Cause, Difference, knob
from harness.images.difference.differing import Changes, gaps
from harness.images.partitions.gpt import CopyState, ProtectiveMbr, Table
from harness.images.partitions.gpt_header import HEADER_LENGTH, Header, find_header
from harness.images.partitions.layout import Layout, LayoutPartition
from harness.images.partitions.mbr import MbrTable

BOOT_CODE = 440  # bytes of the MBR before the disk signature
SIGNATURE = slice(440, 444)
MBR = 512
PROTECTIVE_ENTRY = (446, 462)
DISK_FIELDS = {"disk_guid": "disk GUID", "sector_size": "sector size", "first_usable_lba": "first usable sector"}
HEADER_FIELDS = {"entries_lba": "entries at sector", "entry_count": "number of entries", "entry_size": "entry size"}
PARTITION_FIELDS: tuple[tuple[str, str, Cause, str], ...] = (
    ("label", "label", "partition table", "gpt label"),
    ("type_guid", "type GUID", "partition table", "gpt type"),
    ("part_guid", "partition GUID", "UUID", "gpt partition"),
    ("mbr_type", "type", "partition table", ""),
    ("start", "start", "partition table", ""),
    ("size", "size", "partition table", ""),
    ("attributes", "attributes", "partition table", "gpt attributes"),
)


@dataclass(frozen=True, slots=True)
class Areas:
    """The bytes of one GPT: both headers, both arrays of entries."""

    headers: tuple[Header, ...]

    @property
    def taken(self) -> list[tuple[int, int]]:
        found = []
        for header in self.headers:
            start = header.lba * header.sector_size
            entries = header.entries_lba * header.sector_size
            found += [(start, start + header.sector_size), (entries, entries + len(header.entries))]
        return found

    def fields(self) -> list[tuple[int, int]]:
        """What of the headers is compared field by field, and their checksums."""
        starts = (header.lba * header.sector_size for header in self.headers)
        return [(start, start + HEADER_LENGTH) for start in starts]

    def entry(self, number: int) -> list[tuple[int, int]]:
        """The entry of a partition in both copies."""
        found = []
        for header in self.headers:
            start = header.entries_lba * header.sector_size + (number - 1) * header.entry_size
            found.append((start, start + header.entry_size))
        return found


class TableComparison:
    """Two layouts of which at least one has a table."""

    def __init__(self, mine: Layout, theirs: Layout) -> None:
        self.mine, self.theirs = mine, theirs
        self.explained: list[tuple[int, int]] = []
        self.areas = tuple(_areas(layout.block, layout.table) for layout in (mine, theirs) if layout.table)

    def differences(self) -> Iterator[Difference]:
        """What the tables say differently."""
        one, other = self.mine.table, self.theirs.table
        if isinstance(one, Table) and isinstance(other, Table):
            yield from self._disk(one, other)
        elif isinstance(one, MbrTable) and isinstance(other, MbrTable):
            if one.disk_id != other.disk_id:
                self.explained.append((SIGNATURE.start, SIGNATURE.stop))
                yield _told("", f"disk signature {one.disk_id:#010x} / {other.disk_id:#010x}", "UUID")
        else:
            yield _told("", f"{self.mine.label} / {self.theirs.label}")
            self.explained.append((0, MBR))
        yield from self._partitions()

    def _disk(self, one: Table, other: Table) -> Iterator[Difference]:
        found = [*_fields(one, other), *self._signature(), *_backup(one, other)]
        headers = (areas.headers[0] for areas in self.areas)
        mine, theirs = headers
        for field, name in HEADER_FIELDS.items():
            if (first := getattr(mine, field)) != (second := getattr(theirs, field)):
                found.append(_told("", f"{name} {first} / {second}"))
        if found:
            self._explain_headers()
            first, second = ({*areas.taken} for areas in self.areas)
            self.explained += first ^ second  # a copy in another place
        yield from found

    def _signature(self) -> Iterator[Difference]:
        first, second = (layout.block.read(0, MBR)[SIGNATURE].hex() for layout in (self.mine, self.theirs))
        if first != second:
            self.explained.append((SIGNATURE.start, SIGNATURE.stop))
            yield _told("", f"disk signature in the MBR {first} / {second}", "UUID")

    def _explain_headers(self) -> None:
        self.explained.append(PROTECTIVE_ENTRY)
        for areas in self.areas:
            self.explained += areas.fields()

    def _partitions(self) -> Iterator[Difference]:
        here, there = ({p.number: p for p in layout.partitions} for layout in (self.mine, self.theirs))
        for number in sorted({*here, *there}):
            found = list(_partition(here.get(number), there.get(number)))
            if found:
                self._explain_headers()
                for areas in self.areas:
                    self.explained += areas.entry(number)
                if isinstance(self.mine.table, MbrTable):
                    self.explained.append((BOOT_CODE, MBR))
            yield from found

    def between(self, changes: Changes) -> Iterator[Difference]:
        """Boot code, and the bytes of the tables and between partitions that nothing explains."""
        code = changes.left([(BOOT_CODE, changes.one.size)])
        if text := changes.told(code):
            yield Difference("bytes", "", "", "content", f"boot code in the MBR: {text}")
        tables = [(BOOT_CODE, MBR), *(area for areas in self.areas for area in areas.taken)]
        end = min(changes.one.size, changes.other.size)
        around = list(gaps(tables, end))
        if text := changes.told(changes.left([*around, *self.explained])):
            yield Difference("bytes", "", "", "unexplained", f"in the partition table: {text}")
        partitions = [(p.start, p.start + p.size) for layout in (self.mine, self.theirs) for p in layout.partitions]
        if text := changes.told(changes.left([(0, BOOT_CODE), *tables, *partitions])):
            yield Difference("bytes", "", "", "unexplained", f"between partitions: {text}")


def _areas(block: Block, table: Table | MbrTable) -> Areas:
    if isinstance(table, MbrTable):
        return Areas(())
    places = dict.fromkeys((1, table.backup.location_lba))
    return Areas(tuple(find_header(block, table.sector_size, lba) for lba in places))


def _told(partition: str, detail: str, cause: Cause = "partition table", key: str = "") -> Difference:
    return Difference("partition table", partition, "", cause, detail, knob(key))


def _fields(one: Table, other: Table) -> Iterator[Difference]:
    for field, name in DISK_FIELDS.items():
        if (first := getattr(one, field)) != (second := getattr(other, field)):
            cause: Cause = "UUID" if field == "disk_guid" else "partition table"
            yield _told("", f"{name} {first} / {second}", cause, "gpt disk" if cause == "UUID" else "")


def _backup(one: Table, other: Table) -> Iterator[Difference]:
    """The backup's place with what follows from it, then the state of both copies."""
    moved = one.alternate_lba != other.alternate_lba
    if moved:
        text = f"backup at sector {one.alternate_lba} / {other.alternate_lba}"
        yield _told("", text, "partition table", "gpt backup")
    elif one.last_usable_lba != other.last_usable_lba:
        yield _told("", f"last usable sector {one.last_usable_lba} / {other.last_usable_lba}")
    guards = [_guard(table.protective_mbr, table.alternate_lba if moved else 0) for table in (one, other)]
    if guards[0] != guards[1]:
        yield _told("", f"protective MBR {_entry(one.protective_mbr)} / {_entry(other.protective_mbr)}")
    for name, first, second in (("primary", one.primary, other.primary), ("backup", one.backup, other.backup)):
        if _state(first) != _state(second):
            yield _told("", f"{name} copy {_verdict(first)} / {_verdict(second)}")


def _guard(mbr: ProtectiveMbr, alternate: int) -> ProtectiveMbr:
    """The entry with its size relative to the backup's place, where that moved."""
    follows = alternate and mbr.size_lba in {alternate, alternate + 1}
    return replace(mbr, size_lba=0) if follows else mbr


def _entry(mbr: ProtectiveMbr) -> str:
    if not mbr.found:
        return "without a protective entry"
    return f"from sector {mbr.start_lba}, {mbr.size_lba} long{', with other entries' * mbr.has_other_entries}"


def _state(state: CopyState) -> CopyState:
    return replace(state, location_lba=0)


def _verdict(state: CopyState) -> str:
    return state.problem or "sound" if state.found else "absent"


def _partition(one: LayoutPartition | None, other: LayoutPartition | None) -> Iterator[Difference]:
    known = one or other
    if known is None:
        return
    title = known.label or str(known.number)
    if one is None or other is None:
        yield _told(title, f"partition {known.number} is only in the {'first' if one else 'second'}")
        return
    for field, name, cause, key in PARTITION_FIELDS:
        if (first := getattr(one, field)) != (second := getattr(other, field)):
            if field == "attributes":
                first, second = f"{first:#x}", f"{second:#x}"
            yield _told(title, f"{name} {first} / {second}", cause, key)
