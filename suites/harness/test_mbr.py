"""MBR tables as sfdisk writes them, logical partitions included; then looped, cut and mutated ones."""

from __future__ import annotations

import json
import os
import random
import struct
import time
from pathlib import Path

import pytest

from harness.errors import DamagedImage, HarnessError
from harness.images.block import Memory
from harness.images.formats.raw import FileBlock
from harness.images.partitions.mbr import MbrEntry, MbrTable, find_mbr, read_entries
from harness.tools import run

MIB = 2**20
DISK = 32 * MIB
SECTOR = 512
SCRIPT = """label: dos
label-id: 0x1234abcd
size=1MiB, type=83, bootable
size=1MiB, type=ef
size=2MiB, type=da
size=20MiB, type=5
size=4MiB, type=83
size=2MiB, type=82
size=4MiB, type=8e
"""


def partitioned(path: Path, script: str, size: int = DISK) -> Path:
    path.touch()
    os.truncate(path, size)
    run(["sfdisk", "--quiet", path], stdin=script.encode())
    return path


@pytest.fixture(scope="module")
def disk(tmp_path_factory) -> Path:
    """Three primary partitions, and an extended one with three logical ones."""
    return partitioned(tmp_path_factory.mktemp("mbr") / "disk", SCRIPT)


class Patched:
    """A disk with some sectors replaced, without a copy of it."""

    name = "patched"

    def __init__(self, raw: bytes, sectors: dict[int, bytes]) -> None:
        self.raw, self.sectors, self.size = raw, sectors, len(raw)

    def read(self, offset: int, length: int) -> bytes:
        assert offset % SECTOR == 0
        assert length <= SECTOR
        return self.sectors.get(offset // SECTOR, self.raw[offset : offset + length])[:length]


def table_of(path: Path) -> MbrTable | None:
    with FileBlock(path) as block:
        return find_mbr(block)


def records(raw: bytes) -> list[int]:
    """The sectors of the extended boot records of `disk`, in order."""
    first = next(entry.first for entry in read_entries(raw[:512]) if entry.type == 5)
    found, at = [], first
    while at:
        found.append(at)
        link = read_entries(raw[at * SECTOR : (at + 1) * SECTOR])[1]
        at = first + link.first if link.is_used else 0
    return found


def with_entry(raw: bytearray, sector: int, index: int, entry: MbrEntry) -> bytearray:
    struct.pack_into("<B3xB3xII", raw, sector * SECTOR + 446 + 16 * index, entry.status, entry.type,
                     entry.first, entry.sectors)  # fmt: skip
    return raw


def test_partitions_are_those_sfdisk_prints(disk):
    table = table_of(disk)
    printed = json.loads(run(["sfdisk", "--json", disk]))["partitiontable"]
    expected = [
        (int(row["node"].removeprefix(str(disk))), row["start"], row["size"], row["type"], row.get("bootable", False))
        for row in printed["partitions"]
    ]
    found = [(p.number, p.start // SECTOR, p.size // SECTOR, f"{p.type:x}", p.is_active) for p in table.partitions]
    assert found == expected
    assert [p.number for p in table.partitions] == [1, 2, 3, 4, 5, 6, 7]
    assert f"0x{table.disk_id:08x}" == printed["id"] == "0x1234abcd"
    assert table.problem == ""


def test_one_partition_is_enough_and_none_is_no_table(tmp_path):
    one = table_of(partitioned(tmp_path / "one", "label: dos\nstart=1MiB, size=1MiB, type=83\n"))
    assert [(p.number, p.start, p.size) for p in one.partitions] == [(1, MIB, MIB)]
    assert table_of(partitioned(tmp_path / "none", "label: dos\n")) is None


def test_the_boot_sector_of_a_fat_filesystem_is_no_table(tmp_path):
    path = tmp_path / "fat"
    path.touch()
    os.truncate(path, 4 * MIB)
    run(["mkfs.vfat", path])
    assert path.read_bytes()[510:512] == b"\x55\xaa"
    assert table_of(path) is None


@pytest.mark.parametrize("size", [0, 1, 511])
def test_a_disk_shorter_than_a_sector_has_no_table(size):
    assert find_mbr(Memory(bytes(size), "short")) is None


@pytest.mark.parametrize("back_to", [0, 1, 2])
def test_a_chain_that_comes_back_is_refused(back_to, disk):
    raw = bytearray(disk.read_bytes())
    chain = records(raw)
    with_entry(raw, chain[-1], 1, MbrEntry(0, 5, chain[back_to] - chain[0], 2048))
    with pytest.raises(DamagedImage, match=rf"chain of logical partitions comes back to sector {chain[back_to]:,}"):
        find_mbr(Memory(bytes(raw), "loop"))


def test_a_chain_without_end_is_refused():
    raw = bytearray(4096 * SECTOR)
    raw[510:512] = b"\x55\xaa"
    with_entry(raw, 0, 0, MbrEntry(0, 5, 1, 4000))
    for sector in range(1, 4000):
        raw[sector * SECTOR + 510 : sector * SECTOR + 512] = b"\x55\xaa"
        with_entry(raw, sector, 0, MbrEntry(0, 0x83, 1, 1))
        with_entry(raw, sector, 1, MbrEntry(0, 5, sector, 2))
    with pytest.raises(DamagedImage, match="more than 128 logical partitions"):
        find_mbr(Memory(bytes(raw), "endless"))


def test_a_chain_that_leaves_a_truncated_disk_keeps_what_was_read(disk):
    raw = disk.read_bytes()
    last = records(raw)[-1]
    table = find_mbr(Memory(raw[: last * SECTOR + 100], "cut"))
    assert [p.number for p in table.partitions] == [1, 2, 3, 4, 5, 6]
    assert f"sector {last:,}" in table.problem
    assert "beyond the end of the disk" in table.problem


def test_a_wiped_record_is_named(disk):
    raw = bytearray(disk.read_bytes())
    second = records(raw)[1]
    raw[second * SECTOR : (second + 1) * SECTOR] = bytes(SECTOR)
    table = find_mbr(Memory(bytes(raw), "wiped"))
    assert [p.number for p in table.partitions] == [1, 2, 3, 4, 5]
    assert table.problem == f"extended boot record at sector {second:,} (byte {second * SECTOR:,}): no boot signature"


def test_mutants_raise_only_our_errors_and_soon(disk):
    raw = disk.read_bytes()
    places = [0, *records(raw)]
    dice = random.Random(20261121)
    started = time.process_time()
    refused = 0
    for _ in range(3000):
        sectors = {at: bytearray(raw[at * SECTOR : (at + 1) * SECTOR]) for at in places}
        for _ in range(dice.randint(1, 5)):
            sector, at = dice.choice([*sectors.values()]), dice.randint(446, 511)
            sector[at] = dice.choice([0, 5, 0xFF, dice.randint(0, 255), sector[at] ^ 1 << dice.randint(0, 7)])
        try:
            table = find_mbr(Patched(raw, {at: bytes(sector) for at, sector in sectors.items()}))
        except HarnessError:
            refused += 1
        else:
            assert table is None or len(table.partitions) <= 4 + 128
    assert refused
    assert time.process_time() - started < 60
