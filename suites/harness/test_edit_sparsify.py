"""Free blocks of ext4 and XFS found, and dropped without touching a file; judged by e2fsck, xfs_repair and xfs_db."""

import random
import struct
import subprocess
from pathlib import Path

import pytest

from harness.errors import DamagedImage, HarnessError, UnsupportedImage
from harness.images.block import Part
from harness.images.edits.sparsify import REST, sparsify
from harness.images.filesystems.ext4_free import ext4_free
from harness.images.filesystems.files import open_files
from harness.images.filesystems.xfs_free import xfs_free
from harness.images.filesystems.xfs_log import log_is_clean
from harness.images.formats.raw import FileBlock
from harness.images.partitions.gpt import read_table
from harness.tools import run
from suites.harness.edited import sha256, tree_of, trees
from suites.harness.small_disk import MIB, PARTS, small_disk, write
from suites.harness.test_cli import run_harness

EXT4 = {
    "4k": ["-t", "ext4", "-b", "4096"],
    "1k": ["-t", "ext4", "-b", "1024"],
    "never used groups": ["-t", "ext4", "-b", "1024", "-O", "uninit_bg,^metadata_csum", "-g", "1024"],
    "meta_bg": ["-t", "ext4", "-b", "1024", "-O", "meta_bg,^resize_inode", "-g", "512"],
    "no flex_bg": ["-t", "ext4", "-b", "1024", "-O", "^flex_bg", "-g", "2048"],
    "bigalloc": ["-t", "ext4", "-b", "4096", "-O", "bigalloc", "-C", "16384"],
    "ext2": ["-t", "ext2", "-b", "1024"],
    "32bit": ["-t", "ext4", "-O", "^64bit"],
    "sparse_super2": ["-t", "ext4", "-O", "sparse_super2", "-b", "1024"],
}
XFS = {
    "today": [],
    "version 4": ["-m", "crc=0,finobt=0,rmapbt=0,reflink=0"],
    "1k blocks": ["-b", "size=1024"],
    "two groups": ["-d", "agcount=2", "-m", "rmapbt=1"],
}


def noise(length):
    return random.Random(length).randbytes(length)


def source_tree(folder):
    tree = folder / "tree"
    (tree / "sub/deep").mkdir(parents=True)
    (tree / "big").write_bytes(noise(3 * MIB + 7))
    (tree / "sub/deep/small").write_text("small")
    (tree / "sub/link").symlink_to("deep/small")
    return tree


def ext4(folder, options, size="40M"):
    image = folder / "ext4.img"
    run(["mke2fs", "-q", "-F", *options, "-d", source_tree(folder), image, size])
    return image


def xfs(folder, options):
    image = folder / "xfs.img"
    with image.open("wb") as file:
        file.truncate(320 * MIB)
    (folder / "one").write_bytes(noise(2 * MIB + 1))
    prototype = folder / "prototype"
    lines = ["/boot/none", "0 0", "d--755 0 0", f"big ---644 0 0 {folder}/one", "sub d--755 0 0",
             f"other ---600 1 2 {folder}/one", "$", "$"]  # fmt: skip
    prototype.write_text("\n".join(lines) + "\n")
    run(["mkfs.xfs", "-q", *options, "-p", prototype, image])
    return image


def fill(image, ranges):
    """Put what nobody needs into free space."""
    with image.open("r+b") as file:
        for start, end in ranges:
            file.seek(start)
            file.write(noise(min(end - start, MIB)))


def content_of(image):
    with FileBlock(image) as block:
        return tree_of(open_files(block))


def ext4_truth(image):
    """The free blocks of every group, as dumpe2fs lists them, in bytes."""
    said = run(["dumpe2fs", image]).decode()
    size = next(int(line.split()[-1]) for line in said.splitlines() if line.startswith("Block size"))
    free = set()
    for line in said.splitlines():
        if line.startswith("  Free blocks: "):
            for piece in filter(None, line.removeprefix("  Free blocks: ").split(", ")):
                first, _, last = piece.partition("-")
                free.update(range(int(first), int(last or first) + 1))
    return {block * size for block in free}, size


