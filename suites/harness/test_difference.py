"""What is said about differences, and what several of them at once must not hide."""

import random
import shutil

import pytest

from harness.images.difference.causes import Difference
from harness.images.difference.explain import explain_difference
from harness.images.source import open_image
from harness.tools import run
from suites.harness.workbench import (
    DISK_GUID,
    EPOCH,
    ESP,
    MIB,
    ROOT,
    UUID_ONE,
    UUID_TWO,
    dated,
    edit,
    filesystem,
    flip,
    make_disk,
    make_esp,
    make_tree,
    patch,
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return make_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def part(tree, tmp_path_factory):
    return filesystem(tree, tmp_path_factory.mktemp("part") / "part.img")


@pytest.fixture(scope="module")
def esp(tmp_path_factory):
    return make_esp(tmp_path_factory.mktemp("esp"))


@pytest.fixture
def pair(tmp_path, part):
    """Two copies of the filesystem, the second to be changed."""
    one, other = tmp_path / "one.img", tmp_path / "other.img"
    shutil.copyfile(part, one)
    shutil.copyfile(part, other)
    return one, other


def explain(one, other):
    with open_image(one) as first, open_image(other) as second:
        return explain_difference(first, second)


def causes(one, other):
    return [(found.partition, found.path, found.cause) for found in explain(one, other)]


def test_two_builds_of_one_filesystem_are_the_same(tree, part, tmp_path):
    assert explain(part, filesystem(tree, tmp_path / "again.img")) == ()


@pytest.mark.parametrize(
    "command, path, cause, detail",
    [
        ("sif etc/motd mtime @1700000001", "/etc/issue", "timestamp", "mtime {} / 2023-11-14T22:13:21Z"),
        ("sif etc/hostname mode 0100755", "/etc/hostname", "mode", "0644 / 0755"),
        ("sif big uid 7", "/big", "owner", "0:0 / 7:0"),
        ("sif big flags 0x80010", "/big", "mode", "immutable only in the second"),
        ("sif big ctime @1700000001", "/big", "timestamp", "ctime {} / 2023-11-14T22:13:21Z"),
        ("sif big generation 77", "/big", "metadata", "inode generation 0 / 77"),
        ("ea_set big user.note hi", "/big", "xattr", "user.note absent / b'hi'"),
        ("ssv lastcheck @1700000001", "", "timestamp", "last check {} / 2023-11-14T22:13:21Z"),
        ("ssv mnt_count 5", "", "metadata", "mount count 0 / 5"),
        ("ssv last_mounted /boot", "", "metadata", "last mounted on '' / '/boot'"),
        ("ssv volume_name start", "", "label", "label 'root' / 'start'"),
    ],
)  # fmt: skip
def test_one_changed_field_is_told_with_both_values(pair, command, path, cause, detail):
    edit(pair[1], command)
    (found,) = explain(*pair)
    detail = detail.format("2023-11-14T22:13:20Z")
    assert (found.partition, found.path, found.cause, found.detail) == ("", path, cause, detail)


def test_several_times_of_one_file_are_one_difference(pair):
    edit(pair[1], "sif big mtime @1700000001", "sif big ctime @1700000002")
    (found,) = explain(*pair)
    assert found.detail.startswith("mtime 2023-11-14T22:13:20Z / 2023-11-14T22:13:21Z, ctime ")


def test_a_folder_left_out_is_named_without_what_is_below(part, tmp_path):
    (tmp_path / "tree").mkdir()
    smaller = make_tree(tmp_path / "tree", usr__bin__tool=None)
    assert explain(part, filesystem(smaller, tmp_path / "smaller.img")) == (
        Difference("file", "", "/usr", "missing", "only in the first"),
    )


def test_folders_named_by_digest_are_compared_with_each_other(tmp_path):
    images = []
    for number, digest in enumerate(("a" * 64, "b" * 64)):
        top = tmp_path / f"tree{number}"
        (top / f"deploy-{digest}/etc").mkdir(parents=True)
        (top / f"deploy-{digest}/etc/same").write_text("same")
        (top / f"deploy-{digest}/etc/other").write_text(f"{number}")
        images.append(filesystem(dated(top), tmp_path / f"{number}.img"))
    named = [(found.path.replace("a" * 64, "A"), found.cause) for found in explain(*images)]
    assert named == [("/deploy-A", "name"), ("/deploy-A/etc/other", "content")]


@pytest.mark.parametrize("features", ["metadata_csum_seed", "^metadata_csum_seed", "^metadata_csum"])
@pytest.mark.parametrize("block_size", [1024, 4096])
def test_another_uuid_is_only_another_uuid_and_hides_nothing(tree, tmp_path, features, block_size):
    """With checksums that begin with the UUID every metadata block differs; that follows and is not repeated."""
    knobs = {"features": features, "block_size": str(block_size)}
    one = filesystem(tree, tmp_path / "one.img", **knobs)
    other = filesystem(tree, tmp_path / "other.img", uuid=UUID_TWO, **knobs)
    uuid = [("", "", "UUID")]
    assert causes(one, other) == uuid
    edit(other, "sif big mtime @1700000001")
    assert causes(one, other) == [*uuid, ("", "/big", "timestamp")]
    patch(other, other.stat().st_size - 100, b"left")
    assert causes(one, other) == [*uuid, ("", "/big", "timestamp"), ("", "", "unexplained")]


def test_a_uuid_changed_later_does_not_hide_unexplained_bytes(pair):
    """As CoreOS changes it on first boot: the stored seed keeps the checksums, so they must not differ."""
    run(["tune2fs", "-U", UUID_TWO, pair[1]], env={"E2FSPROGS_FAKE_TIME": EPOCH})
    assert causes(*pair) == [("", "", "UUID")]
    patch(pair[1], pair[1].stat().st_size - 100, b"left")
    assert causes(*pair) == [("", "", "UUID"), ("", "", "unexplained")]


def test_bytes_that_nothing_explains_are_counted_placed_and_shown(pair):
    at = pair[1].stat().st_size - 100
    patch(pair[1], at, b"left")
    (found,) = explain(*pair)
    zeroes, text = bytes(8).hex(" "), (b"left" + bytes(4)).hex(" ")
    assert found.detail == f"4 bytes differ, the first at {at:,}: {zeroes} / {text}, in free blocks"


@pytest.mark.parametrize(
    "commands",
    [["sif big mtime @1700000001"], ["rm usr/bin/tool"], ["ea_set big user.note hi"], ["ln big big2", "unlink big"]],
    ids=["time", "missing", "xattr", "name"],
)
def test_an_explained_file_does_not_hide_unexplained_bytes(pair, commands):
    edit(pair[1], *commands)
    patch(pair[1], pair[1].stat().st_size - 100, b"left")
    assert [found.cause for found in explain(*pair)][1:] == ["unexplained"]


def test_bytes_in_different_places_are_told_apart(pair):
    patch(pair[1], pair[1].stat().st_size - 100, b"left")
    flip(pair[1], 1024 + 0x300)  # a reserved word of the superblock
    details = [found.detail.rpartition(", ")[2] for found in explain(*pair)]
    assert details == ["in the superblock", "in free blocks"]


def test_a_broken_filesystem_is_reported_not_raised(pair):
    patch(pair[1], 1024 + 0x28, bytes(4))  # no inodes in a group
    assert any("cannot be compared" in each.detail or each.cause == "format" for each in explain(*pair))


def test_one_disk_guid_is_named_with_its_knob(tmp_path, part, esp):
    one = make_disk(tmp_path / "one.img", part, esp)
    (found,) = explain(one, make_disk(tmp_path / "other.img", part, esp, guid=UUID_TWO))
    assert found.detail == f"disk GUID {DISK_GUID} / {UUID_TWO}"
    assert "sgdisk -U" in found.knob


def test_a_moved_partition_is_named_and_its_content_still_compared(tmp_path, part, esp):
    rows = f"1 : start={ROOT}MiB, size=8MiB, name=root, uuid={UUID_ONE}\n"
    one = make_disk(tmp_path / "one.img", part, esp, table=rows)
    other = make_disk(tmp_path / "other.img", part, esp, table=rows.replace("start=1MiB", "start=12MiB"))
    for image in (one, other):
        patch(image, ESP * MIB, bytes(4 * MIB))
    patch(other, ROOT * MIB, bytes(8 * MIB))
    patch(other, 12 * MIB, part.read_bytes())
    assert [(found.cause, found.detail) for found in explain(one, other)] == [
        ("partition table", "start 1048576 / 12582912")
    ]


def test_a_damaged_backup_table_is_named(tmp_path, part, esp):
    one = make_disk(tmp_path / "one.img", part, esp)
    other = tmp_path / "other.img"
    shutil.copyfile(one, other)
    flip(other, other.stat().st_size - 512 + 20)
    (found,) = explain(one, other)
    assert found.area == "partition table"
    assert found.detail.startswith("backup copy sound / ")


def test_a_second_disk_without_a_table_is_one_difference_beside_its_size(tmp_path, part, esp):
    disk = make_disk(tmp_path / "one.img", part, esp)
    assert [found.cause for found in explain(disk, part)] == ["size", "partition table"]


def test_bytes_behind_a_qcow2_file_are_unexplained(tmp_path, part, esp):
    raw = make_disk(tmp_path / "disk.img", part, esp)
    images = [tmp_path / "one.qcow2", tmp_path / "other.qcow2"]
    for image in images:
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, image])
    assert explain(*images) == ()
    with images[1].open("ab") as file:
        file.write(bytes(65536))
    (found,) = explain(*images)
    assert (found.area, found.cause) == ("bytes", "unexplained")


