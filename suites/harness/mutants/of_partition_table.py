"""Mutants of the partition table and of the boot code around it."""

import struct
from uuid import UUID

from suites.harness.mutants.copies import Disk
from suites.harness.mutants.dependents import PROMISES_OF_BOOT, READERS_OF_BOOT
from suites.harness.mutants.mutant import mutant

MIB = 2**20
LINUX_DATA = UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
ROWS = "test_partition_table.py::test_partitions_are_exactly_those_of_the_profile"
GAPS = "test_partition_table.py::test_each_partition_starts_where_the_one_before_ends"
BACKUP = "test_partition_table.py::test_backup_gpt_is_sound_and_says_the_same"
PRIMARY = "test_partition_table.py::test_primary_gpt_is_sound"
MBR_SIZE = "test_partition_table.py::test_protective_mbr_covers_the_disk_as_it_was_laid_out"
METAL = "test_partition_table.py::test_root_ends_one_mib_before_the_backup_gpt"
PLACE = "test_partition_table.py::test_backup_gpt_lies_where_the_profile_says"
FILLS = "test_filesystems.py::test_ext4_filesystems_fill_their_partitions"
BIOS_CODE = "test_boot_configuration.py::test_bios_boot_code_leads_to_the_bios_boot_partition"


@mutant(ROWS, cause=r"\[number=3\]\.type_guid: expected bc13c2ff.*found 0fc63daf")
def boot_has_another_type(disk: Disk) -> None:
    """The boot partition has the type GUID it had before 2025-12."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.entry(3)[:16] = LINUX_DATA.bytes_le


@mutant(ROWS, GAPS, BIOS_CODE, cause=r"\[number=1\]\.start: expected 2048, found 2056")
def bios_boot_is_shifted(disk: Disk) -> None:
    """BIOS-BOOT starts and ends 4 KiB later, as does what it holds."""
    start = disk.start_of("BIOS-BOOT")
    disk.write(start + 4096, disk.read(start, MIB - 4096))
    with disk.both_gpts() as tables:
        for table in tables:
            table.move("BIOS-BOOT", first=8, last=8)


@mutant(ROWS, GAPS, FILLS, cause=r"\[number=3\]\.sectors: expected 786,432, found 784,384")
def boot_ends_early(disk: Disk) -> None:
    """One MiB between boot and root belongs to nobody, and the end of the boot filesystem with it."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.move("boot", last=-2048)


@mutant(METAL, FILLS, cause=r"bytes behind root.*expected 1,048,576, found 2,097,152")
def root_ends_early(disk: Disk) -> None:
    """Root is one MiB smaller than its filesystem."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.move("root", last=-2048)


@mutant(ROWS, cause=r"\[number=1\]\.legacy_bios_bootable: expected True, found False")
def bios_boot_is_not_bootable(disk: Disk) -> None:
    """The attribute LegacyBIOSBootable is lost."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.entry(1)[48:56] = bytes(8)


@mutant("test_partition_table.py::test_every_partition_has_a_guid_of_its_own", cause="PARTUUIDs repeat")
def boot_and_root_share_a_partuuid(disk: Disk) -> None:
    """root has the PARTUUID of boot."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.entry(4)[16:32] = table.entry(3)[16:32]


@mutant(
    "test_partition_table.py::test_disk_guid_is_the_placeholder_until_the_first_boot",
    cause="disk GUID is not the placeholder: was this image booted",
)
def disk_has_a_guid_of_its_own(disk: Disk) -> None:
    """The first boot has given the disk its own GUID."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.header[56:72] = UUID("7a8e3b6c-51c2-4d0e-8f5a-b1d6c1f7a001").bytes_le


@mutant(ROWS, GAPS, cause=r"\[number=5\]: PromisedPartition\(number=5, label='swap'.* is not expected")
def there_is_a_fifth_partition(disk: Disk) -> None:
    """A small partition in the space before BIOS-BOOT, as a swap partition somebody forgot."""
    with disk.both_gpts() as tables:
        for table in tables:
            name = "swap".encode("utf-16-le").ljust(72, b"\0")
            table.entry(5)[:] = LINUX_DATA.bytes_le + UUID(int=5).bytes_le + struct.pack("<QQQ", 64, 127, 0) + name


@mutant(PRIMARY, cause=r"primary GPT: header at LBA 1 .*CRC")
def primary_header_is_damaged(disk: Disk) -> None:
    """One byte of the primary GPT header is wrong; the backup still tells where everything is."""
    disk.flip(512 + 40)


@mutant(PRIMARY, cause=r"primary GPT: header at LBA 1: CRC of the entries at LBA 2")
def primary_entries_are_damaged(disk: Disk) -> None:
    """One byte of the primary partition entries is wrong."""
    disk.flip(2 * 512 + 3 * 128 + 56)


@mutant(BACKUP, cause=r"backup GPT: header at LBA \d+ .*CRC is not")
def backup_header_is_damaged(disk: Disk) -> None:
    """One byte of the backup GPT header is wrong."""
    disk.flip(disk.gpt("backup").lba * 512 + 40)


@mutant(BACKUP, cause=r"backup GPT: header at LBA \d+: CRC of the entries")
def backup_entries_are_damaged(disk: Disk) -> None:
    """One byte of the backup partition entries is wrong."""
    disk.flip(disk.gpt("backup").entries_lba * 512 + 56)


