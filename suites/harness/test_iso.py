"""ISOs as disks: how they boot, their partition tables, what a CoreOS live ISO carries; real ones from the corpus."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import random
import struct
import time
from pathlib import Path

import pytest

from harness.errors import DamagedImage, HarnessError
from harness.images.block import Memory
from harness.images.formats.iso import BootImage, read_catalog
from harness.images.inspection import inspect
from harness.images.manifest import KargsArea, OsmetFacts, from_json, to_json
from harness.images.manifest_text import render
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image
from harness.images.system.live import read_live
from harness.images.system.live_places import IGNINFO
from suites.harness.small_live_iso import EMBED, KARGS, VOLUME, cpio, kargs_area, live_files, rootfs, small_live_iso

CONFIG = b'{"ignition": {"version": "3.3.0"}}'
ISO = "coreos-installer-fixtures/iso"


@pytest.fixture(scope="module")
def iso(tmp_path_factory) -> Path:
    return small_live_iso(tmp_path_factory.mktemp("iso"))


@pytest.fixture(scope="module")
def plain_iso(tmp_path_factory) -> Path:
    return small_live_iso(tmp_path_factory.mktemp("plain"), hybrid=False)


def manifest_of(path: Path):
    with open_image(path) as image:
        return inspect(image)


def live_of(content: bytes):
    """What is found in an ISO, and what was noted."""
    notes: list[str] = []
    return read_live(Memory(bytes(content), "iso"), lambda error: notes.append(str(error))), notes


def embedded(iso: Path, at: int, content: bytes) -> bytearray:
    raw = bytearray(iso.read_bytes())
    raw[at : at + len(content)] = content
    return raw


def test_an_iso_is_a_disk_of_its_own_bytes(iso):
    with open_image(iso) as image:
        assert (image.container, image.block.size) == ("iso", iso.stat().st_size)
        assert image.disk_sha256() == hashlib.sha256(iso.read_bytes()).hexdigest()


def test_a_hybrid_iso_has_its_gpt_read_with_small_sectors(iso):
    with open_image(iso) as image:
        layout = read_layout(image.block)
    assert (layout.label, layout.gpt.sector_size, layout.filesystem.type) == ("gpt", 512, "iso9660")
    assert layout.gpt.primary.problem == ""
    assert (layout.partitions[0].number, layout.partitions[0].start) == (1, 0)


def test_an_iso_without_a_table_is_one_filesystem(plain_iso):
    with open_image(plain_iso) as image:
        layout = read_layout(image.block)
        assert (layout.label, layout.filesystem.label) == ("none", VOLUME)
        facts = image.block.facts()
    assert (facts["mbr"], facts["gpt"], facts["system_area_used"]) == (False, False, False)


def test_facts_name_the_volume_and_every_boot_image(iso):
    with open_image(iso) as image:
        facts = image.block.facts()
    assert (facts["volume_id"], facts["volume_set_id"], facts["application_id"]) == (VOLUME, VOLUME, "SMALL")
    assert (facts["mbr"], facts["gpt"], facts["system_area_used"]) == (True, True, True)
    assert facts["boot_1"].startswith("x86 BIOS, bootable, emulation none, LBA ")
    assert facts["boot_2"].startswith("UEFI, bootable, emulation none, LBA ")
    assert "boot_3" not in facts


def test_boot_images_lie_where_the_catalog_says(iso):
    raw = iso.read_bytes()
    bios, uefi = read_catalog(Memory(raw, "iso")).images
    assert (bios.sectors, uefi.sectors) == (4, 128)
    assert raw[uefi.start_lba * 2048 :].startswith(b"efi\0")
    assert raw[bios.start_lba * 2048 + 8 : bios.start_lba * 2048 + 12] == struct.pack("<I", 16)  # boot info table


def test_a_truncated_iso_is_called_so(iso, tmp_path):
    path = tmp_path / "cut.iso"
    path.write_bytes(iso.read_bytes()[:300_000])
    with (
        pytest.raises(DamagedImage, match=r"the volume has [\d,]+ bytes, the file 300,000.*truncated"),
        open_image(path),
    ):
        pass


def test_the_manifest_of_a_live_iso_is_complete(iso):
    manifest = manifest_of(iso)
    live = manifest.live
    assert manifest.notes == []
    assert (manifest.boot, manifest.system, manifest.containers) == (None, None, None)
    assert live.volume_id == VOLUME
    assert (live.ignition.state, live.ignition.size, live.ignition.members) == ("empty", EMBED, [])
    assert (live.kargs.default, live.kargs.size) == (KARGS, 512)
    assert [(area.file, area.kargs) for area in live.kargs.areas] == [
        ("EFI/debian/grub.cfg", KARGS),
        ("isolinux/isolinux.cfg", KARGS),
    ]
    assert live.features == {"installer-config": True, "live-initrd-network": True}
    assert live.minimal_iso == "0.17.0"
    assert live.pxe == {"initrd.img": 6, "rootfs.img": len(rootfs()), "vmlinuz": 6}
    assert (live.rootfs.filesystem, live.rootfs.offset, live.rootfs.build) == ("squashfs", 124, "1.2.3")
    assert live.rootfs.members[0] == "root.squashfs"
    size = live.rootfs.osmet[0].size
    assert live.rootfs.osmet == [
        OsmetFacts("small-metal.raw.osmet", size, 1, "0.17.0", 512, "Small OS 1.2.3", "x86_64"),
        OsmetFacts("small-metal4k.raw.osmet", size, 1, "0.17.0", 4096, "Small OS 1.2.3", "x86_64"),
    ]
    assert from_json(to_json(manifest)) == manifest
    for words in (VOLUME, KARGS, "empty", "squashfs at 124", "sectors of 4096", "coreos-installer 0.17.0"):
        assert words in render(manifest)


def test_offsets_are_those_of_the_bytes(iso):
    raw, live = iso.read_bytes(), manifest_of(iso).live
    for area in live.kargs.areas:
        assert raw[area.offset : area.offset + 512].decode() == kargs_area()
    assert raw[live.ignition.offset : live.ignition.offset + EMBED] == bytes(EMBED)


@pytest.mark.parametrize("pack", [lzma.compress, gzip.compress, bytes], ids=["xz", "gzip", "plain"])
def test_an_embedded_config_is_found_with_its_digest(pack, iso):
    at = manifest_of(iso).live.ignition.offset
    members = {"config.ign": CONFIG, "etc/coreos-firstboot-network/a.nmconnection": b"x"}
    (live, notes) = live_of(embedded(iso, at, pack(cpio(members))))
    assert notes == []
    assert (live.ignition.state, live.ignition.members) == ("config", list(members))
    assert live.ignition.config_sha256 == hashlib.sha256(CONFIG).hexdigest()


@pytest.mark.parametrize(
    "content, state",
    [
        (lzma.compress(cpio({"etc/net": b"x"})), "initrd"),
        (lzma.compress(cpio({"etc/net": b"x"})) + bytes(5) + gzip.compress(cpio({"config.ign": CONFIG})), "config"),
        (b"hello", "other"),
        (lzma.compress(cpio({"config.ign": CONFIG}))[:60], "other"),
        (lzma.compress(b"no archive"), "other"),
        (gzip.compress(bytes(2**27)), "other"),
        (cpio({"config.ign": CONFIG})[:-40], "other"),
        (b"070701" + b"F" * 104, "other"),
    ],
    ids=range(8),
)
def test_whatever_is_embedded_has_a_state(content, state, iso):
    at = manifest_of(iso).live.ignition.offset
    started = time.process_time()
    (live, _) = live_of(embedded(iso, at, content[:EMBED]))
    assert live.ignition.state == state
    assert time.process_time() - started < 20


def test_changed_kernel_arguments_are_told_beside_the_default(iso):
    first, second = manifest_of(iso).live.kargs.areas
    raw = embedded(iso, first.offset, f"{KARGS} console=ttyS0\n".ljust(512, "#").encode())
    raw[second.offset : second.offset + 512] = b"\x80" * 512
    (live, _) = live_of(raw)
    assert live.kargs.default == KARGS
    assert live.kargs.areas == [
        KargsArea(first.file, first.offset, f"{KARGS} console=ttyS0"),
        KargsArea(second.file, second.offset, None),
    ]


FORGED = {
    "kargs beyond the file": ("coreos/kargs.json", {"default": "x", "size": 512, "files": [
        {"path": "EFI/debian/grub.cfg", "offset": 10**6}]}, "kargs"),
    "kargs before the file": ("coreos/kargs.json", {"default": "x", "size": 512, "files": [
        {"path": "EFI/debian/grub.cfg", "offset": -4}]}, "kargs"),
    "kargs too long": ("coreos/kargs.json", {"default": "x", "size": 2**40, "files": []}, "kargs"),
    "kargs without end": ("coreos/kargs.json", {"default": "x", "size": 1, "files": [{}] * 1000}, "kargs"),
    "kargs in a directory": ("coreos/kargs.json", {"default": "x", "size": 1, "files": [
        {"path": "images", "offset": 0}]}, "kargs"),
    "kargs outside": ("coreos/kargs.json", {"default": "x", "size": 1, "files": [
        {"path": "../../etc/passwd", "offset": 0}]}, "kargs"),
    "a list": ("coreos/kargs.json", [], "kargs"),
    "igninfo of nothing": ("coreos/igninfo.json", {}, "ignition"),
    "igninfo beyond": ("coreos/igninfo.json", {"file": "images/ignition.img", "offset": 2**70}, "ignition"),
    "igninfo in words": ("coreos/igninfo.json", {"file": "images/ignition.img", "length": "all"}, "ignition"),
    "igninfo of a missing file": ("coreos/igninfo.json", {"file": "images/gone"}, "ignition"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_announcement_is_a_note_and_costs_only_its_part(what, tmp_path):
    path, said, part = FORGED[what]
    made = small_live_iso(tmp_path, live_files() | {path: json.dumps(said).encode()}, hybrid=False)
    live, notes = live_of(made.read_bytes())
    assert getattr(live, part) is None
    assert len(notes) == 1
    assert live.features
    assert live.rootfs


def test_an_iso_of_somebody_else_has_no_live_section(tmp_path):
    files = {"isolinux/isolinux.bin": bytes(2048), "images/efiboot.img": bytes(2048), "readme": b"hello"}
    manifest = manifest_of(small_live_iso(tmp_path, files, hybrid=False))
    assert (manifest.live, manifest.notes) == (None, [])
    assert manifest.layout.filesystem.label == VOLUME


def catalog_of(iso: Path) -> tuple[bytearray, int]:
    raw = bytearray(iso.read_bytes())
    return raw, read_catalog(Memory(bytes(raw), "iso")).start_lba * 2048


@pytest.mark.parametrize("lba", [2**32 - 1, 1000, 10**6])
def test_a_catalog_out_of_range_is_a_problem_and_no_failure(lba, plain_iso, tmp_path):
    raw = bytearray(plain_iso.read_bytes())
    place = raw.index(b"EL TORITO") - 7 + 71
    struct.pack_into("<I", raw, place, lba)
    path = tmp_path / "forged.iso"
    path.write_bytes(raw)
    with open_image(path) as image:
        facts = image.block.facts()
    assert facts["boot_catalog_lba"] == lba
    assert f"sector {lba:,} lies beyond the end" in facts["boot_catalog_problem"]


def test_a_catalog_that_never_ends_is_cut(plain_iso):
    raw, at = catalog_of(plain_iso)
    raw[at + 64 : at + 96] = b"\x90\xef" + struct.pack("<H", 65535) + bytes(28)
    raw[at + 96 : at + 2048 * 20] = (b"\x88" + bytes(31)) * ((2048 * 20 - 96) // 32)
    catalog = read_catalog(Memory(bytes(raw), "iso"))
    assert "65,535 images leaves the catalog" in catalog.problem
    assert len(catalog.images) <= 16 * 64


def test_a_catalog_without_a_valid_first_entry_is_named(plain_iso):
    raw, at = catalog_of(plain_iso)
    raw[at + 4] ^= 1
    assert "no valid first entry" in read_catalog(Memory(bytes(raw), "iso")).problem


def test_mutants_raise_only_our_errors_and_soon(iso):
    raw, dice = iso.read_bytes(), random.Random(20261121)
    catalog = catalog_of(iso)[1]
    hot = [16 * 2048, 17 * 2048, 18 * 2048, catalog, 512, 446, raw.index(b'{"default"'), raw.index(b'{"file"'),
           raw.index(b"070701"), raw.index(b"OSMET"), raw.index(b"MINISO"), 32672]  # fmt: skip
    started, refused = time.process_time(), 0
    for _ in range(400):
        mutant = bytearray(raw)
        for _ in range(dice.randint(1, 12)):
            at = dice.choice(hot) + dice.randint(0, 255) if dice.random() < 0.8 else dice.randrange(len(raw))
            mutant[at] = dice.choice([0, 0xFF, dice.randint(0, 255)])
        block = Memory(bytes(mutant), "mutant")
        for read in (read_catalog, read_layout, lambda each: read_live(each, lambda _: None)):
            try:
                read(block)
            except HarnessError:
                refused += 1
    assert refused
    assert time.process_time() - started < 60


REAL = {  # name: volume, embed area (offset, announced by), kargs (size, offsets), GPT, miniso
    "2020-09": ("rhcos-46.82.202112161843-0", (92160, "coreiso+"), None, False, None),
    "2021-01": ("rhcos-47.84.202112162337-0", (96256, "coreiso+"), (1131, [94026, 365415]), False, None),
    "2021-12": ("fedora-coreos-35.20211216.dev.0", (161792, "coreiso+"), (1139, [139086, 431050]), False, "0.11.0"),
    "2022-02": ("fedora-coreos-35.20220217.dev.0", (159744, "images/ignition.img"), (1139, None), True, "0.13.1"),
    "2023-03.s390x": ("fedora-coreos-37.20230307.dev.0", (203776, IGNINFO), None, False, "0.16.1"),
    "2023-03.x86_64": (
        "fedora-coreos-37.20230306.dev.0",
        (157696, "/coreos/igninfo.json"),
        (1139, None),
        True,
        "0.16.1",
    ),
    "2023-07.x86_64": (
        "fedora-coreos-38.20230718.dev.0",
        (139264, "/coreos/igninfo.json"),
        (1139, None),
        True,
        "0.17.0",
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_every_generation_of_real_isos_is_read(name, request, tmp_path):
    corpus = request.getfixturevalue("corpus")
    volume, embed, kargs, has_gpt, miniso = REAL[name]
    path = tmp_path / "real.iso"
    path.write_bytes(lzma.decompress((corpus / ISO / f"embed-areas-{name}.iso.xz").read_bytes()))
    manifest = manifest_of(path)
    live = manifest.live
    assert (live.volume_id, manifest.container["volume_id"], live.minimal_iso) == (volume, volume, miniso)
    assert (live.ignition.offset, live.ignition.announced_by) == embed
    assert (live.ignition.size, live.ignition.state) == (EMBED, "empty")
    assert (manifest.container["gpt"], manifest.layout.table) == (has_gpt, "gpt" if has_gpt else "none")
    if kargs:
        size, offsets = kargs
        assert live.kargs.size == size
        assert f"coreos.liveiso={volume}" in live.kargs.default.split()
        assert [area.kargs for area in live.kargs.areas] == [live.kargs.default] * 2
        areas = sorted(area.offset for area in live.kargs.areas)
        assert offsets in (areas, None)
        raw = path.read_bytes()
        marks = [raw[at + size : at + size + 24] for at in areas]
        assert marks == [b"# COREOS_KARG_EMBED_AREA"] * 2
    else:
        assert live.kargs is None
    (note,) = manifest.notes  # these fixtures have text instead of a rootfs
    assert "rootfs.img: is not a cpio archive" in note


def test_a_real_iso_that_is_not_live_is_read(corpus, tmp_path):
    path = tmp_path / "synthetic.iso"
    path.write_bytes(lzma.decompress((corpus / ISO / "synthetic.iso.xz").read_bytes()))
    manifest = manifest_of(path)
    assert (manifest.live, manifest.container["system_id"]) == (None, "system-ID-string")
    assert manifest.container["boot_catalog_lba"] is None


def test_the_boot_images_of_a_real_iso_are_told(corpus):
    raw = lzma.decompress((corpus / ISO / "embed-areas-2023-07.x86_64.iso.xz").read_bytes())
    assert read_catalog(Memory(raw, "real")).images == (
        BootImage("x86 BIOS", True, "none", 45, 4),
        BootImage("UEFI", True, "none", 64, 4),
    )
