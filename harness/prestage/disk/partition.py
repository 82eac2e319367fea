"""Where a partition at the end of a disk comes to lie: from a sector on, or with a size; sector for sector as sgdisk.

Pure: sectors in, sectors out. Facts D3: `sgdisk -n 1:120000000` of the seed, `sgdisk -n N:-100GiB:0` of the factory
CLI; the rules of alignment are those of gptfdisk 1.0.9 (`ComputeAlignment`, `Align`), proved against it by test.
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from harness.errors import BadInput
from harness.images.partitions.gpt import Partition
from harness.images.partitions.gpt_draft import GptDraft

LINUX_FILESYSTEM = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
ALIGNMENT = 2**20  # bytes: 2048 sectors of 512, 256 of 4096
ADVANCED_FORMAT = 585937500  # sectors: larger disks are taken for such of 4 KiB inside
LEAST_ALIGNMENT = 8  # sectors, on those


@dataclass(frozen=True, slots=True)
class Taken:
    """Sectors of a partition that is there; `last` is inclusive."""

    first: int
    last: int
    title: str


@dataclass(frozen=True, slots=True)
class Room:
    """A disk as placement sees it: which sectors may be used, and which are. `last_usable` is inclusive."""

    sector_size: int
    sectors: int
    first_usable: int
    last_usable: int
    taken: tuple[Taken, ...] = ()

    @property
    def alignment(self) -> int:
        """In sectors: 1 MiB, or the largest power of two below it that all partitions keep."""
        align = ALIGNMENT // self.sector_size
        for each in self.taken:
            while each.first % align:
                align //= 2
        return LEAST_ALIGNMENT if align < LEAST_ALIGNMENT and self.sectors >= ADVANCED_FORMAT else align

    @property
    def end_gap(self) -> Span | None:
        """The free sectors behind the last partition."""
        first = max([self.first_usable, *(each.last + 1 for each in self.taken)])
        return Span(first, self.last_usable) if first <= self.last_usable else None

    def holder(self, sector: int) -> Taken | None:
        """The partition in which a sector lies."""
        return next((each for each in self.taken if each.first <= sector <= each.last), None)


@dataclass(frozen=True, slots=True)
class Span:
    """Sectors `first` to `last`, inclusive."""

    first: int
    last: int

    @property
    def sectors(self) -> int:
        return self.last - self.first + 1


def room_on(draft: GptDraft, partitions: tuple[Partition, ...]) -> Room:
    """What a table leaves room for."""
    taken = tuple(
        Taken(each.first_lba, each.last_lba, f"partition {each.number} ({each.label!r})") for each in partitions
    )
    return Room(draft.sector_size, draft.sectors, draft.first_usable_lba, draft.last_usable_lba, taken)


def from_sector(room: Room, start: int) -> Span:
    """A partition from sector `start`, moved to a boundary as sgdisk does, to the last usable sector.

    Raises BadInput where `start` lies in or in front of a partition, or outside of what may be used.
    """
    gap = room.end_gap
    if gap is None:
        raise _full(room)
    if start > room.last_usable:
        raise BadInput(
            f"sector {start} lies beyond the last usable one, {room.last_usable}",
            next_step=f"choose one from {gap.first} on, or a larger disk",
        )
    if holder := room.holder(start):
        raise BadInput(
            f"sector {start} lies in {holder.title}, which ends at {holder.last}",
            next_step=f"choose one from {gap.first} on",
        )
    if start < gap.first:
        behind = next((each for each in room.taken if each.first > start), None)
        what = f"in front of {behind.title}" if behind else f"in front of the first usable one, {room.first_usable}"
        raise BadInput(f"sector {start} lies {what}", next_step=f"choose one from {gap.first} on")
    return Span(_aligned(room, gap, start), gap.last)


def of_size(room: Room, size: int) -> Span:
    """A partition of at least `size` bytes at the end of the disk, its start moved to a boundary in front.

    The factory CLI's `-N:-<size>GiB:0`: counted from the last usable sector. Raises BadInput where it does not fit.
    """
    gap = room.end_gap
    if gap is None:
        raise _full(room)
    wanted = size // room.sector_size
    if wanted < 1:
        raise BadInput(f"{size:,} bytes are no size for a partition")
    start = gap.last - wanted
    if start < gap.first:
        raise BadInput(
            f"a partition of {size:,} bytes does not fit: {gap.sectors * room.sector_size:,} bytes are free at the end",
            next_step="choose a smaller one, or a larger disk",
        )
    first = _aligned(room, gap, start)
    if first > start:
        raise BadInput(
            f"a partition of {size:,} bytes does not fit: it would begin at sector {start}, the first boundary of "
            f"{room.alignment} sectors that is free is {first}",
            next_step="choose a smaller one, or a larger disk",
        )
    return Span(first, gap.last)


def _aligned(room: Room, gap: Span, start: int) -> int:
    """The boundary in front of `start` if all from there on is free, else the next one, else `start` itself."""
    align = room.alignment
    earlier = start // align * align
    if earlier == start or earlier >= gap.first:
        return earlier
    return earlier + align if earlier + align <= gap.last else start


def _full(room: Room) -> BadInput:
    last = max(room.taken, key=lambda each: each.last, default=None)
    why = f"{last.title} reaches sector {last.last}" if last else "it is too small"
    return BadInput(f"has no free sector at its end: {why}, the last usable is {room.last_usable}")
