"""What holds nothing made to take no space: free blocks of ext4 and XFS, runs of zeroes, all after the last partition.

The last of these takes the backup GPT along, as publishing an image for fast-vm does; first boot writes a new one.
`keep_backup` leaves it where it is. Nothing is mounted: a filesystem with a journal or log to replay, one behind LUKS
and every other type are left alone but for their zeroes, and the result says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.edits.copy import copy_sparsely, data_of
from harness.images.edits.debugfs import unsoundness
from harness.images.edits.draft import Form, drafting
from harness.images.edits.stages import Progress, silent, stage
from harness.images.filesystems.ext4_free import ext4_free
from harness.images.filesystems.xfs_free import xfs_free
from harness.images.partitions.gpt import Table
from harness.images.partitions.gpt_header import find_header
from harness.images.partitions.layout import Layout, LayoutPartition, part_of
from harness.images.ranges import Range, merged, shared, without

Backup = Literal["kept", "discarded", "none"]
EXT = frozenset({"ext2", "ext3", "ext4"})
FREE: Mapping[str, Callable[[Block], list[Range]]] = {**dict.fromkeys(EXT, ext4_free), "xfs": xfs_free}
REST = "after the last partition"


@dataclass(frozen=True, slots=True)
class Thinned:
    """One partition, or the space after the last: bytes of data before and after, and why nothing was freed."""

    name: str
    filesystem: str  # empty where none was recognised
    before: int
    after: int
    left_alone: str = ""  # the reason, where free blocks were not looked for


@dataclass(frozen=True, slots=True)
class Sparsified:
    """What an image holds before and after, in bytes of data; `before` counts what its container does not skip."""

    parts: tuple[Thinned, ...]
    before: int
    after: int
    backup_gpt: Backup


def sparsify(
    source: Path,
    target: Path,
    *,
    keep_backup: bool = False,
    form: Form | None = None,
    progress: Progress = silent,
) -> Sparsified:
    """Write `target`, a disk with the same files as `source` and nothing else.

    Raises UnsupportedImage for a live ISO, DamagedImage for a truncated disk, a filesystem that contradicts itself,
    and where the backup GPT is the only good one and would be discarded.
    """
    with drafting(source, target, form=form, progress=progress, copied=False) as draft:
        layout = draft.layout
        _check(layout, keep_backup=keep_backup)
        with stage(progress, "look for free space"):
            found = [_free_of(layout, partition) for partition in layout.partitions] or [_free_of_disk(layout)]
            rest = list(_rest(layout, keep_backup=keep_backup))
        leave_out = [
            Range(each.window.start + start, each.window.start + end) for each in found for start, end in each.free
        ]
        with stage(progress, "copy"):
            data = list(data_of(layout.block))
            written = copy_sparsely(layout.block, draft.disk, [*leave_out, *rest])
        with stage(progress, "check"):
            _check_sound(draft.disk, layout)
        fate = _fate(layout, keep_backup=keep_backup)
    parts = [_thinned(each, data, written) for each in found]
    whole = Range(0, layout.block.size)
    if layout.partitions:
        parts.append(_thinned(_Found(Range(_end(layout), whole.end), REST, ""), data, written))
    return Sparsified(tuple(parts), shared(data, whole), shared(written, whole), fate)


@dataclass(frozen=True, slots=True)
class _Found:
    """A place of the disk, what is free in it, counted from its start, or why nobody looked."""

    window: Range
    name: str
    filesystem: str
    free: list[Range] = field(default_factory=list)
    left_alone: str = ""


def _thinned(place: _Found, data: list[Range], written: list[Range]) -> Thinned:
    before, after = shared(data, place.window), shared(written, place.window)
    return Thinned(place.name, place.filesystem, before, after, place.left_alone)


def _free_of(layout: Layout, partition: LayoutPartition) -> _Found:
    window = Range(partition.start, partition.start + partition.size)
    kind = partition.filesystem.type if partition.filesystem else ""
    name = partition.label or f"partition {partition.number}"
    return _Found(window, name, kind, *_looked(part_of(layout.block, partition), kind))


def _free_of_disk(layout: Layout) -> _Found:
    """Of a disk that is one filesystem."""
    kind = layout.filesystem.type if layout.filesystem else ""
    return _Found(Range(0, layout.block.size), "disk", kind, *_looked(layout.block, kind))


def _looked(block: Block, kind: str) -> tuple[list[Range], str]:
    if kind == "crypto_LUKS":
        return [], "is encrypted by LUKS"
    if not kind:
        return [], "holds no filesystem that we know"
    look = FREE.get(kind)
    if look is None:
        return [], f"is {kind}; we find free space in ext4 and xfs only"
    try:
        return look(block), ""
    except UnsupportedImage as cause:
        return [], cause.what


def _check(layout: Layout, *, keep_backup: bool) -> None:
    where = layout.block.name
    if layout.filesystem and layout.filesystem.type == "iso9660":
        raise UnsupportedImage("is an ISO, which holds nothing to free", where=where)
    for partition in layout.partitions:
        if partition.missing:
            raise DamagedImage(
                f"partition {partition.title} lies {partition.missing:,} bytes beyond the end of the disk",
                where=where,
                next_step="truncated download? get it again and compare its checksum",
            )
    if isinstance(layout.table, Table) and layout.table.primary.problem and not keep_backup:
        raise DamagedImage(
            f"its primary GPT is no good ({layout.table.primary.problem}); without the backup there would be none",
            where=where,
            next_step="say --keep-backup, or repair it first",
        )


def _end(layout: Layout) -> int:
    return max(partition.start + partition.size for partition in layout.partitions)


def _rest(layout: Layout, *, keep_backup: bool) -> Iterator[Range]:
    """What follows the last partition, but for the backup GPT if that is to stay."""
    if layout.partitions:
        yield from without([Range(_end(layout), layout.block.size)], _backup(layout) if keep_backup else [])


def _backup(layout: Layout) -> list[Range]:
    """Where the header and the entries of the backup GPT lie."""
    if not isinstance(layout.table, Table) or not layout.table.backup.found:
        return []
    size, lba = layout.table.sector_size, layout.table.backup.location_lba
    header = find_header(layout.block, size, lba)
    entries = header.entries_lba * size
    return merged([Range(lba * size, (lba + 1) * size), Range(entries, entries + len(header.entries))])


def _fate(layout: Layout, *, keep_backup: bool) -> Backup:
    if not _backup(layout):
        return "none"
    return "kept" if keep_backup else "discarded"


def _check_sound(disk: Path, layout: Layout) -> None:
    """Have e2fsck compare the bitmaps that we believed with the files."""
    places = [(partition.start, partition.filesystem, partition.title) for partition in layout.partitions]
    for start, filesystem, title in places or [(0, layout.filesystem, "the disk")]:
        if filesystem is None or filesystem.type not in EXT or filesystem.details.get("needs_recovery"):
            continue
        problem = unsoundness(disk, start)
        if problem:
            raise DamagedImage(
                f"e2fsck objects to the filesystem of {title}, so its free space cannot be trusted: {problem}",
                where=layout.block.name,
                next_step="run e2fsck on it",
            )
