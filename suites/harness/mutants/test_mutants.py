"""Proof that suites/rhcos can fail: exactly the right checks catch each mutant, and they name the cause."""

import pytest

from harness.images.block import Part
from harness.images.difference.differing import differing
from harness.images.formats.raw import FileBlock
from suites.harness.mutants import (
    of_boot_configuration,
    of_file,
    of_filesystems,
    of_identity,
    of_partition_table,
    of_running_system,
)
from suites.harness.mutants.judge import OF_THE_HARNESS, assert_caught, assert_refused, offline_checks
from suites.harness.mutants.mutant import MUTANTS

MODULES = (
    of_boot_configuration,
    of_file,
    of_filesystems,
    of_identity,
    of_partition_table,
    of_running_system,
)
OFFLINE = [name for name, mutant in MUTANTS.items() if not mutant.asks]
BOOTING = [name for name, mutant in MUTANTS.items() if mutant.asks]
# Checks that no broken image can fail, and why.
BEYOND_MUTANTS = {
    OF_THE_HARNESS: "judges the harness's own editing",
    "test_qcow2.py::test_qcow2_has_no_backing_file": "an overlay is refused before any check: file_has_a_backing_file",
    "test_checksums.py::test_a_second_build_gives_the_same_image": "builds; suites/harness/test_reproduction.py",
    "test_checksums.py::test_file_is_what_the_build_recorded": "only the image from the store has a record",
}


@pytest.mark.parametrize("name", OFFLINE)
def test_mutant_is_caught(name, request, judged):
    mutant = MUTANTS[name]
    copy = request.getfixturevalue("disk_to_break" if mutant.kind == "disk" else "file_to_break")
    found = judge_broken(copy, mutant, judged)
    assert found.machines == ()
    if mutant.is_refused:
        assert_refused(found, mutant.cause)
    else:
        assert_caught(found, mutant)


@pytest.mark.nightly
@pytest.mark.boot
@pytest.mark.parametrize("name", BOOTING)
def test_booting_mutant_is_caught(name, disk_to_break, judged):
    mutant = MUTANTS[name]
    assert_caught(judge_broken(disk_to_break, mutant, judged), mutant)


def test_unbroken_copies_pass(disk_to_break, file_to_break, judged):
    """The control: nothing fails, and all that mutants can fail is asked."""
    of_disk = judged(disk_to_break.path)
    of_file = judged(file_to_break.path, published=True)
    assert (of_disk.failed, of_file.failed) == (frozenset(), frozenset()), of_disk.causes + of_file.causes
    skipped = {name for name in of_file.results if of_file.outcome(name) == "skipped"}
    assert skipped <= BEYOND_MUTANTS.keys(), {name: of_file.results[name].cause for name in skipped}


def test_restored_copy_is_the_reference_again(disk_to_break, file_to_break):
    for copy, name in ((disk_to_break, "config_of_an_image_is_damaged"), (file_to_break, "dirty_bit_is_set")):
        MUTANTS[name].damage(copy)
        assert differ(copy)
        copy.restore()
        assert not differ(copy)


def test_every_offline_check_is_failed_by_some_mutant(forks, reference, tmp_path):
    caught = {check for name in OFFLINE for check in MUTANTS[name].fails}
    asked = offline_checks(forks, reference.path, tmp_path)
    assert caught <= asked, f"no such checks: {sorted(caught - asked)}"
    assert sorted(asked - caught) == sorted(BEYOND_MUTANTS)


def test_every_mutant_says_what_it_does():
    assert {mutant.damage.__module__ for mutant in MUTANTS.values()} == {module.__name__ for module in MODULES}
    assert [name for name, mutant in MUTANTS.items() if not mutant.words] == []


@pytest.mark.parametrize(
    "content, cause",
    [
        (b"This is no disk image.\n" * 400, "is not a disk image: starts with the text"),
        (b"", r"is empty \(0 bytes\)"),
        (None, "is a directory, not a disk image"),
    ],
    ids=["text file", "empty file", "directory"],
)
def test_what_is_no_image_is_refused_in_one_line(content, cause, tmp_path, judged):
    path = tmp_path / "image.qcow2"
    path.mkdir() if content is None else path.write_bytes(content)
    assert_refused(judged(path), cause)


def judge_broken(copy, mutant, judged):
    """What the suite says of the broken copy, which is whole again afterwards."""
    try:
        mutant.damage(copy)
        return judged(copy.path, published=mutant.is_published, asks=mutant.asks)
    finally:
        copy.restore()


def differ(copy):
    with FileBlock(copy.path) as path, FileBlock(copy.base) as base:
        assert path.size == base.size
        return any(differing(Part(path, 0, path.size, "copy"), Part(base, 0, base.size, "base")))
