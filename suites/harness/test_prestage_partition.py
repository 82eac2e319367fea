"""Where a partition at the end of a disk comes to lie: exactly where sgdisk puts it, and nowhere else."""

import re
import subprocess
import tempfile
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from harness.errors import BadInput, DamagedImage
from harness.images.formats.raw import FileBlock
from harness.images.partitions.gpt import read_table
from harness.images.partitions.gpt_draft import blank, draft_of, new_entry
from harness.prestage.disk.partition import LINUX_FILESYSTEM, Room, Span, Taken, from_sector, of_size, room_on
from harness.tools import find_tool

GIB, MIB = 2**30, 2**20
SEED_SECTORS = 120 * GIB // 512
DISK, ONE, TWO = (UUID(int=number << 100 | 0x4000 << 64 | 1 << 63 | number) for number in (1, 2, 3))


def room(sectors, *taken, size=512):
    draft = blank(sectors, size, DISK)
    return Room(size, sectors, draft.first_usable_lba, draft.last_usable_lba, tuple(taken))


def sgdisk(disk, *options):
    return subprocess.run([find_tool("sgdisk"), *options, disk], check=False, capture_output=True, text=True)


def theirs(disk, start, number=1):
    """Where sgdisk would put it, nothing written: to write, it waits until the whole host has nothing to flush."""
    said = sgdisk(disk, "-P", "-n", f"{number}:{start}:0", "-i", str(number)).stdout
    found = re.search(r"First sector: (\d+).*Last sector: (\d+)", said, re.DOTALL)
    return Span(int(found[1]), int(found[2])) if found else None


def write(path, pieces):
    with path.open("r+b") as file:
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)


def written(path, draft):
    with path.open("wb") as file:
        file.truncate(draft.sectors * draft.sector_size)
    write(path, [*draft.backup(), *draft.primary(), (0, draft.mbr())])
    return path


def test_the_seeds_disk_has_the_partition_of_the_seed():
    """Facts D3, whose author gave sgdisk sector 120000000."""
    found = from_sector(room(SEED_SECTORS), 120000000)
    assert (found, found.sectors) == (Span(119998464, 251658206), 131659743)


def test_a_partition_of_100_gib_lies_where_the_factory_cli_has_it():
    assert of_size(room(SEED_SECTORS), 100 * GIB) == Span(41940992, 251658206)


def test_a_disk_of_4_kib_sectors_is_aligned_to_1_mib_as_well():
    four = room(120 * GIB // 4096, size=4096)
    assert from_sector(four, 15000001) == Span(15000001 // 256 * 256, four.last_usable)
    assert four.last_usable == 120 * GIB // 4096 - 6


@pytest.fixture
def device_4k(tmp_path):
    """A loop device with sectors of 4096 bytes; skipped where the host has none to give."""
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(120 * GIB)
    made = subprocess.run(
        ["losetup", "--find", "--show", "--sector-size", "4096", disk], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "-d", made.stdout.strip()], check=False)


def test_a_device_of_4_kib_sectors_is_aligned_as_by_sgdisk(device_4k):
    four = room(120 * GIB // 4096, size=4096)
    for start in (6, 255, 256, 257, 15000001, four.last_usable - 3, four.last_usable):
        assert from_sector(four, start) == theirs(device_4k, start)
    for gib in (1, 57, 100):
        assert of_size(four, gib * GIB) == theirs(device_4k, f"-{gib}GiB")


SIZES = st.integers(4096, 2 * 10**9)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.data())
def test_every_start_is_moved_as_sgdisk_moves_it(sectors, data):
    start = data.draw(st.integers(34, sectors - 34))
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder, "disk")
        with disk.open("wb") as file:
            file.truncate(sectors * 512)
        assert from_sector(room(sectors), start) == theirs(disk, start)


