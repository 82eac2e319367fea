"""Which image of a family is stored, and what others are made from: seen on families that have an obvious answer."""

import random

import pytest

from harness.delta.encode import Container
from harness.delta.family.dehydrate import dehydrate
from harness.delta.family.listing import read_index
from harness.delta.family.member import Form, Member, Sight
from harness.delta.family.order import arrange
from harness.delta.family.rehydrate import Wish, check_family
from harness.delta.family.sketch import Sketch, sketch
from harness.delta.recipe import Identity
from harness.images.block import Memory
from harness.tools import run
from suites.delta.small_family import small_family
from suites.harness.patchy_disk import qemu_img

NOISE = random.Random(3).randbytes(4 * 2**20)


def bases_of(folder):
    return {image.name: set(image.bases) for image in read_index(folder).images}


@pytest.fixture
def tree(tmp_path):
    """Files that a root filesystem and a live system share."""
    root = tmp_path / "tree"
    for number in range(40):
        path = root / f"usr/lib/{number % 5}/file-{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(NOISE[number * 50_000 : number * 50_000 + 60_000 + number * 777])
    return root


def test_a_disk_is_made_from_the_files_of_a_squashfs(tree, tmp_path):
    run(["mksquashfs", str(tree), str(tmp_path / "root.squashfs"), "-quiet", "-no-progress", "-comp", "zstd"])
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(tree), str(tmp_path / "root.img"), "16M"])
    images = [tmp_path / "root.img", tmp_path / "root.squashfs"]
    done = dehydrate(images, tmp_path / "set", effort="fast")
    assert sorted(map(sorted, bases_of(tmp_path / "set").values())) in ([[], ["root.squashfs"]], [[], ["root.img"]])
    assert done.size < 1.1 * images[1].stat().st_size


def test_a_damaged_squashfs_is_a_file_like_any_other(tree, tmp_path):
    image = tmp_path / "root.squashfs"
    run(["mksquashfs", str(tree), str(image), "-quiet", "-no-progress"])
    whole = image.read_bytes()
    image.write_bytes(whole[:96] + bytes(255 - byte for byte in whole[96:4096]) + whole[4096:-900] + bytes(900))
    dehydrate([image], tmp_path / "set")
    assert len(check_family(tmp_path / "set", Wish())) == 1


def test_an_archive_is_made_from_its_members_and_they_from_it(tmp_path):
    for name, start in (("kernel", 0), ("initrd", 2**20), ("rootfs", 2 * 2**20)):
        (tmp_path / name).write_bytes(NOISE[start : start + 2**20 - 300])
    names = ["kernel", "initrd", "rootfs"]
    run(["tar", "-C", str(tmp_path), "-cf", str(tmp_path / "all.tar"), *names])
    done = dehydrate([tmp_path / name for name in ("all.tar", *names)], tmp_path / "set")
    assert done.size < 1.01 * (tmp_path / "all.tar").stat().st_size
    assert bases_of(tmp_path / "set")["all.tar"] in (set(), set(names))


def test_a_file_of_several_is_made_from_all_of_them(tmp_path):
    """Given as bases, so that nothing else can be chosen."""
    for name, start in (("kernel", 0), ("initrd", 2**20), ("rootfs", 2 * 2**20)):
        (tmp_path / name).write_bytes(NOISE[start : start + 2**20])
    (tmp_path / "iso").write_bytes(bytes(2048) + NOISE[2 * 2**20 : 3 * 2**20] + NOISE[: 2 * 2**20] + b"volume")
    bases = [tmp_path / name for name in ("kernel", "initrd", "rootfs")]
    done = dehydrate([tmp_path / "iso"], tmp_path / "set", given=bases)
    assert bases_of(tmp_path / "set")["iso"] == {"kernel", "initrd", "rootfs"}
    assert done.size < 1024


def test_images_that_share_nothing_are_each_stored(tmp_path):
    for name, start in (("one", 0), ("other", 2**21)):
        (tmp_path / name).write_bytes(NOISE[start : start + 2**20])
    dehydrate([tmp_path / "one", tmp_path / "other"], tmp_path / "set")
    assert bases_of(tmp_path / "set") == {"one": set(), "other": set()}


def test_a_second_vmdk_of_the_same_disk_costs_a_few_bytes(tmp_path):
    images = small_family(tmp_path / "images")
    first, second = tmp_path / "first.vmdk", tmp_path / "second.vmdk"
    for target in (first, second):
        stream = ("-O", "vmdk", "-o", "subformat=streamOptimized")
        qemu_img("convert", "-f", "raw", *stream, images[2], target)
    assert first.read_bytes() != second.read_bytes()
    dehydrate([images[0], first, second], tmp_path / "set", effort="fast")
    made = [image for image in read_index(tmp_path / "set").images if image.bases]
    assert len(made) == 2
    assert all(image.stored < 4096 for image in made)