def test_clusters_in_another_order_are_allocation(tmp_path):
    images = [tmp_path / "one.qcow2", tmp_path / "other.qcow2"]
    for image, order in zip(images, ((ROOT, ESP), (ESP, ROOT)), strict=True):
        run(["qemu-img", "create", "-q", "-f", "qcow2", image, "32M"])
        writes = [f"write -q -P {start} {start}M 64k" for start in order]
        run(["qemu-io", "-f", "qcow2", *(word for write in writes for word in ("-c", write)), image])
    (found,) = explain(*images)
    assert (found.area, found.cause) == ("container", "allocation")
    assert "without -W" in found.knob


def test_no_more_than_asked_for_is_told(pair):
    edit(pair[1], *(f"sif {name} mode 0100700" for name in ("big", "etc/hostname", "etc/motd")))
    with open_image(pair[0]) as first, open_image(pair[1]) as second:
        assert len(explain_difference(first, second, most=2)) == 2


def test_an_image_is_equal_to_itself_without_a_filesystem(tmp_path):
    image = tmp_path / "one.img"
    image.write_bytes(bytes(510) + b"\x55\xaa" + bytes(MIB))
    assert explain(image, image) == ()


@pytest.mark.parametrize("seed", range(12))
def test_damaged_metadata_is_reported_and_never_raised(pair, seed):
    """A few words of the first 400 KiB, which hold all metadata, overwritten by chance."""
    chance = random.Random(seed)
    for _ in range(chance.choice((1, 2, 5, 30))):
        patch(pair[1], 1080 + chance.randrange(400_000), chance.randbytes(chance.choice((1, 4, 16))))
    assert explain(*pair)
    assert explain(*reversed(pair))
