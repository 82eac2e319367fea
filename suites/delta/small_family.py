"""A family of small images: one disk as several platforms have it, each with a few bytes of its own."""

from __future__ import annotations

import hashlib
from pathlib import Path

from click.testing import CliRunner

from harness.cli import harness
from harness.errors import HarnessError
from suites.harness.patchy_disk import patchy, qemu_img

SIZE = 6 * 2**20
CONTAINERS = {
    "qemu.qcow2": ("-O", "qcow2"),
    "openstack.qcow2": ("-O", "qcow2"),
    "metal.raw": ("-O", "raw"),
    "aws.vmdk": ("-O", "vmdk", "-o", "subformat=streamOptimized"),
    "azure.vhd": ("-O", "vpc", "-o", "subformat=fixed,force_size"),
}
MARK = 2**20 + 700  # where each image says whose it is


def small_family(folder: Path) -> list[Path]:
    """The images, in a folder of their own."""
    folder.mkdir(parents=True)
    disk = folder / "disk"
    patchy(disk, SIZE, seed=5, patches=40)
    images = []
    for name, options in CONTAINERS.items():
        with disk.open("r+b") as file:
            file.seek(MARK)
            file.write(f"ignition.platform.id={name:16}".encode())
        images.append(folder / name)
        qemu_img("convert", "-f", "raw", *options, disk, images[-1])
    disk.unlink()
    return images


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file of a folder, hidden ones too."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def command(*arguments, code=0):
    done = CliRunner().invoke(harness, [str(each) for each in arguments])
    if code == 0:
        assert (done.exit_code, done.exception) == (0, None), done.output
    return done


def refused(*arguments) -> str:
    """What a command says that refuses."""
    done = command(*arguments, code=2)
    assert isinstance(done.exception, HarnessError), done.output
    return str(done.exception)
