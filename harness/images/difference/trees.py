"""Why two filesystems differ: superblock, files, and the metadata that neither explains.

In ext4 every byte can be attributed: what follows from a reported difference (its inode, its blocks) is not reported
again. Elsewhere metadata is looked at only if the files explain nothing.
"""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from uuid import UUID

from harness.errors import HarnessError
from harness.images.block import Part
from harness.images.difference.differing import Cause, Difference, count_differing, moment
from harness.images.filesystems.ext4 import Ext4
from harness.images.filesystems.files import Entry, Files, open_files, shown
from harness.images.filesystems.superblock import Filesystem, identify

# Linux Documentation/filesystems/ext4, super.rst and inodes.rst: offsets of what is otherwise not compared.
SUPERBLOCK_TIMES = {0x2C: "last mount", 0x30: "last write", 0x40: "last check", 0x108: "creation"}
SUPERBLOCK_COUNTS = {0x34: ("<H", "mount count"), 0x178: ("<Q", "kilobytes ever written")}
HASH_SEED = 0xEC
INODE_TIMES = {"atime": (0x08, 0x8C), "ctime": (0x0C, 0x84), "creation time": (0x90, 0x94)}
GENERATION = 0x64
RESERVED_INODES = range(1, 11)
CHECKSUM_SEED = 0x2000  # incompatible feature: checksums begin with a seed of their own instead of the UUID
# What the superblock says that follows from the files, or that is said elsewhere.
CONSEQUENCES = {"free_blocks", "volume_id", "metadata_csum_seed", "boot_label"}
DIGEST = re.compile(r"[0-9a-f]{64}|(?<=/)[0-9a-f]{2}/[0-9a-f]{62}")  # in names: another content, another name
END = ["\U0010ffff"]  # sorts after every path


def explain_filesystem(one: Part, other: Part, label: str) -> Iterator[Difference]:
    """The differences of two filesystems whose bytes are not the same: superblock, files, metadata."""
    first, second = identify(one), identify(other)
    if first and second and first.type == second.type:
        yield from _Comparison(one, other, label).differences(first, second)
    elif first or second:
        kinds = (found.type if found else "no filesystem" for found in (first, second))
        yield Difference(label, "", "kind", " / ".join(kinds))
    else:
        yield Difference(label, "", "content", count_differing(one, other))