@settings(max_examples=60, deadline=None)
@given(SIZES, st.data())
def test_every_size_is_placed_as_sgdisk_places_it(sectors, data):
    size = data.draw(st.integers(1, (sectors - 68) // 2048 + 1)) * MIB
    assume(size // 512 < sectors - 67)
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder, "disk")
        with disk.open("wb") as file:
            file.truncate(sectors * 512)
        found = theirs(disk, f"-{size // MIB}MiB")
        try:
            ours = of_size(room(sectors), size)
        except BadInput:  # sgdisk then makes it smaller than it was asked for
            assert found is None or found.sectors * 512 < size
        else:
            assert ours == found


@settings(max_examples=60, deadline=None)
@given(SIZES, st.integers(0, 11), st.data())
def test_partitions_that_are_there_loosen_the_alignment_as_with_sgdisk(sectors, power, data):
    """Existing partitions that begin at multiples of less than 1 MiB: sgdisk keeps to the same multiple then."""
    assume(sectors > 8192)
    first = data.draw(st.integers(1, (sectors // 2) >> power)) << power
    assume(34 <= first < sectors // 2)
    last = data.draw(st.integers(first, sectors // 2))
    start = data.draw(st.integers(last + 1, sectors - 34))
    disk_room = room(sectors, Taken(first, last, "one"))
    with tempfile.TemporaryDirectory() as folder:
        disk = written(
            Path(folder, "disk"),
            blank(sectors, 512, DISK).having({3: new_entry(LINUX_FILESYSTEM, ONE, first, last, "one")}),
        )
        assert from_sector(disk_room, start) == theirs(disk, start, 4)


def test_a_new_table_has_the_bytes_of_sgdisk(tmp_path):
    ours = written(
        tmp_path / "ours",
        blank(SEED_SECTORS, 512, DISK).having({1: new_entry(LINUX_FILESYSTEM, ONE, 119998464, 251658206, "data")}),
    )
    other = tmp_path / "theirs"
    with other.open("wb") as file:
        file.truncate(SEED_SECTORS * 512)
    sgdisk(other, "-n", "1:120000000", "-g", "-c:1:data", "-u", f"1:{ONE}", "-U", str(DISK))
    for offset, length in ((0, 34 * 512), ((SEED_SECTORS - 33) * 512, 33 * 512)):
        with FileBlock(ours) as one, FileBlock(other) as two:
            assert one.read(offset, length) == two.read(offset, length)


def test_a_table_of_4_kib_sectors_reads_back(tmp_path):
    draft = blank(64 * MIB // 4096, 4096, DISK).having({1: new_entry(LINUX_FILESYSTEM, ONE, 512, 1023, "data")})
    with FileBlock(written(tmp_path / "4k", draft)) as block:
        table = read_table(block)
        assert (table.is_sound, table.backup_is_at_end, table.sector_size) == (True, True, 4096)
        assert draft_of(block, table) == draft


def test_a_draft_of_a_disk_is_its_own_table(tmp_path):
    draft = blank(SEED_SECTORS, 512, DISK).having({7: new_entry(LINUX_FILESYSTEM, ONE, 4096, 8191, "äöü")})
    with FileBlock(written(tmp_path / "disk", draft)) as block:
        assert draft_of(block, read_table(block)) == draft


REFUSED = {
    "in a partition": (from_sector, 5000, "sector 5000 lies in one, which ends at 8191 (choose one from 16384 on)"),
    "between partitions": (from_sector, 9000, "sector 9000 lies in front of two (choose one from 16384 on)"),
    "before the first": (from_sector, 3, "sector 3 lies in front of one (choose one from 16384 on)"),
    "beyond the end": (from_sector, 32768, "sector 32768 lies beyond the last usable one, 32734"),
    "too large": (of_size, 9 * MIB, "does not fit: 8,371,712 bytes are free at the end"),
    "no sector": (of_size, 511, "511 bytes are no size for a partition"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused(case):
    place, wanted, words = REFUSED[case]
    with pytest.raises(BadInput, match=re.escape(words)):
        place(room(32768, Taken(2048, 8191, "one"), Taken(10240, 16383, "two")), wanted)


def test_a_full_disk_is_refused():
    with pytest.raises(BadInput, match="one reaches sector 32734, the last usable is 32734"):
        of_size(room(32768, Taken(2048, 32734, "one")), MIB)


def test_a_partition_number_is_used_once_and_within_the_table():
    draft = blank(32768, 512, DISK).having({1: new_entry(LINUX_FILESYSTEM, ONE, 2048, 4095, "a")})
    for number, words in ((1, "there is a partition 1 already"), (129, "beyond the table, which has 128 entries")):
        with pytest.raises(BadInput, match=words):
            draft.having({number: new_entry(LINUX_FILESYSTEM, TWO, 8192, 9000, "b")})


def test_a_label_longer_than_the_entry_is_refused():
    with pytest.raises(BadInput, match="is no partition label"):
        new_entry(LINUX_FILESYSTEM, ONE, 1, 2, "x" * 37)


def test_a_partition_in_the_place_of_the_backup_is_damage(tmp_path):
    draft = blank(32768, 512, DISK)
    disk = written(tmp_path / "disk", draft.having({1: new_entry(LINUX_FILESYSTEM, ONE, 2048, 32767 - 5, "a")}))
    with FileBlock(disk) as block, pytest.raises(DamagedImage, match="usable are 34 to 32734"):
        draft_of(block, read_table(block))


def test_room_is_what_the_table_says(tmp_path):
    draft = blank(32768, 512, DISK).having({2: new_entry(LINUX_FILESYSTEM, ONE, 2048, 4095, "a")})
    with FileBlock(written(tmp_path / "disk", draft)) as block:
        found = room_on(draft, read_table(block).partitions)
        assert found == Room(512, 32768, 34, 32734, (Taken(2048, 4095, "partition 2 ('a')"),))
