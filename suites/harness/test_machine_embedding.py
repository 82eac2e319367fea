"""A config embedded in the overlay over a live ISO, and initrds joined: with real ISOs, qemu-io and qemu-img."""

import json
import random
from dataclasses import replace

import pytest

from harness.errors import BadInput, MissingFile
from harness.images.formats.raw import FileBlock
from harness.images.system.live import read_live
from harness.machine.boot import Boot
from harness.machine.embedding import append_config, archive_of, embed_in_overlay, join_initrds
from harness.machine.hardware.disks import Disk
from harness.machine.hardware.spec import Kernel, MachineSpec, unsaveable
from harness.machine.machine import overlay_of
from harness.machine.qemu.layers import Layer
from harness.tools import run
from suites.harness.small_live_iso import EMBED, KARGS, small_live_iso

CONFIG = b'{"ignition": {"version": "3.0.0"}}\n'


@pytest.fixture(scope="module")
def iso(tmp_path_factory):
    return Layer(small_live_iso(tmp_path_factory.mktemp("iso")), "raw")


def embedded(iso, folder, config):
    """The ISO as the guest would see it."""
    overlay = overlay_of(iso, folder / "overlay.qcow2")
    embed_in_overlay(iso, overlay, config, "ttyS0")
    seen = folder / "seen.iso"
    below = {"driver": "raw", "read-only": True, "file": {"driver": "file", "filename": str(iso.path)}}
    both = {"driver": "qcow2", "file": {"driver": "file", "filename": str(overlay.path)}, "backing": below}
    run(["qemu-img", "convert", "-O", "raw", f"json:{json.dumps(both)}", seen])
    return seen


def test_guest_sees_the_config_and_a_console_and_the_iso_stays_as_it_was(iso, tmp_path):
    before = iso.path.read_bytes()
    seen = embedded(iso, tmp_path, CONFIG)
    with FileBlock(seen) as block:
        facts = read_live(block, pytest.fail)
    assert (facts.ignition.state, facts.ignition.members) == ("config", ["config.ign"])
    assert {area.kargs for area in facts.kargs.areas} == {f"{KARGS} console=ttyS0,115200n8"}
    assert iso.path.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["overlay.qcow2", "seen.iso"]


def test_nothing_else_in_the_iso_changes_for_the_guest(iso, tmp_path):
    seen, before = embedded(iso, tmp_path, CONFIG).read_bytes(), iso.path.read_bytes()
    with FileBlock(iso.path) as block:
        facts = read_live(block, pytest.fail)
    places = [(facts.ignition.offset, EMBED), *((area.offset, facts.kargs.size) for area in facts.kargs.areas)]
    unpatched = bytearray(seen[: len(before)])
    for offset, size in places:
        unpatched[offset : offset + size] = before[offset : offset + size]
    assert bytes(unpatched) == before


def test_a_config_larger_than_its_room_is_refused(iso, tmp_path):
    incompressible = random.Random(1).randbytes(EMBED)
    with pytest.raises(BadInput, match="bytes when packed, the area 262,144"):
        embedded(iso, tmp_path, incompressible)


def test_what_is_no_live_iso_is_refused(tmp_path):
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "README").write_text("no system")
    run(["xorriso", "-as", "mkisofs", "-quiet", "-o", tmp_path / "other.iso", tmp_path / "files"])
    with pytest.raises(MissingFile, match="is no CoreOS live ISO"):
        embedded(Layer(tmp_path / "other.iso", "raw"), tmp_path, CONFIG)


def test_initrds_are_joined_where_the_kernel_looks(tmp_path):
    (tmp_path / "one").write_bytes(b"12345")
    (tmp_path / "two").write_bytes(b"abcd")
    kernel = Kernel(tmp_path / "vmlinuz", (tmp_path / "one", tmp_path / "two"), "quiet", "digest")
    joined = join_initrds(kernel, tmp_path)
    append_config(joined, CONFIG)
    assert joined.read_bytes() == b"12345\0\0\0abcd" + archive_of(CONFIG)


def test_how_a_config_gets_in_and_which_kernel_boots_are_part_of_the_key(tmp_path):
    (tmp_path / "image").write_bytes(b"image")
    kernel = Kernel(tmp_path / "vmlinuz", (), "quiet", "digest")
    plain = MachineSpec()
    specs = [plain, replace(plain, primary=Disk(bus="cd")), replace(plain, kernel=kernel)]
    specs += [
        replace(plain, kernel=replace(kernel, arguments="debug")),
        replace(plain, kernel=replace(kernel, digest="2")),
    ]
    keys = [json.dumps(spec.key(), sort_keys=True) for spec in specs]
    assert len(set(keys)) == len(keys)
    assert "kernel" not in plain.key()
    assert unsaveable(specs[2]) != ""
    assert Boot(tmp_path / "image", CONFIG, plain, None, embeds=True) != Boot(tmp_path / "image", CONFIG, plain, None)