class _Comparison:
    """One comparison of two filesystems of one type."""

    def __init__(self, one: Part, other: Part, label: str) -> None:
        self.one, self.other, self.label = one, other, label
        self.found = 0
        self.explained: list[tuple[int, int]] = []  # bytes that differ because of what was reported
        self.is_moved = False  # things lie in other places, so all metadata may differ
        self.linked: set[tuple[int, int]] = set()  # inodes with several names that were compared under one of them
        self.renumbered: list[str] = []

    def differences(self, first: Filesystem, second: Filesystem) -> Iterator[Difference]:
        """All of them, in order."""
        try:
            yield from self._superblock(first, second)
            files = open_files(self.one), open_files(self.other)
            yield from self._trees(*files, "/", "/")
        except HarnessError as cause:
            rest = count_differing(self.one, self.other)
            yield self._told("", "metadata", f"{rest}; files cannot be compared: {cause}")
            return
        if self.renumbered and not self.is_moved:
            yield self._told(self.renumbered[0], "metadata", f"{len(self.renumbered)} inodes have other numbers")
            self.is_moved = True
        is_attributable = isinstance(files[0].mount("/").inodes, Ext4) and not self.is_moved
        if not is_attributable and self.found:
            return
        if rest := count_differing(self.one, self.other, self.explained):
            yield self._told("", "metadata", f"{rest}, explained by no file")

    def _told(self, path: str, cause: Cause, detail: str) -> Difference:
        self.found += 1
        return Difference(self.label, path, cause, detail)

    def _superblock(self, first: Filesystem, second: Filesystem) -> Iterator[Difference]:
        if first.uuid != second.uuid:
            yield self._told("", "UUID", f"{first.uuid} / {second.uuid}")
        if first.label != second.label:
            yield self._told("", "label", f"{first.label!r} / {second.label!r}")
        if first.size != second.size:
            yield self._told("", "metadata", f"size {first.size:,} / {second.size:,}")
        for key in sorted({*first.details, *second.details} - CONSEQUENCES):
            if first.details.get(key) != second.details.get(key):
                yield self._told("", "metadata", f"{key} {first.details.get(key)} / {second.details.get(key)}")
        if first.type.startswith("ext"):
            for cause, detail in _ext_superblock(self.one.read(1024, 1024), self.other.read(1024, 1024)):
                yield self._told("", cause, detail)
            seeds = [_seeds(part.read(1024, 1024)) for part in (self.one, self.other)]
            self.is_moved = seeds[0] != seeds[1]
            if self.found:  # the copies say the same; the reserved inodes have the times of the first
                for inodes in (Ext4(self.one), Ext4(self.other)):
                    self.explained += [(at, at + 1024) for at in inodes.superblocks()]
                    self.explained += [inodes.slot(number) for number in RESERVED_INODES]

    def _trees(self, one: Files, other: Files, top: str, other_top: str) -> Iterator[Difference]:
        """Two walks side by side: each gives parents first, then names sorted."""
        left, right = one.walk(top), other.walk(other_top)
        mine, theirs = next(left, None), next(right, None)
        alone: tuple[list[Entry], list[Entry]] = [], []
        while mine or theirs:
            here, there = _order(mine, top), _order(theirs, other_top)
            if mine and theirs and here == there:
                yield from self._entry(one, other, mine, theirs)
            elif mine and here < there:
                _keep_topmost(alone[0], mine)
            elif theirs:
                _keep_topmost(alone[1], theirs)
            if here <= there:
                mine = next(left, None)
            if there <= here:
                theirs = next(right, None)
        self.is_moved |= any(alone)
        yield from self._alone(one, other, *alone)

    def _alone(self, one: Files, other: Files, mine: list[Entry], theirs: list[Entry]) -> Iterator[Difference]:
        """What only one side has; where two names differ in a digest only, also what differs inside."""
        by_name: dict[str, tuple[list[Entry], list[Entry]]] = defaultdict(lambda: ([], []))
        for side, entries in enumerate((mine, theirs)):
            for entry in entries:
                by_name[DIGEST.sub("...", entry.path)][side].append(entry)
        for name, (here, there) in sorted(by_name.items()):
            for entry in (*here, *there):
                yield self._told(entry.path, "missing", f"only in the {'first' if entry in here else 'second'}")
            if "..." in name and len(here) == len(there) == 1 and here[0].kind == there[0].kind != "symlink":
                yield from self._trees(one, other, here[0].path, there[0].path)

    def _entry(self, one: Files, other: Files, mine: Entry, theirs: Entry) -> Iterator[Difference]:
        pair = (mine.inode, theirs.inode)
        if mine.links > 1 and mine.kind != "directory":
            if pair in self.linked:
                return
            self.linked.add(pair)
        before = self.found
        for cause, detail in _reasons(one, other, mine, theirs):
            yield self._told(mine.path, cause, detail)
        if mine.inode != theirs.inode:
            self.renumbered.append(mine.path)
        inodes = one.mount("/").inodes, other.mount("/").inodes
        if not isinstance(inodes[0], Ext4) or not isinstance(inodes[1], Ext4):
            return
        for cause, detail in _ext_inode(inodes[0].raw_inode(mine.inode), inodes[1].raw_inode(theirs.inode)):
            yield self._told(mine.path, cause, detail)
        if self.found > before:
            footprints = list(inodes[0].footprint(mine.inode)), list(inodes[1].footprint(theirs.inode))
            self.explained += [*footprints[0], *footprints[1]]
            self.is_moved |= footprints[0] != footprints[1]


def _order(entry: Entry | None, top: str) -> list[str]:
    return END if entry is None else entry.path.removeprefix(top.rstrip("/")).split("/")


def _keep_topmost(entries: list[Entry], entry: Entry) -> None:
    """What lies below something missing is missing, too."""
    if not entries or not entry.path.startswith(f"{entries[-1].path}/"):
        entries.append(entry)


