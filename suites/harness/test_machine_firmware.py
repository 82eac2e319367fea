"""Firmware: what QEMU is told about each, and that secure boot refuses what nobody signed, at each step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import BadInput, BootFailed, MissingTool, UnsupportedImage
from harness.images.edits import signed_boot
from harness.images.edits.signed_boot import GRUB, SHIM, sign_boot
from harness.images.filesystems.files import open_files
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image
from harness.machine.accel import Accel
from harness.machine.boot import Boot
from harness.machine.hardware import firmware as firmware_module
from harness.machine.hardware.firmware import FIRMWARES, FirmwareFiles, firmware_files
from harness.machine.hardware.spec import MachineSpec
from harness.machine.machine import CONSOLE_LOG, booted, own_variables
from harness.machine.power import Powered, powered
from harness.machine.qemu.command_line import Layer, Wiring, command_line
from harness.machine.qemu.swtpm import emulated_tpm
from harness.report.excerpt import console_excerpt
from harness.store import Store
from harness.tools import Tool
from suites.harness.edited import changed_outside
from suites.harness.small_disk import MIB
from suites.harness.small_esp import (
    CONFIG,
    LOADER,
    PARTS,
    SECOND_STAGE,
    chain,
    changed_in_one_byte,
    esp_disk,
    needs_signed_loaders,
    signed,
)

TCG = Accel("tcg", "tests")
SECURE = MachineSpec(memory=512, cpus=1, firmware="uefi-secure")
SHIM_FOLDER = Path(SHIM).parent
REFERENCE_CONFIG = Path(__file__).parents[2] / "fixtures/reference/boot/grub2/grub.cfg"
UNSIGNED = Path("/usr/lib/shim/shimx64.efi")  # the same program before Microsoft signed it; comes with the signed one
SECURE_BOOT = "od -An -t u1 -j 4 /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"


def arguments(firmware, variables=Path("/scratch/variables.fd")):
    spec = MachineSpec(firmware=firmware)
    return " ".join(command_line(spec, "tcg", Wiring(3, 4, 5, 9, [Layer(Path("/disk"), "raw")], variables=variables)))


@pytest.fixture
def own_store(tmp_path) -> Store:
    return Store(tmp_path / "store")


def refusal(disk: Path, own_store: Store, tmp_path: Path) -> BootFailed:
    """How a boot of this disk by secure boot fails."""
    with (
        pytest.raises(BootFailed) as refused,
        booted(Boot(disk, None, SECURE, TCG), own_store, tmp_path / "logs", Deadline(300)),
    ):
        pytest.fail("it came up")
    return refused.value


@contextmanager
def started(disk: Path, spec: MachineSpec, own_store: Store, tmp_path: Path) -> Iterator[Powered]:
    """A machine on this very disk, watched from its firmware on."""
    with own_store.scratch("t") as scratch, emulated_tpm(spec, scratch) as emulator:
        variables = own_variables(spec, scratch)

        def argv(ends):
            layers = [Layer(disk, "raw")]
            return command_line(spec, "tcg", Wiring(*ends, layers, variables=variables, tpm=emulator.control))

        with powered(argv, scratch, tmp_path / "log", keep_open=emulator.descriptors) as parts:
            yield parts


# -- what QEMU is told ------------------------------------------------------------------------------------------------


def test_a_bios_machine_has_no_flash():
    assert "pflash" not in arguments("bios", None)


def test_uefi_has_its_code_and_variables_in_flash():
    line = arguments("uefi")
    assert "pflash0=code,pflash1=variables" in line
    assert "/scratch/variables.fd" in line
    assert "smm" not in line


def test_with_secure_boot_only_system_management_mode_writes_to_the_flash():
    line = arguments("uefi-secure")
    assert "pflash1=variables,smm=on" in line
    assert "driver=cfi.pflash01,property=secure,value=on" in line
    assert "ICH9-LPC.disable_s3=1" in line


@pytest.mark.parametrize("firmware", [name for name in FIRMWARES if name != "bios"])
def test_a_uefi_machine_without_a_store_of_its_own_is_refused(firmware):
    with pytest.raises(BadInput, match="variable store"):
        arguments(firmware, None)


def test_an_architecture_without_that_firmware_is_refused():
    with pytest.raises(BadInput, match="pdp11 has no firmware 'uefi'"):
        firmware_files("pdp11", "uefi")


def test_missing_firmware_names_its_package(monkeypatch):
    nowhere = FirmwareFiles(Path("/nowhere/code"), Path("/nowhere/variables"))
    monkeypatch.setattr(firmware_module, "PLACES", {("x86_64", "uefi-secure"): (nowhere,)})
    with pytest.raises(MissingTool, match=r"secure boot keys for x86_64 is not installed \(install ovmf"):
        firmware_files("x86_64", "uefi-secure")


def test_the_variables_of_secure_boot_have_microsofts_keys_enrolled():
    authority = b"Microsoft Corporation UEFI CA 2011"
    assert authority in firmware_files("x86_64", "uefi-secure").variables.read_bytes()
    assert authority not in firmware_files("x86_64", "uefi").variables.read_bytes()


def test_each_machine_has_variables_of_its_own(tmp_path):
    template = firmware_files("x86_64", "uefi-secure").variables
    own = own_variables(SECURE, tmp_path)
    assert own is not None
    assert own.read_bytes() == template.read_bytes()
    assert own.parent == tmp_path
    assert own_variables(MachineSpec(), tmp_path) is None


def test_firmware_decides_what_a_snapshot_is_of(tmp_path):
    (tmp_path / "disk").write_bytes(bytes(512))
    keys = [Boot(tmp_path / "disk", None, MachineSpec(firmware=name), TCG).key() for name in FIRMWARES]
    assert len({str(key["firmware"]) for key in keys}) == len(FIRMWARES)


# -- what is refused --------------------------------------------------------------------------------------------------


@needs_signed_loaders
@pytest.mark.boot
@pytest.mark.parametrize("what", ["nobody signed", "was changed afterwards"])
def test_a_boot_loader_is_refused_that(what, tmp_path, own_store):
    program = UNSIGNED.read_bytes() if what == "nobody signed" else changed_in_one_byte(signed(SHIM))
    failure = refusal(esp_disk(tmp_path, {LOADER: program}), own_store, tmp_path)
    assert "the firmware refused to run the boot loader [firmware-refused]: BdsDxe: failed to load Boot" in str(failure)
    assert "Access Denied" in str(failure)
    assert failure.verdict_class == "boot"
    quoted = console_excerpt(tmp_path / "logs" / CONSOLE_LOG, str(failure))
    assert any("Access Denied" in line for line in quoted), quoted


@needs_signed_loaders
@pytest.mark.boot
def test_shim_refuses_a_second_stage_that_was_changed(tmp_path, own_store):
    disk = esp_disk(tmp_path, chain(changed_in_one_byte(signed(GRUB))))
    assert "[shim-refused]" in str(refusal(disk, own_store, tmp_path))


@needs_signed_loaders
@pytest.mark.boot
def test_signed_grub_refuses_a_kernel_that_was_changed(tmp_path, own_store, guest_kernel):
    config = "serial\nterminal_output serial\nlinux /vmlinuz\nboot\n"
    files = chain(config=config) | {"/vmlinuz": changed_in_one_byte(guest_kernel.read_bytes())}
    assert "[grub-refused]" in str(refusal(esp_disk(tmp_path, files), own_store, tmp_path))


# -- what boots -------------------------------------------------------------------------------------------------------


@needs_signed_loaders
@pytest.mark.boot
@pytest.mark.parametrize("tpm", [False, True], ids=["without TPM", "with TPM"])
def test_an_esp_as_images_are_shipped_with_boots(tpm, tmp_path, own_store):
    """BOOTX64.EFI finds fbx64.efi beside it, which makes a boot entry from BOOTX64.CSV; with a TPM it then resets."""
    config = "serial\nterminal_output serial\necho GRUB was reached\nsleep 600\n"
    shipped = {
        "/EFI/BOOT/BOOTX64.EFI": signed(SHIM),
        "/EFI/BOOT/fbx64.efi": SHIM_FOLDER.joinpath("fbx64.efi.signed").read_bytes(),
        "/EFI/debian/BOOTX64.CSV": SHIM_FOLDER.joinpath("BOOTX64.CSV").read_bytes(),
        "/EFI/debian/shimx64.efi": signed(SHIM),
        "/EFI/debian/grubx64.efi": signed(GRUB),
        CONFIG: config.encode(),
    }
    spec = replace(SECURE, tpm=tpm)
    with started(esp_disk(tmp_path, shipped), spec, own_store, tmp_path) as parts:
        assert parts.console.wait_for("GRUB was reached", Deadline(300))


@needs_signed_loaders
@pytest.mark.boot
def test_signed_grub_boots_the_kernel_that_a_boot_entry_means(tmp_path, own_store, guest_kernel):
    """The newest of two deployments decides: its entry's options, the kernel in the folder that its ostree= names."""
    boot = {"grub2/grub.cfg": REFERENCE_CONFIG.read_bytes()}
    for number, checksum, kernel in ((1, "a" * 64, b"no kernel at all"), (2, "b" * 64, guest_kernel.read_bytes())):
        options = f"rw $ignition_firstboot ostree=/ostree/boot.1/small/{checksum}/0 console=ttyS0 proof={number}"
        folder = f"ostree/small-{checksum}"
        entry = f"title Small {number}\nversion {number}\noptions {options}\nlinux /{folder}/vmlinuz-6.1\n"
        boot |= {f"loader/entries/ostree-{number}-small.conf": entry.encode(), f"{folder}/vmlinuz-6.1": kernel}
    boot["ignition.firstboot"] = b"set ignition_network_kcmdline='ip=dhcp'\n"
    sign_boot(esp_disk(tmp_path, {LOADER: b"MZ"}, boot), tmp_path / "signed.raw")
    with started(tmp_path / "signed.raw", SECURE, own_store, tmp_path) as parts:
        said = parts.console.wait_for("Kernel command line: ", Deadline(300))
        assert f"/ostree/small-{'b' * 64}/vmlinuz-6.1 rw ignition.firstboot ip=dhcp ostree=" in said
        assert said.endswith("console=ttyS0 proof=2")
        parts.console.wait_for("Secure boot enabled", Deadline(60))


