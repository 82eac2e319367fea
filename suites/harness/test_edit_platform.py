"""The platform of an image changed: what becomes another, and that nothing else does."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import BadInput, DamagedImage, UnsupportedImage
from harness.images.edits.debugfs import NewFile
from harness.images.edits.inject import inject
from harness.images.edits.platform import PlatformSet, planned, platform_of, set_platform, with_console, with_platform
from harness.images.filesystems.files import open_files
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image
from harness.images.system.bls import read_entries
from harness.images.system.stamps import read_console
from harness.tools import run
from suites.harness.edited import changed_outside, sha256, trees
from suites.harness.small_disk import MIB, PARTS, small_disk
from suites.harness.test_cli import run_harness

ENTRY, CONSOLE, GRUB = "/loader.1/entries/ostree-1-small.conf", "/grub2/console.cfg", "/grub2/grub.cfg"
START, END = "# CONSOLE-SETTINGS-START", "# CONSOLE-SETTINGS-END"
TABLE = {
    "qemu": {"kernel_arguments": ["console=tty0", "console=ttyS0"], "grub_commands": ["serial --speed=115200"]},
    "openstack": {
        "kernel_arguments": ["console=ttyS0", "console=tty0"],
        "grub_commands": ["serial", "terminal_input x"],
    },
    "azure": {"kernel_arguments": ["console=tty0"]},
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return small_disk(tmp_path_factory.mktemp("platform"))


@pytest.fixture(scope="module")
def disk(plain):
    """A qemu image as osbuild makes it."""
    made = plain.with_name("qemu.raw")
    inject(plain, [NewFile("/coreos/platforms.json", json.dumps(TABLE).encode())], made, replace=True)
    return made


def boot_of(path, read):
    with open_image(path) as image:
        return read(open_files(read_layout(image.block).part_block("boot")))


def options(path):
    return boot_of(path, lambda boot: read_entries(boot).default.options)


def test_another_platform_gets_its_id_arguments_and_console(disk, tmp_path):
    made = tmp_path / "openstack.raw"
    done = set_platform(disk, "openstack", made)
    kernel = options(disk)[:3]
    assert options(made) == (*kernel, "ignition.platform.id=openstack", "console=ttyS0", "console=tty0")
    assert boot_of(made, read_console).commands == ("serial", "terminal_input x")
    assert done == PlatformSet(
        "qemu", "openstack", ("console=tty0", "console=ttyS0"), ("console=ttyS0", "console=tty0"),
        ("/loader/entries/ostree-1-small.conf", CONSOLE),
    )  # fmt: skip


@pytest.mark.parametrize("platform,arguments", [("azure", ("console=tty0",)), ("metal", ())])
def test_a_platform_without_settings_gets_none_of_them(platform, arguments, disk, tmp_path):
    made = tmp_path / "new.raw"
    set_platform(disk, platform, made)
    assert options(made)[3:] == (f"ignition.platform.id={platform}", *arguments)
    text = boot_of(made, lambda boot: boot.text(CONSOLE))
    assert text == f"{START}\n\n{END}\n", "an empty line, as osbuild leaves it"


def test_only_the_boot_filesystem_changes_and_in_it_only_two_files(disk, tmp_path):
    made = tmp_path / "new.raw"
    set_platform(disk, "azure", made)
    start, size = PARTS["boot"]
    assert changed_outside(disk, made, start * MIB, (start + size) * MIB) == []
    before, after = trees(disk)["boot"], trees(made)["boot"]
    assert {path for path in before if before[path] != after[path]} == {ENTRY, CONSOLE}
    assert before.keys() == after.keys()
    run(["e2fsck", "-f", "-n", f"{made}?offset={start * MIB}"])


def test_there_and_back_again_gives_the_same_text(disk, tmp_path):
    set_platform(disk, "openstack", tmp_path / "there.raw")
    set_platform(tmp_path / "there.raw", "qemu", tmp_path / "back.raw")
    before, after = trees(disk)["boot"], trees(tmp_path / "back.raw")["boot"]
    assert before[ENTRY][2] == after[ENTRY][2]
    assert before[CONSOLE][2] == after[CONSOLE][2]


def test_the_same_platform_again_changes_no_file(disk, tmp_path):
    done = set_platform(disk, "qemu", tmp_path / "new.raw")
    assert done.changed_files == ()
    assert trees(disk) == trees(tmp_path / "new.raw")


def test_the_same_input_gives_the_same_bytes(disk, tmp_path):
    made = [tmp_path / name for name in ("1.raw", "2.raw", "3.qcow2", "4.qcow2")]
    for target in made:
        set_platform(disk, "azure", target)
    digests = [sha256(path) for path in made]
    assert (digests[0], digests[2]) == (digests[1], digests[3])


def test_an_image_without_the_table_keeps_its_arguments_and_console(plain, tmp_path):
    """As gf-set-platform treated images before 2022: nothing but the id."""
    run(["cp", plain, tmp_path / "old.raw"])
    run(["debugfs", "-w", "-R", "rm /coreos/platforms.json", f"{tmp_path}/old.raw?offset={PARTS['boot'][0] * MIB}"])
    done = set_platform(tmp_path / "old.raw", "aws", tmp_path / "aws.raw")
    assert (done.removed, done.added, done.changed_files) == ((), (), ("/loader/entries/ostree-1-small.conf",))
    kept = tuple(each for each in options(plain) if not each.startswith("ignition"))
    assert options(tmp_path / "aws.raw") == (*kept, "ignition.platform.id=aws")


def test_markers_in_grub_cfg_serve_as_well(plain, tmp_path):
    files = [
        NewFile("/coreos/platforms.json", json.dumps(TABLE).encode()),
        NewFile(CONSOLE, b"# nothing\n"),
        NewFile(GRUB, f"set x=1\n{START}\nold\n{END}\nblscfg\n".encode()),
    ]
    inject(plain, files, tmp_path / "older.raw", replace=True)
    set_platform(tmp_path / "older.raw", "openstack", tmp_path / "new.raw")
    text = f"set x=1\n{START}\nserial\nterminal_input x\n{END}\nblscfg\n"
    assert boot_of(tmp_path / "new.raw", lambda boot: boot.text(GRUB)) == text
    set_platform(tmp_path / "new.raw", "azure", tmp_path / "newer.raw")
    text = f"set x=1\n{START}\n{END}\nblscfg\n"
    assert boot_of(tmp_path / "newer.raw", lambda boot: boot.text(GRUB)) == text


def test_settings_without_a_place_for_them_are_refused(disk, tmp_path):
    inject(disk, [NewFile(CONSOLE, b"# nothing\n")], tmp_path / "older.raw", replace=True)
    with pytest.raises(UnsupportedImage, match="openstack wants console settings"):
        set_platform(tmp_path / "older.raw", "openstack", tmp_path / "new.raw")
    set_platform(tmp_path / "older.raw", "azure", tmp_path / "new.raw")


@pytest.mark.parametrize("platform", ["", "a b", "a=b", "aws\n", "../x", "ä"])
def test_what_is_no_platform_id_is_refused(platform, disk, tmp_path):
    with pytest.raises(BadInput, match="is no platform id"):
        set_platform(disk, platform, tmp_path / "new.raw")


def test_an_image_without_grub_is_refused(disk, tmp_path):
    """s390x boots by zipl."""
    orders = [f"rm {CONSOLE}", "rmdir /grub2"]
    run(["cp", disk, tmp_path / "zipl.raw"])
    script = tmp_path / "orders"
    script.write_text("\n".join(orders))
    run(["debugfs", "-w", "-f", script, f"{tmp_path}/zipl.raw?offset={PARTS['boot'][0] * MIB}"])
    with pytest.raises(UnsupportedImage, match=r"does not boot by GRUB.*zipl"):
        set_platform(tmp_path / "zipl.raw", "aws", tmp_path / "new.raw")


def test_an_entry_without_options_is_refused(disk, tmp_path):
    inject(disk, [NewFile(ENTRY, b"title x\n")], tmp_path / "odd.raw", replace=True)
    with pytest.raises(DamagedImage, match="has no options line"):
        set_platform(tmp_path / "odd.raw", "aws", tmp_path / "new.raw")


def test_the_last_entry_is_the_one_that_changes(disk, tmp_path):
    entry = b"options rw ignition.platform.id=qemu console=tty0\n"
    inject(disk, [NewFile("/loader/entries/ostree-2-small.conf", entry)], tmp_path / "two.raw")
    done = set_platform(tmp_path / "two.raw", "metal", tmp_path / "new.raw")
    assert done.changed_files[0] == "/loader/entries/ostree-2-small.conf"
    assert options(tmp_path / "new.raw") == ("rw", "ignition.platform.id=metal")


EDITS = {
    "at the end": ("options a ignition.platform.id=x k=1", "options a ignition.platform.id=new n=1"),
    "in the middle": ("options a ignition.platform.id=x b k=1 c", "options a b c ignition.platform.id=new n=1"),
    "twice": ("options ignition.platform.id=x ignition.platform.id=y a", "options a ignition.platform.id=new n=1"),
    "empty": ("options a ignition.platform.id= b", "options a b ignition.platform.id=new n=1"),
    "none": ("options a", "options a ignition.platform.id=new n=1"),
    "part of another": ("options k=11 xk=1", "options k=11 xk=1 ignition.platform.id=new n=1"),
    "the last of two": ("options k=1 b k=1", "options k=1 b ignition.platform.id=new n=1"),
    "blanks at the end": ("options a  ", "options a ignition.platform.id=new n=1"),
    "two lines": (
        "options a ignition.platform.id=x k=1\noptions b",
        "options a\noptions b ignition.platform.id=new n=1",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_the_options_line_is_edited_word_by_word(case):
    before, after = EDITS[case]
    assert with_platform(f"title t\n{before}\nlinux l\n", "new", ["k=1"], ["n=1"]) == f"title t\n{after}\nlinux l\n"


words = st.from_regex(r"[a-z$_.=,0-9]{1,8}", fullmatch=True)


@given(st.lists(words, max_size=6), st.lists(words, max_size=3))
def test_setting_a_platform_twice_is_setting_it_once(kernel, added):
    once = with_platform(f"options {' '.join(kernel)}\n", "one", [], added)
    assert with_platform(once, "one", added, added) == once


def test_text_around_the_markers_stays():
    text = f"\n# before\n  {START}  \nold\nold\n{END}\nafter"
    assert with_console(text, ["new"], blank=False) == f"\n# before\n  {START}  \nnew\n{END}\nafter"


def test_the_reference_image_becomes_one_for_every_platform_of_its_table(reference):
    with open_image(reference.path) as image:
        layout = read_layout(image.block)
        boot = open_files(layout.part_block("boot"))
        assert platform_of(layout) == "qemu"
        changes = {name: set(planned(boot, name)[1]) for name in ("qemu", "aws", "azure", "openstack", "metal")}
        entry = read_entries(boot).default.path
    assert changes == {
        "qemu": set(), "aws": {entry}, "azure": {entry, CONSOLE}, "openstack": {entry}, "metal": {entry, CONSOLE},
    }  # fmt: skip


def test_the_command_says_what_it_changed(disk, tmp_path):
    done = run_harness("edit", "platform", disk, "azure", "-o", tmp_path / "azure.raw")
    assert done.returncode == 0, done.stderr
    assert "platform  qemu -> azure" in done.stdout
    assert "removed   console=tty0 console=ttyS0" in done.stdout
