"""An XFS filesystem with files, made without mounting it and without root; the same files give the same bytes.

`mkfs.xfs -p` reads every file whole and keeps it until the last one is written: a release of 20 GB takes 20 GB of
memory (measured with xfsprogs 6.1), and files of 2 GiB do not fit its counters. So mkfs.xfs makes the filesystem with
empty files of the right names; the blocks are given to them here, in order from the front of each allocation group,
and their bytes go straight to their place on the disk. xfs_repair has the last word.

The features are those that RHEL 8.4's kernel mounts: no big timestamps, no inode counters, no large extent counts.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from harness.errors import BadInput, ToolFailed
from harness.images.edits.copy import ZEROES, graft
from harness.images.filesystems.files import open_files
from harness.images.formats.raw import FileBlock
from harness.prestage.disk.contents import TIME, Contents, Digests, Item
from harness.prestage.disk.filesystem import Counting, Made, Site, does_not_fit
from harness.prestage.disk.xfs_blank import BlankXfs, Free, open_blank
from harness.tools import run

BLOCK = 4096
LONGEST_EXTENT = 2**21 - 1  # blocks
SPARE = (50, 256)  # of each group a fiftieth stays free, at least 1 MiB: the kernel wants room for its trees
SIZE, EXTENTS, FORK, EXTENTS_FORMAT = 56, 76, 176, 2  # of an inode; its blocks follow its size
TIMES = (32, 40, 48, 144)  # of an inode: read, written, changed, made
NO_UUID = UUID(int=0)
OPTIONS = {  # switched off, by the xfsprogs that knows the option
    (5, 10): ("-m", "bigtime=0,inobtcount=0"),
    (5, 19): ("-i", "nrext64=0"),
}


@dataclass(frozen=True, slots=True)
class Extent:
    """Blocks of a file: `logical` counts within it, `start` within the group."""

    logical: int
    group: int
    start: int
    count: int


def make_xfs(site: Site, contents: Contents, digests: Digests, counting: Counting) -> Made:
    """Write an XFS filesystem with these files to a place of a raw disk.

    Raises BadInput where they do not fit, ToolFailed with the words of mkfs.xfs or xfs_repair.
    """
    file = site.scratch / "xfs"
    _mkfs(file, site, contents, NO_UUID)
    with open_blank(file) as opened:
        blank = BlankXfs(opened, "xfs")
        plan, _ = _planned(contents.items, blank)
        with site.disk.open("r+b", buffering=0) as disk:
            for item, extents in plan.items():
                _place(disk.fileno(), site.start, blank, extents, digests.passing(item, counting))
    uuid = digests.identifier(f"xfs:{site.size}:{site.label}")
    _mkfs(file, site, contents, uuid)
    with open_blank(file) as opened:
        blank = BlankXfs(opened, "xfs")
        again, free = _planned(contents.items, blank)
        if again != plan:
            raise ToolFailed("mkfs.xfs did not do the same twice", next_step="say --filesystem ext4")
        _commit(file, blank, plan)
    run(["xfs_repair", "-n", "-f", file])
    with FileBlock(file) as block:
        graft(block, site.disk, site.start)
    file.unlink()
    return Made(uuid, free * BLOCK)


def _mkfs(file: Path, site: Site, contents: Contents, uuid: UUID) -> None:
    """A filesystem of its own file, with an empty file for each name."""
    file.unlink(missing_ok=True)
    with file.open("wb") as stream:
        stream.truncate(site.size)
    prototype = site.scratch / "prototype"
    names = [f"{item.name} ---{item.mode:o} 0 0 /dev/null" for item in contents.items]
    prototype.write_text("\n".join(["/dev/null", "0 0", "d--755 0 0", *names, "$"]) + "\n", encoding="ascii")
    version = _version()
    kernel = [word for since, words in OPTIONS.items() if version >= since for word in words]
    run(["mkfs.xfs", "-q", "-f", "-K", "-b", f"size={BLOCK}", "-s", f"size={site.sector_size}", "-d", "noalign",
         "-i", "size=512", "-m", f"crc=1,finobt=1,rmapbt=0,reflink=1,uuid={uuid}", "-n", "ftype=1", *kernel,
         *(["-L", site.label] if site.label else []), "-p", prototype, file])  # fmt: skip


def _version() -> tuple[int, int]:
    found = re.search(rb"version (\d+)\.(\d+)", run(["mkfs.xfs", "-V"]))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _planned(items: Sequence[Item], blank: BlankXfs) -> tuple[dict[Item, tuple[Extent, ...]], int]:
    """Blocks for every file, from the front of each group's free run, and how many are free for more.

    Raises BadInput where there are too few.
    """
    runs = [
        Free(run.group, run.start, max(0, run.count - max(run.count // SPARE[0], SPARE[1]))) for run in blank.free()
    ]
    free = sum(run.count for run in runs)
    wanted = sum(-(-item.size // BLOCK) for item in items)
    if wanted > free:
        raise does_not_fit(wanted * BLOCK, free * BLOCK)
    plan = {item: tuple(_extents(-(-item.size // BLOCK), runs)) for item in items}
    most = (blank.inode_size - FORK) // 16
    if large := next((item for item, extents in plan.items() if len(extents) > most), None):
        raise BadInput("is too large for its map of blocks", where=str(large.path), next_step="say --filesystem ext4")
    return plan, free - wanted


def _extents(count: int, runs: list[Free]) -> Iterator[Extent]:
    """Take blocks from runs in order; `runs` shrinks."""
    logical = 0
    while count:
        first = runs[0]
        length = min(count, first.count, LONGEST_EXTENT)
        if length:
            yield Extent(logical, first.group, first.start, length)
        runs[0] = Free(first.group, first.start + length, first.count - length)
        if not runs[0].count:
            del runs[0]
        logical, count = logical + length, count - length


def _place(disk: int, start: int, blank: BlankXfs, extents: Sequence[Extent], content: Iterator[bytes]) -> None:
    """Write a file's bytes to their blocks, which hold zeroes: those are not written."""
    at = 0
    for piece in content:
        view = memoryview(piece)
        if piece == ZEROES[: len(piece)]:
            at, view = at + len(piece), view[:0]
        while view:
            extent = next(each for each in extents if at < (each.logical + each.count) * BLOCK)
            within = at - extent.logical * BLOCK
            part = view[: extent.count * BLOCK - within]
            done = os.pwrite(disk, part, start + blank.offset(extent.group, extent.start) + within)
            view, at = view[done:], at + done