def _reasons(one: Files, other: Files, mine: Entry, theirs: Entry) -> Iterator[tuple[Cause, str]]:
    if mine.kind != theirs.kind:
        yield "kind", f"{mine.kind} / {theirs.kind}"
        return
    if mine.mode != theirs.mode:
        yield "mode", f"{mine.mode:04o} / {theirs.mode:04o}"
    if mine.immutable != theirs.immutable:
        yield "mode", f"immutable only in the {'first' if mine.immutable else 'second'}"
    if (mine.uid, mine.gid) != (theirs.uid, theirs.gid):
        yield "owner", f"{mine.uid}:{mine.gid} / {theirs.uid}:{theirs.gid}"
    if (mine.mtime, mine.mtime_ns) != (theirs.mtime, theirs.mtime_ns):
        yield "mtime", f"{moment(mine.mtime, mine.mtime_ns)} / {moment(theirs.mtime, theirs.mtime_ns)}"
    if detail := _xattrs(one.xattrs(mine.path), other.xattrs(theirs.path)):
        yield "xattr", detail
    if mine.target != theirs.target:
        yield "content", f"leads to {shown(mine.target)} / {shown(theirs.target)}"
    if mine.device != theirs.device:
        yield "content", f"device {mine.device} / {theirs.device}"
    if mine.kind == "file" and (at := _first_difference(one.chunks(mine.path), other.chunks(theirs.path))) is not None:
        sizes = "" if mine.size == theirs.size else f"{mine.size:,} / {theirs.size:,} bytes, "
        yield "content", f"{sizes}the first difference is at byte {at:,}"


def _xattrs(mine: Mapping[str, bytes], theirs: Mapping[str, bytes]) -> str:
    names = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
    values = ((shown(name), mine.get(name, b"")[:40], theirs.get(name, b"")[:40]) for name in names)
    return ", ".join(f"{name} {first!r} / {second!r}" for name, first, second in values)


def _first_difference(mine: Iterator[bytes], theirs: Iterator[bytes]) -> int | None:
    position = 0
    for left, right in zip_longest(mine, theirs, fillvalue=b""):
        if left != right:
            pairs = enumerate(zip(left, right, strict=False))
            return position + next((at for at, (a, b) in pairs if a != b), min(len(left), len(right)))
        position += len(left)
    return None


def _ext_superblock(mine: bytes, theirs: bytes) -> Iterator[tuple[Cause, str]]:
    for at, name in SUPERBLOCK_TIMES.items():
        first, second = (struct.unpack_from("<I", raw, at)[0] for raw in (mine, theirs))
        if first != second:
            yield "timestamp", f"{name} of the filesystem {moment(first)} / {moment(second)}"
    for at, (form, name) in SUPERBLOCK_COUNTS.items():
        first, second = (struct.unpack_from(form, raw, at)[0] for raw in (mine, theirs))
        if first != second:
            yield "metadata", f"{name} {first:,} / {second:,}"
    seeds = [UUID(bytes=raw[HASH_SEED : HASH_SEED + 16]) for raw in (mine, theirs)]
    if seeds[0] != seeds[1]:
        yield "UUID", f"directory hash seed {seeds[0]} / {seeds[1]}"


def _seeds(superblock: bytes) -> bytes:
    """What the checksum of every metadata block and the order of every large directory begin with."""
    (features,) = struct.unpack_from("<I", superblock, 0x60)
    checksum = superblock[0x270:0x274] if features & CHECKSUM_SEED else superblock[0x68:0x78]
    return checksum + superblock[HASH_SEED : HASH_SEED + 16]


def _ext_inode(mine: bytes, theirs: bytes) -> Iterator[tuple[Cause, str]]:
    for name, (low, high) in INODE_TIMES.items():
        if (first := _time(mine, low, high)) != (second := _time(theirs, low, high)):
            yield "timestamp", f"{name} {moment(*first)} / {moment(*second)}"
    first_one, second_one = (struct.unpack_from("<I", raw, GENERATION)[0] for raw in (mine, theirs))
    if first_one != second_one:
        yield "metadata", f"inode generation {first_one} / {second_one}"


def _time(raw: bytes, low: int, high: int) -> tuple[int, int]:
    """Seconds and nanoseconds; fields that a small inode lacks read as zero."""
    seconds = struct.unpack_from("<i", raw, low)[0] if low + 4 <= len(raw) else 0
    extra = struct.unpack_from("<I", raw, high)[0] if high + 4 <= len(raw) else 0
    return seconds + ((extra & 3) << 32), extra >> 2
