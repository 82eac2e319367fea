"""An image written onto a disk whose partitions are partly saved, as coreos-installer does it (facts D3).

Onto a copy of the disk, a new file, or in place onto a block device. In place every moment must be survived, so the
order is (flush: all before is on the disk before anything after is written):

1. the backup table with the saved partitions only, flush; the same as primary, flush. Until the first flush the old
   primary is whole, from then on the new backup is; all three list what is saved. (The other way round where an
   earlier cut has left the old primary torn.) A disk half-written does not boot as what it was.
2. the image's partitions, which all end before the first saved one begins, flush. No table changes.
3. the backup of the image's table with the saved partitions behind its own, flush; the same as primary with the boot
   code, flush. Until the first flush the primary of 1 is whole, from then on the new backup is.

So after any cut one copy of the table is whole and lists the saved partitions, and nobody ever writes to them. Where
nothing is saved, 1 wipes both tables and 3 is the image's own first sectors: its backup lies where the image ends and
moves at first boot, as does the disk's GUID change then.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import BadInput, UnsupportedImage
from harness.images.block import Block
from harness.images.edits.copy import copy_disk, data_of
from harness.images.edits.debugfs import NewFile, write_files
from harness.images.edits.draft import DISK, QCOW2_OPTIONS, Form, creating, form_of
from harness.images.edits.inject import boot_partition, ignition_file
from harness.images.edits.platform import PLATFORM_ID, planned
from harness.images.edits.stages import Progress, silent, stage
from harness.images.filesystems.files import open_files
from harness.images.formats.raw import FileBlock
from harness.images.partitions.gpt_draft import GptDraft
from harness.images.partitions.layout import Layout, part_of, read_layout
from harness.images.ranges import Range, merged, without
from harness.images.source import SNIFFED, open_image
from harness.install.device import is_device, opened, reread_partitions, sector_size, write, write_zeroes
from harness.install.saved import Filter, Kept, Saved, keep
from harness.tools import run

STEP = 2**20
Tell = Callable[[Saved], None]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is saved and what the image gets: an Ignition config for first boot, a platform id."""

    save: tuple[Filter, ...] = ()
    ignition: bytes | None = field(default=None, repr=False)
    platform: str | None = None


@dataclass(frozen=True, slots=True)
class Installed:
    """What was saved, and which filters no partition met."""

    saved: tuple[Saved, ...]
    unmatched: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes for a place of the disk."""

    offset: int
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Zero:
    """A place of the disk that is to be zeroes."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Flush:
    """All before this is on the disk before anything after it is written."""


Step = Write | Zero | Flush


def install(
    image: Path,
    onto: Path,
    target: Path,
    wishes: Wishes,
    *,
    form: Form | None = None,
    progress: Progress = silent,
    tell: Tell = lambda _: None,
) -> Installed:
    """Write `target`, a disk as long as `onto` with the image on it and what is saved of `onto`; nothing else of it.

    Raises what `keep` raises, BadInput for a target that cannot be written, and what the edits of its boot filesystem
    raise.
    """
    form = form or form_of(target)
    with creating(target, image, onto) as shop, open_image(image) as source, _opened_disk(onto) as old:
        layout = _checked(read_layout(source.block), onto, wishes)
        kept = keep(old, source.block, layout.gpt, wishes.save)
        _tell(kept, tell)
        disk = shop.folder / DISK
        with stage(progress, "save"):
            _copy_saved(old, kept, disk)
        with stage(progress, "write image"), opened(disk) as descriptor:
            for step in steps(source.block, kept, old.size):
                if isinstance(step, Write):
                    write(descriptor, step.data, step.offset)
        _edit(disk, layout, wishes, progress)
        if form == "raw":
            disk.rename(shop.result)
        else:
            with stage(progress, "write qcow2"):
                run(["qemu-img", "convert", "-f", "raw", *QCOW2_OPTIONS, disk, shop.result])
    return Installed(kept.saved, kept.unmatched)


def install_in_place(
    image: Path, onto: Path, wishes: Wishes, *, progress: Progress = silent, tell: Tell = lambda _: None
) -> Installed:
    """Write the image onto a block device or raw file itself; whatever ends it, what is saved is still there.

    Raises as `install` before anything is written, and BadInput for a filter that no partition meets: nobody gets
    back what a misspelt label did not save.
    """
    with open_image(image) as source, opened(onto) as descriptor, FileBlock(onto) as old:
        layout = _checked(read_layout(source.block), onto, wishes)
        kept = keep(old, source.block, layout.gpt, wishes.save)
        if kept.unmatched:
            raise BadInput(
                f"no partition meets {' or '.join(kept.unmatched)}, and all else on it will be gone",
                where=str(onto),
                next_step="see harness inspect; leave the filter away if nothing is to be saved",
            )
        with _edited(source.block, layout, wishes, progress) as block:
            _tell(kept, tell)
            with stage(progress, "write image"):
                for step in steps(block, kept, old.size):
                    _carry_out(descriptor, step)
        reread_partitions(descriptor)
    return Installed(kept.saved, kept.unmatched)


