"""Why two superblocks of one kind differ: their fields as data, each with its cause and the knob that removes it.

A field that follows from others (checksums, free counts) has no cause: it explains its bytes and is not reported.
Facts: Linux Documentation/filesystems/ext4/super.rst; XFS Algorithms & Data Structures, "Superblocks"; Linux
fs/squashfs/squashfs_fs.h, fs/erofs/erofs_fs.h, fs/btrfs/ctree.h; Microsoft, FAT specification 1.03; ECMA-119, 8.4.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal
from uuid import UUID

from harness.images.block import Part
from harness.images.difference.causes import Cause, moment
from harness.images.filesystems.superblock_ext import COMPATIBLE, INCOMPATIBLE, READ_ONLY_COMPATIBLE
from harness.images.filesystems.superblock_parts import flags

Form = Literal["time", "uuid", "text", "number", "hex", "bytes"]
FAT32_AT_16 = b"\0\0"  # FAT32 has no table size where the others have it


@dataclass(frozen=True, slots=True)
class Field:
    """Bytes of a superblock: where, how they read, and why they differ (None: because something else does)."""

    offset: int
    size: int
    name: str
    cause: Cause | None
    knob: str = ""
    form: Form = "number"
    flags: Mapping[int, str] = field(default_factory=dict)
    follows: str = ""  # the name of a field: where that differs, this one need not be told


@dataclass(frozen=True, slots=True)
class Superblock:
    """The fields of one kind at their place, numbers in one byte order."""

    start: int
    size: int
    order: Literal["little", "big"]
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """A field, or several of one cause and value, that differ."""

    names: tuple[str, ...]
    cause: Cause
    first: str
    second: str
    knob: str
    raw: tuple[bytes, bytes]

    @property
    def detail(self) -> str:
        return f"{', '.join(self.names)} {self.first} / {self.second}"


def _times(*rows: tuple[int, str], knob: str, size: int = 4) -> tuple[Field, ...]:
    return tuple(Field(offset, size, name, "timestamp", knob, "time") for offset, name in rows)


EXT4: Final = Superblock(1024, 1024, "little", (
    Field(0x00, 4, "inodes", "size"), Field(0x04, 4, "blocks", "size"), Field(0x150, 4, "blocks (high)", "size"),
    Field(0x08, 4, "reserved blocks", "metadata", "features"), Field(0x0C, 4, "free blocks", None),
    Field(0x10, 4, "free inodes", None), Field(0x158, 4, "free blocks (high)", None),
    Field(0x14, 4, "first block", "format"), Field(0x18, 4, "log block size", "format", "features"),
    Field(0x1C, 4, "log cluster size", "format", "features"), Field(0x20, 4, "blocks per group", "format", "features"),
    Field(0x24, 4, "clusters per group", "format"), Field(0x28, 4, "inodes per group", "format", "features"),
    *_times((0x108, "creation"), (0x40, "last check"), (0x30, "last write"), knob="time"),
    Field(0x2C, 4, "last mount", "timestamp", "mounted", "time"),
    Field(0x276, 1, "creation (high)", "timestamp"), Field(0x277, 1, "last check (high)", "timestamp"),
    Field(0x274, 1, "last write (high)", "timestamp"), Field(0x275, 1, "last mount (high)", "timestamp"),
    Field(0x34, 2, "mount count", "metadata", "mounted"), Field(0x36, 2, "most mounts", "metadata", "features"),
    Field(0x44, 4, "check interval", "metadata", "features"), Field(0x3A, 2, "state", "metadata", "mounted", "hex"),
    Field(0x3C, 2, "errors behaviour", "metadata", "features"), Field(0x48, 4, "creator system", "format"),
    Field(0x50, 4, "reserved owner", "owner", "", "hex"), Field(0x54, 4, "first inode", "format"),
    Field(0x58, 2, "inode size", "format", "features"),
    Field(0x5C, 4, "features", "format", "features", "hex", COMPATIBLE),
    Field(0x60, 4, "features", "format", "features", "hex", INCOMPATIBLE),
    Field(0x64, 4, "features", "format", "features", "hex", READ_ONLY_COMPATIBLE),
    Field(0x68, 16, "UUID", "UUID", "uuid", "uuid"), Field(0x78, 16, "label", "label", "label", "text"),
    Field(0x88, 64, "last mounted on", "metadata", "mounted", "text"),
    Field(0xCE, 2, "reserved descriptor blocks", "format", "features"),
    Field(0xD0, 16, "journal UUID", "UUID", "uuid", "uuid"), Field(0xE0, 4, "journal inode", "format"),
    Field(0xE8, 4, "first orphan", "metadata", "mounted"),
    Field(0xEC, 16, "hash seed", "hash seed", "hash seed", "uuid"),
    Field(0xFC, 1, "hash version", "format"), Field(0xFE, 2, "descriptor size", "format", "features"),
    Field(0x100, 4, "default mount options", "metadata", "features", "hex"),
    Field(0x10C, 68, "copy of the journal's map", None), Field(0x15C, 4, "extra inode size", "format"),
    Field(0x160, 4, "flags", "metadata", "features", "hex"), Field(0x164, 2, "RAID stride", "format", "features"),
    Field(0x170, 4, "RAID stripe width", "format", "features"), Field(0x174, 1, "log groups per flex", "format"),
    Field(0x178, 8, "kilobytes ever written", None), Field(0x194, 4, "errors seen", "metadata"),
    Field(0x198, 0x68, "record of errors", "metadata", "", "bytes"),
    Field(0x200, 64, "mount options", "metadata", "features", "text"), Field(0x248, 4, "overhead", None),
    Field(0x268, 4, "inode of lost+found", None),
    Field(0x270, 4, "checksum seed", "UUID", "uuid", "hex", follows="UUID"),
    Field(0x3FC, 4, "checksum", None),
))  # fmt: skip

XFS: Final = Superblock(0, 512, "big", (
    Field(4, 4, "block size", "format", "features"), Field(8, 8, "blocks", "size"),
    Field(32, 16, "UUID", "UUID", "uuid", "uuid"), Field(48, 8, "log start", "format"),
    Field(84, 4, "blocks per group", "size", "features"), Field(88, 4, "groups", "size", "features"),
    Field(96, 4, "log blocks", "format", "features"), Field(100, 2, "version", "format", "features", "hex"),
    Field(102, 2, "sector size", "format", "features"), Field(104, 2, "inode size", "format", "features"),
    Field(108, 12, "label", "label", "label", "text"), Field(126, 1, "in progress", "metadata"),
    Field(127, 1, "inode percentage", "format", "features"), Field(128, 8, "inodes", None),
    Field(136, 8, "free inodes", None), Field(144, 8, "free blocks", None), Field(176, 2, "quota flags", "metadata"),
    Field(200, 4, "features", "format", "features", "hex"), Field(208, 4, "features", "format", "features", "hex"),
    Field(212, 4, "features", "format", "features", "hex"), Field(216, 4, "features", "format", "features", "hex"),
    Field(224, 4, "checksum", None), Field(240, 8, "last write in the log", None),
    Field(248, 16, "UUID of its metadata", "UUID", "uuid", "uuid"),
))  # fmt: skip

BTRFS: Final = Superblock(65536, 4096, "little", (
    Field(0, 32, "checksum", None), Field(32, 16, "UUID", "UUID", "uuid", "uuid"),
    Field(72, 8, "generation", "metadata"), Field(80, 8, "root tree", None), Field(88, 8, "chunk tree", None),
    Field(112, 8, "size", "size"), Field(120, 8, "bytes used", None), Field(144, 4, "sector size", "format"),
    Field(148, 4, "node size", "format"), Field(172, 8, "features", "format", "features", "hex"),
    Field(180, 8, "features", "format", "features", "hex"), Field(188, 8, "features", "format", "features", "hex"),
    Field(267, 16, "UUID of the device", "UUID", "uuid", "uuid"), Field(299, 256, "label", "label", "label", "text"),
))  # fmt: skip

SQUASHFS: Final = Superblock(0, 96, "little", (
    Field(4, 4, "inodes", None), *_times((8, "creation"), knob="time"),
    Field(12, 4, "block size", "format"), Field(16, 4, "fragments", None),
    Field(20, 2, "compression", "compression level"), Field(24, 2, "flags", "format", "", "hex"),
    Field(26, 2, "owners", None), Field(32, 64, "places of its tables", None),
))  # fmt: skip

EROFS: Final = Superblock(1024, 128, "little", (
    Field(4, 4, "checksum", None), Field(8, 4, "features", "format", "", "hex"),
    Field(12, 1, "log block size", "format"), Field(16, 8, "inodes", None),
    *_times((24, "creation"), knob="time", size=8),
    Field(32, 4, "creation (nanoseconds)", "timestamp", "time"), Field(36, 4, "blocks", None),
    Field(48, 16, "UUID", "UUID", "uuid", "uuid"), Field(64, 16, "label", "label", "label", "text"),
    Field(80, 4, "features", "format", "", "hex"),
))  # fmt: skip

ISO9660: Final = Superblock(32768, 2048, "little", (
    Field(8, 32, "system", "label", "", "text"), Field(40, 32, "label", "label", "label", "text"),
    Field(80, 4, "blocks", None), Field(84, 4, "blocks (big-endian)", None),
    Field(190, 128, "volume set", "label", "", "text"), Field(318, 128, "publisher", "label", "", "text"),
    Field(446, 128, "preparer", "label", "", "text"), Field(574, 128, "application", "label", "", "text"),
    Field(813, 17, "creation", "timestamp", "time", "text"),
    Field(830, 17, "modification", "timestamp", "time", "text"),
    Field(847, 34, "expiration", "timestamp", "time", "text"),
))  # fmt: skip

SWAP: Final = Superblock(1024, 44, "little", (
    Field(0, 4, "version", "format"), Field(4, 4, "last page", "size"),
    Field(12, 16, "UUID", "UUID", "uuid", "uuid"), Field(28, 16, "label", "label", "label", "text"),
))  # fmt: skip


def _vfat(start: int) -> Superblock:
    """The boot sector; `start` is where its extended part lies: 36, or 64 in FAT32."""
    return Superblock(0, 512, "little", (
        Field(3, 8, "system name", "format", "features", "text"), Field(11, 2, "sector size", "format", "features"),
        Field(13, 1, "sectors per cluster", "format", "features"),
        Field(14, 2, "reserved sectors", "format", "features"),
        Field(16, 1, "tables", "format", "features"), Field(17, 2, "root entries", "format", "features"),
        Field(19, 2, "sectors", "size"), Field(32, 4, "sectors", "size"), Field(22, 2, "table sectors", "format"),
        Field(24, 4, "geometry", "format", "", "hex"), Field(28, 4, "hidden sectors", "format", "", "hex"),
        Field(start + 3, 4, "volume id", "UUID", "uuid", "hex"), Field(start + 7, 11, "boot sector's label", None),
    ))  # fmt: skip


def superblock_of(kind: str, part: Part) -> Superblock | None:
    """The fields of a filesystem of this type, by blkid's name."""
    if kind == "vfat":
        return _vfat(64 if part.read(22, 2) == FAT32_AT_16 else 36)
    if kind in {"ext2", "ext3", "ext4"}:
        return EXT4
    known = {"xfs": XFS, "btrfs": BTRFS, "squashfs": SQUASHFS, "erofs": EROFS, "iso9660": ISO9660, "swap": SWAP}
    return known.get(kind)