@needs_signed_loaders
def test_only_the_esp_of_an_image_is_changed_for_secure_boot(tmp_path):
    before = esp_disk(
        tmp_path, {LOADER: b"MZ", "/keep.txt": b"mine"}, {"grub2/grub.cfg": REFERENCE_CONFIG.read_bytes()}
    )
    after = tmp_path / "signed.raw"
    sign_boot(before, after)
    start, size = (MIB * number for number in PARTS["EFI-SYSTEM"])
    assert changed_outside(before, after, start, start + size) == []
    with open_image(after) as image:
        esp = open_files(read_layout(image.block).part_block("EFI-SYSTEM"))
        found = {entry.path: esp.read(entry.path) for entry in esp.walk("/") if entry.kind == "file"}
    config = found.pop(CONFIG).decode()
    assert found == {LOADER: signed(SHIM), SECOND_STAGE: signed(GRUB), "/keep.txt": b"mine"}
    assert "insmod" not in config
    assert REFERENCE_CONFIG.read_text().partition("for entry in")[0] in config


@needs_signed_loaders
def test_an_image_made_twice_for_secure_boot_is_the_same_bytes(tmp_path):
    before = esp_disk(tmp_path, {LOADER: b"MZ"}, {"grub2/grub.cfg": REFERENCE_CONFIG.read_bytes()})
    for name in ("one.raw", "two.raw"):
        sign_boot(before, tmp_path / name)
    assert changed_outside(tmp_path / "one.raw", tmp_path / "two.raw", 0, 0) == []


