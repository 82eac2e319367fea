"""From the checkout to the tree that is committed: digests and modes must not depend on who checked it out."""

import os
import stat

import pytest

from harness.build.reference import DEFINITION, os_release, read_definition
from harness.build.sandbox import run_stage
from harness.build.tree import copy_checkout, digest_of_folder
from harness.errors import BuildFailed


@pytest.fixture
def checkout(tmp_path):
    top = tmp_path / "checkout"
    (top / "units").mkdir(parents=True)
    (top / "units/a.service").write_text("[Unit]\n")
    (top / "run.sh").write_text("#!/bin/sh\n")
    (top / "run.sh").chmod(0o755)
    (top / "link").symlink_to("run.sh")
    return top


def under_umask(top, umask):
    """The modes that git leaves with this umask."""
    for path in (top, *top.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod((0o777 if executable else 0o666) & ~umask)


def modes(top):
    return {str(path.relative_to(top)): path.stat().st_mode & 0o777 for path in top.rglob("*")}


@pytest.mark.parametrize("umask", [0o077, 0o002, 0o022])
def test_a_checkout_is_copied_alike_whatever_the_umask_was(checkout, tmp_path, umask):
    under_umask(checkout, umask)
    copy_checkout(checkout, tmp_path / "copy")
    assert modes(tmp_path / "copy") == {"units": 0o755, "units/a.service": 0o644, "run.sh": 0o755, "link": 0o755}


def test_a_digest_does_not_depend_on_umask_or_times(checkout):
    before = digest_of_folder(checkout)
    under_umask(checkout, 0o077)
    os.utime(checkout / "run.sh", (1, 1))
    (checkout / "__pycache__").mkdir()
    (checkout / "__pycache__/x.pyc").write_text("x")
    assert digest_of_folder(checkout) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda top: (top / "run.sh").write_text("#!/bin/bash\n"),
        lambda top: (top / "run.sh").chmod(0o644),
        lambda top: (top / "run.sh").rename(top / "ran.sh"),
        lambda top: (top / "new").write_text(""),
        lambda top: ((top / "link").unlink(), (top / "link").symlink_to("units")),
    ],
    ids=["content", "executable", "name", "new file", "symlink"],
)
def test_a_digest_sees_every_change_that_matters(checkout, change):
    before = digest_of_folder(checkout)
    change(checkout)
    assert digest_of_folder(checkout) != before


def test_a_stage_that_fails_says_why():
    with pytest.raises(BuildFailed, match=r"build stage filesystems:no_such_stage: .*no_such_stage"):
        run_stage("filesystems:no_such_stage", {}, 0)


def test_the_definition_promises_a_coreos_variant():
    settings = read_definition(DEFINITION)
    assert f"OSTREE_VERSION='{settings['version']}'" in settings["os_release"]
    assert "VARIANT_ID=coreos\n" in os_release("1.2")
    assert settings["epoch"] % 2 == 0, "FAT keeps time in steps of two seconds"
    assert settings["root_mib"] + 513 < settings["metal_mib"] < settings["virtual_mib"]
