"""Mutants of the filesystems as a whole: superblocks, features, the flag of the root directory."""

from suites.harness.mutants.copies import Disk
from suites.harness.mutants.dependents import PROMISES_OF_BOOT, READERS_OF_BOOT, READERS_OF_SYSTEM
from suites.harness.mutants.mutant import mutant

IDENTITY = "test_filesystems.py::test_filesystems_are_those_of_the_profile"
UUIDS = "test_filesystems.py::test_uuids_are_the_placeholders_until_the_first_boot"
FEATURES = "test_filesystems.py::test_filesystem_features_are_those_of_the_profile"
CHECKSUM = "test_filesystems.py::test_superblock_checksums_are_right"
STRANGER = "a3b1c6de-2f4b-4f8e-9a57-0c1d2e3f4a5b"
SUPERBLOCK = 1024  # bytes from the start of the partition


@mutant(UUIDS, cause=rf"boot.*expected '96d15588.*found '{STRANGER}'")
def boot_has_a_uuid_of_its_own(disk: Disk) -> None:
    """The boot filesystem was given its own UUID already: the image has been booted."""
    disk.boot.debugfs(f"ssv uuid {STRANGER}")


@mutant(UUIDS, cause=rf"root.*expected '910678ff.*found '{STRANGER}'")
def root_has_a_uuid_of_its_own(disk: Disk) -> None:
    """The same for root."""
    disk.root.debugfs(f"ssv uuid {STRANGER}")


@mutant(UUIDS, cause=r"EFI-SYSTEM.*expected '7B77-95E7', found '1234-5678'")
def esp_has_another_volume_id(disk: Disk) -> None:
    """The ESP has a volume id of its own."""
    disk.mtools("mlabel", "-N", "12345678", "::EFI-SYSTEM")


@mutant(IDENTITY, cause=r"boot.*label.*expected 'boot', found 'BOOT'")
def boot_filesystem_has_another_label(disk: Disk) -> None:
    """GRUB searches for the label boot; here it is BOOT."""
    disk.boot.debugfs("ssv volume_name BOOT")


@mutant(IDENTITY, cause=r"root.*label.*expected 'root', found None")
def root_filesystem_has_no_label(disk: Disk) -> None:
    """The initramfs mounts root by its label; here it has none."""
    disk.root.debugfs('ssv volume_name ""')


@mutant(FEATURES, cause=r"\['boot'\]\[0\]: 'metadata_csum_seed' is missing")
def boot_stores_no_checksum_seed(disk: Disk) -> None:
    """Without metadata_csum_seed the UUID of the mounted boot filesystem cannot be changed on first boot."""
    disk.boot.debugfs("feature -metadata_csum_seed")


@mutant(
    "test_filesystems.py::test_filesystem_details_are_those_of_the_profile",
    cause=r"\['root'\]\['state'\]: expected 'clean', found 'not clean'",
)
def root_was_not_unmounted(disk: Disk) -> None:
    """The superblock of root does not say clean."""
    disk.root.debugfs("ssv state 0")


@mutant(
    "test_filesystems.py::test_no_filesystem_needs_recovery",
    cause="boot: the journal was not replayed; was the image shut down cleanly",
)
def boot_needs_recovery(disk: Disk) -> None:
    """The flag of a filesystem that was mounted when power went away."""
    disk.boot.debugfs("feature needs_recovery")


@mutant(CHECKSUM, cause="superblock checksum of root is wrong: the filesystem is damaged")
def root_superblock_is_damaged(disk: Disk) -> None:
    """The checksum of root's superblock is wrong."""
    disk.flip(disk.start_of("root") + SUPERBLOCK + 1020)


@mutant(
    "test_filesystems.py::test_partitions_without_a_filesystem_hold_none",
    "test_filesystems.py::test_ext4_filesystems_fill_their_partitions",
    "test_boot_configuration.py::test_bios_boot_code_leads_to_the_bios_boot_partition",
    cause="BIOS-BOOT.*ext4",
)
def bios_boot_holds_a_filesystem(disk: Disk) -> None:
    """A copy of the start of boot lies where GRUB's second stage should be."""
    disk.write(disk.start_of("BIOS-BOOT"), disk.read(disk.start_of("boot"), 65536))


@mutant(
    "test_filesystems.py::test_ext4_filesystems_fill_their_partitions",
    cause=r"\['root'\]: expected 1,608,515,584, found 1,608,511,488",
)
def root_filesystem_does_not_fill_its_partition(disk: Disk) -> None:
    """root was made 4 KiB too small."""
    blocks = disk.layout.partition("root").size // 4096
    disk.root.debugfs(f"ssv blocks_count {blocks - 1}")


@mutant(
    IDENTITY,
    UUIDS,
    "test_boot_configuration.py::test_esp_holds_the_removable_boot_path",
    cause=r"\['EFI-SYSTEM'\]\['type'\]: expected 'vfat', found None",
)
def esp_is_empty(disk: Disk) -> None:
    """The ESP was never formatted."""
    disk.write(disk.start_of("EFI-SYSTEM"), bytes(65536))


@mutant(
    PROMISES_OF_BOOT,
    READERS_OF_BOOT,
    READERS_OF_SYSTEM,
    cause="partition 'boot': no filesystem that we know is here",
)
def boot_is_empty(disk: Disk) -> None:
    """The boot partition was never formatted."""
    disk.write(disk.start_of("boot"), bytes(65536))


@mutant(
    "test_filesystems.py::test_physical_root_is_immutable",
    cause=r"the physical root directory lacks the immutable flag \(chattr \+i\)",
)
def root_directory_can_be_written(disk: Disk) -> None:
    """The physical root lacks the immutable flag."""
    disk.root.debugfs("sif / flags 0x80000")
