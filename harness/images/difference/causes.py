"""What a difference is, and why there is one: its place, its cause, and the knob that removes that cause.

The words of `Cause`, `Area` and of KNOBS are the vocabulary of docs/difference.md; the JSON of `harness diff` uses
them literally.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal, get_args

from harness.images.filesystems.files import shown

Area = Literal["container", "partition table", "filesystem", "file", "package", "bytes"]
Cause = Literal[
    "timestamp", "UUID", "hash seed", "CID", "label", "name", "format", "compression level", "size",
    "partition table", "directory order", "allocation", "content", "mode", "owner", "xattr", "kind", "hard link",
    "missing", "package", "metadata", "unexplained",
]  # fmt: skip
AREAS: Final[tuple[Area, ...]] = get_args(Area)

# What varies -> what makes it stay the same. Keys are `container`, `gpt` or a filesystem's family, then the field.
KNOBS: Final[Mapping[str, str]] = {
    "gz mtime": "gzip -n, or SOURCE_DATE_EPOCH with the library's mtime argument",
    "gz name": "gzip -n, or compress from standard input",
    "gz level": "one gzip level (-9) and one implementation everywhere",
    "gz system": "one implementation: gzip writes 3 (Unix), some libraries 255",
    "xz level": "xz -T1 (or a fixed --block-size) with one level and one check everywhere",
    "zst level": "one zstd level and the same --long, --check and --content-size everywhere",
    "disk cid": "blank or fix the CID line of the descriptor after qemu-img convert; QEMU draws it at random",
    "disk uuid": "overwrite it after qemu-img convert, with its checksum; QEMU draws it at random",
    "disk timestamp": "overwrite it after qemu-img convert, with its checksum (or run under a fixed clock)",
    "disk name": "convert to the same file name: the descriptor holds it",
    "disk format": "the same qemu-img -O and -o options (compat, cluster_size, subformat, adapter_type)",
    "disk compression": "the same qemu-img -c, and the same -o compression_type",
    "disk allocation": "qemu-img convert without -W and with -m 1, so that clusters are written in order",
    "gpt disk": "sgdisk -U GUID, sfdisk label-id:",
    "gpt partition": "sgdisk -u N:GUID, sfdisk uuid=",
    "gpt label": "sgdisk -c N:NAME, sfdisk name=",
    "gpt type": "sgdisk -t N:GUID, sfdisk type=",
    "gpt attributes": "sgdisk -A N:set:BIT, sfdisk attrs=",
    "gpt backup": "sgdisk -e moves it to the end; an image enlarged after partitioning keeps it where it was",
    "ext4 uuid": "mke2fs -U UUID",
    "ext4 hash seed": "mke2fs -E hash_seed=UUID",
    "ext4 time": "E2FSPROGS_FAKE_TIME=SECONDS for mke2fs, debugfs, tune2fs and e2fsck",
    "ext4 mounted": "write with mke2fs -d or debugfs instead of mounting",
    "ext4 label": "mke2fs -L LABEL",
    "ext4 features": "mke2fs -O and -E with every feature named, or one mke2fs.conf (MKE2FS_CONFIG)",
    "xfs uuid": "mkfs.xfs -m uuid=UUID",
    "xfs label": "mkfs.xfs -L LABEL",
    "xfs features": "mkfs.xfs with every -m, -i, -d option named",
    "vfat uuid": "mkfs.vfat -i VOLUMEID, or --invariant",
    "vfat label": "mkfs.vfat -n LABEL",
    "vfat features": "mkfs.vfat with -F, -s, -S and -f named",
    "vfat time": "SOURCE_DATE_EPOCH and TZ=UTC for mkfs.vfat and mtools",
    "btrfs uuid": "mkfs.btrfs -U UUID",
    "btrfs label": "mkfs.btrfs -L LABEL",
    "erofs uuid": "mkfs.erofs -U UUID",
    "erofs label": "mkfs.erofs -L LABEL",
    "erofs time": "mkfs.erofs -T SECONDS, or SOURCE_DATE_EPOCH",
    "squashfs time": "mksquashfs -mkfs-time SECONDS, or SOURCE_DATE_EPOCH",
    "iso9660 uuid": "xorriso -volume_date uuid, or SOURCE_DATE_EPOCH",
    "iso9660 time": "xorriso -volume_date all_file_dates, or SOURCE_DATE_EPOCH",
    "iso9660 label": "xorriso -volid LABEL",
    "swap uuid": "mkswap -U UUID",
    "file time": "touch -hd @SOURCE_DATE_EPOCH before the image is made; tar --mtime=@SECONDS --clamp-mtime",
    "file ctime": "E2FSPROGS_FAKE_TIME with debugfs (sif FILE ctime @SECONDS): mke2fs -d copies the host's",
    "file owner": "mke2fs -E root_owner=0:0; tar --owner=0 --group=0 --numeric-owner",
    "file mode": "a fixed umask, or chmod before the image is made; tar --mode",
    "file order": "add files in sorted order: tar --sort=name, mke2fs -d from a sorted tree, mcopy with sorted names",
    "allocation": "add the same files in the same order: tar --sort=name",
    "generation": "debugfs -w: sif FILE generation 0",
    "package": "pin versions: a snapshot archive, or a lock file",
    "package times": "the package manager under a fixed clock (SOURCE_DATE_EPOCH)",
    "free space": "zerofree, e2image -ra, fstrim, or a filesystem made in an empty file",
}


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference of two images and its cause; `partition` and `path` are empty where there is none.

    `detail` names first what is in the first image, then what is in the second. `knob` is empty where no cause is
    known that a build could switch off.
    """

    area: Area
    partition: str
    path: str
    cause: Cause
    detail: str
    knob: str = ""

    def __str__(self) -> str:
        where = " ".join(shown(word) for word in (self.partition, self.path) if word) or OUTSIDE[self.area]
        return f"{where}: {self.cause}: {self.detail}"


OUTSIDE: Final[Mapping[Area, str]] = {
    "container": "file", "partition table": "disk", "filesystem": "disk", "file": "disk", "package": "packages",
    "bytes": "disk",
}  # fmt: skip


def knob(key: str) -> str:
    """What removes a cause; empty for one that has no knob."""
    return KNOBS.get(key, "")


def knob_of(family: str, field: str) -> str:
    """The knob of one field of a filesystem or container; all kinds of ext share theirs."""
    return knob(f"{'ext4' if family.startswith('ext') else family} {field}")


def moment(seconds: int, nanoseconds: int = 0) -> str:
    """A time stamp for people: UTC, or the number where no calendar reaches."""
    fraction = f".{nanoseconds:09}" if nanoseconds else ""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}Z"
    except (ValueError, OverflowError, OSError):
        return f"{seconds}{fraction}"
