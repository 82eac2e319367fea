"""The reference image as metal4k: the same partitions on sectors of 4 KiB, and the profile that it keeps.

Boot and root are the same bytes, for their blocks have 4 KiB anyway. A FAT filesystem names its sector size, so the
EFI system partition is made anew. CoreOS ships such an image with the layout of its other ones; nothing boots it by
BIOS.
"""

from __future__ import annotations

import re
import uuid
from pathlib import Path

import fixtures
from harness.images.filesystems.files import open_files
from harness.images.partitions.layout import Layout, read_layout
from harness.images.source import open_image
from harness.tools import run
from suites.bench.sectors4k import MIB, SECTOR, Part, write_disk

CHUNK = 16 * MIB
PROFILES = Path(fixtures.__file__).parent / "profiles"
LOADER = "/EFI/BOOT/BOOTX64.EFI"
METAL_MIB = 2048


def make_disk_4k(reference: Path, folder: Path) -> tuple[Path, Path]:
    """A raw disk made from the reference image, and its profile, both in `folder`."""
    target = folder / "reference-4k.raw"
    with open_image(reference) as image:
        layout = read_layout(image.block)
        parts = [
            Part(row.label, str(row.type_guid), row.start // MIB, row.size // MIB, _content(layout, row.label, folder))
            for row in layout.partitions
        ]
        write_disk(target, uuid.UUID(str(layout.disk_guid)), parts, METAL_MIB)
        with target.open("r+b") as disk:
            disk.truncate(image.block.size)
    for part in parts:
        part.content.unlink()
    return target, _profile(folder)


def _content(layout: Layout, label: str, folder: Path) -> Path:
    content = folder / f"{label}.part"
    if label == "EFI-SYSTEM":
        return _esp(layout, label, content)
    block = layout.part_block(label)
    with content.open("wb") as file:
        for offset in range(0, block.size, CHUNK):
            piece = block.read(offset, min(CHUNK, block.size - offset))
            if any(piece):
                file.seek(offset)
                file.write(piece)
        file.truncate(block.size)
    return content


def _esp(layout: Layout, label: str, content: Path) -> Path:
    old = layout.part_block(label)
    volume = next(row.filesystem.uuid for row in layout.partitions if row.label == label)
    loader = content.with_suffix(".efi")
    loader.write_bytes(open_files(old).read(LOADER))
    with content.open("wb") as file:
        file.truncate(old.size)
    run(["mkfs.vfat", "-S", "4096", "-n", label, "-i", volume.replace("-", ""), content])
    run(["mmd", "-i", content, "::/EFI", "::/EFI/BOOT"], env={"MTOOLS_SKIP_CHECK": "1"})
    run(["mcopy", "-i", content, loader, f"::{LOADER}"], env={"MTOOLS_SKIP_CHECK": "1"})
    loader.unlink()
    return content


def _profile(folder: Path) -> Path:
    text = (PROFILES / "reference.toml").read_text()
    changes = {"sector_size = 512": "sector_size = 4096", '["bios", "uefi"]': '["uefi"]'}
    changes["legacy_bios_bootable = true\n"] = ""
    for old, new in changes.items():
        assert text.count(old) == 1, f"the reference profile no longer says {old!r}"
        text = text.replace(old, new)
    profile = folder / "reference-4k.toml"
    profile.write_text(re.sub(r"(?m)^(start|sectors) = ([\d_]+)", _in_larger_sectors, text))
    return profile


def _in_larger_sectors(line: re.Match[str]) -> str:
    return f"{line[1]} = {int(line[2]) // (SECTOR // 512)}"
