"""Boot loader entries, kernel arguments, GRUB and the first-boot stamp, before the first boot."""

import pytest

from harness.images.system.stamps import read_console, read_ignition_state, read_platforms


def matches(found: str, promised: str) -> bool:
    return found.startswith(promised[:-1]) if promised.endswith("*") else found == promised


def known_platform(boot_files, name):
    platforms = read_platforms(boot_files)
    assert name in platforms, f"platforms.json does not know {name}, only {sorted(platforms)}"
    return platforms[name]


def test_there_is_exactly_one_boot_entry(boot_entries):
    assert [entry.path for entry in boot_entries.entries] == [boot_entries.default.path]


def test_boot_entry_names_kernel_and_initramfs_that_exist(boot_entries, boot_files):
    entry = boot_entries.default
    missing = [path for path in (entry.linux, entry.initrd) if not boot_files.exists(path.removeprefix("/boot"))]
    assert not missing, f"{entry.path} names files that are not there: {missing}"


def test_kernel_is_a_linux_kernel(boot_entries, boot_files):
    """The x86 boot protocol's magic: a truncated or overwritten kernel does not boot."""
    kernel = boot_files.read(boot_entries.default.linux.removeprefix("/boot"))
    assert kernel[0x202:0x206] == b"HdrS", f"{boot_entries.default.linux} is no Linux kernel"


def test_kernel_arguments_are_those_of_the_profile_in_order(boot_entries, profile):
    found, promised = boot_entries.default.options, profile.boot.options
    if not profile.boot.options_in_order:
        found, promised = tuple(sorted(found)), tuple(sorted(promised))
    shown = tuple(
        wish if index < len(promised) and matches(word, wish := promised[index]) else word
        for index, word in enumerate(found)
    )
    assert shown == promised


def test_platform_id_appears_exactly_once(boot_entries, profile):
    name = "ignition.platform.id"
    assert {name: boot_entries.default.karg(name)} == {name: [profile.boot.platform]}


def test_first_boot_is_left_to_grub(boot_entries):
    """The entry carries the variable; GRUB fills it from the stamp, so the entry is the same after the first boot."""
    promised = {"$ignition_firstboot": True, "ignition.firstboot": False}
    assert {word: word in boot_entries.default.options for word in promised} == promised


def test_first_boot_stamp_is_there_and_empty(boot_files):
    state = read_ignition_state(boot_files)
    assert (state.stamp, state.network_kargs) == ("empty", ""), (
        "/boot/ignition.firstboot: Ignition would not run as shipped"
    )


def test_no_ignition_config_is_shipped(boot_files):
    assert read_ignition_state(boot_files).user_config_sha256 is None, (
        "/boot/ignition/config.ign is in the image already"
    )


@pytest.mark.needs("boot.grub_folder_mode")
def test_grub_folder_is_closed(boot_files, profile):
    assert {"/boot/grub2": oct(boot_files.stat("/grub2").mode)} == {"/boot/grub2": oct(profile.boot.grub_folder_mode)}


@pytest.mark.needs("boot.grub_folder_mode")
def test_boot_files_belong_to_root(boot_files):
    strangers = {
        entry.path: (entry.uid, entry.gid) for entry in boot_files.walk("/") if (entry.uid, entry.gid) != (0, 0)
    }
    assert strangers == {}


def test_grub_configuration_reads_the_first_boot_stamp(boot_files):
    text = boot_files.text("/grub2/grub.cfg")
    missing = [word for word in ("ignition.firstboot", "ignition_network_kcmdline", "source") if word not in text]
    assert not missing, f"/boot/grub2/grub.cfg does not mention {missing}: the first boot would not run Ignition"


@pytest.mark.needs("boot.platforms_json")
def test_platform_table_knows_this_platform(boot_files, boot_entries, profile):
    """platforms.json is what an installer later applies: it must agree with what was applied here."""
    kargs = known_platform(boot_files, profile.boot.platform).kernel_arguments
    assert boot_entries.default.options[-len(kargs) :] == kargs


@pytest.mark.needs("boot.platforms_json")
def test_console_settings_are_those_of_the_platform(boot_files, profile):
    assert read_console(boot_files).commands == known_platform(boot_files, profile.boot.platform).grub_commands


@pytest.mark.needs("boot.platforms_json")
def test_openstack_puts_its_serial_console_first(boot_files):
    """The order is reversed on purpose: the last console= gets the log (fedora-coreos-config, platforms.yaml)."""
    assert known_platform(boot_files, "openstack").kernel_arguments == ("console=ttyS0,115200n8", "console=tty0")


@pytest.mark.needs("boot.removable_boot_path")
def test_esp_holds_the_removable_boot_path(files, profile):
    program = files("EFI-SYSTEM").read(profile.boot.removable_boot_path)
    assert program[:2] == b"MZ", f"{profile.boot.removable_boot_path} is no EFI program"


def test_bios_boot_code_is_there(image, profile):
    if "bios" not in profile.boot.firmware:
        pytest.skip(f"{profile.name} does not boot by BIOS")
    mbr = image.block.read(0, 512)
    assert (any(mbr[:440]), mbr[510:]) == (True, b"\x55\xaa"), (
        "the MBR holds no boot code: the disk cannot boot by BIOS"
    )


def test_bios_boot_code_leads_to_the_bios_boot_partition(image, layout, profile):
    """GRUB's boot.img keeps the LBA of its second stage at 0x5c."""
    if "bios" not in profile.boot.firmware:
        pytest.skip(f"{profile.name} does not boot by BIOS")
    partition = layout.partition("BIOS-BOOT")
    lba = int.from_bytes(image.block.read(0x5C, 8), "little")
    first = partition.start // layout.sector_size
    assert lba == first, f"the MBR loads GRUB's second stage from LBA {lba}, but BIOS-BOOT starts at LBA {first}"
    assert any(image.block.read(partition.start, 512)), "the BIOS boot partition is empty: GRUB was not installed"
