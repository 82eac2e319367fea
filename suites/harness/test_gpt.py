"""Partition tables as sfdisk and sgdisk write them; then damaged, truncated and hostile ones."""

import lzma
import os
import re
import struct
import subprocess
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import DamagedImage, HarnessError, UnsupportedImage
from harness.images.formats.raw import FileBlock
from harness.images.partitions.gpt import Table, read_table
from harness.images.partitions.layout import read_layout
from harness.tools import Tool

MIB = 2**20
DISK = 64 * MIB
PLACEHOLDER = "00000000-0000-4000-a000-000000000001"
COREOS_TYPES = {  # facts of coreos-assembler's x86_64 manifest
    "BIOS-BOOT": "21686148-6449-6e6f-744e-656564454649",
    "EFI-SYSTEM": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b",
    "boot": "bc13c2ff-59e6-4262-a352-b275fd6f7172",
    "root": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
}


class Bytes:
    """A block in memory."""

    name = "memory"

    def __init__(self, content):
        self.content = content
        self.size = len(content)

    def read(self, offset, length):
        if offset < 0 or length < 0 or offset + length > self.size:
            raise DamagedImage("beyond the end", where=self.name)
        return bytes(self.content[offset : offset + length])


def tool(name):
    found = Tool(name, "", "", "").find()
    if found is None:
        pytest.skip(f"{name} is not installed")
    return str(found)


def run(name, *arguments, stdin=""):
    argv = [tool(name), *map(str, arguments)]
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}  # for PARTLABELs beyond ASCII
    return subprocess.run(argv, input=stdin, check=True, capture_output=True, text=True, env=environment).stdout


def table_of(path) -> Table:
    with FileBlock(path) as block:
        return read_table(block)


def coreos_disk(path: Path, size: int, *, root_mib: int | None = None) -> Path:
    """A disk laid out like an x86_64 CoreOS image: bios 1, ESP 127, boot 384 MiB, root the rest."""
    path.touch()
    os.truncate(path, size)
    sizes = {"BIOS-BOOT": 1, "EFI-SYSTEM": 127, "boot": 384, "root": root_mib}
    lines = ["label: gpt", f"label-id: {PLACEHOLDER}"]
    for name, mib in sizes.items():
        length = f"size={mib}MiB, " if mib else ""
        attributes = ", attrs=LegacyBIOSBootable" if name == "BIOS-BOOT" else ""
        lines.append(f'{length}type={COREOS_TYPES[name]}, name="{name}"{attributes}')
    run("sfdisk", "--quiet", path, stdin="\n".join(lines) + "\n")
    return path


def sgdisk_facts(path):
    """What sgdisk -p and -i say: number -> (first, last, name)."""
    facts = {}
    for line in run("sgdisk", "-p", path).splitlines():
        if found := re.match(r"\s+(\d+)\s+(\d+)\s+(\d+)\s", line):
            info = run("sgdisk", "-i", found[1], path)
            name = re.search(r"Partition name: '(.*)'", info)[1]
            part_guid = re.search(r"unique GUID: (\S+)", info)[1].lower()
            facts[int(found[1])] = (int(found[2]), int(found[3]), name, part_guid)
    return facts


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory) -> bytes:
    """The bytes of a 4 MiB disk with three partitions, numbers 1, 2 and 5."""
    path = tmp_path_factory.mktemp("gpt") / "small"
    path.touch()
    os.truncate(path, 4 * MIB)
    run("sgdisk", "-a", 1, "-n", "1:40:1000", "-c", "1:boot", "-n", "2:1001:1001", "-n", "5:2000:8000",
        "-c", "5:größer 漢字", "-A", "5:set:2", path)  # fmt: skip
    return path.read_bytes()


