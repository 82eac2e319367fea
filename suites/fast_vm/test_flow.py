"""Every step of making a fast-vm image, as users type them: unpack, convert, inject, sparsify, export, verify, boot.

The steps and numbers are those of fast-vm's own notes for RHCOS 4.4. One test, because each step needs the one before.
"""

import base64
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.images.filesystems.files import open_files
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image
from harness.machine.snapshot import snapshot_of
from harness.report.folder import machine_folder

pytestmark = [pytest.mark.nightly, pytest.mark.boot, pytest.mark.timeout(3600)]
GIB = 2**30
LOGIN_TIME = 120.0


def harness(*arguments, folder):
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *map(str, arguments)], cwd=folder, capture_output=True, check=False
    )
    assert done.returncode == 0, f"harness {' '.join(map(str, arguments))}: {done.stderr.decode()}"
    return done.stdout.decode()


def config_of(spec, password_hash):
    """What fast-vm injects: a host name without a line end and a root password; 2.x files name their filesystem."""
    source = "data:;base64," + base64.b64encode(b"fastvm-rhcos").decode()
    file = {"path": "/etc/hostname", "mode": 0o644, "contents": {"source": source}}
    file |= {"filesystem": "root"} if spec.startswith("2.") else {"overwrite": True}
    users = [{"name": "console", "passwordHash": password_hash, "groups": ["sudo"]}]
    return {"ignition": {"version": spec}, "storage": {"files": [file]}, "passwd": {"users": users}}


@pytest.fixture
def packed(reference, tmp_path):
    """The image as it is downloaded: a qcow2 in gzip."""
    harness("export", reference.path, "-o", "download", "--format", "gz", "--checksums", "sha256sum", folder=tmp_path)
    harness("verify", "--against", "download/sha256sum.txt", folder=tmp_path)
    return tmp_path / "download" / f"{reference.path.name}.gz"


def in_boot_of(disk: Path, path: str) -> bytes:
    with open_image(disk) as image:
        return open_files(read_layout(image.block).part_block("boot")).read(path)


@pytest.fixture
def console_of(first_boot, restores, store, run_folder):
    """A machine booted from a disk as it is, at its login prompt."""

    def boot(image):
        bare = replace(first_boot, image=image.plain_path, ignition=None, digest=image.uncompressed_sha256())
        taken = snapshot_of(bare, store, machine_folder(run_folder, "fast-vm"), Deadline(600))
        return restores(taken, "fast-vm-console")

    return boot


def test_an_image_goes_through_all_steps_and_boots(packed, console_of, console_password, store, tmp_path, profile):
    disk = json.loads(harness("inspect", "--json", packed, folder=tmp_path))
    assert disk["file"]["virtual_size"] == 10 * GIB
    harness("convert", packed, "--to", "raw", "-o", "disk.raw", folder=tmp_path)
    made = {}
    for spec in ("2.2.0", profile.boot.ignition_spec):
        config = tmp_path / f"config-{spec}.ign"
        config.write_text(json.dumps(config_of(spec, console_password[1])))
        made[spec] = tmp_path / f"injected-{spec}.raw"
        harness("edit", "inject", "disk.raw", "--ignition", config, "-o", made[spec], folder=tmp_path)
        assert in_boot_of(made[spec], "/ignition/config.ign") == config.read_bytes()
    harness("edit", "sparsify", made[profile.boot.ignition_spec], "-o", "thin.raw", folder=tmp_path)
    thin = tmp_path / "thin.raw"
    assert thin.stat().st_blocks < made[profile.boot.ignition_spec].stat().st_blocks
    assert (tmp_path / "disk.raw").stat().st_size == thin.stat().st_size
    options = ["--fast-vm", "rhcos-4.4.3", "--format", "zst", "--format", "xz", "--checksums", "fast-vm"]
    harness("export", thin, "-o", "export", *options, folder=tmp_path)
    parts = sorted(path.name for path in (tmp_path / "export").glob("*.sha512.txt"))
    assert len(parts) == 11, "one for each GiB, and an empty one at the end"
    for suffix in ("zst", "xz"):
        assert "FAIL: 0 MISSING: 0" in harness("verify", f"export/10g__rhcos-4.4.3.img.{suffix}", folder=tmp_path)
    with (
        open_image(tmp_path / "export" / "10g__rhcos-4.4.3.img.zst", store=store) as image,
        console_of(image) as machine,
    ):
        deadline = Deadline(LOGIN_TIME)
        machine.console.login("console", console_password[0], deadline)
        assert machine.console.run("cat /etc/hostname", deadline) == (0, "fastvm-rhcos")
        disk = "/dev/$(lsblk --nodeps -no PKNAME /dev/disk/by-label/boot)"
        assert machine.console.run(f"sudo sgdisk -v {disk} | tail -n 1", deadline)[0] == 0
