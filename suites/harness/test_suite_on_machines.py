"""`suites/rhcos` gives the same verdict whatever the image is booted on."""

import re
import subprocess
import sys

import pytest

from suites.harness.disk_4k import make_disk_4k

pytestmark = [pytest.mark.nightly, pytest.mark.boot, pytest.mark.timeout(3600)]
MACHINES = ("uefi", "nvme", "scsi", "mpath,disk=1G:nvme,nics=2")
# What is not about machines; the file as built is not what a 4k image was made of.
CHECKS = ["-k", "not second_build and not recorded"]


def judged(store, tmp_path, machine, *options):
    """How many checks passed, and all that was said."""
    command = [sys.executable, "-m", "pytest", "suites/rhcos", "-q", "--machine", machine, "--store", store.root]
    command += ["--reports", tmp_path / "reports", *CHECKS, *options]
    done = subprocess.run([str(word) for word in command], capture_output=True, check=False)
    said = done.stdout.decode()
    assert done.returncode == 0, said
    return int(re.search(r"(\d+) passed", said)[1]), said


@pytest.mark.parametrize("machine", MACHINES)
def test_the_reference_image_passes_on(reference, store, tmp_path, machine):
    passed, _ = judged(store, tmp_path, machine)
    assert passed > 80


def test_its_copy_on_sectors_of_4_kib_passes_by_uefi(reference, store, tmp_path):
    image, profile = make_disk_4k(reference.path, tmp_path)
    passed, _ = judged(store, tmp_path, "uefi,4k", "--image", image, "--profile", profile)
    assert passed > 80
