"""The disk inside a tar archive, read where it lies: gcp's `disk.raw`, the VMDK of an OVA, or the only disk there is.

A member is a window on the archive; one that GNU tar stored sparsely has its holes back. What the member is, raw or a
container format of its own, is told by its first bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.extents import Extent, ExtentKind, extents_of
from harness.images.formats import vhd, vhdx, vmdk
from harness.images.formats.disk import Disk, Fact
from harness.images.formats.qcow2 import MAGIC as QCOW2_MAGIC
from harness.images.formats.qcow2 import Qcow2Block
from harness.images.formats.raw import FileBlock
from harness.images.formats.tar import Member, read_members

SNIFFED = 512  # bytes of a member, to see what it is
INSIDE: tuple[tuple[str, Callable[[bytes, Block], bool], Callable[..., Disk]], ...] = (
    ("qcow2", lambda head, _: head.startswith(QCOW2_MAGIC), Qcow2Block),
    ("vmdk", vmdk.recognises, vmdk.VmdkBlock),
    ("vhdx", vhdx.recognises, vhdx.VhdxBlock),
    ("vhd", vhd.recognises, vhd.VhdBlock),
)
DISK_SUFFIXES = (".raw", ".img", ".qcow2", ".vmdk", ".vhd", ".vhdx", ".iso")
SHOWN = 8  # names of members in messages and facts
UNPACK = "unpack it with tar and name the disk inside"


class MemberBlock:
    """The bytes of one member, with holes where a sparse map or the archive's own file has them."""

    def __init__(self, archive: Block, member: Member, name: str) -> None:
        self.name = name
        self.size = member.size
        self._archive = archive
        self._parts = member.sparse.parts if member.sparse else ((0, member.size),)
        lengths = accumulate((length for _, length in self._parts), initial=member.start)
        self._sources = list(lengths)[:-1]  # where each part lies in the archive
        self._offsets = [offset for offset, _ in self._parts]

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DamagedImage(
                f"read of {length:,} bytes at {offset:,} lies beyond its end at {self.size:,}", where=self.name
            )
        pieces, end = [], offset + length
        index = max(0, bisect_right(self._offsets, offset) - 1)
        while offset < end:
            start, stored = self._parts[index] if index < len(self._parts) else (end, 0)
            if offset < start:
                bite = min(start, end) - offset
                pieces.append(bytes(bite))
            else:
                bite = max(0, min(start + stored, end) - offset)
                if bite:
                    pieces.append(self._archive.read(self._sources[index] + offset - start, bite))
                index += 1
            offset += bite
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def extents(self) -> Iterator[Extent]:
        """Holes of the sparse map and, within the parts that are stored, holes of the archive's file."""
        stored = _Stretches(extents_of(self._archive))
        at = 0
        for (offset, length), source in zip(self._parts, self._sources, strict=True):
            if offset > at:
                yield Extent(at, offset - at, "hole")
            for kind, start, end in stored.within(source, source + length):
                yield Extent(offset + start - source, end - start, kind)
            at = offset + length
        if at < self.size:
            yield Extent(at, self.size - at, "hole")

    def facts(self) -> Mapping[str, Fact]:
        return {}

    def close(self) -> None:
        """Nothing: the archive belongs to whoever opened it."""


class _Stretches:
    """Extents asked for in rising order, so that one pass over them is enough."""

    def __init__(self, extents: Iterator[Extent]) -> None:
        self._extents = extents
        self._now = next(extents, None)

    def within(self, start: int, end: int) -> Iterator[tuple[ExtentKind, int, int]]:
        while start < end:
            while self._now is not None and self._now.offset + self._now.length <= start:
                self._now = next(self._extents, None)
            if self._now is None:  # the file shrank under our eyes: reading will say so
                yield "data", start, end
                return
            stop = min(end, self._now.offset + self._now.length)
            yield self._now.kind, start, stop
            start = stop


class ArchivedDisk:
    """The virtual disk in an archive; closing it closes the archive.

    Raises what `read_members` and `the_disk` raise, and what the format inside does.
    """

    def __init__(self, archive: FileBlock) -> None:
        self._archive = archive
        self.members = read_members(archive)
        self.member = self._choose()
        window = MemberBlock(archive, self.member, f"{archive.name}: {self.member.name!r}")
        self.inside, self._disk = _opened(window)

    def _choose(self) -> Member:
        return the_disk(self.members, self._archive.name)

    @property
    def name(self) -> str:
        return self._disk.name

    @property
    def size(self) -> int:
        return self._disk.size

    def read(self, offset: int, length: int) -> bytes:
        return self._disk.read(offset, length)

    def extents(self) -> Iterator[Extent]:
        return extents_of(self._disk)

    def facts(self) -> Mapping[str, Fact]:
        """What the archive says of itself, then what the format inside says, with its name before each."""
        member, inside = self.member, self._disk.facts()
        names = ", ".join(repr(each.name)[1:-1] for each in self.members[:SHOWN])
        owners = {"/".join("?" if each is None else str(each) for each in each.owner) for each in self.members}
        return {
            "members": names if len(self.members) <= SHOWN else f"{names} and {len(self.members) - SHOWN} more",
            "dialect": ", ".join(sorted({each.dialect for each in self.members})),
            "owner": ", ".join(sorted(owners)[:SHOWN]),
            "disk": repr(member.name)[1:-1],
            "disk_format": self.inside,
            "disk_bytes": member.size,
            "sparse": member.sparse is not None,
            **{f"{self.inside}_{key}": value for key, value in inside.items()},
        }

    def close(self) -> None:
        self._disk.close()
        self._archive.close()


def the_disk(members: Sequence[Member], where: str) -> Member:
    """The member that is the disk: the only file, or the only one that is called like a disk.

    Raises UnsupportedImage where there is none or a choice.
    """
    files = [member for member in members if member.kind == "file"]
    named = [member for member in files if member.name.lower().endswith(DISK_SUFFIXES)]
    for found in (files, named):
        if len(found) == 1:
            return found[0]
    listing = ", ".join(repr(member.name) for member in members[:SHOWN]) or "nothing"
    count = f"{len(named)} disks" if named else "no file that is called like a disk"
    raise UnsupportedImage(f"is a tar archive with {count}; it holds {listing}", where=where, next_step=UNPACK)


def _opened(window: MemberBlock) -> tuple[str, Disk]:
    head = window.read(0, min(SNIFFED, window.size))
    for name, recognises, reader in INSIDE:
        if recognises(head, window):
            disk = reader(window, name=window.name)
            if isinstance(disk, Qcow2Block):
                disk.check_length()
            return name, disk
    return "raw", window