@pytest.mark.parametrize("shape", EXT4)
def test_free_blocks_of_ext4_are_those_dumpe2fs_lists(shape, tmp_path):
    image = ext4(tmp_path, EXT4[shape])
    truth, size = ext4_truth(image)
    with FileBlock(image) as block:
        found = {at for start, end in ext4_free(block) for at in range(start, end, size)}
    cluster = 16384 if shape == "bigalloc" else size  # dumpe2fs says where a run's last cluster begins
    assert {at for at in found if at % cluster == 0} == {at for at in truth if at % cluster == 0}


@pytest.mark.parametrize("shape", EXT4)
def test_ext4_without_its_free_blocks_is_sound_and_has_the_same_files(shape, tmp_path):
    image, made = ext4(tmp_path, EXT4[shape]), tmp_path / "made.raw"
    with FileBlock(image) as block:
        fill(image, ext4_free(block))
    before = content_of(image)
    done = sparsify(image, made)
    assert content_of(made) == before
    run(["e2fsck", "-f", "-n", made])
    assert done.after < done.before - MIB
    assert done.parts[0].left_alone == ""


def xfs_truth(image):
    """Free runs as xfs_db dumps them, without the reserve of each group (AGFL), which is no free space to us."""
    said = run(["xfs_db", "-r", "-c", "freesp -d", image]).decode().splitlines()
    runs = [tuple(map(int, line.split())) for line in said if len(line.split()) == 3 and line.split()[0].isdigit()]
    groups = int(run(["xfs_db", "-r", "-c", "sb 0", "-c", "p agcount", image]).split()[-1])
    reserve = set()
    for group in range(groups):
        orders = (f"agf {group}", "p flfirst fllast", f"agfl {group}", "p bno")
        said = run(["xfs_db", "-r", *(part for order in orders for part in ("-c", order)), image]).decode()
        first, last = (int(said.split(name)[1].split()[1]) for name in ("flfirst", "fllast"))
        slots = {}
        for piece in said.split("bno[", 1)[1].split("=", 1)[1].split():
            index, _, number = piece.partition(":")
            slots[int(index)] = number
        reserve |= {(group, int(slots[index])) for index in range(first, last + 1)}
    return {(group, at + n) for group, at, count in runs for n in range(count)} - reserve


