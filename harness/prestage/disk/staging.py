"""A disk with a data partition at its end: an image with the partition added, or an empty disk with a table of its own.

Nothing is mounted and nobody needs to be root. The old image never changes; of the new one only the partition table
and what lies behind the last partition do. The same folder, image and wishes give the same bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from harness.errors import BadInput, DamagedImage, UnsupportedImage
from harness.images.edits.copy import copy_disk, copy_sparsely, data_of
from harness.images.edits.draft import DISK, QCOW2_OPTIONS, Form, creating, form_of
from harness.images.edits.grow import LARGEST
from harness.images.edits.stages import Progress, silent, stage
from harness.images.partitions.gpt import SECTOR_SIZES, Partition, Table
from harness.images.partitions.gpt_draft import MOST_PROTECTED, GptDraft, blank, check_fits, draft_of, new_entry
from harness.images.partitions.layout import read_layout
from harness.images.ranges import Range, shared
from harness.images.source import Image, open_image
from harness.prestage.disk.contents import Contents, Digests, read_contents
from harness.prestage.disk.ext4 import make_ext4
from harness.prestage.disk.filesystem import Counting, Kind, Made, Site, check_possible
from harness.prestage.disk.partition import LINUX_FILESYSTEM, Span, from_sector, of_size, room_on
from harness.prestage.disk.xfs import make_xfs
from harness.tools import run

MAKERS: Final[Mapping[Kind, Callable[[Site, Contents, Digests, Counting], Made]]] = {"xfs": make_xfs, "ext4": make_ext4}
OVERHEAD = 128 * 2**20  # bytes that a filesystem's own structures may take on the host
NO_GUID = UUID(int=0)


@dataclass(frozen=True, slots=True)
class Wanted:
    """The partition to make: from sector `start` on, or of `data_size` bytes. `size` lengthens the disk, or is it."""

    start: int | None = None
    data_size: int | None = None
    image: Path | None = None
    size: int | None = None  # bytes of the disk
    sector_size: int = 512  # of an empty disk
    label: str = "data"
    number: int | None = None  # the next free one
    filesystem: Kind = "xfs"


@dataclass(frozen=True, slots=True)
class Staged:
    """The partition that was made: sectors inclusive, bytes of files, and what is free for more."""

    number: int
    span: Span
    sector_size: int
    part_guid: UUID
    filesystem_uuid: UUID
    files: int
    used: int
    free: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """The new table but for identifiers, which follow from the content; `table` is that of the image."""

    draft: GptDraft
    span: Span
    number: int
    table: Table | None

    @property
    def window(self) -> Range:
        size = self.draft.sector_size
        return Range(self.span.first * size, (self.span.last + 1) * size)


def stage_disk(
    folder: Path,
    target: Path,
    wanted: Wanted,
    *,
    form: Form | None = None,
    progress: Progress = silent,
    counting: Callable[[int], Counting] = lambda _: lambda _: None,
) -> Staged:
    """Write `target`, a disk with the files of `folder` on a partition at its end. `counting` is given their bytes.

    Raises BadInput for a wish that cannot be met and where the partition or the host has no room, UnsupportedImage
    for an image without a GPT or with a hybrid MBR, DamagedImage for a table that cannot be trusted.
    """
    form = form or form_of(target)
    _check_wish(wanted)
    contents = read_contents(folder)
    with ExitStack() as stack:
        shop = stack.enter_context(creating(target, *([wanted.image] if wanted.image else [])))
        image = stack.enter_context(open_image(wanted.image)) if wanted.image else None
        plan = _planned(image, wanted)
        _check_room(plan, contents, image, wanted, shop.folder, form)
        disk = shop.folder / DISK
        with stage(progress, "copy"):
            _copy(image, plan, disk)
        with stage(progress, f"write {wanted.filesystem}"):
            size = plan.draft.sector_size
            site = Site(disk, plan.window.start, plan.window.size, size, wanted.label, shop.folder)
            digests = Digests(contents)
            made = MAKERS[wanted.filesystem](site, contents, digests, counting(contents.size))
        where = f"{plan.span.first}-{plan.span.last}:{size}:{wanted.label}"
        part_guid = digests.identifier(f"partition:{where}")
        entry = new_entry(LINUX_FILESYSTEM, part_guid, plan.span.first, plan.span.last, wanted.label)
        _write_table(disk, plan, entry, digests.identifier(f"disk:{where}"))
        if form == "raw":
            disk.rename(shop.result)
        else:
            with stage(progress, "write qcow2"):
                run(["qemu-img", "convert", "-f", "raw", *QCOW2_OPTIONS, disk, shop.result])
    return Staged(plan.number, plan.span, size, part_guid, made.uuid, len(contents.items), contents.size, made.free)


def _check_wish(wanted: Wanted) -> None:
    if (wanted.start is None) == (wanted.data_size is None):
        raise BadInput(
            "where the partition begins is said " + ("twice" if wanted.start is not None else "nowhere"),
            next_step="say --start SECTOR or --data-size SIZE",
        )
    if wanted.image is None and wanted.size is None:
        raise BadInput("there is no disk to put a partition on", next_step="say --image FILE or --size SIZE")
    if wanted.sector_size not in SECTOR_SIZES:
        raise BadInput(f"{wanted.sector_size} bytes are no sector", next_step="512 or 4096")
    new_entry(LINUX_FILESYSTEM, NO_GUID, 0, 0, wanted.label)
    if not wanted.label:
        raise BadInput("the partition has no label", next_step="the guest finds it by its label: say --label data")


def _planned(image: Image | None, wanted: Wanted) -> _Plan:
    table: Table | None = None
    partitions: tuple[Partition, ...] = ()
    if image is None:
        size = wanted.size or 0
        _check_size(size, wanted.sector_size, "the new disk")
        draft = blank(size // wanted.sector_size, wanted.sector_size, NO_GUID)
    else:
        table = read_layout(image.block).gpt
        partitions = table.partitions
        size = wanted.size or image.block.size
        _check_size(size, table.sector_size, str(image.path))
        if size < image.block.size:
            raise BadInput(f"has {image.block.size:,} bytes, more than --size {size:,}", where=str(image.path))
        _check_table(table, str(image.path))
        draft = draft_of(image.block, table).on(size // table.sector_size).usable_to_the_end()
        check_fits(draft, partitions, str(image.path))
    if any(each.label == wanted.label for each in partitions):
        raise BadInput(f"has a partition {wanted.label!r} already", where=draft_name(image), next_step="say --label")
    room = room_on(draft, partitions)
    span = from_sector(room, wanted.start) if wanted.start is not None else of_size(room, wanted.data_size or 0)
    number = wanted.number or max(draft.numbers, default=0) + 1
    draft.having({number: new_entry(LINUX_FILESYSTEM, NO_GUID, 0, 0, wanted.label)})  # refuses what cannot be
    return _Plan(draft, span, number, table)


def draft_name(image: Image | None) -> str:
    """What messages call the disk."""
    return str(image.path) if image else "the new disk"


def _check_size(size: int, sector: int, where: str) -> None:
    if size % sector or not 0 < size <= LARGEST:
        raise BadInput(f"{size:,} bytes are no size for a disk", where=where, next_step="whole sectors, at most 16 TiB")


def _check_table(table: Table, where: str) -> None:
    if table.primary.problem:
        raise DamagedImage(
            f"its primary GPT is no good: {table.primary.problem}", where=where, next_step="repair it with sgdisk"
        )
    if table.protective_mbr.has_other_entries:
        raise UnsupportedImage("has a hybrid MBR, whose other entries we would not keep up to date", where=where)


def _check_room(plan: _Plan, contents: Contents, image: Image | None, wanted: Wanted, folder: Path, form: Form) -> None:
    """Refuse what cannot fit the partition or the host, before a byte is copied."""
    check_possible(wanted.filesystem, wanted.label, plan.window.size)
    if contents.size > plan.window.size:
        raise BadInput(
            f"the files have {contents.size:,} bytes and the partition {plan.window.size:,}",
            where=str(contents.folder),
            next_step="make the partition larger, or stage fewer images",
        )
    copied = sum(each.size for each in data_of(image.block)) if image else 0
    needed = (copied + contents.size + OVERHEAD) * (2 if form == "qcow2" else 1)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BadInput(
            f"needs {needed:,} bytes meanwhile, and {free:,} are free",
            where=str(folder.parent),
            next_step="write to another place" + (", or a raw image" if form == "qcow2" else ""),
        )


def _copy(image: Image | None, plan: _Plan, disk: Path) -> None:
    """The image's disk at its new length; what once lay where the partition will be is left out."""
    if image is None:
        disk.touch()
    elif shared(data_of(image.block), plan.window):
        copy_sparsely(image.block, disk, [plan.window])
    else:
        copy_disk(image.block, disk)
    os.truncate(disk, plan.draft.sectors * plan.draft.sector_size)


def _write_table(disk: Path, plan: _Plan, entry: bytes, disk_guid: UUID) -> None:
    """Both copies with the new entry; the MBR only where there is none or the disk became longer."""
    draft, table = plan.draft, plan.table
    if table is None:
        draft = blank(draft.sectors, draft.sector_size, disk_guid)
    draft = draft.having({plan.number: entry})
    pieces = [*draft.backup(), *draft.primary()]
    with disk.open("r+b") as file:
        if table is None or table.protective_mbr.size_lba != min(draft.last_lba, MOST_PROTECTED):
            pieces.append((0, draft.mbr(file.read(512))[:512]))
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
