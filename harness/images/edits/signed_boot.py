"""A disk made to boot with secure boot: Debian's shim and GRUB, signed as shipped, on the ESP of a new image.

For the reference image only, whose own GRUB nobody signed (docs/decisions/0006-secure-boot.md). Signed GRUB loads no
modules and has `linux` and `initrd` built in, which hide the functions that the image's grub.cfg reads its entries
with: it would run those lines. So entries are read with the root on the ESP, where the two find nothing and say so, and
kernel and initramfs are taken from the folder that the entry's `ostree=` names, where ostree puts exactly one of each.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from harness.errors import MissingTool, UnsupportedImage
from harness.images.edits.draft import Draft, Form, drafting
from harness.images.edits.inject import boot_partition
from harness.images.edits.stages import Progress, silent, stage
from harness.images.filesystems.files import open_files
from harness.images.partitions.layout import part_of
from harness.tools import known_tools, run

EFI_SYSTEM = "EFI-SYSTEM"
SHIM = "/usr/lib/shim/shimx64.efi.signed"
GRUB = "/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"
GRUB_CONFIG = "/grub2/grub.cfg"
SIGNED_CONFIG = "/EFI/debian/grub.cfg"  # where Debian's signed GRUB looks, on the filesystem it was started from
BOOT_LOADERS = {SHIM: "/EFI/BOOT/BOOTX64.EFI", GRUB: "/EFI/BOOT/grubx64.efi"}  # shim starts what lies beside it
HEAD: Final = """\
# For Debian's signed GRUB, made from grub2/grub.cfg of the boot filesystem.
set esp=$root
search --no-floppy --label boot --set root
set prefix=($root)/grub2
"""
# What the image's grub.cfg does with each entry, and what is done instead.
READING: Final = """\
for entry in $entries; do
    source "$entry"
    menuentry "$bls_title" "$bls_linux" "$bls_initrd" "$bls_options" {
        insmod linux
        linux "$2" $4
        initrd "$3"
    }
done
"""
READING_SIGNED: Final = """\
# `linux` and `initrd` are built in and hide the functions above: they find nothing on the ESP, and say so. The folder
# that ostree= names holds one kernel and one initramfs.
for entry in $entries; do
    set root=$esp
    source "($boot)$entry"
    set root=$boot
    regexp --set 1:bls_stateroot --set 2:bls_checksum "ostree=/ostree/boot[.][01]/([^/]+)/([0-9a-f]+)/" "$bls_options"
    for file in /ostree/$bls_stateroot-$bls_checksum/vmlinuz*; do set bls_linux="$file"; done
    for file in /ostree/$bls_stateroot-$bls_checksum/initramfs*; do set bls_initrd="$file"; done
    menuentry "$bls_title" "$bls_linux" "$bls_initrd" "$bls_options" {
        linux "$2" $4
        initrd "$3"
    }
done
"""
FIXED_TIME = {"SOURCE_DATE_EPOCH": "1793491200", "TZ": "UTC", "MTOOLS_SKIP_CHECK": "1"}  # the same bytes every time


def sign_boot(source: Path, target: Path, *, form: Form | None = None, progress: Progress = silent) -> None:
    """Write `target`, a disk like `source` whose ESP starts shim, signed GRUB and through them the signed kernel.

    Raises UnsupportedImage for a disk without ESP or with another grub.cfg than the reference image's, MissingTool.
    """
    loaders = {path: signed_file(name) for name, path in BOOT_LOADERS.items()}
    with drafting(source, target, form=form, progress=progress) as draft:
        boot = open_files(part_of(draft.image.block, boot_partition(draft.layout)))
        config = signed_config(boot.text(GRUB_CONFIG), f"{boot.name}: {GRUB_CONFIG}")
        with stage(progress, "sign"), tempfile.TemporaryDirectory() as folder:
            made = Path(folder, "grub.cfg")
            made.write_text(config, encoding="utf-8")
            write_to_esp(draft, {**loaders, SIGNED_CONFIG: made})


def signed_file(name: str) -> Path:
    """A signed program of this host. Raises MissingTool naming its package."""
    tool = known_tools()[name]
    if (found := tool.find()) is None:
        raise MissingTool(f"{name} is not installed", next_step=f"install {tool.apt} (apt) or {tool.dnf} (dnf)")
    return found


def signed_config(config: str, where: str) -> str:
    """The reference image's grub.cfg for signed GRUB. Raises UnsupportedImage where it is another's."""
    if config.count(READING) != 1:
        raise UnsupportedImage(
            "does not read its entries as the reference image does",
            where=where,
            next_step="an image that is shipped for secure boot needs no such edit: boot it as it is",
        )
    return HEAD + config.replace(READING, READING_SIGNED)


def write_to_esp(draft: Draft, files: Mapping[str, Path]) -> None:
    """Put files into the EFI system partition of a draft, by their paths there; what is there is replaced.

    Raises DamagedImage where no partition is labelled as one, ToolFailed with the words of mtools.
    """
    esp = draft.layout.partition(EFI_SYSTEM)
    there = open_files(part_of(draft.image.block, esp))
    folders = {str(folder) for path in files for folder in list(Path(path).parents)[:-1]}
    place = f"{draft.disk}@@{esp.start}"
    for folder in sorted(folder for folder in folders if not there.exists(folder)):
        run(["mmd", "-i", place, f"::{folder}"], env=FIXED_TIME)
    for path, file in files.items():
        run(["mcopy", "-o", "-i", place, file, f"::{path}"], env=FIXED_TIME)