def test_the_order_of_naming_does_not_matter_to_the_size(tmp_path):
    images = small_family(tmp_path / "images")
    sizes = {
        dehydrate(named, tmp_path / f"set-{number}", effort="fast", verify=False).size
        for number, named in enumerate((images, images[::-1]))
    }
    assert max(sizes) - min(sizes) < 2048


def marked(count, megabytes, start=0):
    """What is seen of an image that packs to so many megabytes."""
    marks = frozenset(number.to_bytes(8, "little") for number in range(start, start + count))
    return Sketch(marks, megabytes * 10**6, 1.0, count)


DISK, SMALLER = marked(10_000, 200), marked(10_000, 198)
EMPTY = Memory(b"", "empty")


def member(name, *forms):
    """An image with its bytes and, in a second form, the disk inside and how long rebuilding it takes."""
    sights = (Sight(None, forms[0].sketch), *(Sight("disk", form.sketch, 3.0) for form in forms[1:]))
    return Member(name, EMPTY, Identity(1, "00" * 32), (), forms, sights)


def packed(name, number, seconds, disk=DISK):
    """A compressed container: its own bytes are like nobody else's."""
    container = Container(bytes(1300), Identity(1, "00" * 32))
    own = marked(8_600, 269, start=10**6 * number)
    return member(name, Form(EMPTY, own), Form(EMPTY, disk, container, seconds))


def ways(*members):
    """How each image comes about: from which others, and whether it is rebuilt."""
    return {
        members[step.index].name: (
            {members[source.index].name for source in step.sources},
            step.form.container is not None,
        )
        for step in arrange(members)
    }


def test_twenty_seconds_are_not_worth_a_thirtieth_of_a_megabyte():
    """Two streams of one disk differ in a few sectors; copying would be done in no time, and keep 30 kB."""
    first = packed("first.vmdk", 1, 20.0)
    other = marked(8_600, 269, start=10**6 + 2)
    second = member("second.vmdk", Form(EMPTY, other), first.forms[1])
    found = ways(member("disk.qcow2", Form(EMPTY, DISK)), first, second)
    assert found["second.vmdk"] == ({"disk.qcow2"}, True)


def test_no_family_waits_minutes_for_the_image_it_is_made_from_to_save_a_hundredth():
    found = ways(packed("disk.tar.gz", 1, 90.0, SMALLER), *(member(f"{n}.qcow2", Form(EMPTY, DISK)) for n in "abcd"))
    assert found["disk.tar.gz"][1]
    assert [made for name, made in found.items() if name != "disk.tar.gz" and made[0] == {"disk.tar.gz"}] == []


def test_of_equal_images_the_one_that_is_there_first_is_made_from():
    found = ways(member("disk.qcow2", Form(EMPTY, DISK)), packed("a.vmdk", 1, 20.0), packed("b.vmdk", 2, 20.0))
    assert found == {"disk.qcow2": (set(), False)} | dict.fromkeys(("a.vmdk", "b.vmdk"), ({"disk.qcow2"}, True))


@pytest.mark.parametrize("shift", [0, 512, 2048, 512 * 7])
def test_a_sketch_finds_the_same_sectors_wherever_they_lie(shift):
    one, other = sketch(Memory(NOISE, "one")), sketch(Memory(bytes(shift) + NOISE, "other"))
    assert other.missing_from(one.marks) < len(NOISE) / 500
    assert other.missing_from(frozenset()) > len(NOISE) * 0.9


def test_a_sketch_counts_what_is_there_twice_but_once():
    once, twice = sketch(Memory(NOISE, "once")), sketch(Memory(NOISE + NOISE, "twice"))
    assert twice.missing_from(frozenset()) == pytest.approx(once.missing_from(frozenset()), rel=0.01)


def test_an_image_that_has_something_twice_is_packed_as_if_once(tmp_path):
    """Farther apart than zstd looks by itself at that level, and not at the beginning of a sector."""
    image = tmp_path / "live.iso"
    between = random.Random(4).randbytes(12 * 2**20)
    image.write_bytes(NOISE + between + bytes(100) + NOISE)  # where no sketch sees it
    done = dehydrate([image], tmp_path / "set", effort="fast")
    assert done.size < 1.01 * (len(NOISE) + len(between))
    run(["zstd", "-q", "-d", str(tmp_path / "set/live.iso.zst"), "-o", str(tmp_path / "unpacked")])
    assert (tmp_path / "unpacked").read_bytes() == image.read_bytes()


def test_a_sketch_of_nothing_misses_nothing():
    empty = sketch(Memory(b"", "empty"))
    zeroes = sketch(Memory(bytes(2**20), "zeroes"))
    assert (empty.missing_from(frozenset()), zeroes.missing_from(frozenset())) == (0, 0)
