"""Why two filesystems differ: superblock, files, and the metadata that neither explains.

In ext4 every byte can be attributed: what follows from a reported difference (its inode, its blocks) is not reported
again. Elsewhere metadata is looked at only if the files explain nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import zip_longest
from uuid import UUID

from harness.errors import HarnessError
from harness.images.block import Part
from harness.images.difference import Cause, Difference, count_differing
from harness.images.ext4 import Ext4
from harness.images.files import Entry, Files, open_files
from harness.images.inodes import Inodes
from harness.images.superblock import Filesystem, identify

# Linux Documentation/filesystems/ext4, super.rst and inodes.rst: offsets of what is otherwise not compared.
SUPERBLOCK_TIMES = {0x2C: "last mount", 0x30: "last write", 0x40: "last check", 0x108: "creation"}
HASH_SEED = 0xEC
INODE_TIMES = {"atime": (0x08, 0x8C), "ctime": (0x0C, 0x84), "creation time": (0x90, 0x94)}
GENERATION = 0x64
# What the superblock says that follows from the files, or that is said elsewhere.
CONSEQUENCES = {"free_blocks", "volume_id", "metadata_csum_seed"}


def explain_filesystem(one: Part, other: Part, label: str) -> Iterator[Difference]:
    """The differences of two filesystems, in order of superblock, files, metadata."""
    first, second = identify(one), identify(other)
    if first is None or second is None or first.type != second.type:
        if first or second:
            kinds = (found.type if found else "no filesystem" for found in (first, second))
            yield Difference(label, "", "kind", " / ".join(kinds))
        else:
            yield Difference(label, "", "content", count_differing(one, other))
        return
    yield from _Comparison(one, other, label).differences(first, second)


class _Comparison:
    """One comparison of two filesystems of one type."""

    def __init__(self, one: Part, other: Part, label: str) -> None:
        self.one, self.other, self.label = one, other, label
        self.explained: list[tuple[int, int]] = []  # bytes that differ because of what was reported
        self.is_moved = False  # files lie in other places, so all metadata may differ
        self.found = 0
        self.seen: set[tuple[int, int]] = set()
        self.renumbered: list[str] = []

    def differences(self, first: Filesystem, second: Filesystem) -> Iterator[Difference]:
        yield from self._superblock(first, second)
        try:
            files = open_files(self.one), open_files(self.other)
            yield from self._files(*files)
        except HarnessError as cause:
            yield self._told("", "metadata", f"{count_differing(self.one, self.other)}; files cannot be compared: {cause}")
            return
        if self.renumbered and not self.is_moved:
            yield self._told(self.renumbered[0], "metadata", f"{len(self.renumbered)} inodes have other numbers")
            self.is_moved = True
        inodes = files[0].mount("/").inodes
        is_attributable = isinstance(inodes, Ext4) and not self.is_moved
        if is_attributable or not self.found:
            if rest := count_differing(self.one, self.other, self.explained):
                yield self._told("", "metadata", f"{rest}, in no file")

    def _told(self, path: str, cause: Cause, detail: str) -> Difference:
        self.found += 1
        return Difference(self.label, path, cause, detail)

    def _superblock(self, first: Filesystem, second: Filesystem) -> Iterator[Difference]:
        before = self.found
        if first.uuid != second.uuid:
            yield self._told("", "UUID", f"{first.uuid} / {second.uuid}")
            # without a seed of their own, all checksums begin with the UUID
            self.is_moved = not (first.details.get("metadata_csum_seed") and second.details.get("metadata_csum_seed"))
        if first.label != second.label:
            yield self._told("", "label", f"{first.label!r} / {second.label!r}")
        if first.size != second.size:
            yield self._told("", "metadata", f"size {first.size:,} / {second.size:,}")
        for key in sorted(set(first.details) | set(second.details)):
            if key not in CONSEQUENCES and first.details.get(key) != second.details.get(key):
                yield self._told("", "metadata", f"{key} {first.details.get(key)} / {second.details.get(key)}")
        if first.type.startswith("ext"):
            yield from self._ext_superblock(self.one.read(1024, 1024), self.other.read(1024, 1024))
        if self.found > before and first.type.startswith("ext"):
            for part in (self.one, self.other):
                self.explained += [(at, at + 1024) for at in Ext4(part).superblocks()]

    def _ext_superblock(self, first: bytes, second: bytes) -> Iterator[Difference]:
        for at, name in SUPERBLOCK_TIMES.items():
            times = [struct.unpack_from("<I", raw, at)[0] for raw in (first, second)]
            if times[0] != times[1]:
                yield self._told("", "timestamp", f"{name} {moment(times[0])} / {moment(times[1])}")
        seeds = [UUID(bytes=raw[HASH_SEED : HASH_SEED + 16]) for raw in (first, second)]
        if seeds[0] != seeds[1]:
            yield self._told("", "UUID", f"directory hash seed {seeds[0]} / {seeds[1]}")
            self.is_moved = True

    def _files(self, one: Files, other: Files) -> Iterator[Difference]:
        """Both walks side by side: each gives parents first, then names sorted."""
        left, right = one.walk(), other.walk()
        mine, theirs = next(left, None), next(right, None)
        while mine or theirs:
            order = _compare(mine, theirs)
            if order == 0 and mine and theirs:
                yield from self._entry(one, other, mine, theirs)
            else:
                alone = mine if order < 0 else theirs
                yield self._told(alone.path if alone else "", "missing", f"only in the {_ORDINAL[order < 0]}")
                self.is_moved = True
            if order <= 0:
                mine = next(left, None)
            if order >= 0:
                theirs = next(right, None)

    def _entry(self, one: Files, other: Files, mine: Entry, theirs: Entry) -> Iterator[Difference]:
        pair = (mine.inode, theirs.inode)
        if mine.links > 1 and mine.kind != "directory":
            if pair in self.seen:
                return
            self.seen.add(pair)
        if mine.inode != theirs.inode:
            self.renumbered.append(mine.path) if len(self.renumbered) < 2**20 else None
        before = self.found
        for cause, detail in _attributes(mine, theirs):
            yield self._told(mine.path, cause, detail)
        if detail := _xattrs(one.xattrs(mine.path), other.xattrs(theirs.path)):
            yield self._told(mine.path, "xattr", detail)
        if mine.kind == theirs.kind == "file" and (detail := _content(one, other, mine, theirs)):
            yield self._told(mine.path, "content", detail)
        inodes = one.mount("/").inodes, other.mount("/").inodes
        if isinstance(inodes[0], Ext4) and isinstance(inodes[1], Ext4):
            for cause, detail in _ext_inode(inodes[0].raw_inode(mine.inode), inodes[1].raw_inode(theirs.inode)):
                yield self._told(mine.path, cause, detail)
            if self.found > before:
                self._explain(inodes[0], inodes[1], pair)

    def _explain(self, one: Ext4, other: Ext4, pair: tuple[int, int]) -> None:
        footprints = list(one.footprint(pair[0])), list(other.footprint(pair[1]))
        self.explained += [*footprints[0], *footprints[1]]
        if footprints[0] != footprints[1]:
            self.is_moved = True


_ORDINAL = {True: "first", False: "second"}


def moment(seconds: int) -> str:
    """A time stamp for people: UTC, or the number where no calendar reaches."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)