@pytest.mark.parametrize("shape", XFS)
def test_free_blocks_of_xfs_are_those_xfs_db_lists(shape, tmp_path):
    image = xfs(tmp_path, XFS[shape])
    said = run(["xfs_db", "-r", "-c", "sb 0", "-c", "p blocksize agblocks", image]).split()
    size, group_blocks = int(said[2]), int(said[5])
    with FileBlock(image) as block:
        found = {divmod(at // size, group_blocks) for start, end in xfs_free(block) for at in range(start, end, size)}
    assert found == xfs_truth(image)


@pytest.mark.parametrize("shape", XFS)
def test_xfs_without_its_free_blocks_is_sound_and_has_the_same_files(shape, tmp_path):
    image, made = xfs(tmp_path, XFS[shape]), tmp_path / "made.raw"
    with FileBlock(image) as block:
        fill(image, xfs_free(block))
    before = content_of(image)
    done = sparsify(image, made)
    assert content_of(made) == before
    run(["xfs_repair", "-n", made])
    assert done.after < done.before - MIB
    assert done.parts[0].left_alone == ""


def log_of(image):
    said = run(["xfs_db", "-r", "-c", "sb 0", "-c", "p blocksize agblocks agblklog logstart logblocks", image]).split()
    size, group_blocks, group_log, start, blocks = map(int, said[2::3])
    return ((start >> group_log) * group_blocks + (start & (1 << group_log) - 1)) * size, blocks * size


def test_a_log_with_more_than_an_unmount_is_dirty(tmp_path):
    """A record of two operations behind the one of mkfs: xfs_logprint agrees that it has to be replayed."""
    image = xfs(tmp_path, [])
    start, size = log_of(image)
    with FileBlock(image) as block:
        assert log_is_clean(block, start, size)
        record = bytearray(block.read(start, 1024))
    struct.pack_into(">QQ", record, 16, 1 << 32 | 2, 1 << 32)
    struct.pack_into(">I", record, 40, 2)
    record[512 + 9] = 0
    write(image, start + 1024, bytes(record))
    with FileBlock(image) as block:
        assert not log_is_clean(block, start, size)
    assert b"<DIRTY>" in subprocess.run(["xfs_logprint", "-t", image], capture_output=True, check=False).stdout
    done = sparsify(image, tmp_path / "made.raw")
    assert done.parts[0].left_alone == "has a log to replay"


def test_a_log_nobody_wrote_is_clean_and_a_mad_one_dirty():
    class Zeroes:
        name, size = "x", 64 * 1024

        def read(self, _, length):
            return bytes(length)

    class Noise(Zeroes):
        def read(self, offset, length):
            return random.Random(offset).randbytes(length)

    assert log_is_clean(Zeroes(), 0, 64 * 1024)
    assert not log_is_clean(Noise(), 0, 64 * 1024)
    assert not log_is_clean(Noise(), 0, 512)


@pytest.mark.parametrize("seed", range(60))
def test_a_damaged_filesystem_is_answered_in_words(seed, samples):
    """Bits flipped in the tables that free space is read from: typed errors only, and quickly."""
    dice = random.Random(seed)
    for look, image, hot in samples:
        flips = {dice.choice(hot) + dice.randrange(512): 1 << dice.randrange(8) for _ in range(3)}
        with FileBlock(image) as whole:
            block = Flipped(whole, flips)
            try:
                found = look(block)
            except HarnessError:
                continue
        assert all(0 <= start < end <= whole.size for start, end in found)


class Flipped:
    """A block with a few bits turned over."""

    name = "damaged"

    def __init__(self, whole, flips):
        self.whole, self.flips, self.size = whole, flips, whole.size

    def read(self, offset, length):
        content = bytearray(self.whole.read(offset, length))
        for at, bits in self.flips.items():
            if offset <= at < offset + length:
                content[at - offset] ^= bits
        return bytes(content)


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    (folder / "xfs").mkdir()
    small, large = ext4(folder, EXT4["1k"], "8M"), xfs(folder / "xfs", XFS["version 4"])
    group = 80 * MIB
    hot = [0, 512, 4096, 8192, 4096 + 16, group, group + 512, group + 4096]
    return [(ext4_free, small, [1024, 1024, 2048, 2048 + 64]), (xfs_free, large, hot)]


def test_a_journal_to_replay_leaves_the_partition_alone(disk, tmp_path):
    copy = tmp_path / "copy.raw"
    copy.write_bytes(disk.read_bytes())
    run(["debugfs", "-w", "-R", "feature +needs_recovery", f"{copy}?offset={PARTS['root'][0] * MIB}"])
    done = sparsify(copy, tmp_path / "made.raw")
    assert {part.name: part.left_alone for part in done.parts}["root"] == "has a journal to replay"
    assert run(["dd", f"if={copy}", "bs=1M", "skip=15", "count=30"]) == run(
        ["dd", f"if={tmp_path}/made.raw", "bs=1M", "skip=15", "count=30"]
    )


def test_luks_is_left_alone_and_said_so(disk, tmp_path):
    copy = tmp_path / "copy.raw"
    copy.write_bytes(disk.read_bytes())
    write(copy, PARTS["root"][0] * MIB, b"LUKS\xba\xbe\0\x01" + noise(30 * MIB - 8))
    done = sparsify(copy, tmp_path / "made.raw")
    root = next(part for part in done.parts if part.name == "root")
    assert (root.filesystem, root.left_alone, root.after) == ("crypto_LUKS", "is encrypted by LUKS", 30 * MIB)


def test_a_bitmap_that_lies_is_noticed(disk, tmp_path):
    """Live blocks marked free, and the counts made to agree: only e2fsck, which looks at the files, can know."""
    copy = tmp_path / "copy.raw"
    copy.write_bytes(disk.read_bytes())
    offset = PARTS["root"][0] * MIB
    image = f"{copy}?offset={offset}"
    said = run(["debugfs", "-R", "blocks /.aleph-version.json", image]).split()[-1].decode()
    run(["debugfs", "-w", "-R", f"freeb {said}", image])
    with pytest.raises(DamagedImage, match=r"e2fsck objects|its bitmap has"):
        sparsify(copy, tmp_path / "made.raw")
    assert not (tmp_path / "made.raw").exists()


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """The small disk with noise in all free blocks and after the last partition."""
    image = small_disk(tmp_path_factory.mktemp("sparsify"))
    for label in ("boot", "root"):
        start, size = (MIB * each for each in PARTS[label])
        with FileBlock(image) as block:
            free = ext4_free(Part(block, start, size, label))
        fill(image, [(start + first, start + last) for first, last in free])
    write(image, 46 * MIB, noise(MIB))
    return image


@pytest.mark.parametrize("name", ["made.raw", "made.qcow2"])
def test_the_disk_keeps_every_file_and_loses_the_rest(name, disk, tmp_path):
    before, digest, made = trees(disk), sha256(disk), tmp_path / name
    done = sparsify(disk, made)
    assert trees(made) == before
    assert sha256(disk) == digest
    parts = {part.name: part for part in done.parts}
    assert parts[REST].before > MIB
    assert (parts[REST].after, done.backup_gpt) == (0, "discarded")
    assert parts["boot"].after < parts["boot"].before
    assert sum(part.after for part in done.parts) < done.after <= sum(part.after for part in done.parts) + MIB
    assert made.stat().st_blocks * 512 < done.after + 2 * MIB


def test_the_same_input_gives_the_same_bytes_whatever_holes_the_file_has(disk, tmp_path):
    sources = [disk, tmp_path / "holes.raw", tmp_path / "packed.qcow2"]
    run(["cp", "--sparse=always", disk, sources[1]])
    run(["qemu-img", "convert", "-c", "-O", "qcow2", disk, sources[2]])
    for form in ("raw", "qcow2"):
        made = [tmp_path / f"{number}.{form}" for number in range(3)]
        for source, target in zip(sources, made, strict=True):
            sparsify(source, target)
        assert len({sha256(path) for path in made}) == 1


@pytest.mark.parametrize("keep", [False, True])
def test_the_backup_gpt_goes_unless_it_is_kept(keep, disk, tmp_path):
    made = tmp_path / "made.raw"
    done = sparsify(disk, made, keep_backup=keep)
    with FileBlock(made) as block:
        table = read_table(block)
        assert table.backup.found is keep
        assert block.read(46 * MIB, MIB) == bytes(MIB)
    assert done.backup_gpt == ("kept" if keep else "discarded")
    run(["sgdisk", "--move-second-header", made])
    assert b"No problems found" in run(["sgdisk", "-v", made])


def test_the_only_good_gpt_is_not_thrown_away(disk, tmp_path):
    copy = tmp_path / "copy.raw"
    copy.write_bytes(disk.read_bytes())
    write(copy, 512, bytes(512))
    with pytest.raises(DamagedImage, match="without the backup there would be none"):
        sparsify(copy, tmp_path / "made.raw")
    sparsify(copy, tmp_path / "made.raw", keep_backup=True)


def test_a_truncated_disk_is_refused(disk, tmp_path):
    copy = tmp_path / "copy.raw"
    copy.write_bytes(disk.read_bytes()[: 40 * MIB])
    with pytest.raises(DamagedImage, match="beyond the end of the disk"):
        sparsify(copy, tmp_path / "made.raw")


def test_an_iso_has_nothing_to_free(tmp_path):
    iso = tmp_path / "live.raw"
    iso.write_bytes(bytes(32768) + b"\x01CD001\x01" + bytes(MIB))
    with pytest.raises(UnsupportedImage):
        sparsify(iso, tmp_path / "made.raw")


def test_the_reference_image_keeps_every_file(reference, tmp_path):
    done = sparsify(reference.path, tmp_path / "made.raw")
    assert trees(tmp_path / "made.raw") == trees(reference.path)
    assert done.after < done.before
    assert [part.name for part in done.parts if not part.left_alone] == ["boot", "root", REST]


def test_the_command_shows_every_partition(disk, tmp_path):
    done = run_harness("edit", "sparsify", disk, "-o", tmp_path / "made.raw")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[1:4]] == ["EFI-SYSTEM", "boot", "root"]
    assert "left alone but for zeroes: is vfat" in done.stdout
    assert "The backup GPT is gone" in done.stdout


def test_nothing_but_the_result_is_left_behind(disk, tmp_path):
    sparsify(disk, tmp_path / "made.qcow2")
    assert [path.name for path in tmp_path.iterdir()] == ["made.qcow2"]
    assert Path(tmp_path / "made.qcow2").stat().st_mode & 0o777 == 0o644
