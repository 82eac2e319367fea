"""Mutants of a live ISO: how it boots, what can be put into it, and whether its parts belong together."""

import json
import struct

from harness.images.formats.iso import read_catalog
from harness.images.formats.raw import FileBlock
from harness.images.system.live_archives import Member
from harness.iso.initrd import pack
from suites.harness.fcos_mutants.checks import (
    CATALOG,
    HASHES,
    HYBRID,
    KARGS,
    LEADS,
    LOADS,
    ONE_BUILD,
    PXE,
    READABLE,
    READERS_OF_STAMPS,
    REMOVABLE,
    ROOM,
    ROOT_FIRST,
    SAME_FEATURES,
    VOLUME,
)
from suites.harness.fcos_mutants.isos import (
    BLOCK,
    EFI_IMAGE,
    FEATURES,
    GRUB,
    IGNINFO,
    IGNITION,
    ISOLINUX,
    KARGS_JSON,
    LOADER,
    OF_FEATURES,
    OF_INITRD,
    OF_ROOTFS,
    ROOTFS,
    SECTOR,
    WANTED,
    LiveIso,
    efi_image,
)
from suites.harness.mutants.copies import PartitionedDisk
from suites.harness.mutants.mutant import Mutants
from suites.harness.small_live_iso import EMBED
from suites.harness.small_live_iso import VOLUME as VOLUME_ID

MUTANTS = Mutants()
mutant = MUTANTS.mutant

SECTION, OF_UEFI, OF_BIOS = 64, 96, 32  # bytes in the boot catalog: header of the section, entries
MODE = 0o100644


