"""Mutants of what lies on the boot filesystem and on the ESP."""

import json

from harness.images.system.bls import read_entries
from suites.harness.mutants.copies import Disk
from suites.harness.mutants.mutant import mutant

FILE = "test_boot_configuration.py"
ONE_ENTRY = f"{FILE}::test_there_is_exactly_one_boot_entry"
NAMED = f"{FILE}::test_boot_entry_names_kernel_and_initramfs_that_exist"
KERNEL = f"{FILE}::test_kernel_is_a_linux_kernel"
KARGS = f"{FILE}::test_kernel_arguments_are_those_of_the_profile_in_order"
PLATFORM = f"{FILE}::test_platform_id_appears_exactly_once"
TO_GRUB = f"{FILE}::test_first_boot_is_left_to_grub"
STAMP = f"{FILE}::test_first_boot_stamp_is_there_and_empty"
TABLE = f"{FILE}::test_platform_table_knows_this_platform"
CONSOLE = f"{FILE}::test_console_settings_are_those_of_the_platform"
GRUB_READS = f"{FILE}::test_grub_configuration_reads_the_first_boot_stamp"
OPENSTACK = f"{FILE}::test_openstack_puts_its_serial_console_first"
SAME_KERNEL = "test_identity.py::test_kernel_of_the_boot_filesystem_is_that_of_the_deployment"
SAME_INITRAMFS = "test_identity.py::test_initramfs_of_the_boot_filesystem_is_that_of_the_deployment"
PLATFORMS = "/coreos/platforms.json"


def entry_path(disk: Disk) -> str:
    """The path of the boot entry, without symlinks: debugfs follows none."""
    return disk.boot.files.canonical(read_entries(disk.boot.files).default.path)


def kernel_path(disk: Disk) -> str:
    return read_entries(disk.boot.files).default.linux


def initrd_path(disk: Disk) -> str:
    return read_entries(disk.boot.files).default.initrd


def edit_entry(disk: Disk, old: str, new: str) -> None:
    disk.boot.edit(entry_path(disk), {old: new})


def edit_platforms(disk: Disk, platform: str, **settings: list[str]) -> None:
    table = json.loads(disk.boot.files.text(PLATFORMS))
    table[platform] |= settings
    disk.boot.replace(PLATFORMS, json.dumps(table).encode())


@mutant(ONE_ENTRY, cause="'/loader/entries/ostree-0-old-.*conf' is not expected")
def there_is_a_second_boot_entry(disk: Disk) -> None:
    """An entry of an older deployment is left."""
    path = entry_path(disk)
    disk.boot.add(path.replace("ostree-1-", "ostree-0-old-"), disk.boot.files.read(path))


@mutant(NAMED, SAME_INITRAMFS, cause="names files that are not there: .*initramfs")
def initramfs_is_missing(disk: Disk) -> None:
    """The boot entry names an initramfs that is not on the boot filesystem."""
    disk.boot.remove(initrd_path(disk))


@mutant(NAMED, KERNEL, SAME_KERNEL, cause="names files that are not there: .*vmlinuz")
def kernel_is_missing(disk: Disk) -> None:
    """The boot entry names a kernel that is not on the boot filesystem."""
    disk.boot.remove(kernel_path(disk))