def _commit(file: Path, blank: BlankXfs, plan: dict[Item, tuple[Extent, ...]]) -> None:
    """Give the files their blocks and every inode the same times."""
    with FileBlock(file) as block:
        tree = open_files(block)
        numbers = {tree.stat(f"/{item.name}").inode: item for item in plan}
    for number, inode in blank.inodes():
        for place in TIMES:
            struct.pack_into(">II", inode, place, TIME, 0)
        if item := numbers.get(number):
            if inode[5] != EXTENTS_FORMAT:
                raise ToolFailed("mkfs.xfs left a file that has no map of blocks", where=item.name)
            extents = plan[item]
            struct.pack_into(">QQ", inode, SIZE, item.size, sum(extent.count for extent in extents))
            struct.pack_into(">I", inode, EXTENTS, len(extents))
            for index, extent in enumerate(extents):
                struct.pack_into(">QQ", inode, FORK + 16 * index, *_record(extent, blank.group_log))
        blank.write_inode(number, inode)
    used: dict[int, int] = {}
    for extents in plan.values():
        for extent in extents:
            used[extent.group] = used.get(extent.group, 0) + extent.count
    for free in blank.free():
        if free.group in used:
            blank.take(free, used[free.group])


def _record(extent: Extent, group_log: int) -> tuple[int, int]:
    """128 bits: a flag for unwritten blocks, 54 of offset in the file, 52 of block number, 21 of length."""
    start = extent.group << group_log | extent.start
    packed = extent.logical << 73 | start << 21 | extent.count
    return packed >> 64, packed & 2**64 - 1
