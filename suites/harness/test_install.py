"""Images written over disks as coreos-installer does it: what is saved stays what it was, whatever ends the work."""

import lzma
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BadInput, DamagedImage, HarnessError, UnsupportedImage
from harness.images.block import Memory
from harness.images.filesystems.files import open_files
from harness.images.formats.raw import FileBlock
from harness.images.partitions.gpt import find_table, read_table
from harness.images.partitions.gpt_draft import blank, new_entry
from harness.images.partitions.layout import part_of, read_layout
from harness.images.source import open_image
from harness.install.install import Flush, Wishes, Write, install, install_in_place, steps
from harness.install.saved import index_filters, keep, label_filter
from harness.prestage.disk.partition import LINUX_FILESYSTEM
from harness.prestage.disk.staging import Wanted, stage_disk
from harness.tools import run
from suites.harness.edited import sha256, trees
from suites.harness.small_disk import small_disk
from suites.harness.test_cli import run_harness

MIB = 2**20
DATA = Wishes((label_filter("data"),))
SIZE = 96 * MIB
CONFIG = b'{"ignition":{"version":"3.3.0"}}'
NOISE = random.Random(5).randbytes(4 * MIB)


def guid(number):
    return UUID(int=number << 96 | 4 << 76 | 2 << 62 | number)


