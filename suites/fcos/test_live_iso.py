"""A live ISO: what it promises as a file, and what becomes of it in a machine (facts: osbuild's live-artifacts.mono,
coreos-installer's embed areas; docs/live-iso.md).
"""

import hashlib
import json
import re
from dataclasses import replace
from itertools import islice

import pytest

from harness.deadline import Deadline
from harness.errors import DamagedImage
from harness.images.filesystems.files import open_files
from harness.images.formats.cpio import member_block, read_cpio
from harness.images.formats.iso import SECTOR, read_catalog
from harness.images.partitions.layout import read_layout
from harness.images.system.live_archives import read_archives
from harness.images.system.live_places import place_of
from harness.iso.edit import change, modify_kargs
from harness.machine.boot import Boot
from harness.machine.guest.units import unit_states
from harness.machine.hardware.disks import Disk
from harness.machine.machine import CONSOLE_LOG

PXE = "/images/pxeboot"
INSTALL_TIME = 400.0  # seconds
# A config whose effect is seen by who has but the console.
ANNOUNCING = b"""{"ignition": {"version": "3.0.0"}, "systemd": {"units": [{"name": "announce.service", "enabled": true,
"contents": "[Unit]\\nBefore=systemd-user-sessions.service\\n\\n[Service]\\nType=oneshot\\nStandardOutput=journal+console\\nExecStart=/bin/echo flavour is vanilla\\n\\n[Install]\\nWantedBy=multi-user.target\\n"}]}}
"""  # noqa: E501 - a unit is one line of JSON
# What stands behind the room for kernel arguments in a boot configuration.
MARK = b"COREOS_KARG_EMBED_AREA"
LOADED = (f"{PXE}/vmlinuz", f"{PXE}/initrd.img", "/images/ignition.img")
BOOT_IMAGES = {"x86 BIOS": "/isolinux/isolinux.bin", "UEFI": "/images/efiboot.img"}
REMOVABLE = "/EFI/BOOT/BOOTX64.EFI"
OF_INITRD, WANTED, FEATURES = "etc/coreos-live-initramfs", "etc/coreos-live-want-rootfs", "etc/coreos/features.json"
ARCHIVE = re.compile(rb"070701[0-9A-Fa-f]{104}|\x1f\x8b\x08")  # cpio, or that in gzip as coreos-assembler appends it
MOST_TRIED = 100  # places that look like the beginning of an archive
LARGEST_INITRD = 2**28  # bytes


def announced(live_iso, fact):
    """A fact about the ISO; where there is none, the check fails by what was met instead."""
    if (found := getattr(live_iso.facts, fact)) is None:
        met = "; ".join(str(problem) for problem in live_iso.problems) or "there is none"
        raise DamagedImage(f"{fact}: {met}", where=live_iso.path.name)
    return found


@pytest.fixture(scope="module")
def initrd_additions(live_iso):
    """Members of the archive that the live build puts behind the initramfs, by name."""
    raw = live_iso.files.read(f"{PXE}/initrd.img", LARGEST_INITRD)
    for found in islice(ARCHIVE.finditer(raw), MOST_TRIED):
        members = {each.name: each.content for each in read_archives(raw[found.start() :], "initrd.img") or ()}
        if OF_INITRD in members:
            return members
    raise DamagedImage(f"ends in no archive with {OF_INITRD}", where=f"{live_iso.path.name}: {PXE}/initrd.img")


@pytest.fixture(scope="module")
def boot_configurations(live_iso):
    """What boot loaders read, by path."""
    vendors = live_iso.files.listdir("/EFI") if live_iso.files.exists("/EFI") else []
    paths = ("isolinux/isolinux.cfg", *(f"EFI/{vendor}/grub.cfg" for vendor in vendors))
    return {path: live_iso.files.read(f"/{path}").decode() for path in paths if live_iso.files.exists(f"/{path}")}


def test_nothing_in_it_is_unreadable(live_iso):
    assert not live_iso.problems, "; ".join(map(str, live_iso.problems))


def test_it_boots_by_bios_and_by_uefi_from_a_cd(live_iso):
    catalog = read_catalog(live_iso.image.block)
    assert catalog, "the ISO has no boot catalog"
    assert catalog.problem == ""
    found = {each.platform: {"bootable": each.is_bootable, "emulation": each.emulation} for each in catalog.images}
    assert found == {each: {"bootable": True, "emulation": "none"} for each in BOOT_IMAGES}


def test_boot_catalog_leads_to_the_boot_images(live_iso):
    catalog = read_catalog(live_iso.image.block)
    found = {each.platform: each.start_lba * SECTOR for each in (catalog.images if catalog else ())}
    places = {key: place_of(live_iso.image.block, live_iso.files, path) for key, path in BOOT_IMAGES.items()}
    assert found == {platform: place.start for platform, place in places.items()}