@mutant(ROOM, kind="iso", cause=r"\['bytes'\]: expected 262,144, found 131,072")
def room_for_a_config_is_too_small(iso: LiveIso) -> None:
    """images/ignition.img has half the bytes."""
    iso.files[IGNITION] = bytes(EMBED // 2)


@mutant(ROOM, kind="iso", cause=r"\['file'\]: expected 'images/ignition.img', found 'images/efiboot.img'")
def igninfo_names_another_file(iso: LiveIso) -> None:
    """A config would be embedded over the EFI image."""
    iso.files[IGNINFO] = json.dumps({"file": EFI_IMAGE}).encode()


@mutant(ROOM, READABLE, kind="iso", cause="ignition: .*ignition.gone")
def igninfo_names_no_file(iso: LiveIso) -> None:
    """The file that igninfo.json names is not there."""
    iso.files[IGNINFO] = json.dumps({"file": "images/ignition.gone"}).encode()


@mutant(ROOM, kind="iso", cause=r"\['state'\]: expected 'empty', found 'config'")
def config_was_left_in_it(iso: LiveIso) -> None:
    """Somebody's config is embedded in what is to be published."""
    config = Member("config.ign", MODE, b'{"ignition": {"version": "3.0.0"}}')
    iso.files[IGNITION] = pack([config]).ljust(EMBED, b"\0")


@mutant(ROOM, kind="iso", cause=r"\['state'\]: expected 'empty', found 'other'")
def room_for_a_config_holds_noise(iso: LiveIso) -> None:
    """The kernel would find something that is no archive behind the initrd."""
    iso.files[IGNITION] = b"\xff" * EMBED


@mutant(KARGS, kind="iso", cause=rf"\['{GRUB}'\]\[0\]: '/vmlinuz' is not expected")
def offset_of_kernel_arguments_is_stale(iso: LiveIso) -> None:
    """grub.cfg got a line in front, and kargs.json was not made anew."""
    iso.files[GRUB] = b"# edited\n" + iso.files[GRUB]


@mutant(KARGS, kind="iso", cause=rf"\['{ISOLINUX}'\]\[4\]: 'quiet' is not expected")
def kernel_arguments_of_one_loader_differ(iso: LiveIso) -> None:
    """By BIOS the system boots with another argument."""
    iso.edit(ISOLINUX, "platform.id=metal\n######", "platform.id=metal quiet\n")


@mutant(KARGS, kind="iso", cause=rf"\['{ISOLINUX}'\]: .* is missing")
def room_for_kernel_arguments_is_not_announced(iso: LiveIso) -> None:
    """kargs.json knows of grub.cfg only: `iso kargs modify` would leave the other as it is."""
    iso.change_json(KARGS_JSON, lambda said: said["files"].pop())  # type: ignore[attr-defined]


@mutant(KARGS, kind="iso", cause=rf"\['{GRUB}'\]: expected b'COREOS_KARG_EMBED_AREA', found b''")
def room_for_kernel_arguments_is_larger(iso: LiveIso) -> None:
    """kargs.json says half of the bytes that the room has."""
    iso.change_json(KARGS_JSON, lambda said: said.update(size=256))


@mutant(KARGS, kind="iso", cause=rf"\['{GRUB}'\]: expected b'COREOS_KARG_EMBED_AREA', found b'.ninitrd")
def mark_of_the_room_is_lost(iso: LiveIso) -> None:
    """Behind the room of grub.cfg its mark does not stand."""
    iso.edit(GRUB, "COREOS_KARG_EMBED_AREA", "")


@mutant(VOLUME, kind="iso", cause=rf"expected 'coreos\.liveiso={VOLUME_ID}', found 'coreos\.liveiso=other")
def kernel_argument_names_another_volume(iso: LiveIso) -> None:
    """The live system would wait for a medium of another label."""
    for path in (GRUB, ISOLINUX, KARGS_JSON):
        iso.edit(path, f"coreos.liveiso={VOLUME_ID}", f"coreos.liveiso={'other'.ljust(len(VOLUME_ID), 'x')}")


@mutant(VOLUME, kind="iso", cause=rf"'coreos\.liveiso={VOLUME_ID}' is missing")
def kernel_argument_names_no_volume(iso: LiveIso) -> None:
    """The kernel argument that names the medium is another."""
    for path in (GRUB, ISOLINUX, KARGS_JSON):
        iso.edit(path, "coreos.liveiso=", "coreos.liveusb=")


@mutant(VOLUME, KARGS, READABLE, kind="iso", cause="kargs: .*kargs.json.* is not JSON")
def announcement_of_kernel_arguments_is_garbled(iso: LiveIso) -> None:
    """kargs.json is cut off."""
    iso.files[KARGS_JSON] = iso.files[KARGS_JSON][:-9]


@mutant(LOADS, kind="iso", cause=rf"\['{ISOLINUX}'\]\[2\]: '/images/ignition\.img' is missing")
def config_is_not_loaded(iso: LiveIso) -> None:
    """By BIOS nobody would read an embedded config."""
    iso.edit(ISOLINUX, ",/images/ignition.img", "")
    iso.announce()


@mutant(PXE, kind="iso", cause="'vmlinuz' is missing")
def kernel_is_missing(iso: LiveIso) -> None:
    """images/pxeboot has no kernel."""
    iso.without.add("images/pxeboot/vmlinuz")


@mutant(PXE, ROOT_FIRST, ONE_BUILD, HASHES, kind="iso", cause="rootfs: there is none")
def root_is_missing(iso: LiveIso) -> None:
    """images/pxeboot has no rootfs.img, as on a minimal ISO."""
    iso.without.add(ROOTFS)


@mutant(ROOT_FIRST, kind="iso", cause=r"\['first member'\]: expected 'root.squashfs', found 'etc/coreos-live-rootfs'")
def root_is_not_the_first_member(iso: LiveIso) -> None:
    """rootfs.img was packed in the order of names: the squashfs does not lie at byte 124."""
    iso.rootfs = {name: iso.rootfs[name] for name in sorted(iso.rootfs)}


@mutant(ROOT_FIRST, kind="iso", cause="the root in rootfs.img is of the kind unknown, not one of")
def root_is_no_filesystem(iso: LiveIso) -> None:
    """The first bytes of the squashfs are not its own."""
    iso.rootfs["root.squashfs"] = b"sqsh" + iso.rootfs["root.squashfs"][4:]


@mutant(READABLE, ROOT_FIRST, ONE_BUILD, kind="iso", cause="rootfs: .*osmet")
def osmet_file_is_damaged(iso: LiveIso) -> None:
    """The recipe by which coreos-installer makes the metal image is not readable."""
    iso.rootfs["small-metal.raw.osmet"] = b"OSMET\0\0\0\xff"


@mutant(READABLE, kind="iso", cause="/coreos/miniso.dat: starts with")
def recipe_of_the_minimal_iso_is_damaged(iso: LiveIso) -> None:
    """coreos/miniso.dat holds zeroes, as before coreos-installer packed it."""
    iso.files["coreos/miniso.dat"] = bytes(16384)


@mutant(ONE_BUILD, kind="iso", cause=r"expected '1\.2\.3', found '1\.2\.4'")
def root_is_of_another_build(iso: LiveIso) -> None:
    """rootfs.img says another build than the initrd, which has its hashes."""
    iso.rootfs[OF_ROOTFS] = b"1.2.4\n"


@mutant(ONE_BUILD, HASHES, kind="iso", cause=r"\['block 0'\]: expected '0{64}', found '[0-9a-f]{64}'")
def initrd_is_of_another_build(iso: LiveIso) -> None:
    """The whole initrd was taken from another build."""
    iso.stamps[OF_INITRD] = b"1.2.4\n"
    iso.stamps[WANTED] = f"stream-hash sha256 {BLOCK}\n{'0' * 64}\n".encode()


@mutant(HASHES, kind="iso", cause=rf"\['block 0'\]: expected '{'1' * 64}', found '[0-9a-f]{{64}}'")
def hash_of_the_root_is_off(iso: LiveIso) -> None:
    """A root from a server would be refused."""
    iso.stamps[WANTED] = f"stream-hash sha256 {BLOCK}\n{'1' * 64}\n".encode()


@mutant(HASHES, kind="iso", cause="begins with 'stream-hash md5 2097152'")
def hashes_are_of_another_kind(iso: LiveIso) -> None:
    """The list of hashes is of a kind that nobody reads."""
    iso.stamps[WANTED] = f"stream-hash md5 {BLOCK}\n{'1' * 32}\n".encode()


@mutant(HASHES, kind="iso", cause=f"{WANTED} begins with ''")
def hashes_are_missing(iso: LiveIso) -> None:
    """The list of hashes is empty."""
    iso.stamps[WANTED] = b""


@mutant(READERS_OF_STAMPS, kind="iso", cause=f"initrd.img: ends in no archive with {OF_INITRD}")
def initrd_is_that_of_a_disk(iso: LiveIso) -> None:
    """Nothing was appended to the initramfs: the system would look for a disk."""
    iso.pack = lambda _: b""


@mutant(SAME_FEATURES, kind="iso", cause=r"\['live-initrd-network'\]: expected False, found True")
def features_differ(iso: LiveIso) -> None:
    """By its initrd the system knows less than by the ISO."""
    iso.stamps[OF_FEATURES] = b'{"installer-config": true, "live-initrd-network": false}'


@mutant(SAME_FEATURES, kind="iso", cause="features: there is none")
def features_are_not_told(iso: LiveIso) -> None:
    """coreos/features.json is not there."""
    iso.without.add(FEATURES)


@mutant(REMOVABLE, kind="iso", cause=f"the EFI image has no /{LOADER}")
def boot_loader_has_another_name(iso: LiveIso) -> None:
    """The EFI image has the boot loader where only a boot entry would find it."""
    iso.files[EFI_IMAGE] = efi_image(iso.folder, {"EFI/debian/grubx64.efi": b"MZ"})


@mutant(REMOVABLE, kind="iso", cause=f"/{LOADER} is no program")
def boot_loader_is_empty(iso: LiveIso) -> None:
    """The EFI image was full: the boot loader has no bytes."""
    iso.files[EFI_IMAGE] = efi_image(iso.folder, {LOADER: b""})


@mutant(REMOVABLE, kind="iso", cause="/images/efiboot.img: no filesystem that we know is here")
def efi_image_is_no_filesystem(iso: LiveIso) -> None:
    """The EFI image holds zeroes."""
    iso.files[EFI_IMAGE] = bytes(2**20)


@mutant(CATALOG, LEADS, HYBRID, REMOVABLE, kind="iso", cause="no /images/efiboot.img")
def efi_image_is_missing(iso: LiveIso) -> None:
    """There is no images/efiboot.img, and nothing that leads to it."""
    iso.without.add(EFI_IMAGE)
    iso.has_efi_image = False


@mutant(CATALOG, kind="iso", cause=r"\['UEFI'\]\['bootable'\]: expected True, found False")
def uefi_entry_is_not_bootable(iso: LiveIso) -> None:
    """The boot catalog says that the EFI image is not to be booted."""
    iso.afterwards.append(lambda disk: disk.write(_catalog(disk) + OF_UEFI, b"\0"))


@mutant(CATALOG, LEADS, kind="iso", cause=r"\['UEFI'\]: .* is missing")
def uefi_entry_is_missing(iso: LiveIso) -> None:
    """The boot catalog ends behind the entry for BIOS."""
    iso.afterwards.append(lambda disk: disk.write(_catalog(disk) + SECTION, bytes(64)))


@mutant(CATALOG, LEADS, kind="iso", cause=r"\['UEFI'\]: .* is missing")
def uefi_entry_is_of_another_platform(iso: LiveIso) -> None:
    """The boot catalog says that the EFI image is for PowerPC."""
    iso.afterwards.append(lambda disk: disk.write(_catalog(disk) + SECTION + 1, b"\1"))


@mutant(LEADS, kind="iso", cause=r"\['UEFI'\]: expected [\d,]+, found [\d,]+")
def uefi_entry_leads_elsewhere(iso: LiveIso) -> None:
    """The boot catalog leads to the sector behind the beginning of the EFI image."""
    iso.afterwards.append(lambda disk: _move(disk, OF_UEFI))


@mutant(LEADS, kind="iso", cause=r"\['x86 BIOS'\]: expected [\d,]+, found [\d,]+")
def bios_entry_leads_elsewhere(iso: LiveIso) -> None:
    """The same of isolinux.bin."""
    iso.afterwards.append(lambda disk: _move(disk, OF_BIOS))


@mutant(CATALOG, LEADS, kind="iso", cause="has no valid first entry")
def boot_catalog_is_damaged(iso: LiveIso) -> None:
    """The checksum of the boot catalog is wrong."""
    iso.afterwards.append(lambda disk: disk.flip(_catalog(disk) + 28))


@mutant(CATALOG, LEADS, kind="iso", cause="the ISO has no boot catalog")
def boot_catalog_is_not_named(iso: LiveIso) -> None:
    """The volume descriptor that leads to the boot catalog is of another system."""
    iso.afterwards.append(lambda disk: disk.write(17 * SECTOR + 7, b"EL TARITO"))


@mutant(HYBRID, kind="iso", cause=r"3 values differ, first at \['code'\]: expected True, found False")
def it_is_not_hybrid(iso: LiveIso) -> None:
    """On a USB stick it does not boot: no MBR, no GPT."""
    iso.is_hybrid = False


@mutant(HYBRID, kind="iso", cause=r"1 value differs at \['code'\]: expected True, found False")
def mbr_has_no_code(iso: LiveIso) -> None:
    """The boot code of the MBR is zeroed."""
    iso.afterwards.append(lambda disk: disk.write(0, bytes(440)))


@mutant(HYBRID, kind="iso", cause=r"\['GPT'\]: expected b'EFI PART'")
def gpt_is_wiped(iso: LiveIso) -> None:
    """The header of the GPT is zeroed: firmware that knows UEFI only finds no partition."""
    iso.afterwards.append(lambda disk: disk.write(512, bytes(512)))


@mutant(HYBRID, kind="iso", cause="no partition begins at byte")
def gpt_leads_elsewhere(iso: LiveIso) -> None:
    """The partition of the EFI image begins a sector later than the image."""

    def change(disk: PartitionedDisk) -> None:
        start = _entries(disk)[OF_UEFI] * SECTOR // 512
        with disk.both_gpts() as tables:
            for table in tables:
                for number in range(1, 5):
                    entry = table.entry(number)
                    if struct.unpack_from("<Q", entry, 32)[0] == start:
                        struct.pack_into("<Q", entry, 32, start + 1)

    iso.afterwards.append(change)


def _catalog(disk: PartitionedDisk) -> int:
    """Where the boot catalog lies."""
    with FileBlock(disk.path) as block:
        found = read_catalog(block)
    assert found
    return found.start_lba * SECTOR


def _entries(disk: PartitionedDisk) -> dict[int, int]:
    """The sectors that entries of the boot catalog lead to, by their places in it."""
    catalog = _catalog(disk)
    return {at: struct.unpack("<I", disk.read(catalog + at + 8, 4))[0] for at in (OF_BIOS, OF_UEFI)}


def _move(disk: PartitionedDisk, entry: int) -> None:
    disk.write(_catalog(disk) + entry + 8, struct.pack("<I", _entries(disk)[entry] + 1))
