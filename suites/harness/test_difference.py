"""Two images with one thing changed: the explanation names exactly that thing."""

import gzip
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.images.block import Part
from harness.images.difference.differing import Difference, count_differing, differing, gaps, moment
from harness.images.difference.explain import explain_difference
from harness.images.source import open_image
from harness.tools import run

MIB = 2**20
EPOCH = "1700000000"
UUID_ONE, UUID_TWO = "11111111-2222-4333-8444-555555555555", "11111111-2222-4333-8444-666666666666"
SEED = "aaaaaaaa-2222-4333-8444-555555555555"
DISK_GUID = "00000000-0000-4000-a000-000000000001"
FILES = {"etc/hostname": "one\n", "etc/motd": "hello\n", "usr/bin/tool": "#!/bin/sh\n" * 900, "big": "x" * 300_000}
BOOT, DATA, ESP = 1, 9, 25  # MiB


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Files as they go into the filesystems."""
    top = tmp_path_factory.mktemp("tree")
    for path, text in FILES.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text(text)
    (top / "link").symlink_to("etc/motd")
    os.link(top / "etc/motd", top / "etc/issue")
    for path in (*top.rglob("*"), top):
        os.utime(path, (int(EPOCH), int(EPOCH)), follow_symlinks=False)
    return top


def filesystem(tree, target, *, uuid=UUID_ONE, label="boot", features="metadata_csum_seed", time=EPOCH, seed=SEED):
    """An ext4 of 8 MiB whose every byte is decided by the arguments, change times included."""
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-O", features, "-L", label, "-U", uuid, "-d", tree,
         "-E", f"hash_seed={seed},root_owner=0:0,lazy_itable_init=0", target, "8M"],
        env={"E2FSPROGS_FAKE_TIME": time})  # fmt: skip
    edit(target, *(f"sif <{inode}> {field} @{EPOCH}" for inode in (2, *range(11, 22)) for field in ("ctime", "atime")))
    return target


def edit(part, *commands):
    """Change a filesystem by debugfs, at the epoch."""
    script = "\n".join(commands).encode()
    run(["debugfs", "-w", "-f", "/dev/stdin", part], stdin=script, env={"E2FSPROGS_FAKE_TIME": EPOCH})


@pytest.fixture(scope="module")
def part(tree, tmp_path_factory):
    return filesystem(tree, tmp_path_factory.mktemp("part") / "part.img")


@pytest.fixture(scope="module")
def esp(tmp_path_factory):
    return make_esp(tmp_path_factory.mktemp("esp"))


def make_esp(folder, *, volume="7B7795E7", content="loader\n", date="1700000000"):
    image, loader = folder / "esp.img", folder / "LOADER.EFI"
    image.write_bytes(bytes(4 * MIB))
    loader.write_text(content)
    environment = {"SOURCE_DATE_EPOCH": date, "TZ": "UTC"}
    run(["mkfs.vfat", "--invariant", "-n", "ESP", "-i", volume, image], env=environment)
    run(["mcopy", "-i", image, loader, "::/"], env=environment)
    return image


def disk(folder, part, esp, *, guid=DISK_GUID, boot="boot", data=b"", table=""):
    """A disk of 32 MiB: `boot` with a filesystem, `data` with bytes, an ESP."""
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    rows = table or (
        f"1 : start={BOOT}MiB, size=8MiB, name={boot}, uuid={UUID_ONE}\n"
        f"2 : start={DATA}MiB, size=15MiB, name=data, uuid={SEED}\n"
        f"3 : start={ESP}MiB, size=4MiB, name=esp, type=U, uuid={UUID_TWO}\n"
    )
    run(["sfdisk", "--quiet", image], stdin=f"label: gpt\nlabel-id: {guid}\n{rows}".encode())
    for offset, content in ((BOOT, part.read_bytes()), (DATA, data), (ESP, esp.read_bytes())):
        patch(image, offset * MIB, content)
    return image


def patch(image, offset, content):
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def flip(image, offset):
    with image.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


def explain(one, other):
    with open_image(one) as first, open_image(other) as second:
        return explain_difference(first, second)


def causes(one, other):
    return [(found.partition, found.path, found.cause) for found in explain(one, other)]


@pytest.fixture
def pair(tmp_path, part):
    """Two copies of the filesystem, the second to be changed."""
    one, other = tmp_path / "one.img", tmp_path / "other.img"
    shutil.copyfile(part, one)
    shutil.copyfile(part, other)
    return one, other


def test_the_same_bytes_have_no_difference(pair):
    assert explain(*pair) == ()


def test_two_builds_of_one_filesystem_are_the_same(tree, part, tmp_path):
    assert explain(part, filesystem(tree, tmp_path / "again.img")) == ()


@pytest.mark.parametrize(
    "command, path, cause, detail",
    [
        ("sif etc/motd mtime @1700000001", "/etc/issue", "mtime", "2023-11-14T22:13:20Z / 2023-11-14T22:13:21Z"),
        ("sif etc/hostname mode 0100755", "/etc/hostname", "mode", "0644 / 0755"),
        ("sif etc mode 040700", "/etc", "mode", "0755 / 0700"),
        ("sif big uid 7", "/big", "owner", "0:0 / 7:0"),
        ("sif big flags 0x80010", "/big", "mode", "immutable only in the second"),
        ("sif big ctime @1700000001", "/big", "timestamp", "ctime 2023-11-14T22:13:20Z / 2023-11-14T22:13:21Z"),
        ("sif big crtime @1700000001", "/big", "timestamp", None),
        ("sif big generation 77", "/big", "metadata", None),
        ("ea_set big user.note hi", "/big", "xattr", "user.note b'' / b'hi'"),
        ("ssv lastcheck @1700000001", "", "timestamp", None),
        ("ssv mnt_count 5", "", "metadata", "mount count 0 / 5"),
        ("ssv volume_name start", "", "label", "'boot' / 'start'"),
    ],
)
def test_one_changed_inode_or_superblock_field_is_named(pair, command, path, cause, detail):
    edit(pair[1], command)
    (found,) = explain(*pair)
    assert (found.partition, found.path, found.cause) == ("", path, cause)
    assert detail is None or found.detail == detail


def test_one_content_byte_is_named_by_file_and_offset(pair):
    content = pair[1].read_bytes()
    at = content.index(FILES["usr/bin/tool"].encode())
    flip(pair[1], at + 4321)
    assert explain(*pair) == (Difference("", "/usr/bin/tool", "content", "the first difference is at byte 4,321"),)


def test_a_file_with_two_names_is_named_once(pair):
    flip(pair[1], pair[1].read_bytes().index(b"hello\n"))
    assert causes(*pair) == [("", "/etc/issue", "content")]


def test_another_symlink_target_is_content(pair):
    flip(pair[1], pair[1].read_bytes().index(b"etc/motd") + 7)
    assert causes(*pair) == [("", "/link", "content")]


def test_a_missing_folder_is_named_without_what_is_below(tree, part, tmp_path):
    smaller = tmp_path / "tree"
    shutil.copytree(tree, smaller, symlinks=True)
    shutil.rmtree(smaller / "usr")
    for path in (*smaller.rglob("*"), smaller):
        os.utime(path, (int(EPOCH), int(EPOCH)), follow_symlinks=False)
    found = explain(part, filesystem(smaller, tmp_path / "smaller.img"))
    assert ("/usr", "missing", "only in the first") in [(each.path, each.cause, each.detail) for each in found]
    assert not [each for each in found if each.path.startswith("/usr/")]


def test_folders_named_by_digest_are_compared_with_each_other(tree, tmp_path):
    images = []
    for number, digest in enumerate(("a" * 64, "b" * 64)):
        top = tmp_path / f"tree{number}"
        (top / f"deploy-{digest}/etc").mkdir(parents=True)
        (top / f"deploy-{digest}/etc/same").write_text("same")
        (top / f"deploy-{digest}/etc/other").write_text(f"{number}")
        for path in (*top.rglob("*"), top):
            os.utime(path, (int(EPOCH), int(EPOCH)))
        images.append(filesystem(top, tmp_path / f"{number}.img"))
    named = [(found.path.replace("a" * 64, "A"), found.cause) for found in explain(*images)]
    assert named == [("/deploy-A", "missing"), (f"/deploy-{'b' * 64}", "missing"), ("/deploy-A/etc/other", "content")]


@pytest.mark.parametrize("features", ["metadata_csum_seed", "^metadata_csum_seed", "^metadata_csum"])
def test_another_uuid_is_only_another_uuid(tree, tmp_path, features):
    """With checksums that begin with the UUID every metadata block differs; that follows and is not repeated."""
    one = filesystem(tree, tmp_path / "one.img", features=features)
    other = filesystem(tree, tmp_path / "other.img", features=features, uuid=UUID_TWO)
    assert explain(one, other) == (Difference("", "", "UUID", f"{UUID_ONE} / {UUID_TWO}"),)


def test_a_uuid_changed_later_does_not_hide_unexplained_bytes(pair):
    """As CoreOS changes it on first boot: the stored seed keeps the checksums, so they must not differ."""
    run(["tune2fs", "-U", UUID_TWO, pair[1]], env={"E2FSPROGS_FAKE_TIME": EPOCH})
    assert causes(*pair) == [("", "", "UUID")]
    patch(pair[1], pair[1].stat().st_size - 100, b"left")
    assert causes(*pair) == [("", "", "UUID"), ("", "", "metadata")]


def test_another_hash_seed_is_called_a_uuid(tree, part, tmp_path):
    other = filesystem(tree, tmp_path / "other.img", seed=UUID_TWO)
    assert causes(part, other) == [("", "", "UUID")]


def test_a_filesystem_made_at_another_time_says_so(tree, part, tmp_path):
    found = explain(part, filesystem(tree, tmp_path / "later.img", time="1700009999"))
    assert {each.cause for each in found} == {"timestamp", "mtime"}, "mke2fs itself makes / and /lost+found"
    assert "creation of the filesystem" in str(found)


def test_bytes_that_no_file_explains_are_counted(pair):
    size = pair[1].stat().st_size
    assert not any(pair[1].read_bytes()[-512:]), "the last block is free"
    patch(pair[1], size - 100, b"left")
    (found,) = explain(*pair)
    assert (found.path, found.cause) == ("", "metadata")
    assert found.detail == f"4 bytes differ, the first at {size - 100:,}, explained by no file"


def test_an_explained_file_does_not_hide_unexplained_bytes(pair):
    edit(pair[1], "sif big mtime @1700000001")
    patch(pair[1], pair[1].stat().st_size - 100, b"left")
    assert causes(*pair) == [("", "/big", "mtime"), ("", "", "metadata")]


def test_files_added_in_another_order_say_so(pair, tree, tmp_path):
    def with_two(name, *order):
        image = tmp_path / name
        shutil.copyfile(pair[0], image)
        edit(image, *(f"write {tree}/etc/hostname {new}" for new in order))
        return image

    (found,) = explain(with_two("ab.img", "aaa", "bbb"), with_two("ba.img", "bbb", "aaa"))
    assert (found.path, found.cause, found.detail) == ("/aaa", "metadata", "2 inodes have other numbers")


def test_a_broken_filesystem_is_reported_not_raised(pair):
    patch(pair[1], 1024 + 0x28, bytes(4))  # no inodes in a group
    found = explain(*pair)
    assert [each for each in found if each.cause == "metadata" and "cannot be compared" in each.detail]


def test_one_disk_guid_is_named(tmp_path, part, esp):
    one = disk(folder(tmp_path, "one"), part, esp)
    other = disk(folder(tmp_path, "other"), part, esp, guid=UUID_TWO)
    assert explain(one, other) == (Difference("", "", "partition table", f"disk GUID {DISK_GUID} / {UUID_TWO}"),)


def test_one_partition_label_is_named(tmp_path, part, esp):
    one = disk(folder(tmp_path, "one"), part, esp)
    other = disk(folder(tmp_path, "other"), part, esp, boot="boat")
    assert explain(one, other) == (Difference("boot", "", "partition table", "label boot / boat"),)


def test_a_moved_partition_is_named_and_its_content_still_compared(tmp_path, part, esp):
    rows = f"1 : start={BOOT}MiB, size=8MiB, name=boot, uuid={UUID_ONE}\n"
    one = disk(folder(tmp_path, "one"), part, esp, table=rows)
    other = disk(folder(tmp_path, "other"), part, esp, table=rows.replace("start=1MiB", "start=12MiB"))
    patch(other, 12 * MIB, part.read_bytes())
    patch(one, ESP * MIB, bytes(4 * MIB))
    patch(other, ESP * MIB, bytes(4 * MIB))
    patch(other, BOOT * MIB, bytes(8 * MIB))
    patch(other, 12 * MIB, part.read_bytes())
    found = explain(one, other)
    assert found[0] == Difference("boot", "", "partition table", "start 1048576 / 12582912")
    assert {each.path for each in found} == {""}
    assert not [each for each in found if each.cause in {"metadata", "missing"}]


def test_a_partition_without_filesystem_is_compared_as_bytes(tmp_path, part, esp):
    one = disk(folder(tmp_path, "one"), part, esp, data=b"core image")
    other = disk(folder(tmp_path, "other"), part, esp, data=b"core imago")
    assert explain(one, other) == (Difference("data", "", "content", "1 byte differs, the first at 9"),)


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"volume": "7B7795E8"}, [("esp", "", "UUID")]),
        ({"content": "loadem\n"}, [("esp", "/LOADER.EFI", "content")]),
        ({"date": "1700000100"}, [("esp", "/LOADER.EFI", "mtime")]),
    ],
    ids=["volume id", "content", "time"],
)
def test_an_esp_is_compared_by_its_files(tmp_path, part, esp, change, expected):
    one = disk(folder(tmp_path, "one"), part, esp)
    other = disk(folder(tmp_path, "other"), part, make_esp(tmp_path, **change))
    assert causes(one, other) == expected


@pytest.mark.parametrize(
    "offset, expected",
    [
        (100, ("", "", "content")),  # boot code
        (441, ("", "", "partition table")),  # disk signature
        (29 * MIB + 17, ("", "", "content")),  # a gap
        (512 + 100, ("", "", "partition table")),  # after the header's last field
    ],
    ids=["boot code", "signature", "gap", "header"],
)
def test_bytes_outside_partitions_are_named(tmp_path, part, esp, offset, expected):
    one = disk(folder(tmp_path, "one"), part, esp)
    other = folder(tmp_path, "other") / "disk.img"
    shutil.copyfile(one, other)
    flip(other, offset)
    assert causes(one, other) == [expected]


def test_a_damaged_backup_table_is_named(tmp_path, part, esp):
    one = disk(folder(tmp_path, "one"), part, esp)
    other = folder(tmp_path, "other") / "disk.img"
    shutil.copyfile(one, other)
    flip(other, other.stat().st_size - 512 + 20)
    found = explain(one, other)
    assert {each.cause for each in found} == {"partition table"}
    assert "backup copy" in str(found)


def test_a_second_disk_without_a_table_is_one_difference(tmp_path, part, esp):
    assert causes(disk(tmp_path, part, esp), part)[-1] == ("", "", "partition table")


@pytest.mark.parametrize("other_format", ["qcow2", "raw"])
def test_the_same_disk_in_another_container_is_only_that(tmp_path, part, esp, other_format):
    raw = disk(tmp_path, part, esp)
    images = [tmp_path / "one.qcow2", tmp_path / f"other.{other_format}"]
    run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, images[0]])
    run(["qemu-img", "convert", "-f", "raw", "-O", other_format, raw, images[1]])
    if other_format == "qcow2":
        assert explain(*images) == ()
        with images[1].open("ab") as file:
            file.write(bytes(65536))
    (found,) = explain(*images)
    assert found.cause == "container"


def test_the_same_file_compressed_differently_is_only_that(tmp_path, part):
    images = [tmp_path / "one.img.gz", tmp_path / "other.img.gz"]
    for level, image in enumerate(images, 1):
        image.write_bytes(gzip.compress(part.read_bytes(), level * 4, mtime=0))
    assert causes(*images) == [("", "", "container")]


def test_no_more_than_asked_for_is_told(tree, part, tmp_path):
    other = filesystem(tree, tmp_path / "other.img", time="1700009999")
    with open_image(part) as first, open_image(other) as second:
        assert len(explain_difference(first, second, most=2)) == 2


def test_names_from_an_image_cannot_drive_the_terminal():
    assert "\x1b" not in str(Difference("boot\x1b[2J", "/a\x1b", "mode", "x"))


def folder(top: Path, name: str) -> Path:
    (top / name).mkdir()
    return top / name


class Bytes:
    name = "memory"

    def __init__(self, content):
        self.content, self.size = content, len(content)

    def read(self, offset, length):
        return self.content[offset : offset + length]


contents = st.lists(st.tuples(st.integers(0, 20_000), st.binary(max_size=5)), max_size=6)


@given(contents, contents, st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 900)), max_size=5))
def test_counting_agrees_with_comparing_byte_by_byte(left, right, ranges):
    blocks = []
    for changes in (left, right):
        content = bytearray(20_010)
        for at, data in changes:
            content[at : at + len(data)] = data
        blocks.append(Part(Bytes(bytes(content[:20_001])), 0, 20_001, "memory"))
    explained = [(start, start + length) for start, length in ranges]
    one, other = (block.read(0, 20_001) for block in blocks)
    offsets = [
        at for at in range(20_001)
        if one[at] != other[at] and not any(start <= at < end for start, end in explained)
    ]  # fmt: skip
    told = count_differing(*blocks, explained)
    if offsets:
        assert told.startswith(f"{len(offsets):,} byte")
        assert told.endswith(f"at {offsets[0]:,}")
    else:
        assert told == ""


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))), st.integers(0, 50))
def test_gaps_and_what_is_taken_cover_everything_once(taken, end):
    free = list(gaps(taken, end))
    covered = {at for start, stop in taken for at in range(start, stop)}
    assert {at for start, stop in free for at in range(start, stop)} == set(range(end)) - covered
    assert sum(stop - start for start, stop in free) == len(set(range(end)) - covered)


def test_holes_are_not_read(tmp_path):
    """Two terabytes of nothing with one byte in them."""
    images = [tmp_path / "one.img", tmp_path / "other.img"]
    for image in images:
        with image.open("wb") as file:
            file.truncate(2 * 2**40)
        patch(image, 2**40, image.name.encode())
    subprocess.run(["sync", "-d", *images], check=True)
    with_table = b"\0" * 510 + struct.pack("<H", 0xAA55)
    for image in images:
        patch(image, 0, with_table)
    with open_image(images[0]) as one, open_image(images[1]) as other:
        parts = [Part(each.block, 0, each.block.size, each.block.name) for each in (one, other)]
        assert [piece.offset for piece in differing(*parts)] == [2**40]


@pytest.mark.parametrize("seconds, said", [(0, "1970-01-01T00:00:00Z"), (2**60, str(2**60)), (-(2**62), str(-(2**62)))])
def test_a_moment_no_calendar_has_is_a_number(seconds, said):
    assert moment(seconds) == said