@needs_signed_loaders
def test_an_image_with_another_grub_configuration_is_not_made_for_secure_boot(tmp_path):
    before = esp_disk(tmp_path, {LOADER: b"MZ"}, {"grub2/grub.cfg": b"blscfg\n"})
    with pytest.raises(UnsupportedImage, match="boot it as it is"):
        sign_boot(before, tmp_path / "signed.raw")
    assert not (tmp_path / "signed.raw").exists()


def test_missing_signed_loaders_name_their_package(tmp_path, monkeypatch):
    shim = Tool("/nowhere/shim", "shim-signed", "shim-x64", "")
    monkeypatch.setattr(signed_boot, "known_tools", lambda: {SHIM: shim})
    with pytest.raises(MissingTool, match="install shim-signed"):
        signed_boot.signed_file(SHIM)


@needs_signed_loaders
@pytest.mark.nightly
def test_the_reference_image_boots_with_secure_boot(snapshots, restores):
    with restores(snapshots("uefi-secure", tpm=True), "secure-boot") as machine:
        assert machine.run(SECURE_BOOT).text.split() == ["1"]
        assert "Secure boot enabled" in machine.run("journalctl -k -o cat").text
        assert "[integrity]" in machine.run("cat /sys/kernel/security/lockdown").text


@needs_signed_loaders
@pytest.mark.nightly
def test_signed_grub_boots_what_the_boot_entry_says(snapshots, restores, boot_entries):
    with restores(snapshots("uefi-secure", tpm=True), "secure-boot-entry") as machine:
        said = machine.run("cat /proc/cmdline").text.split()
    entry = boot_entries.default
    assert said[0].endswith(entry.linux)
    options = [word for word in entry.options if word != "$ignition_firstboot"]
    assert [word for word in said[1:] if word in options] == options


@needs_signed_loaders
@pytest.mark.nightly
def test_secure_boot_boots_again(snapshots, restores):
    """The second time there is no first-boot stamp and the entries are read anew."""
    with restores(snapshots("uefi-secure", tpm=True), "secure-reboot") as machine:
        machine.run(
            "mount -o remount,rw /boot && sed -i 's/^options .*/& harness.again=1/' /boot/loader/entries/*.conf"
        )
        machine.reboot(Deadline(400))
        said = machine.run("cat /proc/cmdline").text.split()
        assert "harness.again=1" in said
        assert "ignition.firstboot" not in said
        assert machine.run(SECURE_BOOT).text.split() == ["1"]
