"""Images made again onto block devices: one raw disk or ISO, once it is right, and nothing else."""

import os
from pathlib import Path

import pytest

from harness.delta.family.dehydrate import dehydrate
from harness.errors import HarnessError
from harness.tools import run
from suites.delta.small_family import CONTAINERS, command, refused

NAMES = list(CONTAINERS)


@pytest.fixture
def device(tmp_path):
    """A loop device of 8 MiB over a file, which goes away; skips where this host has none."""
    file = tmp_path / "device"
    file.touch()
    os.truncate(file, 8 * 2**20)
    try:
        name = run(["losetup", "--find", "--show", str(file)]).decode().strip()
    except HarnessError as cause:
        pytest.skip(f"no loop device here: {cause}")
    yield Path(name)
    run(["losetup", "--detach", name])


def test_a_block_device_gets_a_raw_disk(family, images, device):
    command("rehydrate", family, "metal.raw", "-o", device)
    expected = images[NAMES.index("metal.raw")].read_bytes()
    assert device.read_bytes()[: len(expected)] == expected


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("qemu.qcow2",), "no machine boots from a device"),
        (("--all",), "takes one image"),
        (("metal.raw", "--compress", "gz"), "takes one image"),
    ],
)
def test_a_block_device_gets_nothing_else(family, device, arguments, says):
    assert says in refused("rehydrate", family, *arguments, "-o", device)
    assert device.read_bytes() == bytes(8 * 2**20)


def test_a_block_device_that_is_too_small_stays_as_it_is(tmp_path, device):
    (tmp_path / "big").write_bytes(b"\x55" * 9 * 2**20)
    dehydrate([tmp_path / "big"], tmp_path / "set")
    assert "has 8,388,608 bytes, and big 9,437,184" in refused("rehydrate", tmp_path / "set", "big", "-o", device)


def test_a_block_device_in_use_stays_as_it_is(family, device):
    run(["mke2fs", "-q", "-F", str(device)])
    expected = device.read_bytes()
    descriptor = os.open(device, os.O_RDWR | os.O_EXCL)
    try:
        assert "is it mounted or in use?" in refused("rehydrate", family, "metal.raw", "-o", device)
    finally:
        os.close(descriptor)
    assert device.read_bytes() == expected