def steps(image: Block, kept: Kept, size: int) -> Iterator[Step]:
    """All that is written to a disk of `size` bytes, in the order that the head of this module explains."""
    body = _body(image, kept, size)
    yield from _cleared(kept, size)
    data = [each for each in data_of(image) if each.end > body.start and each.start < body.end]
    inside = merged(Range(max(each.start, body.start), min(each.end, body.end)) for each in data)
    pieces = sorted([(each, True) for each in inside] + [(each, False) for each in without([body], inside)])
    for (start, end), is_data in pieces:
        if is_data:
            for offset in range(start, end, STEP):
                yield Write(offset, image.read(offset, min(STEP, end - offset)))
        else:
            yield Zero(start, end)
    yield Flush()
    if kept.only is None:
        yield Write(0, image.read(0, body.start))
    else:
        yield from _writes(kept.table.backup())
        yield Flush()
        ends = (_table_end(kept.table), body.start)
        if ends[0] < ends[1]:  # what the image has between its table and its partitions
            yield Write(ends[0], image.read(ends[0], ends[1] - ends[0]))
        yield from _writes(kept.table.primary())
        yield Write(0, kept.table.mbr(image.read(0, 512)))
    yield Flush()


def _cleared(kept: Kept, size: int) -> Iterator[Step]:
    """Step 1: a disk that shows nothing but what is saved."""
    if kept.only is None:
        ends = _table_end(kept.table)
        yield Zero(0, ends)
        yield Zero(size - ends, size)
        yield Flush()
        return
    backup = kept.only.backup()
    primary = (*kept.only.primary(), (0, kept.only.mbr()))
    for copy in (backup, primary) if kept.primary_is_good else (primary, backup):
        yield from _writes(copy)
        yield Flush()


def _body(image: Block, kept: Kept, size: int) -> Range:
    """The bytes of the image that are neither its table nor behind what may be written."""
    tables = [kept.table] if kept.only is None else [kept.table, kept.only]
    first = max(map(_table_end, tables))
    if kept.first_byte is None:
        return Range(first, min(image.size, size))
    return Range(first, min(image.size, kept.first_byte))


def _table_end(table: GptDraft) -> int:
    """The byte behind the primary's entries."""
    return (table.entries_lba + table.entry_sectors) * table.sector_size


def _writes(pieces: Sequence[tuple[int, bytes]]) -> Iterator[Write]:
    return (Write(offset, data) for offset, data in pieces)


def _carry_out(descriptor: int, step: Step) -> None:
    if isinstance(step, Write):
        write(descriptor, step.data, step.offset)
    elif isinstance(step, Zero):
        write_zeroes(descriptor, step.start, step.end)
    else:
        os.fsync(descriptor)


def _checked(layout: Layout, onto: Path, wishes: Wishes) -> Layout:
    """Raises for an image that cannot be installed there."""
    if wishes.platform is not None and not PLATFORM_ID.fullmatch(wishes.platform):
        raise BadInput(f"{wishes.platform!r} is no platform id", next_step="letters and digits, such as metal or qemu")
    sectors = layout.gpt.sector_size
    theirs = sector_size(onto)
    if theirs not in {None, sectors}:
        raise UnsupportedImage(
            f"has sectors of {theirs} bytes, and the image of {sectors}",
            where=str(onto),
            next_step="CoreOS has images for both: take the metal4k one for 4096",
        )
    return layout


@contextmanager
def _opened_disk(path: Path) -> Iterator[Block]:
    """A disk that an image is to be written to: an image of any container, a device, a raw file with nothing in it."""
    with FileBlock(path) as block:
        if is_device(path) or not any(block.read(0, min(SNIFFED, block.size))):
            yield block
            return
    with open_image(path) as image:
        yield image.block


def _copy_saved(old: Block, kept: Kept, disk: Path) -> None:
    """A sparse file as long as the old disk with the saved partitions' bytes."""
    windows = sorted(Range(each.partition.start, each.partition.start + each.partition.size) for each in kept.saved)
    with disk.open("wb") as file:
        file.truncate(old.size)
        for start, end in data_of(old):
            for window in windows:
                for offset in range(max(start, window.start), min(end, window.end), STEP):
                    file.seek(offset)
                    file.write(old.read(offset, min(STEP, min(end, window.end) - offset)))


def _tell(kept: Kept, tell: Tell) -> None:
    for each in kept.saved:
        tell(each)


def _new_files(layout: Layout, wishes: Wishes) -> tuple[list[NewFile], list[NewFile]]:
    """Files of the boot filesystem: new ones, and those that replace old ones."""
    added = [ignition_file(wishes.ignition)] if wishes.ignition is not None else []
    if wishes.platform is None:
        return added, []
    tree = open_files(part_of(layout.block, boot_partition(layout)))
    _, texts = planned(tree, wishes.platform)
    return added, [NewFile(path, text.encode("utf-8", "surrogateescape")) for path, text in texts.items()]


def _edit(disk: Path, layout: Layout, wishes: Wishes, progress: Progress) -> None:
    """Put the config and the platform into the boot filesystem of a raw disk that has the image's partitions."""
    added, replaced = _new_files(layout, wishes)
    if not added and not replaced:
        return
    boot = boot_partition(layout)
    with stage(progress, "configure"):
        for files, replace in ((added, False), (replaced, True)):
            if files:
                write_files(disk, boot, files, replace=replace)


@contextmanager
def _edited(block: Block, layout: Layout, wishes: Wishes, progress: Progress) -> Iterator[Block]:
    """The image with its config and platform, before a byte of the disk is touched."""
    if wishes.ignition is None and wishes.platform is None:
        yield block
        return
    with tempfile.TemporaryDirectory(prefix="harness-install-") as folder:
        disk = Path(folder, DISK)
        copy_disk(block, disk)
        _edit(disk, layout, wishes, progress)
        with FileBlock(disk) as edited:
            yield edited
