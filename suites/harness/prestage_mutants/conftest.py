"""Pre-staged disks to break, and the suite that judges them."""

import shutil

import pytest

from harness.tools import run
from suites.harness.mutants.forks import Forks
from suites.harness.mutants.judge import run_suite
from suites.harness.prestage_mutants.disks import DataDisk, prestaged_disk
from suites.harness.small_disk import small_disk

SUITE = "suites/prestage"
SABOTAGE = "suites.harness.prestage_mutants.sabotage"
OFFLINE = ("-m", "not boot and not nightly")
SEED = ("-m", "not boot", "-k", "test_data_partition.py")  # the rest of it says nothing of the disk's shape


def on(image):
    """Options for an image that no profile fits: nothing here asks for one."""
    return ("--image", image, "--profile", "reference")


@pytest.fixture(scope="session")
def workshop(store):
    """Where this process breaks its copies; with a store of its own, for broken disks need not be kept."""
    with store.scratch("mutants") as folder:
        yield folder


@pytest.fixture(scope="session")
def small_image(workshop):
    """An image that is installed in a moment."""
    (workshop / "image").mkdir()
    return small_disk(workshop / "image")


@pytest.fixture(scope="session")
def ext4_disk(workshop):
    (workshop / "ext4").mkdir()
    return DataDisk(prestaged_disk(workshop / "ext4", "ext4"), workshop / "ext4.raw")


@pytest.fixture(scope="session")
def xfs_disk(workshop):
    (workshop / "xfs").mkdir()
    return DataDisk(prestaged_disk(workshop / "xfs", "xfs"), workshop / "xfs.raw")


@pytest.fixture(scope="session")
def forks(workshop):
    with Forks(workshop / "bytecode") as started:
        yield started


@pytest.fixture
def judged(tmp_path, workshop, small_image, forks):
    """Runs all offline checks of the suite on a disk; what was installed on it is forgotten."""

    def judge(disk, *more):
        options = (*OFFLINE, *on(small_image), "--data-disk", disk.path, *more)
        try:
            return run_suite(forks, SUITE, tmp_path / "reports", workshop / "store", options)
        finally:
            shutil.rmtree(workshop / "store/installed", ignore_errors=True)

    return judge


@pytest.fixture(scope="session")
def installation(tmp_path_factory, workshop, small_image, ext4_disk, forks):
    """A store in which the suite finds what was installed on the unbroken disk: there it can be broken."""
    reports, store = tmp_path_factory.mktemp("reports"), workshop / "store-of-installation"
    options = ("-k", "test_installation", *OFFLINE, *on(small_image), "--data-disk", ext4_disk.path)
    found = run_suite(forks, SUITE, reports, store, options)
    assert found.exit_code == 0, found.said
    (made,) = store.glob("installed/*/installed.qcow2")
    base = workshop / "installed.raw"
    run(["qemu-img", "convert", "-O", "raw", made, base])
    return DataDisk(base, made)


@pytest.fixture
def judged_installation(tmp_path, workshop, small_image, ext4_disk, forks):
    """Runs all offline checks where the suite takes the broken disk for what it installed."""

    def judge(_):
        options = (*OFFLINE, *on(small_image), "--data-disk", ext4_disk.path)
        return run_suite(forks, SUITE, tmp_path / "reports", workshop / "store-of-installation", options)

    return judge


@pytest.fixture
def judged_code(tmp_path, store, ext4_disk, small_image, forks):
    """Runs checks of the suite on broken code: all offline ones, those of the seed's disk, or those that boot."""

    def judge(mutant):
        sabotage = ("-p", SABOTAGE, "--sabotage", mutant.name)
        chosen = {
            "code": (*OFFLINE, "-k", "test_configs", *on(small_image), "--data-disk", ext4_disk.path),
            "seed": SEED,
            "guest": ("-m", "boot and not nightly", "-k", mutant.asks),
        }[mutant.kind]
        return run_suite(forks, SUITE, tmp_path / "reports", store.root, (*sabotage, *chosen))

    return judge