def test_coreos_layout_is_read_to_the_sector(tmp_path):
    path = coreos_disk(tmp_path / "disk", 3 * 2**30)
    table = table_of(path)
    assert str(table.disk_guid) == PLACEHOLDER
    assert [(p.number, p.label, p.first_lba, str(p.type_guid)) for p in table.partitions] == [
        (1, "BIOS-BOOT", 2048, COREOS_TYPES["BIOS-BOOT"]),
        (2, "EFI-SYSTEM", 4096, COREOS_TYPES["EFI-SYSTEM"]),
        (3, "boot", 264192, COREOS_TYPES["boot"]),
        (4, "root", 1050624, COREOS_TYPES["root"]),
    ]
    assert [p.size // 512 for p in table.partitions][:3] == [2048, 260096, 786432]
    assert [p.legacy_bios_bootable for p in table.partitions] == [True, False, False, False]
    assert table.is_sound
    assert table.backup_is_at_end
    assert table.primary.matches
    assert table.backup.matches


def test_partitions_are_those_sgdisk_prints(small_disk, tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(small_disk)
    found = {p.number: (p.first_lba, p.last_lba, p.label, str(p.part_guid)) for p in table_of(path).partitions}
    assert found == sgdisk_facts(path)
    assert set(found) == {1, 2, 5}


def test_a_partition_of_one_sector_is_not_one_short(small_disk):
    second = read_table(Bytes(small_disk)).partitions[1]
    assert (second.size, second.first_lba, second.last_lba) == (512, 1001, 1001)


def test_an_enlarged_disk_has_its_backup_where_the_metal_image_ended(tmp_path):
    path = coreos_disk(tmp_path / "disk", 2650 * MIB)
    os.truncate(path, 10 * 2**30)
    table = table_of(path)
    assert table.alternate_lba == table.backup.location_lba == table.protective_mbr.size_lba == 5427199
    assert table.last_lba == 20971519
    assert not table.backup_is_at_end
    assert table.is_sound
    root = table.partitions[3]
    assert (root.size // 512, root.last_lba) == (4374528, 5425151)


def test_after_moving_the_second_header_the_backup_is_at_the_end(tmp_path):
    path = coreos_disk(tmp_path / "disk", 600 * MIB)
    os.truncate(path, 2**30)
    run("sgdisk", "--move-second-header", path)
    table = table_of(path)
    assert table.backup_is_at_end
    assert table.is_sound


def test_a_discarded_tail_costs_the_backup_and_nothing_else(tmp_path):
    path = coreos_disk(tmp_path / "disk", 700 * MIB, root_mib=100)
    before = table_of(path)
    with path.open("r+b") as file:
        end = before.partitions[-1].start + before.partitions[-1].size
        file.truncate(end)
        file.truncate(700 * MIB)
    after = table_of(path)
    assert after.partitions == before.partitions
    assert not after.primary.problem
    assert not after.backup.found
    assert "no signature" in after.backup.problem


def test_a_truncated_tail_is_named_as_such(tmp_path):
    path = coreos_disk(tmp_path / "disk", 700 * MIB, root_mib=100)
    before = table_of(path)
    os.truncate(path, before.partitions[-1].start + before.partitions[-1].size)
    after = table_of(path)
    assert after.partitions == before.partitions
    assert not after.backup.found
    assert "beyond the end of the disk" in after.backup.problem


def test_layout_counts_what_a_truncated_image_lacks(tmp_path):
    path = coreos_disk(tmp_path / "disk", 700 * MIB)
    os.truncate(path, 600 * MIB)
    with FileBlock(path) as block:
        layout = read_layout(block)
    root = layout.partition("root")
    assert root.missing == root.start + root.size - 600 * MIB
    with pytest.raises(DamagedImage, match=r"no partition is labelled 'Root'.*'BIOS-BOOT', 'EFI-SYSTEM'"):
        layout.partition("Root")


@pytest.mark.parametrize("lost", ["zeroed", "first byte", "entries"])
def test_the_backup_is_used_where_the_primary_is_lost(lost, small_disk):
    disk = bytearray(small_disk)
    at, length = {"zeroed": (512, 16896), "first byte": (512, 1), "entries": (1024, 1)}[lost]
    disk[at : at + length] = bytes(length)
    table = read_table(Bytes(disk))
    assert table.partitions == read_table(Bytes(small_disk)).partitions
    assert table.primary.problem
    assert not table.backup.problem


def test_a_lost_primary_of_an_enlarged_disk_is_found_through_the_protective_mbr(small_disk):
    disk = bytearray(small_disk) + bytes(MIB)
    disk[512:1024] = bytes(512)
    assert read_table(Bytes(disk)).partitions == read_table(Bytes(small_disk)).partitions


def test_a_stale_backup_is_told_apart(small_disk, tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(small_disk)
    run("sgdisk", "-c", "1:other", path)
    disk = bytearray(path.read_bytes())
    disk[-33 * 512 :] = small_disk[-33 * 512 :]
    table = read_table(Bytes(disk))
    assert table.partitions[0].label == "other"
    assert table.backup.header_crc_ok
    assert not table.backup.matches
    assert "differs from the other copy" in table.backup.problem


@settings(max_examples=300, deadline=None)
@given(at=st.integers(0, 92 + 16384 - 1), flip=st.integers(1, 255), backup=st.booleans())
def test_every_changed_byte_of_header_or_entries_is_noticed(at, flip, backup, small_disk):
    disk = bytearray(small_disk)
    if backup:
        place = len(disk) - 512 + at if at < 92 else len(disk) - 33 * 512 + at - 92
    else:
        place = 512 + at if at < 92 else 1024 + at - 92
    disk[place] ^= flip
    table = read_table(Bytes(disk))
    damaged, sound = (table.backup, table.primary) if backup else (table.primary, table.backup)
    assert damaged.problem
    assert not (damaged.found and damaged.header_crc_ok and damaged.entries_crc_ok and damaged.matches)
    # A backup that the damaged primary no longer points at is found at the end of the disk.
    assert sound.header_crc_ok
    assert sound.entries_crc_ok
    assert table.partitions == read_table(Bytes(small_disk)).partitions


def forged(disk, lba, **changes):
    """The disk with fields of the header at `lba` changed and its header CRC made right again."""
    places = {"own": (24, "<Q"), "alternate": (32, "<Q"), "first": (40, "<Q"), "last": (48, "<Q"),
              "entries": (72, "<Q"), "count": (80, "<I"), "size": (84, "<I"), "length": (12, "<I")}  # fmt: skip
    disk = bytearray(disk)
    base = lba * 512
    for name, value in changes.items():
        offset, form = places[name]
        struct.pack_into(form, disk, base + offset, value)
    struct.pack_into("<I", disk, base + 16, 0)
    struct.pack_into("<I", disk, base + 16, zlib.crc32(disk[base : base + 92]))
    return disk


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 2**32 - 1},
        {"count": 2**32 - 1, "size": 2**31},
        {"size": 0},
        {"size": 129},
        {"size": 2**31},
        {"entries": 2**64 - 1},
        {"alternate": 2**64 - 1, "length": 2**32 - 1},
        {"own": 7},
        {"first": 2**63, "last": 0},
        {"length": 91},
    ],
    ids=str,
)
def test_hostile_fields_with_a_right_checksum_are_refused_at_once(changes, small_disk):
    last_lba = len(small_disk) // 512 - 1
    started = time.monotonic()
    table = read_table(Bytes(forged(small_disk, 1, **changes)))
    assert table.primary.problem
    assert table.partitions == read_table(Bytes(small_disk)).partitions
    with pytest.raises(DamagedImage, match=r"neither GPT can be trusted: primary header at LBA 1.*backup header at"):
        read_table(Bytes(forged(forged(small_disk, 1, **changes), last_lba, **changes)))
    assert time.monotonic() - started < 2


def test_an_mbr_disk_is_unsupported(tmp_path):
    path = tmp_path / "disk"
    path.touch()
    os.truncate(path, 4 * MIB)
    run("sfdisk", "--quiet", path, stdin="label: dos\nsize=1MiB, type=83\n")
    with pytest.raises(UnsupportedImage, match="MBR partition table and no GPT"):
        table_of(path)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 1024, 1536, 4096, 40_000])
