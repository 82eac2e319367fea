"""Layouts of disks without a GPT: an MBR, a bare filesystem, nothing at all; and what those need who want a GPT."""

from __future__ import annotations

import contextlib
import os
import random
import time
from pathlib import Path

import pytest

from harness.errors import DamagedImage, HarnessError, UnsupportedImage
from harness.images.block import Memory
from harness.images.formats.raw import FileBlock
from harness.images.inspection import inspect
from harness.images.manifest import from_json, to_json
from harness.images.manifest_text import render
from harness.images.partitions.layout import Layout, part_of, read_layout
from harness.images.source import open_image
from harness.images.system.tree import find_boot, find_esp, open_system
from harness.profile import partition_rows, read_profile
from harness.tools import run
from suites.harness.small_disk import put, system_files, write

MIB = 2**20


def blank(path: Path, size: int) -> Path:
    path.touch()
    os.truncate(path, size)
    return path


def ext4(folder: Path, name: str, files: dict[str, str], label: str, mib: int) -> Path:
    put(folder, name, files)
    part = folder / f"{name}.part"
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-d", str(folder / name), str(part), f"{mib}M"])
    return part


def layout_of(path: Path) -> Layout:
    with FileBlock(path) as block:
        return read_layout(block)


@pytest.fixture(scope="module")
def mbr_disk(tmp_path_factory) -> Path:
    """An ESP, a boot filesystem and, on a logical partition, a root."""
    folder = tmp_path_factory.mktemp("mbr")
    disk = blank(folder / "disk", 48 * MIB)
    rows = ("4MiB, type=ef", "8MiB, type=83, bootable", "1MiB, type=da", "32MiB, type=f", "20MiB, type=83")
    script = "label: dos\n" + "".join(f"size={row}\n" for row in rows)
    run(["sfdisk", "--quiet", disk], stdin=script.encode())
    esp = blank(folder / "esp", 4 * MIB)
    run(["mkfs.vfat", "-n", "EFI-SYSTEM", esp])
    boot = ext4(folder, "boot", {"hello": "boot"}, "boot", 8)
    root = ext4(folder, "root", system_files(), "root", 20)
    for number, part in ((1, esp), (2, boot), (5, root)):
        start = next(p.start for p in layout_of(disk).partitions if p.number == number)
        write(disk, start, part.read_bytes())
    return disk


def test_an_mbr_gives_a_layout_like_any_other(mbr_disk):
    layout = layout_of(mbr_disk)
    assert (layout.label, layout.sector_size, layout.filesystem) == ("mbr", 512, None)
    found = [
        (p.number, p.mbr_type, p.filesystem and (p.filesystem.type, p.filesystem.label)) for p in layout.partitions
    ]
    assert found == [
        (1, 0xEF, ("vfat", "EFI-SYSTEM")),
        (2, 0x83, ("ext4", "boot")),
        (3, 0xDA, None),
        (4, 0x0F, None),
        (5, 0x83, ("ext4", "root")),
    ]
    assert [p.attributes for p in layout.partitions] == [0, 0x80, 0, 0, 0]
    assert {(p.type_guid, p.part_guid, p.label, p.missing) for p in layout.partitions} == {(None, None, "", 0)}


def test_the_system_on_an_mbr_disk_is_found_by_filesystem_labels(mbr_disk):
    with FileBlock(mbr_disk) as block:
        layout = read_layout(block)
        assert (find_boot(layout).number, find_esp(layout).number) == (2, 1)
        tree = open_system(layout)
        assert tree.read("/boot/hello") == b"boot"
        assert tree.read("/var/lib/state") == b"kept"
        assert tree.mount_points == ("/", "/boot", "/boot/efi")
        assert part_of(block, layout.partitions[0]).name.endswith("partition 1")


def test_whoever_needs_a_gpt_is_told_that_there_is_none(mbr_disk):
    layout = layout_of(mbr_disk)
    with pytest.raises(UnsupportedImage, match="has an MBR partition table, and this needs a GPT"):
        _ = layout.disk_guid
    with pytest.raises(UnsupportedImage, match="needs a GPT"):
        partition_rows(layout, read_profile("reference").partitions)
    with pytest.raises(DamagedImage, match="no partition is labelled 'boot'"):
        layout.part_block("boot")


@pytest.mark.parametrize("kind", ["ext4", "vfat", "xfs", "squashfs"])
def test_a_bare_filesystem_is_a_layout_without_table(kind, tmp_path):
    put(tmp_path, "tree", {"hello": "bare"})
    path = blank(tmp_path / "disk", 300 * MIB if kind == "xfs" else 8 * MIB)
    match kind:
        case "ext4":
            run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", tmp_path / "tree", path])
        case "squashfs":
            path.unlink()
            run(["mksquashfs", tmp_path / "tree", path, "-quiet", "-no-progress"])
        case _:
            run([f"mkfs.{kind}", path])
    with open_image(path) as image:
        layout = read_layout(image.block)
        assert (layout.label, layout.table, layout.partitions) == ("none", None, ())
        assert layout.filesystem.type == kind
        with pytest.raises(UnsupportedImage, match=f"has no partition table, but {kind} from its start"):
            _ = layout.gpt


