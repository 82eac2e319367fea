"""Disks made longer: where the backup GPT is left, and where it is moved to; judged by sfdisk and sgdisk."""

import json

import pytest

from harness.errors import BadInput, DamagedImage, UnsupportedImage
from harness.images.edits.grow import Grown, grow
from harness.images.formats.raw import FileBlock
from harness.images.partitions.gpt import read_table
from harness.tools import run
from suites.harness.edited import sha256, trees
from suites.harness.small_disk import MIB, small_disk, write
from suites.harness.test_cli import run_harness

LONGER = 64 * MIB


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return small_disk(tmp_path_factory.mktemp("grow"))


def table_of(path):
    with FileBlock(path) as block:
        return read_table(block)


def copy(disk, path):
    path.write_bytes(disk.read_bytes())
    return path


def test_a_grown_disk_is_the_old_one_and_zeroes(disk, tmp_path):
    made = tmp_path / "long.raw"
    assert grow(disk, LONGER, made) == Grown(48 * MIB, LONGER, 48 * MIB - 512)
    assert made.read_bytes() == disk.read_bytes() + bytes(16 * MIB)


def test_the_backup_stays_where_the_shorter_disk_ended(disk, tmp_path):
    """As an image of CoreOS is shipped (facts A7)."""
    grow(disk, LONGER, tmp_path / "long.raw")
    table = table_of(tmp_path / "long.raw")
    assert (table.backup_is_at_end, table.is_sound, table.protective_mbr.size_lba) == (False, True, 48 * 2048 - 1)
    assert b"backup GPT table is not on the end" in run(["sh", "-c", f"fdisk -l '{tmp_path}/long.raw' 2>&1"])


def test_a_moved_backup_is_where_sfdisk_moves_it(disk, tmp_path):
    done = grow(disk, LONGER, tmp_path / "moved.raw", move_backup=True)
    grow(disk, LONGER, tmp_path / "theirs.raw")
    run(["sfdisk", "-q", "--relocate", "gpt-bak-std", tmp_path / "theirs.raw"])
    assert sha256(tmp_path / "moved.raw") == sha256(tmp_path / "theirs.raw")
    assert done.backup_at == LONGER - 512
    assert table_of(tmp_path / "moved.raw").backup_is_at_end
    assert b"No problems found" in run(["sgdisk", "-v", tmp_path / "moved.raw"])


def test_a_disk_with_sectors_of_4096_bytes_is_moved_too(disk, tmp_path):
    """The partitions of the corpus' shape: same table, larger sectors."""
    large = tmp_path / "4k.raw"
    with large.open("wb") as file:
        file.truncate(16 * MIB)
    _four_k_table(large)
    grow(large, 32 * MIB, tmp_path / "long.raw", move_backup=True)
    table = table_of(tmp_path / "long.raw")
    assert (table.sector_size, table.backup_is_at_end, table.is_sound) == (4096, True, True)
    assert table.last_usable_lba == 32 * MIB // 4096 - 1 - 4 - 1


def _four_k_table(path):
    """Two copies of a GPT for sectors of 4096 bytes, with one partition from 1 MiB on."""
    import struct
    import zlib

    last = path.stat().st_size // 4096 - 1
    entry = bytes(range(16)) + bytes(range(16, 32)) + struct.pack("<QQQ", 256, 511, 0) + "x".encode("utf-16-le")
    entries = entry.ljust(128 * 128, b"\0")

    def header(own, other, at):
        raw = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 65536, 92, 0, 0, own, other, 6, last - 5, bytes(16), at,
                          128, 128, zlib.crc32(entries))  # fmt: skip
        return raw[:16] + struct.pack("<I", zlib.crc32(raw)) + raw[20:]

    write(path, 446, struct.pack("<BBBBBBBBII", 0, 0, 2, 0, 0xEE, 255, 255, 255, 1, last) + bytes(48) + b"\x55\xaa")
    write(path, 4096, header(1, last, 2))
    write(path, 2 * 4096, entries)
    write(path, (last - 4) * 4096, entries)
    write(path, last * 4096, header(last, 1, last - 4))


def test_files_and_source_stay(disk, tmp_path):
    before = sha256(disk)
    grow(disk, LONGER, tmp_path / "moved.qcow2", move_backup=True)
    assert trees(tmp_path / "moved.qcow2") == trees(disk)
    assert sha256(disk) == before


@pytest.mark.parametrize("name", ["{}.raw", "{}.qcow2"])
def test_the_same_input_gives_the_same_bytes(name, disk, tmp_path):
    made = [tmp_path / name.format(number) for number in (1, 2)]
    for target in made:
        grow(disk, LONGER, target, move_backup=True)
    assert sha256(made[0]) == sha256(made[1])


def test_a_backup_can_be_moved_without_growing(disk, tmp_path):
    grow(disk, LONGER, tmp_path / "long.raw")
    grow(tmp_path / "long.raw", LONGER, tmp_path / "moved.raw", move_backup=True)
    assert table_of(tmp_path / "moved.raw").backup_is_at_end


def test_a_lost_backup_is_written_anew(disk, tmp_path):
    lost = copy(disk, tmp_path / "lost.raw")
    write(lost, 48 * MIB - 33 * 512, bytes(33 * 512))
    assert grow(lost, LONGER, tmp_path / "long.raw").backup_at is None
    grow(lost, LONGER, tmp_path / "moved.raw", move_backup=True)
    assert table_of(tmp_path / "moved.raw").is_sound


def test_the_space_that_was_won_can_be_used(disk, tmp_path):
    grow(disk, LONGER, tmp_path / "moved.raw", move_backup=True)
    run(["sgdisk", "-n", "9:48M:60M", tmp_path / "moved.raw"])
    won = table_of(tmp_path / "moved.raw").partitions[-1]
    assert (won.number, won.start) == (9, 48 * MIB)


@pytest.mark.parametrize(
    "size,words",
    [(47 * MIB, "would become shorter"), (48 * MIB + 1, "no size for a disk"), (2**50, "no size for a disk")],
)
def test_sizes_that_cannot_be_are_refused(size, words, disk, tmp_path):
    with pytest.raises(BadInput, match=words):
        grow(disk, size, tmp_path / "long.raw")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_primary_is_not_built_upon(disk, tmp_path):
    damaged = copy(disk, tmp_path / "damaged.raw")
    write(damaged, 512 + 20, b"x")
    with pytest.raises(DamagedImage, match="primary GPT is no good"):
        grow(damaged, LONGER, tmp_path / "long.raw", move_backup=True)


def test_without_a_gpt_there_is_no_backup(tmp_path):
    whole = tmp_path / "whole.img"
    run(["mke2fs", "-q", "-t", "ext4", whole, "8M"])
    assert grow(whole, 16 * MIB, tmp_path / "long.raw").backup_at is None
    with pytest.raises(UnsupportedImage, match="needs a GPT"):
        grow(whole, 16 * MIB, tmp_path / "moved.raw", move_backup=True)


def test_the_command_grows_in_gib(disk, tmp_path):
    done = run_harness("edit", "grow", disk, "--size", "1", "-o", tmp_path / "long.qcow2")
    assert done.returncode == 0, done.stderr
    assert json.loads(run(["qemu-img", "info", "--output=json", tmp_path / "long.qcow2"]))["virtual-size"] == 2**30
    assert f"backup    GPT header at byte {48 * MIB - 512:,}" in done.stdout
