"""Proof that suites/prestage can fail: exactly the right checks catch each mutant, and they name the cause."""

import pytest

from suites.harness.mutants.judge import assert_caught, assert_refused, collected, run_suite
from suites.harness.mutants.mutant import Mutants
from suites.harness.prestage_mutants import (
    of_archives,
    of_configs,
    of_data_partition,
    of_guests,
    of_installation,
)
from suites.harness.prestage_mutants.checks import SEED
from suites.harness.prestage_mutants.conftest import OFFLINE, SUITE

MODULES = (of_archives, of_configs, of_data_partition, of_guests, of_installation)
MUTANTS = Mutants()
for module in MODULES:
    assert not MUTANTS.keys() & module.MUTANTS.keys()
    MUTANTS.update(module.MUTANTS)
# Checks that no mutant fails, and why.
BEYOND_MUTANTS: dict[str, str] = {}


@pytest.fixture(scope="module")
def offline_checks(forks, tmp_path_factory):
    """All of them, collected and not run."""
    return collected(forks, SUITE, *OFFLINE, "--reports", tmp_path_factory.mktemp("reports"))


def of_kind(*kinds):
    return [name for name, mutant in MUTANTS.items() if mutant.kind in kinds]


@pytest.mark.parametrize("name", of_kind("ext4", "xfs"))
def test_broken_disk_is_caught(name, request, judged):
    mutant = MUTANTS[name]
    found = judge_broken(request.getfixturevalue(f"{mutant.kind}_disk"), mutant, judged)
    if mutant.is_refused:
        assert_refused(found, mutant.cause)
    else:
        assert_caught(found, mutant)


@pytest.mark.parametrize("name", of_kind("installed"))
def test_broken_installation_is_caught(name, installation, judged_installation):
    mutant = MUTANTS[name]
    assert_caught(judge_broken(installation, mutant, judged_installation), mutant)


@pytest.mark.parametrize("name", of_kind("code", "seed"))
def test_broken_code_is_caught(name, judged_code):
    mutant = MUTANTS[name]
    assert_caught(judged_code(mutant), mutant)


@pytest.mark.nightly
@pytest.mark.boot
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", of_kind("guest"))
def test_booting_mutant_is_caught(name, judged_code):
    mutant = MUTANTS[name]
    assert_caught(judged_code(mutant), mutant)


@pytest.mark.parametrize("filesystem", ["ext4", "xfs"])
def test_unbroken_disk_passes(filesystem, request, judged):
    """The control: nothing fails, and all is asked but for what only the seed's disk can answer."""
    found = judged(request.getfixturevalue(f"{filesystem}_disk"))
    assert found.failed == frozenset(), found.causes
    assert {name for name in found.results if found.outcome(name) == "skipped"} == {SEED}
    assert found.machines == ()


def test_unbroken_installation_passes(installation, judged_installation):
    found = judged_installation(installation)
    assert found.failed == frozenset(), found.causes


def test_every_offline_check_is_failed_by_some_mutant(offline_checks):
    caught = {check for name, mutant in MUTANTS.items() if mutant.kind != "guest" for check in mutant.fails}
    assert caught <= offline_checks, f"no such checks: {sorted(caught - offline_checks)}"
    assert sorted(offline_checks - caught) == sorted(BEYOND_MUTANTS)


def test_checks_of_guests_are_marked(forks, offline_checks, tmp_path):
    """`-m 'not boot'` starts no machine, and leaves out nothing else."""
    booting = collected(forks, SUITE, "-m", "boot", "--reports", tmp_path)
    assert not booting & offline_checks
    files = {check.partition("::")[0] for check in booting}
    assert files == {"test_accidents.py", "test_discovery.py", "test_installation.py"}
    assert {check.partition("::")[0] for check in offline_checks} & files == {"test_installation.py"}


def test_a_disk_too_small_for_the_image_skips_what_installs_and_says_why(forks, ext4_disk, reference, store, tmp_path):
    """Somebody's second disk: nobody named an image, so the reference image would be installed."""
    assert reference.path.exists()
    found = run_suite(forks, SUITE, tmp_path, store.root, (*OFFLINE, "--data-disk", ext4_disk.path))
    assert found.failed == frozenset(), found.causes
    skipped = {name: found.results[name].cause for name in found.results if found.outcome(name) == "skipped"}
    assert skipped.pop(SEED) == "the disk under test is not the seed's"
    assert {name.partition("::")[0] for name in skipped} == {"test_installation.py"}
    assert {"cannot be installed onto this disk" in cause for cause in skipped.values()} == {True}


def test_the_partition_may_have_another_label(xfs_disk, judged):
    try:
        xfs_disk.sgdisk("-c", "1:images")
        found = judged(xfs_disk, "--data-label", "images")
    finally:
        xfs_disk.restore()
    assert found.failed == frozenset(), found.causes


def test_every_mutant_says_what_it_does():
    assert [name for name, mutant in MUTANTS.items() if not mutant.words] == []


def judge_broken(disk, mutant, judged):
    """What the suite says of the broken disk, which is whole again afterwards."""
    try:
        mutant.damage(disk)
        return judged(disk)
    finally:
        disk.restore()