def test_it_boots_from_a_disk_as_well(live_iso):
    """By an MBR with code in it, and by a partition of a GPT that is the EFI image."""
    head = live_iso.image.block.read(0, 1024)
    found = {"code": any(head[:440]), "MBR": head[510:512], "GPT": head[512:520]}
    assert found == {"code": True, "MBR": b"\x55\xaa", "GPT": b"EFI PART"}
    efi = place_of(live_iso.image.block, live_iso.files, BOOT_IMAGES["UEFI"])
    places = {part.start: part.size for part in read_layout(live_iso.image.block).partitions}
    assert efi.start in places, f"no partition begins at byte {efi.start:,}, where the EFI image does, but at {places}"


def test_volume_id_is_that_of_the_kernel_argument(live_iso):
    named = [word for word in announced(live_iso, "kargs").default.split() if word.startswith("coreos.liveiso=")]
    assert named == [f"coreos.liveiso={live_iso.facts.volume_id}"]


def test_kernel_arguments_stand_in_every_boot_configuration(live_iso, boot_configurations):
    kargs = announced(live_iso, "kargs")
    words = {area.file: (area.kargs or "").split() for area in kargs.areas}
    assert words == dict.fromkeys(boot_configurations, kargs.default.split())
    behind = {area.file: live_iso.image.block.read(area.offset + kargs.size, 64) for area in kargs.areas}
    assert {file: text.lstrip(b"# ")[: len(MARK)] for file, text in behind.items()} == dict.fromkeys(behind, MARK)


def test_every_boot_configuration_loads_kernel_initrd_and_the_room_for_a_config(boot_configurations):
    assert boot_configurations, "the ISO has no boot configuration"
    loaded = {file: [path for path in LOADED if path in text] for file, text in boot_configurations.items()}
    assert loaded == {file: [*LOADED] for file in boot_configurations}


def test_ignition_area_is_there_and_empty(live_iso):
    area = announced(live_iso, "ignition")
    found = {"file": area.file, "bytes": area.size, "state": area.state}
    assert found == {"file": "images/ignition.img", "bytes": 262144, "state": "empty"}


def test_pxe_files_are_there(live_iso):
    assert sorted(live_iso.facts.pxe) == ["initrd.img", "rootfs.img", "vmlinuz"]


def test_rootfs_begins_with_its_filesystem(live_iso):
    """Whoever mounts it knows the byte by heart: root.squashfs, or root.erofs, is the first member."""
    rootfs = announced(live_iso, "rootfs")
    found, kinds = rootfs.filesystem, ("squashfs", "erofs")
    assert found in kinds, f"the root in rootfs.img is of the kind {found}, not one of {', '.join(kinds)}"
    first = {"first member": rootfs.members[0], "byte": rootfs.offset}
    assert first == {"first member": f"root.{found}", "byte": 124}


def test_kernel_and_root_are_of_one_build(live_iso, initrd_additions):
    assert announced(live_iso, "rootfs").build == initrd_additions[OF_INITRD].decode().strip()


def test_initrd_knows_the_hash_of_every_block_of_the_root(live_iso, initrd_additions):
    kind, *hashes = initrd_additions.get(WANTED, b"").decode().splitlines() or [""]
    said = re.fullmatch(r"stream-hash sha256 ([1-9][0-9]{3,8})", kind)
    assert said, f"{WANTED} begins with {kind!r}"
    blocks = live_iso.files.chunks(f"{PXE}/rootfs.img", int(said[1]))
    found = {f"block {number}": hashlib.sha256(block).hexdigest() for number, block in enumerate(blocks)}
    assert found == {f"block {number}": wanted for number, wanted in enumerate(hashes)}


def test_features_are_the_same_on_the_iso_and_in_the_initrd(live_iso, initrd_additions):
    assert announced(live_iso, "features") == json.loads(initrd_additions.get(FEATURES, b"{}"))


def test_efi_image_has_the_removable_boot_path(live_iso):
    efi = open_files(place_of(live_iso.image.block, live_iso.files, BOOT_IMAGES["UEFI"]))
    assert efi.exists(REMOVABLE), f"the EFI image has no {REMOVABLE}"
    assert next(iter(efi.chunks(REMOVABLE)), b"")[:2] == b"MZ", f"{REMOVABLE} is no program"


def test_root_holds_the_deployment_of_the_disk_image(live_iso):
    if live_iso.built is None:
        pytest.skip("what a foreign ISO was built from is not known")
    archive = place_of(live_iso.image.block, live_iso.files, f"{PXE}/rootfs.img")
    first = next(iter(read_cpio(archive)))
    root = open_files(member_block(archive, first))
    commit = live_iso.built.reference.ostree_commit
    assert f"{commit}.0" in root.listdir("/ostree/deploy/reference/deploy")


def test_embedded_config_was_applied(live_machine):
    guest = live_machine.guest_by_channel
    assert guest.file("/var/lib/flavour").content_string == "vanilla\n"
    assert guest.file("/run/flavour").content_string == "vanilla\n"
    assert guest.file("/proc/sys/kernel/hostname").content_string == "live-guest\n"


def test_key_of_the_config_opens_ssh(live_machine):
    assert live_machine.shell.run("id -un", Deadline(60)).text.strip() == "core"