def test_a_disk_without_table_is_refused_in_words(size):
    with pytest.raises(DamagedImage, match="has no partition table"):
        read_table(Bytes(bytes(size)))


def test_a_protective_mbr_alone_is_called_truncated_or_wiped(small_disk):
    with pytest.raises(DamagedImage, match="protective MBR, but neither"):
        read_table(Bytes(small_disk[:512] + bytes(100_000)))


@settings(max_examples=300, deadline=2000)
@given(data=st.data())
def test_mutants_raise_only_our_errors(data, small_disk):
    disk = bytearray(small_disk[: data.draw(st.sampled_from([len(small_disk), 700, 2000, 20_000, MIB]))])
    for _ in range(data.draw(st.integers(1, 6))):
        where = data.draw(st.sampled_from([446, 512, 524, 584, 1024, max(0, len(disk) - 512)]))
        at = min(len(disk) - 1, where + data.draw(st.integers(0, 127)))
        disk[at] = data.draw(st.integers(0, 255))
    if len(disk) > 1024 and data.draw(st.booleans()):
        disk = forged(disk, 1)
    try:
        layout = read_layout(Bytes(disk))
    except HarnessError:
        return
    assert len(layout.partitions) <= 128


@pytest.mark.parametrize("name, sector_size", [("gpt-512", 512), ("gpt-4096", 4096)])
def test_tables_of_both_sector_sizes_in_the_corpus_are_read(name, sector_size, request):
    corpus = request.config.getoption("--corpus", default=None)
    if corpus is None:
        pytest.skip("needs --corpus DIR")
    disk = lzma.decompress((Path(corpus) / "coreos-installer-fixtures" / "gpt" / f"{name}.xz").read_bytes())
    table = read_table(Bytes(disk))
    assert table.sector_size == sector_size
    assert table.is_sound
    assert table.backup_is_at_end
    assert [(p.number, p.label, p.start) for p in table.partitions] == [(1, "Linux filesystem", MIB)]


