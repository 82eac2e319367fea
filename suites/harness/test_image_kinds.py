"""Disks and live ISOs given by `--image`: each is judged by the checks of its kind, whichever suite was named."""

import re
import subprocess
import sys

import pytest

from suites.harness.iso_generations import iso_of
from suites.harness.small_disk import small_disk

OFFLINE = ["-m", "not boot and not nightly", "-p", "no:cacheprovider"]


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    return small_disk(tmp_path_factory.mktemp("disk"))


@pytest.fixture(scope="module")
def iso(tmp_path_factory):
    return iso_of(tmp_path_factory.mktemp("iso"), "2023-07")


@pytest.fixture
def run_pytest(tmp_path):
    def run(*arguments):
        folders = ["--reports", tmp_path / "reports", "--store", tmp_path / "store"]
        command = [sys.executable, "-m", "pytest", *arguments, *OFFLINE, *folders]
        return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)

    return run


def collected(said):
    """How many checks of each suite."""
    names = re.findall(r"^(suites/\w+)/\S+::", said, re.MULTILINE)
    return {name: names.count(name) for name in names}


@pytest.mark.parametrize("workers", [[], ["-n", "2"]], ids=["alone", "two workers"])
def test_a_disk_given_to_the_suite_of_fedora_coreos_is_judged_as_a_disk(run_pytest, disk, workers):
    only = ["-k", "test_partition_table"]
    done = run_pytest("suites/fcos", "--image", disk, "--profile", "reference", *only, *workers)
    assert "suites/rhcos/test_partition_table.py::test_partitions_are_exactly_those_of_the_profile" in done.stdout
    assert "MUST NOT SHIP: 4 of 12 checks failed" in done.stdout, done.stdout + done.stderr


def test_each_suite_collects_what_is_for_the_kinds_of_its_images(run_pytest, disk, iso):
    disks = collected(run_pytest("suites/rhcos", "--collect-only", "-q", "--image", disk, "--profile=reference").stdout)
    isos = collected(run_pytest("suites/fcos", "--collect-only", "-q", "--image", iso).stdout)
    both = run_pytest("suites/fcos", "--collect-only", "-q", "--image", iso, "--image", disk, "--profile=reference")
    assert disks.keys() == {"suites/rhcos"}
    assert isos.keys() == {"suites/fcos"}
    assert collected(both.stdout) == {"suites/fcos": isos["suites/fcos"], "suites/rhcos": 2 * disks["suites/rhcos"]}


def test_one_file_of_the_suite_asks_for_no_other(run_pytest, disk):
    wanted = ["suites/fcos/test_live_iso.py", "--collect-only", "-q", "--image", disk, "--profile=reference"]
    assert collected(run_pytest(*wanted).stdout).keys() == {"suites/fcos"}


def test_a_live_iso_given_to_the_suite_of_disks_is_told_where_to_go(run_pytest, iso):
    done = run_pytest("suites/rhcos", "--image", iso, "-k", "test_partition_table")
    assert f"{iso.name} is an ISO: pytest suites/fcos --image judges it" in done.stdout
    assert "nothing was checked" in done.stdout


def test_a_disk_that_no_profile_fits_is_one_line(run_pytest, disk):
    done = run_pytest("suites/rhcos", "--image", disk)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert (done.returncode, len(said)) == (2, 1)
    assert f"{disk}: no profile fits an image with" in said[0]