def test_live_system_is_running(live_machine):
    guest = live_machine.guest_by_channel
    assert guest.check_output("systemctl list-units --failed --plain --no-legend") == ""
    assert guest.run("systemctl is-system-running").stdout.strip() == "running"


def test_units_are_in_their_promised_state(live_machine, live_profile):
    if not live_profile.units:
        pytest.skip(f"profile {live_profile.name} promises no states of units")
    wanted = {each.name: f"{each.enabled}, {each.active_live or each.active}" for each in live_profile.units}
    assert unit_states(live_machine.guest_by_channel, list(wanted)) == wanted


def test_system_knows_that_it_is_live(live_machine):
    guest = live_machine.guest_by_channel
    assert guest.file("/run/ostree-live").exists
    assert guest.check_output("findmnt -no FSTYPE,OPTIONS /run/media/iso").split(",")[0].split() == ["iso9660", "ro"]


def test_root_is_read_only_and_etc_and_var_are_not(live_machine):
    guest = live_machine.guest_by_channel
    done = guest.run("touch /usr/.written")
    assert (done.rc, "Read-only file system" in done.stderr) == (1, True)
    assert guest.run("touch /etc/.written /var/.written").rc == 0


def test_booting_left_the_iso_as_it_was(live_machine, live_iso):
    del live_machine
    assert live_iso.file_now() == live_iso.digest


@pytest.mark.nightly
@pytest.mark.boot
def test_pxe_boot_applies_a_config_in_an_initrd(pxe_kernel, empty_disk, live_boot, live_config, cold_boots):
    by_cd = live_boot("bios", live_config)
    spec = replace(by_cd.spec, primary=Disk(), kernel=pxe_kernel)
    with cold_boots(Boot(empty_disk, live_config, spec, by_cd.accel, "empty", embeds=True), "live-pxe") as machine:
        guest = machine.guest_by_channel
        assert guest.file("/var/lib/flavour").content_string == "vanilla\n"
        assert guest.run("systemctl is-system-running").stdout.strip() == "running"
        assert not guest.file("/run/media/iso").exists


@pytest.mark.nightly
@pytest.mark.boot
def test_pxe_boot_fetches_its_root_from_a_server(pxe_kernel, empty_disk, live_boot, live_config, cold_boots, served):
    """With one initrd only; a block of another root is noticed by the hashes in that initrd."""
    by_cd, initrd = live_boot("bios", live_config), pxe_kernel.initrds[0]
    arguments = f"{pxe_kernel.arguments} ip=dhcp rd.neednet=1 coreos.live.rootfs_url={served(initrd.parent)}/rootfs.img"
    kernel = replace(pxe_kernel, initrds=(initrd,), arguments=arguments)
    spec = replace(by_cd.spec, primary=Disk(), kernel=kernel)
    with cold_boots(Boot(empty_disk, live_config, spec, by_cd.accel, "empty", embeds=True), "live-url") as machine:
        assert machine.guest_by_channel.file("/var/lib/flavour").content_string == "vanilla\n"


@pytest.mark.nightly
@pytest.mark.boot
def test_root_can_be_in_memory_and_a_disk_be_installed(live_iso, live_boot, cold_boots, served, metal, tmp_path):
    """The medium is free then; what is installed boots from its disk and applies the config it was given."""
    change(live_iso.path, modify_kargs(append=["coreos.liveiso.fromram"]), tmp_path / "fromram.iso")
    boot = live_boot("bios", ANNOUNCING)
    spec = replace(boot.spec, disks=(Disk(10 * 2**30),))
    boot = replace(boot, image=tmp_path / "fromram.iso", digest="", spec=spec)
    with cold_boots(boot, "live-install") as machine:
        guest = machine.guest_by_channel
        assert guest.run("findmnt /run/media/iso").rc == 1
        script = f"cat > /run/config.ign << 'END'\n{ANNOUNCING.decode()}END\n"
        script += f"/usr/local/bin/live-install {served(metal.parent)}/{metal.name} /dev/vda /run/config.ign"
        done = machine.run(script, Deadline(INSTALL_TIME))
        assert (done.rc, "Installed http" in done.text) == (0, True), done
        machine.shutdown(Deadline(90))
        (machine.scratch / "disk-1.raw").rename(tmp_path / "installed.raw")
    plain = replace(boot.spec, primary=Disk(), disks=(), memory=1024)
    installed = Boot(tmp_path / "installed.raw", None, plain, boot.accel)
    with cold_boots(installed, "installed") as machine:
        assert "flavour is vanilla" in (machine.logs / CONSOLE_LOG).read_text()


@pytest.mark.nightly
@pytest.mark.boot
@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_hybrid_iso_boots_from_a_disk(firmware, live_iso, live_boot, live_config, cold_boots):
    by_cd = live_boot(firmware, live_config)
    with cold_boots(replace(by_cd, spec=replace(by_cd.spec, primary=Disk())), f"live-usb-{firmware}") as machine:
        assert machine.guest_by_channel.file("/var/lib/flavour").content_string == "vanilla\n"
    assert live_iso.file_now() == live_iso.digest
