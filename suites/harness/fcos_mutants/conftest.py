"""Layered images and live ISOs to break, and the suite that judges them."""

import pytest

from suites.harness.fcos_mutants.archives import LayeredImage
from suites.harness.fcos_mutants.isos import LOADER, LiveIso, efi_image, small_squashfs
from suites.harness.mutants.forks import Forks
from suites.harness.mutants.judge import run_suite

SUITE = "suites/fcos"
OF_ISOS, OF_LAYERS = f"{SUITE}/test_live_iso.py", f"{SUITE}/test_layering.py"
SABOTAGE = "suites.harness.fcos_mutants.sabotage"
OFFLINE = ("-m", "not boot and not nightly")


@pytest.fixture(scope="session")
def workshop(store):
    """Where this process breaks what it built."""
    with store.scratch("mutants") as folder:
        yield folder


@pytest.fixture(scope="session")
def forks(workshop):
    with Forks(workshop / "bytecode") as started:
        yield started


@pytest.fixture(scope="session")
def parts(workshop):
    """What takes programs to make: a root filesystem and an EFI image."""
    folder = workshop / "parts"
    folder.mkdir()
    return small_squashfs(folder), efi_image(folder, {LOADER: b"MZ" + bytes(510)})


@pytest.fixture
def iso(parts, tmp_path):
    """A live ISO to be broken before it is built."""
    return LiveIso(tmp_path, *parts)


@pytest.fixture
def layered_image(tmp_path):
    return LayeredImage(tmp_path)


@pytest.fixture
def judged_iso(tmp_path, workshop, forks):
    """Runs all offline checks of live ISOs on one."""

    def judge(path):
        return run_suite(forks, OF_ISOS, tmp_path / "reports", workshop / "store", (*OFFLINE, "--image", path))

    return judge


@pytest.fixture
def judged_layers(tmp_path, workshop, forks, pytestconfig):
    """Runs all checks of added layers on a packed image; with OCI's schemas where the corpus is given."""
    given = pytestconfig.getoption("corpus")
    corpus = ("--corpus", given.absolute()) if given else ()

    def judge(image):
        archives = ("--base-archive", image.folder / "base.ociarchive")
        archives += ("--layered-archive", image.folder / "layered.ociarchive", "--layer-files", image.files)
        return run_suite(forks, OF_LAYERS, tmp_path / "reports", workshop / "store", (*OFFLINE, *archives, *corpus))

    return judge


@pytest.fixture
def judged_code(tmp_path, workshop, forks):
    """Runs all checks of added layers where broken code adds them."""

    def judge(mutant):
        options = (*OFFLINE, "-p", SABOTAGE, "--sabotage", mutant.name)
        return run_suite(forks, OF_LAYERS, tmp_path / "reports", workshop / "store", options)

    return judge