@mutant(BACKUP, cause="differs from the other copy: partition entries")
def backup_is_of_yesterday(disk: Disk) -> None:
    """The backup is sound in itself, but names a partition otherwise."""
    table = disk.gpt("backup")
    table.entry(4)[56:64] = "rout".encode("utf-16-le")
    table.write()


@mutant(BACKUP, PLACE, cause="expected 'before the end', found 'lost'")
def backup_is_wiped(disk: Disk) -> None:
    """Zeroes where the backup GPT header was: the image was cut off and enlarged again."""
    disk.write(disk.gpt("backup").lba * 512, bytes(512))


@mutant(PLACE, METAL, MBR_SIZE, cause="expected 'before the end', found 'at the end'")
def backup_lies_at_the_end(disk: Disk) -> None:
    """The backup GPT was moved to the end of the enlarged disk, which only the first boot may do."""
    last = disk.layout.gpt.last_lba
    primary, backup = disk.gpt("primary"), disk.gpt("backup")
    struct.pack_into("<Q", primary.header, 32, last)
    backup.lba, backup.entries_lba = last, last - 32
    struct.pack_into("<Q", backup.header, 24, last)
    struct.pack_into("<Q", backup.header, 72, last - 32)
    for table in (primary, backup):
        struct.pack_into("<Q", table.header, 48, last - 33)
        table.write()


@mutant(MBR_SIZE, cause="protective MBR and backup GPT disagree on where the disk ends")
def protective_mbr_covers_the_whole_disk(disk: Disk) -> None:
    """The protective entry was made for the enlarged disk."""
    disk.write(446 + 12, struct.pack("<I", disk.layout.gpt.last_lba))


@mutant(MBR_SIZE, cause="has other entries.*expected False, found True")
def mbr_is_hybrid(disk: Disk) -> None:
    """A second MBR entry, as for old boot loaders."""
    disk.write(446 + 16, bytes([0x80, 0, 2, 0, 0x83, 0, 0, 0]) + struct.pack("<II", 264_192, 786_432))


@mutant(
    "test_partition_table.py::test_virtual_disk_is_as_large_as_promised",
    cause="virtual size.*expected 10,737,418,240, found 8,589,934,592",
)
def disk_is_smaller_than_promised(disk: Disk) -> None:
    """The disk was enlarged to 8 GiB only."""
    disk.resize(8 * 2**30)


@mutant(
    BACKUP,
    PLACE,
    "test_partition_table.py::test_every_partition_lies_on_the_disk",
    "test_partition_table.py::test_virtual_disk_is_as_large_as_promised",
    cause=r"partitions reach beyond the end of the disk \(bytes\): \{'root': 67108864\}; was the image truncated\?",
)
def disk_is_cut_off(disk: Disk) -> None:
    """A download that ended early: the last 64 MiB of root and the backup GPT are missing."""
    disk.resize(disk.start_of("root") + disk.layout.partition("root").size - 64 * MIB)


@mutant("test_boot_configuration.py::test_bios_boot_code_is_there", BIOS_CODE, cause="the MBR holds no boot code")
def mbr_has_no_boot_code(disk: Disk) -> None:
    """GRUB's first stage is zeroed."""
    disk.write(0, bytes(440))


@mutant(BIOS_CODE, cause="from LBA 34, but BIOS-BOOT starts at LBA 2048")
def boot_code_leads_elsewhere(disk: Disk) -> None:
    """GRUB's first stage loads its second stage from the wrong sector."""
    disk.write(0x5C, struct.pack("<Q", 34))


@mutant(BIOS_CODE, cause="the BIOS boot partition is empty: GRUB was not installed")
def second_stage_is_missing(disk: Disk) -> None:
    """BIOS-BOOT holds nothing."""
    disk.write(disk.start_of("BIOS-BOOT"), bytes(MIB))


@mutant(
    "test_partition_table.py::test_sectors_are_as_large_as_promised",
    ROWS,
    MBR_SIZE,
    BIOS_CODE,
    cause="sector size.*expected 512, found 4096",
)
def table_is_for_large_sectors(disk: Disk) -> None:
    """The image for disks with 4096-byte sectors was shipped under this name."""
    last = disk.metal_size // 4096 - 1
    tables = disk.gpt("primary"), disk.gpt("backup")
    for table, lba, alternate, entries_lba in zip(tables, (1, last), (last, 1), (2, last - 4), strict=True):
        disk.write(table.lba * 512, bytes(512))
        struct.pack_into("<QQQQ", table.header, 24, lba, alternate, 6, last - 5)
        struct.pack_into("<Q", table.header, 72, entries_lba)
        for number in range(1, 5):
            first, end = struct.unpack_from("<QQ", table.entry(number), 32)
            struct.pack_into("<QQ", table.entry(number), 32, first // 8, (end + 1) // 8 - 1)
        table.lba, table.entries_lba, table.sector_size = lba, entries_lba, 4096
    for table in tables:
        table.write()


@mutant(
    ROWS,
    READERS_OF_BOOT,
    PROMISES_OF_BOOT,
    "test_filesystems.py::test_partitions_without_a_filesystem_hold_none",
    cause=r"no partition is labelled 'boot'; there are: 'BIOS-BOOT', 'EFI-SYSTEM', 'bood', 'root'",
)
def boot_is_misspelt(disk: Disk) -> None:
    """PARTLABEL bood instead of boot."""
    with disk.both_gpts() as tables:
        for table in tables:
            table.entry(3)[56:64] = "bood".encode("utf-16-le")
