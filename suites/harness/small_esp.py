"""A disk of 48 MiB for UEFI: an ESP with the files a test wants, and a boot filesystem if it wants one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.images.edits.signed_boot import GRUB, SHIM, signed_file
from harness.tools import run
from suites.harness.small_disk import MIB, TYPES, write

ESP_SIZE = 24  # MiB
PARTS = {"EFI-SYSTEM": (1, ESP_SIZE), "boot": (1 + ESP_SIZE, 22)}  # MiB: start, size
LOADER, SECOND_STAGE, CONFIG = "/EFI/BOOT/BOOTX64.EFI", "/EFI/BOOT/grubx64.efi", "/EFI/debian/grub.cfg"

needs_signed_loaders = pytest.mark.skipif(
    not (Path(SHIM).exists() and Path(GRUB).exists()), reason="the signed boot loaders are not installed"
)


def esp_disk(
    folder: Path, files: Mapping[str, bytes], boot: Mapping[str, bytes] | None = None, *, esp_size: int = ESP_SIZE
) -> Path:
    """Build one in `folder`; `files` are by path on the ESP, `boot` by path on the boot filesystem.

    An ESP of another size (MiB) makes the disk so much larger.
    """
    image = folder / "esp.raw"
    parts = PARTS | {"EFI-SYSTEM": (1, esp_size), "boot": (1 + esp_size, PARTS["boot"][1])}
    with image.open("wb") as file:
        file.truncate((24 + esp_size) * MIB)
    rows = [
        f"start={at * 2048}, size={size * 2048}, name={label}, type={TYPES[label]}"
        for label, (at, size) in parts.items()
    ]
    run(["sfdisk", "-q", image], stdin="\n".join(["label: gpt", *rows]).encode())
    part = folder / "esp.part"
    part.write_bytes(bytes(esp_size * MIB))
    run(["mkfs.vfat", "--invariant", "-n", "EFI-SYSTEM", part])
    for parent in sorted({str(parent) for path in files for parent in list(Path(path).parents)[:-1]}):
        run(["mmd", "-i", part, f"::{parent}"])
    for path, content in files.items():
        staged = folder / "staged"
        staged.write_bytes(content)
        run(["mcopy", "-i", part, staged, f"::{path}"])
    write(image, parts["EFI-SYSTEM"][0] * MIB, part.read_bytes())
    if boot is not None:
        for path, content in boot.items():
            made = folder / "boot" / path
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_bytes(content)
        target = folder / "boot.part"
        run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", "boot", "-d", folder / "boot", target, f"{parts['boot'][1]}M"])
        write(image, parts["boot"][0] * MIB, target.read_bytes())
    return image


def signed(name: str) -> bytes:
    """Debian's signed shim or GRUB, by the path of its package."""
    return signed_file(name).read_bytes()


def chain(second_stage: bytes | None = None, config: str = "", **more: bytes) -> dict[str, bytes]:
    """Signed shim, what it starts (signed GRUB), and that one's configuration."""
    return {LOADER: signed(SHIM), SECOND_STAGE: second_stage or signed(GRUB), CONFIG: config.encode(), **more}


def changed_in_one_byte(program: bytes) -> bytes:
    """An EFI program whose signature no longer fits; it would still run."""
    at = program.index(b"This program cannot be run in DOS mode") if b"DOS mode" in program else len(program) // 2
    return program[:at] + bytes([program[at] ^ 0x20]) + program[at + 1 :]