def told(shape: Superblock, mine: bytes, theirs: bytes) -> Iterator[Told]:
    """The fields that differ; those of one cause with the same pair of values come as one."""
    groups: dict[tuple[Cause, str, str, str], list[Field]] = defaultdict(list)
    names: set[str] = set()
    for each in shape.fields:
        first, second = (raw[each.offset : each.offset + each.size] for raw in (mine, theirs))
        if each.cause is not None and first != second and each.follows not in names:
            left, right = _shown(each, first, second, shape.order)
            groups[each.cause, left, right, each.knob].append(each)
            names.add(each.name)
    for (cause, left, right, key), fields in groups.items():
        raws = tuple(raw[fields[0].offset : fields[0].offset + fields[0].size] for raw in (mine, theirs))
        yield Told(tuple(dict.fromkeys(each.name for each in fields)), cause, left, right, key, (raws[0], raws[1]))


def ranges(shape: Superblock, start: int) -> Iterator[tuple[int, int]]:
    """The bytes of all fields of a superblock that begins at `start`."""
    for each in shape.fields:
        yield start + each.offset, start + each.offset + each.size


def _shown(each: Field, first: bytes, second: bytes, order: Literal["little", "big"]) -> tuple[str, str]:
    if each.flags:
        sets = [set(flags(int.from_bytes(raw, order), each.flags)) for raw in (first, second)]
        return ", ".join(sorted(sets[0] - sets[1])) or "without", ", ".join(sorted(sets[1] - sets[0])) or "without"
    return FORMS[each.form](first, order), FORMS[each.form](second, order)


def _text(raw: bytes) -> str:
    return repr(raw.split(b"\0", 1)[0].decode("utf-8", "replace").rstrip())


FORMS: Final[Mapping[Form, Callable[[bytes, Literal["little", "big"]], str]]] = {
    "time": lambda raw, order: moment(int.from_bytes(raw, order)),
    "uuid": lambda raw, _: str(UUID(bytes=raw)),
    "text": lambda raw, _: _text(raw),
    "number": lambda raw, order: f"{int.from_bytes(raw, order):,}",
    "hex": lambda raw, order: f"{int.from_bytes(raw, order):#x}",
    "bytes": lambda raw, _: raw[:16].hex(" "),
}
