"""The live ISO's own stages, on inputs of a megabyte: real xorriso, mtools, GRUB and isolinux."""

import hashlib
import io
import json
import os
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.build.live.initrd import BLOCK, stream_hash, write_rootfs
from harness.build.live.live import Inputs, assemble, read_live_definition
from harness.build.live.medium import LARGEST_KARGS, Medium
from harness.build.reference import DEFINITION
from harness.errors import BuildFailed
from harness.images.block import Memory
from harness.images.filesystems.files import open_files
from harness.images.formats.cpio import read_cpio
from harness.images.formats.newc import FILE, LINK, PROGRAM, Entry, write_archive
from harness.images.formats.raw import FileBlock
from harness.images.system.live import read_live
from harness.tools import known_tools

SETTINGS = {"name": "small", "version": "1.2.3", "epoch": 1793491200}
FACTS = {"stateroot": "small", "commit": "c" * 64, "version": "1.2.3"}
LIVE = read_live_definition(DEFINITION)
MEDIUM = Medium.of(SETTINGS, LIVE)
NEEDED = ("xorriso", "grub-mkimage", "mcopy", "mkfs.vfat", "/usr/lib/ISOLINUX/isolinux.bin")
NAMES = st.lists(st.sampled_from(["a", "b.c", "long" * 20]), min_size=1, max_size=4).map("/".join)
MEMBERS = st.dictionaries(NAMES, st.binary(max_size=9), max_size=6)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`made(name)`: an ISO built in a folder of its own."""
    if missing := [tool for tool in NEEDED if known_tools()[tool].find() is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")

    def make(name, umask=0o022, medium=MEDIUM):
        folder = tmp_path_factory.mktemp(name)
        (folder / "initramfs").mkdir()
        (folder / "initramfs/vmlinuz").write_bytes(b"kernel")
        (folder / "initramfs/initramfs.img").write_bytes(b"initramfs of the disk")  # 21 bytes: not aligned
        (folder / "root.squashfs").write_bytes(b"hsqs".ljust(BLOCK + 5, b"\0"))
        files = Inputs(
            folder / "root.squashfs", folder / "initramfs", DEFINITION / "live", b"busybox", LIVE["without"], FACTS
        )
        before = os.umask(umask)
        try:
            assemble(medium, files, folder, folder / "live.iso")
        finally:
            os.umask(before)
        return folder / "live.iso"

    return make


@pytest.fixture(scope="module")
def iso(made):
    with FileBlock(made("iso")) as block:
        yield block


@given(MEMBERS)
def test_archives_are_read_back_with_the_folders_of_their_members(contents):
    raw = io.BytesIO()
    files = {name: content for name, content in contents.items() if not _is_folder_of_another(name, contents)}
    write_archive(raw, [Entry(name, content) for name, content in files.items()])
    block = Memory(raw.getvalue(), "archive")
    found = {each.name: block.read(each.start, each.size) for each in read_cpio(block) if each.mode == FILE}
    assert (found, len(raw.getvalue()) % 4) == (files, 0)


def _is_folder_of_another(name, contents):
    return any(other.startswith(f"{name}/") for other in contents)


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_cpio_unpacks_files_programs_and_links(tmp_path):
    raw = io.BytesIO()
    write_archive(raw, [Entry("a/b", b"text"), Entry("a/run", b"#!", PROGRAM), Entry("a/link", b"b", LINK)])
    subprocess.run(["cpio", "-i", "--quiet"], input=raw.getvalue(), cwd=tmp_path, check=True)
    found = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert found == {"b": b"text", "run": b"#!", "link": b"text"}
    assert (os.access(tmp_path / "a/run", os.X_OK), (tmp_path / "a/link").readlink().name) == (True, "b")


def test_squashfs_begins_at_byte_124_of_rootfs(tmp_path):
    (tmp_path / "root").write_bytes(b"hsqs")
    write_rootfs(tmp_path / "root", "1.2.3", tmp_path / "rootfs.img")
    assert (tmp_path / "rootfs.img").read_bytes()[124:128] == b"hsqs"


def test_stream_hash_has_a_line_for_every_block(tmp_path):
    content = b"x" * (BLOCK + 1)
    (tmp_path / "file").write_bytes(content)
    blocks = [hashlib.sha256(part).hexdigest() for part in (content[:BLOCK], content[BLOCK:])]
    assert stream_hash(tmp_path / "file").decode().splitlines() == [f"stream-hash sha256 {BLOCK}", *blocks]


def test_same_inputs_give_the_same_bytes_whatever_the_umask(made):
    first, second = (made(name, umask).read_bytes() for name, umask in (("first", 0o022), ("second", 0o077)))
    assert hashlib.sha256(first).hexdigest() == hashlib.sha256(second).hexdigest()


def test_another_title_gives_another_iso(made, iso):
    other = made("other", medium=replace(MEDIUM, title="Other"))
    assert other.read_bytes() != iso.read(0, iso.size)


def test_places_to_customise_are_where_the_iso_says(iso):
    problems = []
    facts = read_live(iso, problems.append)
    areas = [(area.file, area.kargs) for area in facts.kargs.areas]
    assert problems == []
    assert (facts.volume_id, facts.kargs.size) == ("small-1.2.3", len(MEDIUM.kargs) + 1024)
    assert areas == [("isolinux/isolinux.cfg", MEDIUM.kargs), ("EFI/debian/grub.cfg", MEDIUM.kargs)]
    assert (facts.ignition.file, facts.ignition.size, facts.ignition.state) == ("images/ignition.img", 262144, "empty")
    assert (facts.rootfs.offset, facts.rootfs.build) == (124, "1.2.3")


def test_names_are_those_that_coreos_installer_looks_for(iso):
    assert all(name in iso.read(0, 2**19) for name in (b"IGNINFO.JSO;1", b"KARGS.JSO;1"))


def test_live_archive_follows_the_disks_initramfs_at_a_multiple_of_four(iso):
    initrd = open_files(iso).read("/images/pxeboot/initrd.img", 2**20)
    block = Memory(initrd, "initrd.img")
    names = [each.name for each in read_cpio(block, 24)]
    assert initrd[:24] == b"initramfs of the disk\0\0\0"
    assert {"etc/coreos-live-initramfs", "usr/lib/systemd/system/sysroot.mount", "usr/bin/is-live-image"} <= set(names)
    assert json.loads(open_files(iso).read("/coreos/features.json"))["installer-config"] is False


def test_kernel_arguments_that_leave_no_room_are_refused():
    with pytest.raises(BuildFailed, match="leave too little room"):
        Medium.of(SETTINGS, {**LIVE, "console": ["x" * LARGEST_KARGS]})


def test_volume_id_has_at_most_32_characters():
    medium = Medium.of({**SETTINGS, "version": "9" * 40}, LIVE)
    assert (medium.volume, medium.volume_set) == ("small-" + "9" * 26, "small-" + "9" * 40)
    assert f"coreos.liveiso={medium.volume}" in medium.kargs.split()


def test_a_definition_without_its_keys_is_refused(tmp_path):
    (tmp_path / "live").mkdir()
    (tmp_path / "live/live.toml").write_text('vendor = "x"\n')
    with pytest.raises(BuildFailed, match="is not a definition of a live ISO"):
        read_live_definition(tmp_path)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_is_content_with_the_stages_of_a_live_boot():
    scripts = [path for path in (DEFINITION / "live/initrd").rglob("*") if os.access(path, os.X_OK) and path.is_file()]
    done = subprocess.run(["shellcheck", *scripts], check=False, capture_output=True, text=True)
    assert (len(scripts), done.stdout) == (6, "")
