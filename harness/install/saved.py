"""Which partitions of a disk are saved when an image is written over it, and what they become in its table.

As coreos-installer has it (facts D3; its `--save-partlabel` and `--save-partindex`): a saved partition keeps its
start, size, type, GUID, attributes, name and bytes; its number becomes the next one behind the image's, or stays where
that is larger.
"""

from __future__ import annotations

import fnmatch
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from harness.errors import BadInput, DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.files import shown
from harness.images.partitions.gpt import Partition, Table, find_table
from harness.images.partitions.gpt_draft import GptDraft, check_fits, draft_of
from harness.images.partitions.mbr import find_mbr

INDEX: Final = re.compile(r"(\d{1,4})|(\d{1,4})-(\d{1,4})?|-(\d{1,4})")


@dataclass(frozen=True, slots=True)
class Filter:
    """Partitions whose label a glob matches, or whose number lies in a range; `text` is how the user said it."""

    text: str
    glob: str | None = None
    first: int = 1
    last: int = 2**32

    def takes(self, partition: Partition) -> bool:
        if self.glob is not None:
            return fnmatch.fnmatchcase(partition.label, self.glob)
        return self.first <= partition.number <= self.last


@dataclass(frozen=True, slots=True)
class Saved:
    """A partition that is saved: as it was, its entry in the old table, and its new number."""

    partition: Partition
    entry: bytes = field(repr=False)
    number: int

    @property
    def told(self) -> str:
        """What coreos-installer says of it."""
        return (
            f'Saving partition {self.partition.number} ("{shown(self.partition.label)}") to new partition {self.number}'
        )


@dataclass(frozen=True, slots=True)
class Kept:
    """What is saved of a disk: `only` is its table with nothing else in it, `table` the image's with them in it."""

    saved: tuple[Saved, ...]
    only: GptDraft | None
    table: GptDraft
    unmatched: tuple[str, ...]  # filters that no partition met
    primary_is_good: bool = True  # of the old table; its backup is, where this is not

    @property
    def first_byte(self) -> int | None:
        """Where the first saved partition begins."""
        return min((each.partition.start for each in self.saved), default=None)


def label_filter(glob: str) -> Filter:
    """Partitions by name. Raises BadInput for an empty name, which only partitions without one have."""
    if not glob:
        raise BadInput("an empty label saves nothing", next_step="name a partition label, or a glob such as data*")
    return Filter(f"label {glob!r}", glob=glob)


def index_filters(listed: str) -> tuple[Filter, ...]:
    """Partitions by number: a list such as `5,7-9,12-,-3`. Raises BadInput for anything else."""
    found = []
    for word in listed.split(","):
        match = INDEX.fullmatch(word)
        if match is None:
            raise _bad_index(word, "is no partition number or range")
        single, first, last, upto = (int(each) if each is not None else None for each in match.groups())
        if 0 in {single, first, last, upto}:
            raise _bad_index(word, "begins at 0, partitions at 1")
        if first is not None and last is not None and last < first:
            raise _bad_index(word, "ends before it begins")
        index = Filter(f"number {word}", first=single or first or 1, last=single or last or upto or Filter("").last)
        found.append(index)
    return tuple(found)


def keep(onto: Block, image: Block, table: Table, filters: Sequence[Filter]) -> Kept:
    """What is saved of `onto` when `image`, with this table, is written over it.

    Raises UnsupportedImage for partitions of an MBR that are to be saved by number and for sectors of another size,
    DamagedImage for an old table that contradicts itself, BadInput where the image and they want the same sectors,
    the same identifiers, or more entries than there are.
    """
    base = draft_of(image, table).on(onto.size // table.sector_size)
    old = find_table(onto) if filters else None
    if old is None:
        if any(each.glob is None for each in filters) and find_mbr(onto):
            raise UnsupportedImage("has an MBR, whose partitions cannot be saved by number", where=onto.name)
        return _with_table((), None, base, table, onto, tuple(each.text for each in filters))
    if old.sector_size != table.sector_size:
        raise UnsupportedImage(
            f"has sectors of {old.sector_size} bytes, and the image of {table.sector_size}",
            where=onto.name,
            next_step="CoreOS has images for both: take the metal4k one for 4096",
        )
    chosen = [partition for partition in old.partitions if any(each.takes(partition) for each in filters)]
    unmatched = tuple(each.text for each in filters if not any(map(each.takes, old.partitions)))
    if not chosen:
        return _with_table((), None, base, table, onto, unmatched)
    _check(chosen, table, onto.name)
    was = draft_of(onto, old)
    saved: list[Saved] = []
    following = max(base.numbers, default=0) + 1
    for partition in chosen:
        following = max(following, partition.number)
        saved.append(Saved(partition, was.entry(partition.number), following))
        following += 1
    only = was.emptied().having({each.partition.number: each.entry for each in saved})
    kept = _with_table(tuple(saved), only, base.usable_to_the_end(), table, onto, unmatched)
    return replace(kept, primary_is_good=not old.primary.problem)


def _with_table(
    saved: tuple[Saved, ...],
    only: GptDraft | None,
    base: GptDraft,
    table: Table,
    onto: Block,
    unmatched: tuple[str, ...],
) -> Kept:
    kept = Kept(saved, only, base.having({each.number: each.entry for each in saved}), unmatched)
    check_fits(kept.table, tuple(each.partition for each in saved), onto.name)
    end = max((each.start + each.size for each in table.partitions), default=0)
    if end > (kept.table.last_usable_lba + 1) * table.sector_size:
        raise BadInput(
            f"has {onto.size:,} bytes, and the partitions of the image end at {end:,}",
            where=onto.name,
            next_step="take a larger disk",
        )
    for each in saved:
        if each.partition.start < end:
            raise BadInput(
                f"partition {each.partition.number} ({shown(each.partition.label)!r}) begins at byte "
                f"{each.partition.start:,}, and the partitions of the image end at {end:,}",
                where=onto.name,
                next_step="it can be saved only behind them: move it, or take a smaller image",
            )
    return kept


def _check(chosen: Sequence[Partition], table: Table, where: str) -> None:
    ordered = sorted(chosen, key=lambda each: each.start)
    for one, other in itertools.pairwise(ordered):
        if other.start < one.start + one.size:
            raise DamagedImage(f"its partitions {one.number} and {other.number} overlap", where=where)
    seen = {each.part_guid: f"of the image ({shown(each.label)!r})" for each in table.partitions}
    for each in chosen:
        if each.part_guid in seen:
            raise BadInput(
                f"partition {each.number} ({shown(each.label)!r}) has the GUID {each.part_guid} of another, "
                f"{seen[each.part_guid]}",
                where=where,
                next_step=f"give it one of its own: sgdisk -u {each.number}:R",
            )
        seen[each.part_guid] = f"number {each.number}"


def _bad_index(word: str, why: str) -> BadInput:
    return BadInput(f"{shown(word)!r} {why}", next_step="write numbers and ranges: 5,7-9,12-,-3")
