"""Firmware: its files in the places where distributions keep them, and what QEMU has to be told to start it.

With secure boot the variable store comes with Microsoft's keys enrolled, and only code in system management mode may
write to it: a guest that could write to the flash by itself could enrol a key of its own (edk2's OvmfPkg/README,
"SMM support"). Suspend to RAM is off there, because OVMF does not protect its boot script in all versions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import BadInput, MissingTool

Firmware = Literal["bios", "uefi", "uefi-secure"]
FIRMWARES: tuple[Firmware, ...] = ("bios", "uefi", "uefi-secure")


@dataclass(frozen=True, slots=True)
class FirmwareFiles:
    """UEFI code that is mapped read-only, and the template of the variable store that each machine gets a copy of."""

    code: Path
    variables: Path


def _files(folder: str, code: str, variables: str) -> FirmwareFiles:
    return FirmwareFiles(Path(folder, code), Path(folder, variables))


# Debian first, then Fedora and RHEL. Tried: x86_64 and aarch64 on Debian.
PLACES: Mapping[tuple[str, Firmware], tuple[FirmwareFiles, ...]] = {
    ("x86_64", "uefi"): (
        _files("/usr/share/OVMF", "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"),
        _files("/usr/share/edk2/ovmf", "OVMF_CODE.fd", "OVMF_VARS.fd"),
    ),
    ("x86_64", "uefi-secure"): (
        _files("/usr/share/OVMF", "OVMF_CODE_4M.ms.fd", "OVMF_VARS_4M.ms.fd"),
        _files("/usr/share/edk2/ovmf", "OVMF_CODE.secboot.fd", "OVMF_VARS.secboot.fd"),
    ),
    ("aarch64", "uefi"): (
        _files("/usr/share/AAVMF", "AAVMF_CODE.fd", "AAVMF_VARS.fd"),
        _files("/usr/share/edk2/aarch64", "QEMU_EFI-silent-pflash.raw", "vars-template-pflash.raw"),
    ),
}
PACKAGES = {"x86_64": "ovmf (apt) or edk2-ovmf (dnf)", "aarch64": "qemu-efi-aarch64 (apt) or edk2-aarch64 (dnf)"}


def has_variables(firmware: Firmware) -> bool:
    """Whether this firmware keeps variables, so that each machine needs a store of its own."""
    return firmware != "bios"


def firmware_files(arch: str, firmware: Firmware) -> FirmwareFiles:
    """The files of a UEFI firmware on this host. Raises MissingTool, and BadInput where an architecture has none."""
    places = PLACES.get((arch, firmware), ())
    if not places:
        known = ", ".join(name for of, name in PLACES if of == arch) or "none but its own"
        raise BadInput(f"{arch} has no firmware {firmware!r}", next_step=f"known for it: {known}")
    for files in places:
        if files.code.exists() and files.variables.exists():
            return files
    kind = "UEFI firmware with secure boot keys" if firmware == "uefi-secure" else "UEFI firmware"
    raise MissingTool(f"{kind} for {arch} is not installed", next_step=f"install {PACKAGES[arch]}")


def installed_firmware() -> tuple[Path, ...]:
    """Every firmware file of this host, for the doctor."""
    places = (files for each in PLACES.values() for files in each)
    return tuple(path for files in places for path in (files.code, files.variables) if path.exists())


def machine_options(firmware: Firmware) -> str:
    """What follows the machine's type in `-machine`, comma first; empty for a BIOS, which is QEMU's own."""
    if not has_variables(firmware):
        return ""
    flash = ",pflash0=code,pflash1=variables"
    return f"{flash},smm=on" if firmware == "uefi-secure" else flash


def firmware_arguments(arch: str, firmware: Firmware, variables: Path | None) -> list[str]:
    """QEMU's arguments beside `machine_options`; `variables` is this machine's own store, written by its guest.

    Raises BadInput where a store is needed and there is none, MissingTool.
    """
    if not has_variables(firmware):
        return []
    if variables is None:
        raise BadInput("a UEFI machine needs a variable store of its own")
    code = firmware_files(arch, firmware).code
    argv = [*_flash("code", code, read_only=True), *_flash("variables", variables, read_only=False)]
    if firmware == "uefi-secure":
        argv += ["-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1"]
    return argv


def _flash(name: str, path: Path, *, read_only: bool) -> list[str]:
    file: dict[str, Any] = {"driver": "file", "filename": str(path)}
    form = "qcow2" if path.suffix == ".qcow2" else "raw"
    return ["-blockdev", json.dumps({"driver": form, "node-name": name, "read-only": read_only, "file": file})]
