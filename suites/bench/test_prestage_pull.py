"""What pulling a release costs: ours against the loop of the seed's scripts, in this run and from the same registry.

The loop is theirs: for each line `skopeo copy docker://... dir:...`, then `tar czf`, then the folder is removed.
"""

import os
import resource
import shutil
import subprocess
import time

import pytest

from harness.prestage.archives.pull import Options, pull
from harness.prestage.archives.verify import verify

ROUNDS = 3
pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]


def loop(release, folder):
    """The scripts' loop over all images, without their typing errors."""
    folder.mkdir()
    for each in release.images.images:
        stem = each.reference.archive
        copy = ["skopeo", "--registries-conf", release.registries_conf, "copy", "--quiet", f"docker://{each.reference}"]
        subprocess.run([*copy, f"dir:{folder / stem}"], check=True)
        subprocess.run(["tar", "-C", folder, "-czf", folder / f"{stem}.tgz", stem], check=True)
        shutil.rmtree(folder / stem)


def ours(jobs):
    return lambda release, folder: pull(release.images, folder, Options(release.access, jobs=jobs))


def measured(way, release, folder):
    before = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    started = time.monotonic()
    way(release, folder)
    seconds = time.monotonic() - started
    after = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(b.ru_utime + b.ru_stime - a.ru_utime - a.ru_stime for a, b in zip(before, after, strict=True))
    return seconds, cpu


def test_a_release_is_pulled_sooner_than_by_the_scripts_loop(release_registry, tmp_path, told):
    ways = {"the scripts' loop": loop, "ours, 1 job": ours(1), "ours, 4 jobs": ours(4)}
    found = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name, way in ways.items():
            folder = tmp_path / f"{name}-{number}"
            found[name].append(measured(way, release_registry, folder))
            if way is not loop:
                assert all(each.is_whole for each in verify(folder))
            shutil.rmtree(folder)
    best = {name: min(runs) for name, runs in found.items()}
    theirs = best["the scripts' loop"][0]
    load = f"(load {os.getloadavg()[0]:.1f})"
    told(f"{len(release_registry.images.images)} images", "seconds", "CPU s", "times", load)
    for name, (seconds, cpu) in best.items():
        told(name, f"{seconds:.1f}", f"{cpu:.1f}", f"{theirs / seconds:.2f}", "")
    assert best["ours, 4 jobs"][0] < theirs
