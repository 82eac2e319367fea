"""Mutants of the data partition: its place, its entry in the table, what holds the files."""

import tempfile
from pathlib import Path
from uuid import UUID

import pytest

import harness.prestage.disk.partition
import harness.prestage.disk.xfs
from harness.prestage.archives.folder import SCRIPT as SCRIPT_NAME
from harness.tools import run
from suites.harness.mutants.mutant import Mutants
from suites.harness.prestage_mutants.checks import (
    ALIGNED,
    FILESYSTEM,
    LAST,
    READERS_OF_DATA,
    SEED,
    SOUND,
    SUPERBLOCK,
)
from suites.harness.prestage_mutants.disks import MIB, SECTOR, SIZES, DataDisk

MUTANTS = Mutants()
mutant = MUTANTS.mutant

MORE = 8 * MIB
ENLARGED = SIZES["ext4"] // SECTOR  # the first sector that a larger disk has more
SWAP = UUID("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f")
EXT4_UUID, XFS_UUID = 1024 + 104, 32  # bytes from the start of the filesystem


@mutant(ALIGNED, READERS_OF_DATA, kind="ext4", cause="partition 'data': holds no filesystem that we know")
def table_moved_by_one_sector(disk: DataDisk) -> None:
    """The partition begins a sector later than what is in it."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.move("data", first=1)


@mutant(ALIGNED, kind="ext4", cause=r"\['beyond a MiB'\]: expected 0, found 512")
def partition_moved_by_one_sector(disk: DataDisk) -> None:
    """Partition and content begin a sector later, as sgdisk makes it with --set-alignment=1."""
    partition = disk.layout.partition("data")
    disk.will_change(partition.start, partition.size)
    disk.put(partition.start, bytes(SECTOR) + disk.read(partition.start, partition.size - SECTOR))
    with disk.both_gpts() as tables:
        for table in tables:
            table.move("data", first=1)


@mutant(LAST, kind="ext4", cause="'more'")
def another_partition_lies_behind(disk: DataDisk) -> None:
    """The disk was enlarged, and a partition added."""
    _enlarge(disk)
    disk.sgdisk("-e")
    disk.sgdisk("-n", f"2:{ENLARGED}:+1M", "-c", "2:more")


@mutant(LAST, kind="ext4", cause=f"{MORE:,} usable bytes lie behind the data partition")
def disk_was_enlarged(disk: DataDisk) -> None:
    """The partition does not end with the disk: coreos-installer's images grow up to it, not behind it."""
    _enlarge(disk)
    disk.sgdisk("-e")


@mutant(SOUND, kind="ext4", cause="False")
def table_was_left_behind(disk: DataDisk) -> None:
    """The disk was enlarged, and the backup of the table did not move."""
    _enlarge(disk)


@mutant(SOUND, kind="ext4", cause="header at LBA 262143: CRC of the entries")
def backup_table_is_damaged(disk: DataDisk) -> None:
    """A byte of the backup's entries is another."""
    disk.flip(disk.gpt("backup").entries_lba * SECTOR)


@mutant(SOUND, kind="ext4", cause="header")
def primary_table_is_damaged(disk: DataDisk) -> None:
    """A byte of the primary's header is another; the backup still tells where all is."""
    disk.flip(SECTOR + 56)


@mutant(ALIGNED, kind="ext4", cause=str(SWAP))
def partition_is_of_another_type(disk: DataDisk) -> None:
    """The entry says that this is swap space."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.entry(1)[:16] = SWAP.bytes_le


@mutant(kind="ext4", is_refused=True, cause="no partition is labelled 'data'; there are: 'dota'")
def label_is_misspelt(disk: DataDisk) -> None:
    """PARTLABEL dota instead of data."""
    disk.sgdisk("-c", "1:dota")


@mutant(kind="ext4", is_refused=True, cause="2 partitions are labelled 'data'")
def label_is_there_twice(disk: DataDisk) -> None:
    """Guests may take either."""
    _enlarge(disk)
    disk.sgdisk("-e")
    disk.sgdisk("-n", f"2:{ENLARGED}:+1M", "-c", "2:data")


@mutant(FILESYSTEM, kind="ext4", cause="'ext2'")
def filesystem_is_ext2(disk: DataDisk) -> None:
    """A filesystem without a journal, which nobody tries."""
    partition = disk.layout.partition("data")
    disk.will_change(partition.start, partition.size)
    with tempfile.TemporaryDirectory(dir=disk.path.parent) as folder:
        for name in disk.files.listdir("/"):
            if disk.files.stat(f"/{name}").kind == "file":
                Path(folder, name).write_bytes(disk.files.read(f"/{name}"))
        Path(folder, SCRIPT_NAME).chmod(0o755)
        place = f"offset={partition.start},nodiscard"
        run(["mke2fs", "-q", "-F", "-t", "ext2", "-d", folder, "-E", place, disk.path, f"{partition.size // 1024}k"])


@mutant(READERS_OF_DATA, kind="ext4", cause="partition 'data': holds no filesystem that we know")
def superblock_of_ext4_is_gone(disk: DataDisk) -> None:
    """Nothing tells a filesystem."""
    disk.write(disk.start + 1024, bytes(1024))


@mutant(READERS_OF_DATA, kind="xfs", cause="partition 'data': holds no filesystem that we know")
def superblock_of_xfs_is_gone(disk: DataDisk) -> None:
    """The same on XFS."""
    disk.write(disk.start, bytes(SECTOR))


@mutant(SUPERBLOCK, kind="ext4", cause="the superblock has another checksum than it says")
def superblock_of_ext4_is_damaged(disk: DataDisk) -> None:
    """A byte of the superblock is another."""
    disk.flip(disk.start + EXT4_UUID)


@mutant(SUPERBLOCK, kind="xfs", cause="the superblock has another checksum than it says")
def superblock_of_xfs_is_damaged(disk: DataDisk) -> None:
    """The same on XFS."""
    disk.flip(disk.start + XFS_UUID)


@mutant(SUPERBLOCK, kind="ext4", cause=r"\d+ <= \d+")
def partition_ends_within_its_filesystem(disk: DataDisk) -> None:
    """The partition is 100 sectors shorter than what it holds: the kernel refuses to mount that."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.move("data", last=-100)


@mutant(SEED, ALIGNED, kind="seed", cause=r"\['first sector'\]: expected 119,998,464, found 119,998,465")
def seeds_partition_moved_by_one_sector(patch: pytest.MonkeyPatch) -> None:
    """The partition begins one sector behind the one where sgdisk put it."""
    patch.setattr(harness.prestage.disk.partition, "ALIGNMENT", SECTOR)
    patch.setattr("fixtures.prestaged.START", 119_998_465)


@mutant(SEED, kind="seed", cause=r"\['groups'\]: expected 4, found 8")
def seeds_filesystem_has_more_groups(patch: pytest.MonkeyPatch) -> None:
    """XFS with eight allocation groups instead of four."""

    def mkfs(arguments: list[str | Path], **more: object) -> bytes:
        extra = ["-d", "agcount=8"] if arguments[0] == "mkfs.xfs" else []
        return run([*arguments[:-1], *extra, arguments[-1]], **more)  # type: ignore[arg-type]

    patch.setattr(harness.prestage.disk.xfs, "run", mkfs)


def _enlarge(disk: DataDisk) -> None:
    disk.resize(disk.path.stat().st_size + MORE)
