"""Extraction into container storage: our script against the prototype's sequential loop, on this host, in the same run.

Ours verifies, flushes after every image and survives power cuts; the loop does none of that.
"""

import time

import pytest

from suites.bench.sequential_extraction import sequential
from suites.harness.prestaged import Guest, write_folder

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]
COUNT = 24
ROUNDS = 3


def test_our_extraction_and_the_sequential_loop(tmp_path, told):
    folder = tmp_path / "folder"
    references = write_folder(folder, COUNT, size=1_000_000, shared=8)
    listed = folder / "ai-images.txt"
    ways = {
        "sequential loop": lambda _: sequential(folder, listed),
        "ours, 1 job": lambda guest: guest.script(folder, "--jobs", 1),
        "ours, 2 jobs": lambda guest: guest.script(folder, "--jobs", 2),
    }
    seconds = {way: [] for way in ways}
    for turn in range(ROUNDS):
        for way, command in ways.items():
            root = tmp_path / f"{way} {turn}".replace(" ", "-").replace(",", "")
            root.mkdir()
            guest = Guest(root)
            started = time.monotonic()
            done = guest.run(*command(guest))
            seconds[way].append(time.monotonic() - started)
            assert done.returncode == 0, done.stderr
            assert set(references) <= set(guest.names())
            assert guest.problems() == []
    told(f"{COUNT} images of 2 MB", "least", "median", "most")
    for way, found in seconds.items():
        told(way, *(f"{value:.1f} s" for value in (min(found), sorted(found)[ROUNDS // 2], max(found))))