@mutant(SAME_KERNEL, cause="vmlinuz-.* of the boot filesystem is not the deployment's")
def kernel_is_truncated(disk: Disk) -> None:
    """Half a kernel: the boot filesystem was full when it was copied."""
    kernel = disk.boot.files.read(kernel_path(disk))
    disk.boot.replace(kernel_path(disk), kernel[: len(kernel) // 2])


@mutant(KERNEL, SAME_KERNEL, cause="vmlinuz-.* is no Linux kernel")
def kernel_is_zeroes(disk: Disk) -> None:
    """A kernel of the right length, of which nothing was written."""
    disk.boot.replace(kernel_path(disk), bytes(disk.boot.files.stat(kernel_path(disk)).size))


@mutant(SAME_INITRAMFS, cause="initramfs-.* of the boot filesystem is not the deployment's")
def initramfs_is_of_another_build(disk: Disk) -> None:
    """One byte in the middle of the initramfs on the boot filesystem is another than in the deployment."""
    path = initrd_path(disk)
    disk.boot.flip(path, disk.boot.files.stat(path).size // 2)


@mutant(KARGS, PLATFORM, cause=r"\['ignition.platform.id'\]\[0\]: expected 'qemu', found 'metal'")
def platform_id_is_wrong(disk: Disk) -> None:
    """The image says metal."""
    edit_entry(disk, "ignition.platform.id=qemu", "ignition.platform.id=metal")


@mutant(KARGS, PLATFORM, cause=r"\['ignition.platform.id'\]\[\d\]: 'qemu' is not expected")
def platform_id_appears_twice(disk: Disk) -> None:
    """Somebody appended the platform id without looking."""
    edit_entry(disk, "ignition.platform.id=qemu", "ignition.platform.id=qemu ignition.platform.id=qemu")


@mutant(KARGS, PLATFORM, cause=r"\['ignition.platform.id'\]\[0\]: 'qemu' is missing")
def platform_id_is_missing(disk: Disk) -> None:
    """Ignition would not know where its config comes from."""
    edit_entry(disk, " ignition.platform.id=qemu", "")


@mutant(KARGS, TABLE, cause=r"expected 'console=tty0', found 'console=ttyS0,115200n8'")
def consoles_are_swapped(disk: Disk) -> None:
    """The last console= gets the log: here the screen nobody looks at."""
    edit_entry(disk, "console=tty0 console=ttyS0,115200n8", "console=ttyS0,115200n8 console=tty0")


@mutant(KARGS, cause="expected 'mitigations=auto,nosmt', found 'mitigations=off'")
def mitigations_are_off(disk: Disk) -> None:
    """A kernel argument has another value."""
    edit_entry(disk, "mitigations=auto,nosmt", "mitigations=off")


@mutant(KARGS, TABLE, cause="'quiet' is not expected")
def kernel_argument_is_added(disk: Disk) -> None:
    """An argument that nobody promised, at the end."""
    edit_entry(disk, "console=ttyS0,115200n8", "console=ttyS0,115200n8 quiet")


@mutant(KARGS, TO_GRUB, cause=r"'\$ignition_firstboot' is missing")
def grub_is_not_asked_for_the_first_boot(disk: Disk) -> None:
    """Without $ignition_firstboot in the entry Ignition never runs."""
    edit_entry(disk, "$ignition_firstboot ", "")


@mutant(KARGS, TO_GRUB, cause=r"expected '\$ignition_firstboot', found 'ignition.firstboot'")
def every_boot_is_the_first(disk: Disk) -> None:
    """ignition.firstboot stands in the entry itself: Ignition would run at every boot."""
    edit_entry(disk, "$ignition_firstboot ", "ignition.firstboot ")


@mutant(STAMP, cause="/boot/ignition.firstboot: Ignition would not run as shipped")
def first_boot_stamp_is_missing(disk: Disk) -> None:
    """Ignition would not run at all."""
    disk.boot.remove("/ignition.firstboot")


@mutant(STAMP, cause="/boot/ignition.firstboot: Ignition would not run as shipped")
def first_boot_stamp_sets_the_network(disk: Disk) -> None:
    """The stamp of an installer that was told network arguments."""
    disk.boot.replace("/ignition.firstboot", b"set ignition_network_kcmdline='ip=dhcp'\n")


@mutant(f"{FILE}::test_no_ignition_config_is_shipped", cause="/boot/ignition/config.ign is in the image already")
def an_ignition_config_is_shipped(disk: Disk) -> None:
    """Somebody's config, with somebody's keys."""
    disk.boot.add("/ignition/config.ign", b'{"ignition": {"version": "3.3.0"}}', 0o600)


@mutant(f"{FILE}::test_grub_folder_is_closed", cause="/boot/grub2.*expected '0o700', found '0o755'")
def grub_folder_is_open(disk: Disk) -> None:
    """/boot/grub2, which may hold a password's hash, can be read by all."""
    disk.boot.debugfs("sif /grub2 mode 040755")


@mutant(f"{FILE}::test_boot_files_belong_to_root", cause=r"/grub2/grub\.cfg")
def grub_configuration_belongs_to_a_user(disk: Disk) -> None:
    """The build ran as uid 1000 and left it in a file."""
    disk.boot.debugfs("sif /grub2/grub.cfg uid 1000", "sif /grub2/grub.cfg gid 1000")


@mutant(GRUB_READS, cause="the first boot would not run Ignition")
def grub_does_not_look_for_the_stamp(disk: Disk) -> None:
    """grub.cfg looks for another file."""
    disk.boot.edit("/grub2/grub.cfg", {"/ignition.firstboot": "/ignition.stamp", "ignition.firstboot ": ""})


@mutant(GRUB_READS, cause="no /grub2/grub.cfg")
def grub_configuration_is_missing(disk: Disk) -> None:
    """GRUB would show its prompt."""
    disk.boot.remove("/grub2/grub.cfg")


@mutant(CONSOLE, cause="expected 'serial --speed=115200', found 'serial --speed=9600'")
def console_settings_are_of_another_platform(disk: Disk) -> None:
    """GRUB's console settings are not those that platforms.json has for qemu."""
    disk.boot.edit("/grub2/console.cfg", {"serial --speed=115200": "serial --speed=9600"})


@mutant(TABLE, CONSOLE, cause="platforms.json does not know qemu, only")
def platform_table_does_not_know_qemu(disk: Disk) -> None:
    """platforms.json has no entry for the platform that was applied."""
    disk.boot.edit(PLATFORMS, {'"qemu"': '"qemv"'})


@mutant(TABLE, cause="'console=hvc0'")
def platform_table_has_other_arguments(disk: Disk) -> None:
    """platforms.json would give qemu another console than the entry has."""
    edit_platforms(disk, "qemu", kernel_arguments=["console=hvc0"])


@mutant(OPENSTACK, cause="expected 'console=ttyS0,115200n8', found 'console=tty0'")
def openstack_consoles_are_swapped(disk: Disk) -> None:
    """Tidied up: but openstack's order is reversed on purpose."""
    edit_platforms(disk, "openstack", kernel_arguments=["console=tty0", "console=ttyS0,115200n8"])


@mutant(f"{FILE}::test_esp_holds_the_removable_boot_path", cause="no /EFI/BOOT/BOOTX64.EFI")
def esp_has_no_boot_program(disk: Disk) -> None:
    """BOOTX64.EFI is not on the ESP: the image does not boot by UEFI."""
    disk.mtools("mdel", "::/EFI/BOOT/BOOTX64.EFI")


@mutant(f"{FILE}::test_esp_holds_the_removable_boot_path", cause="BOOTX64.EFI is no EFI program")
def esp_boot_program_is_text(disk: Disk) -> None:
    """BOOTX64.EFI is an error page that somebody saved."""
    staged = disk.path.with_name("page.html")
    staged.write_text("<html>404</html>")
    disk.mtools("mcopy", "-o", str(staged), "::/EFI/BOOT/BOOTX64.EFI")
    staged.unlink()
