"""Proof that suites/fcos can fail: exactly the right checks catch each mutant, and they name the cause."""

from dataclasses import replace

import pytest

from suites.harness.fcos_mutants import of_layers, of_live_isos
from suites.harness.fcos_mutants.archives import member
from suites.harness.fcos_mutants.checks import AGAIN, DEPLOYMENT, SCHEMAS
from suites.harness.fcos_mutants.conftest import OF_LAYERS, OFFLINE, SUITE
from suites.harness.fcos_mutants.isos import plain
from suites.harness.mutants.judge import assert_caught, collected, run_suite
from suites.harness.mutants.mutant import Mutants

MUTANTS = Mutants({**of_layers.MUTANTS, **of_live_isos.MUTANTS})
# Checks that no mutant fails, and why.
FLAVOUR = "test_flavour.py"
ITS_OWN = "asked of the disk and the ISO that the suite builds itself, out of what it compares them with"
BEYOND_MUTANTS = {
    f"{FLAVOUR}::test_disk_and_iso_have_the_commit_of_the_build": ITS_OWN,
    f"{FLAVOUR}::test_disk_has_what_overlays_brought": ITS_OWN,
    f"{FLAVOUR}::test_disk_has_what_the_layer_brought": ITS_OWN,
    DEPLOYMENT: "only the ISO from the store has a record of what it was built from, and its build cannot be broken",
}


@pytest.fixture(scope="module")
def offline_checks(forks, tmp_path_factory):
    """All of them, collected and not run."""
    return collected(forks, SUITE, *OFFLINE, "--reports", tmp_path_factory.mktemp("reports"))


def of_kind(*kinds):
    return [name for name, mutant in MUTANTS.items() if mutant.kind in kinds]


@pytest.mark.parametrize("name", of_kind("iso"))
def test_broken_iso_is_caught(name, iso, judged_iso):
    mutant = MUTANTS[name]
    mutant.damage(iso)
    found = judged_iso(iso.build())
    assert found.machines == ()
    assert_caught(found, mutant)


@pytest.mark.parametrize("name", of_kind("archive", "packed", "both"))
def test_broken_layering_is_caught(name, layered_image, judged_layers, pytestconfig):
    mutant = MUTANTS[name]
    if pytestconfig.getoption("corpus") is None and mutant.kind != "packed":  # what cannot be opened fails all
        mutant = replace(mutant, fails=mutant.fails - {SCHEMAS})
        if not mutant.fails:
            pytest.skip("the schemas that catch it are in the corpus: give its folder by --corpus")
    if mutant.kind == "packed":
        layered_image.packed()
        mutant.damage(layered_image)
    else:
        mutant.damage(layered_image)
        layered_image.packed()
    assert_caught(judged_layers(layered_image), mutant)


@pytest.mark.parametrize("name", of_kind("code"))
def test_broken_code_is_caught(name, judged_code):
    assert_caught(judged_code(MUTANTS[name]), MUTANTS[name])


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
def test_unbroken_iso_passes(packed, iso, judged_iso):
    """The control: nothing fails, and all is asked; the initrd's second archive may be packed or not."""
    if not packed:
        iso.pack = plain
    found = judged_iso(iso.build())
    assert found.failed == frozenset(), found.causes
    assert {name for name in found.results if found.outcome(name) == "skipped"} == {DEPLOYMENT}


def test_unbroken_layering_passes(layered_image, judged_layers, pytestconfig):
    """The control: of somebody's archives nobody can tell how to make them again."""
    layered_image.packed()
    found = judged_layers(layered_image)
    assert found.failed == frozenset(), found.causes
    of_corpus = {SCHEMAS} if pytestconfig.getoption("corpus") is None else set()
    assert {name for name in found.results if found.outcome(name) == "skipped"} == {AGAIN} | of_corpus


def test_folder_on_the_way_may_be_told_as_it_was(layered_image, judged_layers):
    """umoci does, by hand: the file that was put into it changed its time."""
    layered_image.put_layer(member("var", b"", type=b"5", mode=0o755), member())
    layered_image.packed()
    found = judged_layers(layered_image)
    assert found.failed == frozenset(), found.causes


def test_folders_of_layouts_can_be_judged_too(layered_image, forks, tmp_path, workshop):
    named = ("--base-archive", layered_image.base, "--layered-archive", layered_image.layout)
    found = run_suite(forks, OF_LAYERS, tmp_path / "reports", workshop / "store", (*OFFLINE, *named))
    assert found.failed == frozenset(), found.causes


def test_every_offline_check_is_failed_by_some_mutant(offline_checks):
    caught = {check for mutant in MUTANTS.values() for check in mutant.fails}
    assert caught <= offline_checks, f"no such checks: {sorted(caught - offline_checks)}"
    assert sorted(offline_checks - caught) == sorted(BEYOND_MUTANTS)


def test_every_mutant_says_what_it_does():
    assert [name for name, mutant in MUTANTS.items() if not mutant.words] == []
    assert len(MUTANTS) == len(of_layers.MUTANTS) + len(of_live_isos.MUTANTS)
