"""The disk: GPT, boot loaders and filesystems put together in a sparse raw file, then shipped as qcow2."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.build.bootloader import install_bios, make_core
from harness.tools import run

MIB = 2**20
SECTOR = 512
# Facts A1, x86_64: number, PARTLABEL, type GUID, first MiB, MiB (root takes the rest).
PARTITIONS = (
    (1, "BIOS-BOOT", "21686148-6449-6E6F-744E-656564454649", 1, 1),
    (2, "EFI-SYSTEM", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", 2, 127),
    (3, "boot", "BC13C2FF-59E6-4262-A352-B275FD6F7172", 129, 384),
    (4, "root", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", 513, None),
)
BOOT_MIB = 384


def root_mib(metal_mib: int) -> int:
    """Size of the root partition: what is left of a metal image, less one MiB for the backup GPT."""
    return metal_mib - 513 - 1


def assemble(filesystems: Path, settings: Mapping[str, Any], folder: Path) -> Path:
    """The raw disk, sparse, at its cloud size; its backup GPT lies where the metal image ends (facts A7)."""
    disk = folder / "disk.raw"
    with disk.open("wb") as stream:
        stream.truncate(settings["metal_mib"] * MIB)
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk], stdin=_table(settings).encode())
    esp = _esp(settings, folder)
    parts = {2: esp, 3: filesystems / "boot.ext4", 4: filesystems / "root.ext4"}
    for number, _, _, first, _ in PARTITIONS:
        if number in parts:
            _copy_sparse(parts[number], disk, first * MIB)
    install_bios(make_core("i386-pc", folder), disk, MIB // SECTOR, MIB // SECTOR)
    with disk.open("r+b") as stream:
        stream.truncate(settings["virtual_mib"] * MIB)
    return disk


def ship(disk: Path, target: Path) -> None:
    """As CoreOS ships it: qcow2, compat 1.1, 64 KiB clusters, not compressed (facts A8)."""
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "compat=1.1", disk, target])


def _table(settings: Mapping[str, Any]) -> str:
    """sfdisk's input. PARTUUIDs are random in CoreOS; ours follow from the label, or no build would repeat."""
    lines = ["label: gpt", f"label-id: {settings['disk_guid']}", "unit: sectors", "first-lba: 2048"]
    for number, label, kind, first, size in PARTITIONS:
        mib = size or root_mib(settings["metal_mib"])
        partuuid = uuid.uuid5(uuid.NAMESPACE_URL, f"image-harness:{settings['name']}:{label}")
        attributes = ', attrs="LegacyBIOSBootable"' if number == 1 else ""
        lines.append(
            f"{number}: start={first * MIB // SECTOR}, size={mib * MIB // SECTOR}, type={kind}, uuid={partuuid}, "
            f'name="{label}"{attributes}'
        )
    return "\n".join(lines) + "\n"


def _esp(settings: Mapping[str, Any], folder: Path) -> Path:
    """The EFI system partition: FAT with GRUB at the removable-media path."""
    esp = folder / "esp.img"
    with esp.open("wb") as stream:
        stream.truncate(127 * MIB)
    environment = {"SOURCE_DATE_EPOCH": str(settings["epoch"]), "MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}
    volume = settings["esp_volume_id"]
    run(["mkfs.vfat", "--invariant", "-n", "EFI-SYSTEM", "-i", volume, esp], env=environment)
    run(["mmd", "-i", esp, "::/EFI", "::/EFI/BOOT"], env=environment)
    run(["mcopy", "-i", esp, make_core("x86_64-efi", folder), "::/EFI/BOOT/BOOTX64.EFI"], env=environment)
    return esp


def _copy_sparse(source: Path, disk: Path, offset: int) -> None:
    run(["dd", f"if={source}", f"of={disk}", "bs=1M", f"seek={offset}", "oflag=seek_bytes", "conv=notrunc,sparse",
         "status=none"])  # fmt: skip


def discard_intermediate(folder: Path) -> None:
    """Remove what only the build needed."""
    for leftover in ("disk.raw", "esp.img", "early.cfg", "grub-i386-pc.img", "grub-x86_64-efi.img"):
        path = folder / leftover
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
