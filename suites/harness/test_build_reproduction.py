"""The proof of reproducibility, and that it is able to fail: the second build is real, so this is for the night."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time

import pytest

from harness.build import reproduction
from harness.build.reference import DEFINITION
from harness.build.reproduction import reproduce
from harness.errors import BuildFailed


@pytest.mark.parametrize("present, expected", [(True, True), (False, False)])
def test_only_what_can_be_perturbed_is_claimed(monkeypatch, tmp_path, present, expected):
    library = tmp_path / "libfaketime.so.1"
    if present:
        library.touch()
    monkeypatch.setattr(reproduction, "FALSE_CLOCK", library)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1} if present else {0})
    monkeypatch.setattr(os, "geteuid", lambda: 0 if present else 1000)
    words = reproduction._circumstances()
    assert {"directory", "umask", "zone", "locale"} <= set(words)
    assert {name in words for name in ("clock", "cores", "host")} == {expected}


@pytest.mark.parametrize("here, elsewhere", [("C", "C.UTF-8"), ("C.UTF-8", "C"), ("de_DE.UTF-8", "C")])
def test_the_locale_is_another_one(monkeypatch, here, elsewhere):
    monkeypatch.setenv("LC_ALL", here)
    assert reproduction._locale() == elsewhere


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_two_builds_in_different_circumstances_have_the_same_bytes(store, reference):
    again = reproduce(store, first=reference)
    assert again.differences == ()
    assert (again.equal, again.sha256_second) == (True, reference.sha256_qcow2)
    started = time.monotonic()
    assert reproduce(store, first=reference) == again
    assert time.monotonic() - started < 1, "remembered"


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_an_image_whose_bytes_are_others_is_told_by_partition_file_and_cause(store, reference, tmp_path):
    """One byte of one file, as a build that looks at something it must not look at would leave it."""
    planted = tmp_path / "entry/reference.qcow2"
    shutil.copytree(reference.path.parent, planted.parent)
    raw = tmp_path / "disk.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", planted, raw], check=True)
    at = raw.read_bytes()[: 600 * 2**20].index(b"# CONSOLE-SETTINGS-START")
    with raw.open("r+b") as disk:
        disk.seek(at + 2)
        disk.write(b"k")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", "compat=1.1", raw, planted], check=True)
    wrong = dataclasses.replace(reference, path=planted, sha256_qcow2="0" * 64)
    told = reproduce(store, first=wrong)
    assert not told.equal
    assert told.differences == ("boot /grub2/console.cfg: content: the first difference is at byte 2",)


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_changed_definition_is_not_called_irreproducible(store, reference, tmp_path):
    definition = tmp_path / "definition"
    shutil.copytree(DEFINITION, definition)
    (definition / "boot/grub2/more.cfg").write_text("# more\n")
    other = dataclasses.replace(reference, sha256_qcow2="1" * 64)
    with pytest.raises(BuildFailed, match="changed since the image was built"):
        reproduce(store, first=other, definition=definition)


@pytest.mark.nightly
def test_nothing_survives_the_death_of_who_asked(store, reference, tmp_path):
    code = (
        "import dataclasses; from pathlib import Path; from harness.store import Store\n"
        "from harness.build.reference import build_reference; from harness.build.reproduction import reproduce\n"
        f"store = Store(Path({str(store.root)!r})); first = build_reference(store)\n"
        "reproduce(store, first=dataclasses.replace(first, sha256_qcow2='2' * 64))"
    )
    asking = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    for _ in range(600):
        if children := second_builds(store):
            break
        time.sleep(0.1)
    asking.kill()
    asking.wait()
    for _ in range(50):
        if not second_builds(store):
            break
        time.sleep(0.1)
    assert children
    assert second_builds(store) == []
    with store.scratch("sweep"):
        assert not list((store.root / "scratch").glob("reproduction-*[!k]"))


def second_builds(store):
    """Processes whose command line is in a second build."""
    lines = subprocess.run(["ps", "-eo", "args"], check=True, capture_output=True, text=True).stdout.splitlines()
    return [line for line in lines if str(store.root / "scratch/reproduction-") in line]
