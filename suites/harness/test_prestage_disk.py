"""Disks with a pre-staged partition: where it lies, what is on it, that nothing else changed; same bytes every time."""

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import UUID

import pytest

from harness.errors import BadInput, DamagedArtifact, DamagedImage, UnsupportedImage
from harness.images.block import Part
from harness.images.edits.copy import data_of
from harness.images.filesystems.files import open_files
from harness.images.formats.raw import FileBlock
from harness.images.partitions.gpt import read_table
from harness.images.partitions.layout import part_of, read_layout
from harness.images.source import open_image
from harness.prestage.disk.partition import LINUX_FILESYSTEM, Span
from harness.prestage.disk.staging import Wanted, stage_disk
from harness.tools import run
from suites.harness.edited import changed_outside, sha256
from suites.harness.small_disk import small_disk
from suites.harness.test_cli import run_harness

GIB, MIB = 2**30, 2**20
SEED = Wanted(size=120 * GIB, start=120000000)
SMALL = 512 * MIB


def fill(folder, count=3, largest=300_000):
    """A folder as `harness prestage pull` fills it, with noise for archives."""
    folder.mkdir()
    noise = random.Random(count)
    for number in range(count):
        size = (0, 1, 4096)[number] if number < 3 else noise.randrange(largest)
        name = f"ocp-v4.0-art-dev@sha256_{number:064x}.tgz"
        (folder / name).write_bytes(noise.randbytes(size))
    (folder / "ai-images.txt").write_text("quay.io/one/two@sha256:" + "0" * 64 + "\n")
    (folder / "extract-images.sh").write_text("#!/bin/sh\n")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(folder.glob("*.tgz"))]
    (folder / "SHA256SUMS").write_text("".join(lines))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("prestage") / "folder", 12)


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    return small_disk(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def seed_disk(folder, tmp_path_factory):
    disk = tmp_path_factory.mktemp("seed") / "staged.raw"
    return disk, stage_disk(folder, disk, SEED)


def contents_of(disk, label="data"):
    with open_image(disk) as opened:
        files = open_files(read_layout(opened.block).part_block(label))
        return {
            entry.path[1:]: (oct(entry.mode), entry.uid, entry.gid, entry.mtime, files.sha256(entry.path))
            for entry in files.walk("/")
            if entry.kind == "file"
        }


def expected_of(folder):
    return {
        path.name: ("0o755" if path.suffix == ".sh" else "0o644", 0, 0, 1793491200, sha256(path))
        for path in folder.iterdir()
    }


def data_digest(disk):
    """Of all that is not zeroes; holes cost nothing."""
    digest = hashlib.sha256()
    with FileBlock(disk) as block:
        for start, end in data_of(block):
            for at in range(start, end, MIB):
                piece = block.read(at, min(MIB, end - at))
                if any(piece):
                    digest.update(at.to_bytes(8, "big") + piece)
    return digest.hexdigest()


def test_the_seeds_disk_has_the_numbers_of_the_seed(seed_disk):
    """Facts D3: start 119998464, end 251658206; XFS with 4 groups of 4114367 blocks, 16457467 in all."""
    disk, done = seed_disk
    assert (done.number, done.span, done.span.sectors) == (1, Span(119998464, 251658206), 131659743)
    with FileBlock(disk) as block:
        table = read_table(block)
        (partition,) = table.partitions
        assert (table.is_sound, table.backup_is_at_end, block.size) == (True, True, 120 * GIB)
        assert (partition.first_lba, partition.last_lba, partition.type_guid, partition.label) == (
            119998464,
            251658206,
            LINUX_FILESYSTEM,
            "data",
        )
        raw = block.read(partition.start, 512)
    groups = [int.from_bytes(raw[at : at + 4], "big") for at in (88, 84)]
    assert (groups, int.from_bytes(raw[8:16], "big")) == ([4, 4114367], 16457467)


def test_sgdisk_and_sfdisk_find_the_table_sound(seed_disk):
    disk, _ = seed_disk
    assert b"No problems found" in run(["sgdisk", "-v", disk])
    assert b"No errors detected" in run(["sfdisk", "--verify", disk])
    said = run(["sgdisk", "-i", "1", disk]).decode()
    assert "Partition GUID code: 0FC63DAF-8483-4772-8E79-3D69D8477DE4" in said


def test_the_disk_is_sparse(seed_disk):
    assert seed_disk[0].stat().st_blocks * 512 < 16 * MIB


@pytest.mark.parametrize("filesystem", ["xfs", "ext4"])
@pytest.mark.parametrize("sector", [512, 4096])
def test_every_file_reads_back_as_it_was(filesystem, sector, folder, tmp_path):
    disk = tmp_path / "disk.raw"
    wanted = Wanted(size=SMALL, data_size=400 * MIB, filesystem=filesystem, sector_size=sector)
    done = stage_disk(folder, disk, wanted)
    assert contents_of(disk) == expected_of(folder)
    with open_image(disk) as opened:
        (partition,) = read_layout(opened.block).partitions
        found = partition.filesystem
        assert (found.type, found.label, UUID(found.uuid)) == (filesystem, "data", done.filesystem_uuid)


def part_file(disk, label, target):
    """The partition as a file of its own, for programs that know no offset."""
    with open_image(disk) as opened:
        partition = read_layout(opened.block).partition(label)
    run(["dd", f"if={disk}", f"of={target}", "bs=1M", "iflag=skip_bytes,count_bytes", f"skip={partition.start}",
         f"count={partition.size}", "conv=sparse", "status=none"])  # fmt: skip
    return target


def test_xfs_repair_and_xfs_db_agree_with_what_we_wrote(folder, tmp_path):
    disk = tmp_path / "disk.raw"
    stage_disk(folder, disk, Wanted(size=SMALL, data_size=400 * MIB))
    part = part_file(disk, "data", tmp_path / "part")
    run(["xfs_repair", "-n", "-f", part])
    said = run(["xfs_db", "-r", "-f", "-c", "sb 0", "-c", "p features_ro_compat features_incompat", part]).decode()
    assert said.split() == ["features_ro_compat", "=", "0x5", "features_incompat", "=", "0x3"]


def test_xfs_repair_would_object_to_one_wrong_count(folder, tmp_path):
    """The check that has the last word can fail: one free block too many."""
    disk = tmp_path / "disk.raw"
    stage_disk(folder, disk, Wanted(size=SMALL, data_size=400 * MIB))
    part = part_file(disk, "data", tmp_path / "part")
    with part.open("r+b") as file:
        file.seek(512 + 52)
        free = int.from_bytes(file.read(4), "big")
        file.seek(512 + 52)
        file.write((free + 1).to_bytes(4, "big"))
    assert subprocess.run(["/usr/sbin/xfs_repair", "-n", "-f", part], capture_output=True, check=False).returncode == 1


def test_a_file_larger_than_a_group_lies_in_several(tmp_path):
    """400 MiB of XFS have four groups of 100: a file of 130 MiB begins in one and ends in another."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.tgz").write_bytes(random.Random(1).randbytes(130 * MIB))
    (folder / "b.tgz").write_bytes(random.Random(2).randbytes(50 * MIB + 1))
    disk = tmp_path / "disk.raw"
    stage_disk(folder, disk, Wanted(size=SMALL, data_size=400 * MIB))
    assert contents_of(disk) == expected_of(folder)
    run(["xfs_repair", "-n", "-f", part_file(disk, "data", tmp_path / "part")])


@pytest.mark.parametrize("filesystem", ["xfs", "ext4"])
def test_the_same_folder_gives_the_same_bytes_in_other_circumstances(filesystem, folder, tmp_path):
    """Another time zone, umask, locale, day, place, and files that were written in another order with other modes."""
    other = tmp_path / "elsewhere" / "copy"
    other.mkdir(parents=True)
    for path in sorted(folder.iterdir(), reverse=True):
        shutil.copyfile(path, other / path.name)
        (other / path.name).chmod(0o600)
        os.utime(other / path.name, (5, 5))
    wanted = ["--size", "512M", "--data-size", "400M", "--filesystem", filesystem]
    digests = []
    for source, environment, umask in (
        (folder, {}, 0o022),
        (other, {"TZ": "Pacific/Auckland", "LC_ALL": "C", "LANG": "de_DE", "SOURCE_DATE_EPOCH": "7"}, 0o077),
    ):
        disk = tmp_path / f"{umask}.raw"
        subprocess.run(
            [sys.executable, "-m", "harness.cli", "prestage", "disk", source, *wanted, "-o", disk],
            env={**os.environ, **environment},
            umask=umask,
            check=True,
            capture_output=True,
        )
        digests.append(data_digest(disk))
        time.sleep(1.1)  # whatever is dated in seconds
    assert digests[0] == digests[1]


def test_another_byte_in_a_file_gives_other_identifiers(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "ai-images.txt").write_text("x")
    wanted = Wanted(size=SMALL, data_size=400 * MIB)
    one = stage_disk(folder, tmp_path / "one.raw", wanted)
    two = stage_disk(other, tmp_path / "two.raw", wanted)
    assert one.filesystem_uuid != two.filesystem_uuid
    assert one.part_guid != two.part_guid


def test_an_image_keeps_its_partitions_byte_for_byte(folder, image, tmp_path):
    """The disk becomes longer first; the backup GPT goes to its end."""
    before = sha256(image)
    disk = tmp_path / "staged.raw"
    done = stage_disk(folder, disk, Wanted(image=image, size=SMALL, data_size=400 * MIB))
    assert (done.number, sha256(image)) == (4, before)
    with FileBlock(image) as old, FileBlock(disk) as new:
        was, now = read_table(old), read_table(new)
        assert (now.is_sound, now.backup_is_at_end, now.disk_guid) == (True, True, was.disk_guid)
        assert now.partitions[:3] == was.partitions
        for partition in was.partitions:
            assert part_of(old, partition).read(0, partition.size) == part_of(new, partition).read(0, partition.size)
    assert contents_of(disk) == expected_of(folder)
    run(["sgdisk", "--disk-guid=R", "--move-second-header", disk])  # as first boot does
    assert b"No problems found" in run(["sgdisk", "-v", disk])


def test_only_the_table_and_the_new_partition_change(folder, image, tmp_path):
    """On an image that is long enough already."""
    long = tmp_path / "long.raw"
    run(["cp", image, long])
    os.truncate(long, SMALL)
    run(["sfdisk", "-q", "--relocate", "gpt-bak-std", long])
    disk = tmp_path / "staged.raw"
    done = stage_disk(folder, disk, Wanted(image=long, start=300_000))
    assert set(changed_outside(long, disk, done.span.first * 512, SMALL)) == {0}
    with long.open("rb") as one, disk.open("rb") as two:
        assert one.read(512) == two.read(512)


def test_a_qcow2_comes_and_goes(folder, image, tmp_path):
    source = tmp_path / "image.qcow2"
    run(["qemu-img", "convert", "-O", "qcow2", image, source])
    wanted = Wanted(image=source, size=SMALL, data_size=400 * MIB)
    stage_disk(folder, tmp_path / "staged.qcow2", wanted)
    stage_disk(folder, tmp_path / "staged.raw", wanted)
    run(["qemu-img", "check", tmp_path / "staged.qcow2"])
    assert contents_of(tmp_path / "staged.qcow2") == expected_of(folder)
    run(["qemu-img", "compare", tmp_path / "staged.qcow2", tmp_path / "staged.raw"])


def test_what_lay_where_the_partition_comes_to_lie_is_gone(folder, image, tmp_path):
    dirty = tmp_path / "dirty.raw"
    run(["cp", image, dirty])
    with dirty.open("r+b") as file:
        file.truncate(SMALL)
        file.seek(300 * MIB)
        file.write(b"an old life" * 100_000)
    clean = tmp_path / "clean.raw"
    run(["cp", image, clean])
    os.truncate(clean, SMALL)
    made = []
    for source in (dirty, clean):
        stage_disk(folder, tmp_path / f"{source.stem}-staged.raw", Wanted(image=source, data_size=400 * MIB))
        made.append(data_digest(tmp_path / f"{source.stem}-staged.raw"))
    assert made[0] == made[1]


def mbr_disk(folder):
    disk = folder / "mbr.raw"
    with disk.open("wb") as file:
        file.truncate(64 * MIB)
    run(["sfdisk", "-q", disk], stdin=b"label: dos\nstart=2048, size=4096, type=83\n")
    return disk


def hybrid(image, folder):
    disk = folder / "hybrid.raw"
    run(["cp", image, disk])
    run(["sgdisk", "-h", "2", disk])
    return disk


def no_primary(image, folder):
    disk = folder / "torn.raw"
    run(["cp", image, disk])
    with disk.open("r+b") as file:
        file.seek(512 + 16)
        file.write(b"torn")
    return disk


def full_table(image, folder):
    disk = folder / "full.raw"
    run(["cp", image, disk])
    run(["sgdisk", "-n", "128:0:+1", "-e", disk])
    return disk


PLENTY = {"size": SMALL, "data_size": 400 * MIB}
REFUSED = {
    "an MBR": (mbr_disk, {"data_size": MIB}, UnsupportedImage, "has an MBR partition table, and this needs a GPT"),
    "a hybrid MBR": (hybrid, {"data_size": MIB}, UnsupportedImage, "hybrid MBR"),
    "a torn primary": (no_primary, {"data_size": MIB}, DamagedImage, "its primary GPT is no good"),
    "a full table": (full_table, PLENTY, BadInput, "partition 129 is beyond the table, which has 128 entries"),
    "too small": (None, PLENTY | {"size": 32 * MIB}, BadInput, "has 50,331,648 bytes, more than --size"),
    "no room": (None, {"data_size": 400 * MIB}, BadInput, "does not fit"),
    "a label that is there": (None, PLENTY | {"label": "root"}, BadInput, "has a partition 'root' already"),
    "a number that is there": (None, PLENTY | {"number": 2}, BadInput, "there is a partition 2 already"),
    "a start in a partition": (None, {"size": SMALL, "start": 40000}, BadInput, "sector 40000 lies in partition 3"),
    "XFS too small": (None, {"size": SMALL, "data_size": 100 * MIB}, BadInput, "xfs needs 314,572,800 bytes"),
    "a long label": (None, PLENTY | {"label": "thirteen-long"}, BadInput, "at most 12 bytes"),
    "no place": (None, {"size": SMALL}, BadInput, "where the partition begins is said nowhere"),
    "two places": (None, PLENTY | {"start": 300_000}, BadInput, "is said twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_is_left(case, folder, image, tmp_path):
    make, wishes, kind, words = REFUSED[case]
    source = image
    if make is not None:
        source = make(tmp_path) if make is mbr_disk else make(image, tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(kind, match=re.escape(words)):
        stage_disk(folder, tmp_path / "new.raw", Wanted(image=source, **wishes))
    assert sorted(tmp_path.iterdir()) == before


def folder_with(name):
    def make(folder):
        (folder / name).write_bytes(b"")

    return make


def too_much(folder):
    with (folder / "big.tgz").open("wb") as file:
        file.truncate(390 * MIB)


def wrong_sum(folder):
    (folder / "one.tgz").write_bytes(b"1")
    (folder / "SHA256SUMS").write_text("0" * 64 + "  one.tgz\n")


FOLDERS = {
    "nothing": (lambda _: None, BadInput, "is empty"),
    "a blank in a name": (folder_with("a b.tgz"), BadInput, "is not a name for a disk"),
    "a name of another script": (folder_with("ä.tgz"), BadInput, "is not a name for a disk"),
    "a newline in a name": (folder_with("a\nb"), BadInput, "is not a name for a disk"),
    "a half pulled file": (folder_with(".one.tgz.part"), BadInput, "is a pull still running?"),
    "what ends a prototype": (folder_with("$"), BadInput, "is not a name for a disk"),
    "lost+found": (folder_with("lost+found"), BadInput, "is not a name for a disk"),
    "a folder": (lambda folder: (folder / "sub").mkdir(), BadInput, "is a folder; only files go onto a disk"),
    "a link": (lambda folder: (folder / "l").symlink_to("/etc/passwd"), BadInput, "is a link; only files"),
    "a pipe": (lambda folder: os.mkfifo(folder / "p"), BadInput, "is a special file"),
    "more than fits": (too_much, BadInput, r"the files need 4\d\d,\d{3},\d{3} bytes and the partition has room for"),
    "a wrong sum": (wrong_sum, DamagedArtifact, "but SHA256SUMS says 0000"),
}


@pytest.mark.parametrize("filesystem", ["xfs", "ext4"])
@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_that_cannot_go_onto_a_disk_is_refused(case, filesystem, tmp_path):
    make, kind, words = FOLDERS[case]
    source = tmp_path / "source"
    source.mkdir()
    make(source)
    with pytest.raises(kind, match=words):
        stage_disk(source, tmp_path / "new.raw", Wanted(**PLENTY, filesystem=filesystem))
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_listed_archive_that_is_missing_is_named(folder, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    gone = min(other.glob("*.tgz"))
    gone.unlink()
    with pytest.raises(BadInput, match=re.escape(f"lacks {gone.name}, which SHA256SUMS lists")):
        stage_disk(other, tmp_path / "new.raw", Wanted(**PLENTY))


def test_the_command_says_where_everything_is(folder, tmp_path):
    disk = tmp_path / "staged.qcow2"
    done = run_harness("prestage", "disk", folder, "--size", "120G", "--start", "120000000", "-o", disk)
    assert done.returncode == 0, done.stderr
    assert "sectors    119998464 to 251658206 (131659743 of 512 bytes)" in done.stdout
    shown = run_harness("inspect", disk).stdout
    assert re.search(r"data\b.*xfs", shown), shown


def test_160_archives_take_seconds(tmp_path):
    source = fill(tmp_path / "folder", 160)
    started = time.monotonic()
    stage_disk(source, tmp_path / "disk.raw", SEED)
    seconds = time.monotonic() - started
    assert contents_of(tmp_path / "disk.raw") == expected_of(source)
    assert seconds < 20


@pytest.mark.parametrize("filesystem", ["xfs", "ext4"])
def test_what_is_said_to_be_free_can_be_filled_and_no_more(filesystem, folder, tmp_path):
    """To the last block: xfs_repair and e2fsck have looked at it."""
    wanted = Wanted(**PLENTY, filesystem=filesystem)
    free = stage_disk(folder, tmp_path / "one.raw", wanted).free
    other = shutil.copytree(folder, tmp_path / "other")
    with (other / "rest.tgz").open("wb") as file:
        file.truncate(free)
    assert stage_disk(other, tmp_path / "two.raw", wanted).free == 0
    os.truncate(other / "rest.tgz", free + 1)
    with pytest.raises(BadInput, match="and the partition has room for"):
        stage_disk(other, tmp_path / "three.raw", wanted)


@pytest.mark.nightly
def test_a_file_of_9_gib_has_two_extents_in_one_group(tmp_path):
    """An extent of XFS has at most 2 GiB of blocks less one: 8 GiB."""
    source = tmp_path / "folder"
    source.mkdir()
    with (source / "large.tgz").open("wb") as file:
        file.write(b"begin")
        file.seek(9 * GIB - 3)
        file.write(b"end")
    stage_disk(source, tmp_path / "disk.raw", Wanted(size=60 * GIB, data_size=50 * GIB))
    assert contents_of(tmp_path / "disk.raw") == expected_of(source)


def test_memory_does_not_grow_with_the_files(tmp_path):
    """mkfs.xfs -p would take as much as all files together."""
    source = tmp_path / "folder"
    source.mkdir()
    for number in range(3):
        with (source / f"{number}.tgz").open("wb") as file:
            file.truncate(300 * MIB)
            file.write(b"x")
    measure = "import resource, sys; from harness.cli import main\ntry: main(sys.argv[1:])\nexcept SystemExit: pass\n"
    measure += "own = next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1]\n"
    measure += "print('rss', own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    command = ["prestage", "disk", source, "--size", "2G", "--data-size", "1500M", "-o", tmp_path / "disk.raw"]
    done = subprocess.run(
        [sys.executable, "-c", measure, *command], capture_output=True, text=True, check=True, cwd=Path.cwd()
    )
    peaks = [int(word) for word in done.stdout.rpartition("rss ")[2].split()]
    assert max(peaks) < 200 * 1024, done.stdout


def test_a_partition_window_reads_as_a_part(seed_disk, folder):
    disk, done = seed_disk
    with FileBlock(disk) as block:
        part = Part(block, done.span.first * 512, done.span.sectors * 512, "data")
        names = open_files(part).listdir("/")
    assert names == tuple(sorted(path.name for path in folder.iterdir()))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_who_is_interrupted_leaves_no_half_disk(how, tmp_path):
    """Killed outright, a hidden folder stays; told to end, nothing does."""
    source, place = tmp_path / "folder", tmp_path / "place"
    source.mkdir()
    place.mkdir()
    with (source / "one.tgz").open("wb") as file:
        file.truncate(3 * GIB)
    command = ["prestage", "disk", source, "--size", "9G", "--data-size", "5G", "-o", place / "disk.raw"]
    listening = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # even in background
    run_it = f"{listening}from harness.cli import main; main(sys.argv[1:])"
    begun = subprocess.Popen([sys.executable, "-c", run_it, *command], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while not any(place.glob(".disk.raw.*/xfs")) and time.monotonic() < until:
        time.sleep(0.02)
    assert begun.poll() is None
    begun.send_signal(how)
    try:
        assert begun.wait(20) in {130, 143, -9}
    finally:
        begun.kill()
    left = [path.name for path in place.iterdir()]
    assert not left or how == signal.SIGKILL
    assert "disk.raw" not in left