def with_sectors_of_4096(disk):
    """The same table for sectors of 4096 bytes, written by hand: no tool does that to a file without a loop device."""
    entries = bytearray(16384)
    struct.pack_into("<16s16sQQQ72s", entries, 0, b"\1" * 16, b"\2" * 16, 256, 511, 4, "boot".encode("utf-16-le"))
    made = bytearray(DISK)
    made[:512] = disk[:512]
    last = DISK // 4096 - 1
    for own, other, place in ((1, last, 2), (last, 1, last - 4)):
        made[place * 4096 : place * 4096 + 16384] = entries
        struct.pack_into("<8sIIIIQQQQ16sQIII", made, own * 4096, b"EFI PART", 0x10000, 92, 0, 0, own, other, 6,
                         last - 5, b"\3" * 16, place, 128, 128, zlib.crc32(entries))  # fmt: skip
        struct.pack_into("<I", made, own * 4096 + 16, zlib.crc32(made[own * 4096 : own * 4096 + 92]))
    return made


@pytest.mark.parametrize("lost", [None, 1, DISK // 4096 - 1])
def test_sectors_of_4096_bytes_are_recognised_by_either_copy(lost, small_disk):
    disk = with_sectors_of_4096(small_disk)
    if lost:
        disk[lost * 4096 : lost * 4096 + 8] = bytes(8)
    table = read_table(Bytes(disk))
    assert (table.sector_size, table.partitions[0].start, table.partitions[0].size) == (4096, MIB, MIB)
    assert (table.partitions[0].first_lba, table.partitions[0].last_lba) == (256, 511)
    assert table.is_sound is (lost is None)
