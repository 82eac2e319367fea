"""Mutants of a disk that an image was installed on: what the installation has to keep, and what it has to write."""

import struct
from uuid import UUID

from harness.prestage.archives.folder import archive_name
from suites.harness.mutants.mutant import Mutants
from suites.harness.prestage_mutants.checks import (
    BOOT_CODE,
    BYTES_OF_IMAGE,
    FOLLOWS,
    INSTALLED_SOUND,
    KEPT,
    OF_IMAGE,
    PLACE,
)
from suites.harness.prestage_mutants.disks import MIB, POD, SECTOR, DataDisk

MUTANTS = Mutants()
mutant = MUTANTS.mutant

OTHER = UUID("11111111-2222-4333-8444-555555555555")
OPTIONAL = 1 << 63  # the attribute "do not mount automatically"


@mutant(FOLLOWS, kind="installed", cause="9")
def data_got_another_number(disk: DataDisk) -> None:
    """The data partition is the ninth, behind a gap."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.entry(9)[:] = bytes(table.entry(4))
            table.entry(4)[:] = bytes(table.entry_size)


@mutant(
    FOLLOWS, PLACE, KEPT, kind="installed", cause="no partition is labelled 'data'; there are: 'EFI-SYSTEM', 'boot'"
)
def data_is_gone(disk: DataDisk) -> None:
    """The label was misspelt for the installer, so nothing was saved."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.entry(4)[:] = bytes(table.entry_size)


@mutant(PLACE, kind="installed", cause=rf"\['GUID'\]: expected '[0-9a-f-]{{36}}', found '{OTHER}'")
def data_got_another_guid(disk: DataDisk) -> None:
    """Whoever mounts it by PARTUUID does not find it."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.entry(4)[16:32] = OTHER.bytes_le


@mutant(PLACE, kind="installed", cause=rf"\['attributes'\]: expected 0, found {OPTIONAL:,}")
def data_got_other_attributes(disk: DataDisk) -> None:
    """A flag was set."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.entry(4)[48:56] = struct.pack("<Q", OPTIONAL)


@mutant(PLACE, KEPT, kind="installed", cause="holds no filesystem|no filesystem")
def data_begins_later(disk: DataDisk) -> None:
    """The table says one MiB later than where the content is."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.move("data", first=MIB // SECTOR)


@mutant(KEPT, kind="installed", cause=archive_name(POD))
def archive_was_altered(disk: DataDisk) -> None:
    """The image was longer than the place in front of the partition: a byte of an archive is another."""
    disk.data.flip(f"/{archive_name(POD)}", 2000)


@mutant(KEPT, kind="installed", cause="ai-images.txt")
def list_was_altered(disk: DataDisk) -> None:
    """A list is another than before."""
    disk.data.replace("/ai-images.txt", f"{POD}\n".encode())


@mutant(OF_IMAGE, kind="installed", cause=r"\['boot'\]")
def partition_of_the_image_was_shortened(disk: DataDisk) -> None:
    """boot ends a MiB earlier than in the image."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.move("boot", last=-MIB // SECTOR)


@mutant(BYTES_OF_IMAGE, kind="installed", cause=r"\['root'\]: '1 byte differs, the first at 4,194,304: ")
def byte_of_the_image_was_altered(disk: DataDisk) -> None:
    """A byte of root is another."""
    disk.flip(disk.start_of("root") + 4 * MIB)


@mutant(BOOT_CODE, kind="installed", cause="'[0-9a-f]{40}")
def boot_code_was_not_written(disk: DataDisk) -> None:
    """The first bytes of the disk are not those of the image."""
    disk.write(0, b"\x90" * 440)


@mutant(INSTALLED_SOUND, kind="installed", cause="header at LBA 262143: CRC of the entries")
def backup_was_not_written(disk: DataDisk) -> None:
    """The backup of the table is that of another one."""
    disk.flip(disk.gpt("backup").entries_lba * SECTOR + 20)
