"""`suites/rhcos` gives the same verdict whatever the image wears."""

import subprocess
import sys

import pytest

from harness.images.edits.convert import convert
from harness.tools import run

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]
WRAPPINGS = {
    "metal": "disk.raw",
    "aws": "disk.vmdk",
    "vmdk-sparse": "sparse.vmdk",
    "azure": "disk.vhd",
    "vhd-dynamic": "dynamic.vhd",
    "hyperv": "disk.vhdx",
    "vmware": "disk.ova",
    "gcp": "disk.tar.gz",
}
# These hold for the qcow2 that was built, not for what was made of it.
CHECKS = ["-m", "not boot and not nightly", "-k", "not second_build and not recorded"]


def judged(image, store, tmp_path, *options):
    command = [sys.executable, "-m", "pytest", "suites/rhcos", "-q", "--image", image, "--store", store.root]
    command += ["--reports", tmp_path / "reports", "--profile", "reference", *options]
    return subprocess.run([str(word) for word in command], capture_output=True, check=False)


@pytest.mark.parametrize("to", WRAPPINGS)
def test_offline_checks_pass_in_every_container(reference, store, tmp_path, to):
    image = tmp_path / WRAPPINGS[to]
    convert(reference.path, to, image)
    done = judged(image, store, tmp_path, *CHECKS)
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.parametrize("program,suffix", [("zstd", "zst"), ("xz", "xz"), ("gzip", "gz")])
def test_offline_checks_pass_in_every_compression(reference, store, tmp_path, program, suffix):
    image = tmp_path / f"disk.qcow2.{suffix}"
    options = {"zstd": ["-q", "-T0"], "xz": ["-0", "-T0"], "gzip": ["-1"]}[program]
    image.write_bytes(run([program, *options, "-c", str(reference.path)], timeout=1200))
    done = judged(image, store, tmp_path, *CHECKS)
    assert done.returncode == 0, done.stdout.decode()


@pytest.mark.boot
def test_an_image_boots_out_of_an_ova(reference, store, tmp_path):
    image = tmp_path / "disk.ova"
    convert(reference.path, "vmware", image)
    done = judged(image, store, tmp_path, "-k", "network_is_up or no_unit_has_failed or first_boot")
    assert done.returncode == 0, done.stdout.decode()