def test_a_bare_filesystem_is_its_own_root(tmp_path):
    with FileBlock(ext4(tmp_path, "root", system_files(), "anything", 8)) as block:
        assert open_system(read_layout(block)).read("/var/lib/state") == b"kept"


def test_boot_code_in_front_of_a_filesystem_is_no_table(tmp_path):
    path = ext4(tmp_path, "root", system_files(), "root", 8)
    write(path, 0, b"\xeb\x58" + bytes(508) + b"\x55\xaa")
    assert layout_of(path).label == "none"


@pytest.mark.parametrize("size", [0, 512, 40_000, MIB])
def test_a_blank_disk_has_no_layout(size):
    with pytest.raises(DamagedImage, match="has no partition table"):
        read_layout(Memory(bytes(size), "blank"))


def test_a_backup_gpt_of_an_earlier_life_does_not_hide_an_mbr(tmp_path):
    path = blank(tmp_path / "disk", 8 * MIB)
    run(["sfdisk", "--quiet", path], stdin=b"label: gpt\nsize=2MiB, name=old\n")
    backup = path.read_bytes()[-512:]
    run(["sfdisk", "--quiet", "--wipe", "never", path], stdin=b"label: dos\nsize=1MiB, type=83\n")
    write(path, 512, bytes(512))
    write(path, 8 * MIB - 512, backup)
    assert backup.startswith(b"EFI PART")
    layout = layout_of(path)
    assert (layout.label, [p.size for p in layout.partitions]) == ("mbr", [MIB])


def test_a_gpt_behind_a_hybrid_mbr_is_the_table(tmp_path):
    path = blank(tmp_path / "disk", 8 * MIB)
    run(["sfdisk", "--quiet", path], stdin=b"label: gpt\nsize=2MiB, name=data\n")
    content = bytearray(path.read_bytes())
    content[446:462] = content[462:478]
    content[462 + 4], content[462 + 8], content[462 + 12] = 0x83, 1, 1
    content[446 + 4], content[446 + 8], content[446 + 12] = 0xEF, 2, 1
    layout = read_layout(Memory(bytes(content), "hybrid"))
    assert layout.label == "gpt"
    assert (layout.gpt.protective_mbr.found, layout.gpt.protective_mbr.has_other_entries) == (False, True)


def test_a_gpt_gives_the_layout_it_always_gave(tmp_path):
    path = blank(tmp_path / "disk", 8 * MIB)
    run(["sfdisk", "--quiet", path], stdin=b"label: gpt\nsize=2MiB, name=data\n")
    layout = layout_of(path)
    assert (layout.label, layout.table, layout.gpt.is_sound) == ("gpt", layout.gpt, True)
    assert layout.partition("data").mbr_type is None
    assert layout.disk_guid == layout.gpt.disk_guid


def test_the_manifest_tells_an_mbr_and_a_bare_filesystem(mbr_disk, tmp_path):
    with open_image(mbr_disk) as image:
        manifest = inspect(image)
    assert (manifest.layout.table, manifest.layout.disk_guid, manifest.layout.backup_problem) == ("mbr", None, None)
    assert len(manifest.layout.mbr_disk_id) == 8
    assert [(p.number, p.mbr_type) for p in manifest.layout.partitions] == [
        (1, 0xEF),
        (2, 0x83),
        (3, 0xDA),
        (4, 0x0F),
        (5, 0x83),
    ]
    assert manifest.system.os_release["ID"] == "small"
    assert from_json(to_json(manifest)) == manifest
    assert f"disk id {manifest.layout.mbr_disk_id}, sound" in render(manifest)
    with open_image(ext4(tmp_path, "root", system_files(), "root", 8)) as image:
        manifest = inspect(image)
    assert (manifest.layout.table, manifest.layout.filesystem.type, manifest.layout.partitions) == ("none", "ext4", [])
    assert from_json(to_json(manifest)) == manifest
    assert "no table" in render(manifest)


def test_mutants_of_an_mbr_disk_raise_only_our_errors(mbr_disk):
    raw = mbr_disk.read_bytes()[: 2 * MIB]
    dice = random.Random(1)
    started = time.process_time()
    for _ in range(300):
        changed = {dice.choice([446, 462, 478, 494, 508]) + dice.randint(0, 15): dice.randint(0, 255) for _ in range(4)}
        head = bytearray(raw[:512])
        for at, value in changed.items():
            head[min(at, 511)] = value
        with contextlib.suppress(HarnessError):
            read_layout(Memory(bytes(head) + raw[512:], "mutant"))
    assert time.process_time() - started < 60