def disk_with(path, *partitions, size=SIZE, sector=512, attributes=0):
    """A disk with (number, label, MiB of start, MiB of size) partitions, each full of noise of its own."""
    draft = blank(size // sector, sector, guid(99))
    mib = MIB // sector
    for number, label, start, length in partitions:
        entry = bytearray(new_entry(LINUX_FILESYSTEM, guid(number), start * mib, (start + length) * mib - 1, label))
        struct.pack_into("<Q", entry, 48, attributes)
        draft = draft.having({number: bytes(entry)})
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in [*draft.backup(), *draft.primary(), (0, draft.mbr())]:
            file.seek(offset)
            file.write(data)
        for number, _, start, length in partitions:
            for at in range(start, start + length):
                file.seek(at * MIB)
                file.write(NOISE[number : number + MIB])
    return path


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return small_disk(tmp_path_factory.mktemp("image"))


@pytest.fixture
def staged(tmp_path):
    """p1 as the seed has it, with attributes and stale partitions beside it."""
    return disk_with(tmp_path / "staged.raw", (1, "data", 64, 8), (2, "old", 2, 40), attributes=0x8000000000000005)


def partitions_of(path):
    with open_image(path) as opened:
        return read_table(opened.block).partitions


def bytes_of(path, label):
    with open_image(path) as opened:
        block = read_layout(opened.block).part_block(label)
        return block.read(0, block.size)


def facts(partition):
    return (partition.label, partition.start, partition.size, partition.type_guid, partition.part_guid,
            partition.attributes)  # fmt: skip


def test_what_is_saved_keeps_everything_but_its_number(image, staged, tmp_path):
    """Facts D3: data p1 becomes the next behind the image's."""
    before = sha256(staged), facts(partitions_of(staged)[0]), bytes_of(staged, "data")
    made = tmp_path / "installed.raw"
    done = install(image, staged, made, DATA)
    assert [each.told for each in done.saved] == ['Saving partition 1 ("data") to new partition 4']
    *shipped, data = partitions_of(made)
    assert shipped == list(partitions_of(image))
    assert data.number == 4
    assert (sha256(staged), facts(data), bytes_of(made, "data")) == before


def test_the_image_is_there_byte_for_byte(image, staged, tmp_path):
    made = tmp_path / "installed.raw"
    install(image, staged, made, DATA)
    assert trees(made) == trees(image)
    with FileBlock(image) as old, FileBlock(made) as new:
        assert new.read(0, 440) == old.read(0, 440)
        for partition in read_table(old).partitions:
            assert part_of(new, partition).read(0, partition.size) == part_of(old, partition).read(0, partition.size)


def test_the_table_is_sound_to_sgdisk_with_the_images_guid(image, staged, tmp_path):
    """The GUID is the image's: first boot makes a new one."""
    made = tmp_path / "installed.raw"
    install(image, staged, made, DATA)
    assert b"No problems found" in run(["sgdisk", "-v", made])
    with FileBlock(image) as old, FileBlock(made) as new:
        table = read_table(new)
        assert (table.is_sound, table.backup_is_at_end, table.disk_guid) == (True, True, read_table(old).disk_guid)
        assert table.protective_mbr.size_lba == SIZE // 512 - 1


def test_first_boot_can_move_the_backup_table_of_a_disk_full_to_its_end(image, tmp_path):
    """sfdisk's first usable sector is 2048, and sgdisk would leave as many free at the end, where the data is."""
    folder, disk, made = tmp_path / "folder", tmp_path / "disk.raw", tmp_path / "installed.raw"
    folder.mkdir()
    (folder / "one_1.tgz").write_bytes(NOISE)
    stage_disk(folder, disk, Wanted(size=2**30, data_size=400 * MIB))
    install(image, disk, made, DATA)
    run(["sgdisk", "--disk-guid=R", "--move-second-header", made])
    assert b"No problems found" in run(["sgdisk", "-v", made])
    assert [facts(each) for each in partitions_of(made)[3:]] == [facts(each) for each in partitions_of(disk)]


def test_nothing_else_of_the_old_disk_is_left(image, staged, tmp_path):
    made = tmp_path / "installed.raw"
    install(image, staged, made, DATA)
    with FileBlock(made) as block:
        assert not any(block.read(48 * MIB, 16 * MIB))
        assert not any(block.read(72 * MIB, 23 * MIB))


def test_without_filters_the_disk_is_the_image_and_zeroes(image, staged, tmp_path):
    made = tmp_path / "installed.raw"
    install(image, staged, made, Wishes())
    assert made.read_bytes() == image.read_bytes() + bytes(SIZE - 48 * MIB)


def test_qcow2_goes_in_and_comes_out(image, staged, tmp_path):
    for source in (image, staged):
        run(["qemu-img", "convert", "-O", "qcow2", source, tmp_path / f"{source.stem}.qcow2"])
    install(tmp_path / f"{image.stem}.qcow2", tmp_path / "staged.qcow2", tmp_path / "new.qcow2", DATA)
    install(image, staged, tmp_path / "new.raw", DATA)
    run(["qemu-img", "compare", tmp_path / "new.qcow2", tmp_path / "new.raw"])


def test_a_disk_without_a_table_takes_the_image(image, tmp_path):
    empty = tmp_path / "empty.raw"
    with empty.open("wb") as file:
        file.truncate(SIZE)
    done = install(image, empty, tmp_path / "new.raw", DATA)
    assert (done.saved, done.unmatched) == ((), ("label 'data'",))
    assert partitions_of(tmp_path / "new.raw") == partitions_of(image)


def test_a_config_and_a_platform_go_into_boot(image, staged, tmp_path):
    made = tmp_path / "installed.raw"
    install(image, staged, made, Wishes(DATA.save, CONFIG, "metal"))
    with open_image(made) as opened:
        boot = open_files(read_layout(opened.block).part_block("boot"))
        assert boot.read("/ignition/config.ign") == CONFIG
        assert "ignition.platform.id=metal" in boot.text("/loader/entries/ostree-1-small.conf")
    assert bytes_of(made, "data") == bytes_of(staged, "data")


# Partitions 1 ("one"), 5 ("five"), 7 ("data-a"), 9 ("data-b") behind the image, which has 1 to 3.
NUMBERS = {
    "label one": ([label_filter("one")], {1: 4}),
    "glob": ([label_filter("data-*")], {7: 7, 9: 9}),
    "question mark": ([label_filter("data-?")], {7: 7, 9: 9}),
    "all": ([label_filter("*")], {1: 4, 5: 5, 7: 7, 9: 9}),
    "index": (index_filters("5"), {5: 5}),
    "range": (index_filters("5-7"), {5: 5, 7: 7}),
    "open end": (index_filters("7-"), {7: 7, 9: 9}),
    "open start": (index_filters("-5"), {1: 4, 5: 5}),
    "list": (index_filters("1,9-"), {1: 4, 9: 9}),
    "label and index": ([label_filter("five"), *index_filters("9")], {5: 5, 9: 9}),
    "twice": ([label_filter("five"), *index_filters("5")], {5: 5}),
    "nothing": ([label_filter("f")], {}),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_filters_choose_and_numbers_follow(case, image, tmp_path):
    filters, expected = NUMBERS[case]
    disk = disk_with(
        tmp_path / "d.raw", (1, "one", 50, 1), (5, "five", 51, 1), (7, "data-a", 52, 1), (9, "data-b", 53, 1)
    )
    with FileBlock(disk) as onto, FileBlock(image) as source:
        kept = keep(onto, source, read_table(source), filters)
    assert {each.partition.number: each.number for each in kept.saved} == expected


def test_numbers_push_each_other_on(image, tmp_path):
    """1, 2 and 3 become 4, 5 and 6; a saved 5 then has to become 7."""
    parts = [(1, "a", 50, 1), (2, "b", 51, 1), (3, "c", 52, 1), (5, "d", 53, 1)]
    disk = disk_with(tmp_path / "d.raw", *parts)
    with FileBlock(disk) as onto, FileBlock(image) as source:
        kept = keep(onto, source, read_table(source), [label_filter("*")])
    assert {each.partition.number: each.number for each in kept.saved} == {1: 4, 2: 5, 3: 6, 5: 7}


@pytest.mark.parametrize("listed", ["", "0", "5,", "a", "5-3", "0-3", "-", "5--7", "-0", "1 2", "99999"])
def test_a_list_of_numbers_that_means_nothing_is_refused(listed):
    with pytest.raises(BadInput, match="write numbers and ranges"):
        index_filters(listed)


def test_an_empty_label_is_refused():
    with pytest.raises(BadInput, match="an empty label saves nothing"):
        label_filter("")


def overlapping(tmp_path, _):
    return disk_with(tmp_path / "d.raw", (1, "data", 40, 8))


def in_front(tmp_path, _):
    return disk_with(tmp_path / "d.raw", (1, "data", 1, 1))


def other_sectors(tmp_path, _):
    return disk_with(tmp_path / "d.raw", (1, "data", 64, 8), sector=4096)


def same_guid(tmp_path, image):
    disk = disk_with(tmp_path / "d.raw", (1, "data", 64, 8))
    run(["sgdisk", "-u", f"1:{partitions_of(image)[0].part_guid}", disk])
    return disk


def twins(tmp_path, _):
    disk = disk_with(tmp_path / "d.raw", (1, "data", 64, 8), (2, "data", 80, 8))
    draft = blank(SIZE // 512, 512, guid(99))
    for number, start in ((1, 64), (2, 80)):
        row = new_entry(LINUX_FILESYSTEM, guid(7), start * 2048, (start + 8) * 2048 - 1, "data")
        draft = draft.having({number: row})
    with disk.open("r+b") as file:
        for offset, data in [*draft.backup(), *draft.primary()]:
            file.seek(offset)
            file.write(data)
    return disk


def too_short(tmp_path, _):
    return disk_with(tmp_path / "d.raw", size=40 * MIB)


def mbr(tmp_path, _):
    disk = tmp_path / "d.raw"
    with disk.open("wb") as file:
        file.truncate(SIZE)
    run(["sfdisk", "-q", disk], stdin=b"label: dos\nstart=131072, size=4096, type=83\n")
    return disk


def torn(tmp_path, _):
    disk = disk_with(tmp_path / "d.raw", (1, "data", 64, 8))
    with disk.open("r+b") as file:
        for at in (520, SIZE - 512 + 16):
            file.seek(at)
            file.write(b"torn")
    return disk


LABEL, INDEX = [label_filter("data")], list(index_filters("1"))
REFUSED = {
    "overlap": (overlapping, LABEL, BadInput, "begins at byte 41,943,040, and the partitions of the image end at 47,1"),
    "in front of the image": (in_front, LABEL, BadInput, "begins at byte 1,048,576, and the partitions of the image"),
    "4 KiB sectors": (other_sectors, LABEL, UnsupportedImage, "has sectors of 4096 bytes, and the image of 512"),
    "one GUID twice": (same_guid, LABEL, BadInput, "of the image ('EFI-SYSTEM') (give it one of its own"),
    "twins": (
        twins,
        LABEL,
        BadInput,
        "partition 2 ('data') has the GUID 00000007-0000-4000-8000-000000000007 of another, number 1",
    ),
    "too short": (too_short, [], BadInput, "has 41,943,040 bytes, and the partitions of the image end at"),
    "an MBR by number": (mbr, INDEX, UnsupportedImage, "has an MBR, whose partitions cannot be saved by number"),
    "a torn table": (torn, LABEL, DamagedImage, "neither GPT can be trusted"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(case, image, tmp_path):
    make, filters, kind, words = REFUSED[case]
    disk = make(tmp_path, image)
    before = sha256(disk)
    for attempt in (
        lambda: install(image, disk, tmp_path / "new.raw", Wishes(tuple(filters))),
        lambda: install_in_place(image, disk, Wishes(tuple(filters))),
    ):
        with pytest.raises(kind, match=re.escape(words)):
            attempt()
    assert sha256(disk) == before
    assert [path.name for path in tmp_path.iterdir()] == ["d.raw"]


def test_an_mbr_disk_has_no_labels_to_save(image, tmp_path):
    done = install(image, mbr(tmp_path, image), tmp_path / "new.raw", DATA)
    assert (done.saved, done.unmatched) == ((), ("label 'data'",))


CORPUS = {
    "gpt-512": (BadInput, "partition 1 ('Linux filesystem') begins at byte 1,048,576"),
    "gpt-4096": (UnsupportedImage, "has sectors of 4096 bytes, and the image of 512"),
}


@pytest.mark.parametrize("name", CORPUS)
def test_the_disks_of_coreos_installer_are_refused(name, corpus, image, tmp_path):
    """Its own fixtures, made longer so that the image would fit."""
    kind, words = CORPUS[name]
    disk = tmp_path / "d.raw"
    disk.write_bytes(lzma.decompress((corpus / f"coreos-installer-fixtures/gpt/{name}.xz").read_bytes()))
    os.truncate(disk, SIZE)
    with pytest.raises(kind, match=re.escape(words)):
        install(image, disk, tmp_path / "new.raw", Wishes((label_filter("Linux*"),)))


def test_in_place_gives_what_the_new_file_has(image, staged, tmp_path):
    """Where the old disk had nothing but what is saved."""
    disk = disk_with(tmp_path / "d.raw", (1, "data", 64, 8))
    install(image, disk, tmp_path / "new.raw", Wishes(DATA.save, CONFIG, "metal"))
    told = []
    install_in_place(image, disk, Wishes(DATA.save, CONFIG, "metal"), tell=lambda each: told.append(each.told))
    assert told == ['Saving partition 1 ("data") to new partition 4']
    assert sha256(disk) == sha256(tmp_path / "new.raw")


def test_in_place_a_misspelt_label_is_refused(image, staged):
    before = sha256(staged)
    with pytest.raises(BadInput, match="no partition meets label 'dta', and all else on it will be gone"):
        install_in_place(image, staged, Wishes((label_filter("dta"),)))
    assert sha256(staged) == before


def test_in_place_without_filters_gives_the_image(image, staged):
    install_in_place(image, staged, Wishes())
    assert staged.read_bytes()[: 48 * MIB] == image.read_bytes()
    assert not any(staged.read_bytes()[-34 * 512 :])


SMALL = 8 * MIB


def tiny(path, *partitions):
    return disk_with(path, *partitions, size=SMALL)


def with_sectors(disk, step, mask):
    """What a cut may leave of writes that were not flushed: any of their sectors."""
    for at in range(0, len(step.data), 512):
        if mask(step.offset + at):
            disk[step.offset + at : step.offset + at + 512] = step.data[at : at + 512]


@pytest.fixture(scope="module")
def cuts(tmp_path_factory):
    """Every step of an installation of a small image over a small disk with a saved partition and an old one."""
    folder = tmp_path_factory.mktemp("cuts")
    source = disk_with(folder / "image.raw", (1, "boot", 1, 1), (2, "root", 2, 2), size=5 * MIB)
    with source.open("r+b") as file:  # GUIDs of its own
        draft = blank(5 * MIB // 512, 512, guid(50))
        for number, label, start, length in ((1, "boot", 1, 1), (2, "root", 2, 2)):
            row = new_entry(LINUX_FILESYSTEM, guid(20 + number), start * 2048, (start + length) * 2048 - 1, label)
            draft = draft.having({number: row})
        for offset, data in [*draft.backup(), *draft.primary(), (0, draft.mbr())]:
            file.seek(offset)
            file.write(data)
    onto = disk_with(folder / "onto.raw", (1, "data", 6, 1), (2, "old", 1, 4), size=SMALL, attributes=4)
    with FileBlock(source) as image, FileBlock(onto) as old:
        kept = keep(old, image, read_table(image), DATA.save)
        return onto.read_bytes(), list(steps(image, kept, SMALL)), facts(read_table(old).partitions[0])


def saved_on(disk, expected):
    table = find_table(Memory(bytes(disk), "disk"))
    return [facts(row) for row in table.partitions if row.label == "data"] == [expected]


def sometimes(chance, _):
    return chance.random() < 0.5


def apply(disk, step):
    if isinstance(step, Write):
        disk[step.offset : step.offset + len(step.data)] = step.data
    elif not isinstance(step, Flush):
        disk[step.start : step.end] = bytes(step.end - step.start)


def test_a_cut_after_any_sector_leaves_what_is_saved(cuts):
    """Writes in order, cut within each table write behind every sector."""
    before, todo, expected = cuts
    disk = bytearray(before)
    checked = 0
    for step in todo:
        if isinstance(step, Write) and not MIB <= step.offset < 7 * MIB:
            for end in range(0, len(step.data), 512):
                torn_disk = bytearray(disk)
                torn_disk[step.offset : step.offset + end] = step.data[:end]
                assert saved_on(torn_disk, expected), (step, end)
                checked += 1
        apply(disk, step)
        assert saved_on(disk, expected), step
    assert checked > 100
    assert disk[6 * MIB : 7 * MIB] == before[6 * MIB : 7 * MIB]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 4), st.randoms(use_true_random=False))
def test_a_cut_that_loses_any_unflushed_sectors_leaves_what_is_saved(cuts, flushes, chance):
    """A disk reorders what was not flushed: of the writes between two flushes any sectors may be missing."""
    before, todo, expected = cuts
    disk, passed = bytearray(before), 0
    for step in todo:
        if isinstance(step, Flush):
            passed += 1
            if passed > flushes:
                break
        elif passed < flushes:
            apply(disk, step)
        elif isinstance(step, Write):
            with_sectors(disk, step, partial(sometimes, chance))
    assert saved_on(disk, expected)
    assert disk[6 * MIB : 7 * MIB] == before[6 * MIB : 7 * MIB]


def test_the_replay_would_see_a_wrong_order(cuts):
    """Both copies of the table written without a flush between them, and torn: neither is whole."""
    before, todo, expected = cuts
    lost = 0
    for seed in range(40):
        disk = bytearray(before)
        for step in [step for step in todo if isinstance(step, Write)][:4]:
            with_sectors(disk, step, partial(sometimes, random.Random(seed * 9 + step.offset)))
        try:
            lost += not saved_on(disk, expected)
        except HarnessError:
            lost += 1
    assert lost


def test_after_a_cut_the_same_command_finishes(cuts, tmp_path):
    """Where the primary was torn, it is mended before the backup is touched."""
    before, todo, expected = cuts
    disk = bytearray(before)
    for step in todo[:3]:  # the backup and its flush
        apply(disk, step)
    disk[512:1024] = bytes(512)
    onto = tmp_path / "d.raw"
    onto.write_bytes(disk)
    source = disk_with(tmp_path / "i.raw", (11, "boot", 1, 1), size=3 * MIB)
    with FileBlock(source) as image, FileBlock(onto) as old:
        kept = keep(old, image, read_table(image), DATA.save)
        again = list(steps(image, kept, SMALL))
    assert not kept.primary_is_good
    for step in again:
        if isinstance(step, Write) and not MIB <= step.offset < 7 * MIB:
            for end in range(0, len(step.data), 512):
                torn_disk = bytearray(disk)
                torn_disk[step.offset : step.offset + end] = step.data[:end]
                assert saved_on(torn_disk, expected)
        apply(disk, step)


def test_data_of_the_seeds_disk_becomes_partition_5_of_the_reference_image(reference, tmp_path):
    """Facts D3, on a disk of 120 GiB: data p1 becomes p5, where it was."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "one_1.tgz").write_bytes(NOISE)
    disk = tmp_path / "staged.qcow2"
    stage_disk(folder, disk, Wanted(size=120 * 2**30, start=120000000))
    (was,) = partitions_of(disk)
    told = []
    made = tmp_path / "installed.qcow2"
    install(reference.path, disk, made, DATA, tell=lambda each: told.append(each.told))
    assert told == ['Saving partition 1 ("data") to new partition 5']
    now = partitions_of(made)
    assert [row.label for row in now] == ["BIOS-BOOT", "EFI-SYSTEM", "boot", "root", "data"]
    assert (now[4].number, now[4].first_lba, now[4].last_lba) == (5, 119998464, 251658206)
    assert facts(now[4]) == facts(was)
    with open_image(made) as opened:
        assert open_files(read_layout(opened.block).part_block("data")).read("/one_1.tgz") == NOISE


@pytest.fixture
def loop(staged):
    """A loop device over the staged disk; skipped where the host has none to give."""
    made = subprocess.run(["losetup", "--find", "--show", staged], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    device = Path(made.stdout.strip())
    yield device
    subprocess.run(["losetup", "-d", device], check=False)


def test_a_block_device_is_written_in_place(image, staged, loop):
    before = bytes_of(staged, "data")
    done = run_harness("install", image, "--onto", loop, "--save-partlabel", "data")
    assert done.returncode == 0, done.stderr
    assert 'Saving partition 1 ("data") to new partition 4' in done.stderr
    assert [(row.number, row.label) for row in partitions_of(loop)][-1] == (4, "data")
    assert bytes_of(loop, "data") == before
    assert b"No problems found" in run(["sgdisk", "-v", loop])


def test_kill_9_at_any_time_leaves_what_is_saved(image, staged, loop):
    before = facts(partitions_of(staged)[0]), bytes_of(staged, "data")
    command = [sys.executable, "-m", "harness.cli", "install", image, "--onto", loop, "--save-partlabel", "data"]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - started
    for part in range(1, 9):
        killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * part / 9)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        (data,) = [row for row in partitions_of(loop) if row.label == "data"]
        assert (facts(data), bytes_of(loop, "data")) == before


def test_a_file_is_never_written_in_place_by_the_command(image, staged):
    before = sha256(staged)
    done = run_harness("install", image, "--onto", staged)
    assert (done.returncode, sha256(staged)) == (2, before)
    assert "is no block device, and stays as it is (name a file with -o)" in done.stderr


def test_the_command_tells_of_filters_that_nothing_met(image, staged, tmp_path):
    done = run_harness("install", image, "--onto", staged, "--save-partlabel", "dta", "-o", tmp_path / "new.raw")
    assert done.returncode == 0
    assert "no partition meets label 'dta'" in done.stderr


def test_the_image_and_the_disk_are_not_the_target(image, staged, tmp_path):
    for target in (image, staged):
        with pytest.raises(BadInput, match="is the image itself, which no edit changes"):
            install(image, staged, target.with_suffix(target.suffix), DATA)


def test_a_failure_leaves_no_file(image, staged, tmp_path):
    blocked = shutil.copyfile(image, tmp_path / "image.raw")
    os.truncate(blocked, 20 * MIB)
    with pytest.raises(HarnessError):
        install(blocked, staged, tmp_path / "new.raw", DATA)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.raw", "staged.raw"]
