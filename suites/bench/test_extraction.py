"""Extraction into container storage: our script against the prototype's sequential loop, in turns, on host and guest.

Ours verifies, flushes, marks, tags and survives power cuts; the loop does none of that.
"""

import os
import shlex
import statistics
import time

import pytest

from harness.deadline import Deadline
from harness.prestage.guest.stage_units import SCRIPT_PATH
from suites.bench.sequential_extraction import sequential
from suites.harness.prestaged import Guest, needs_store, write_folder

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(3600)]
COUNT = 24
ROUNDS = 3
LOOP = "sequential loop"
MOUNTED, LISTED, STATE = "/mnt", "/var/tmp/list", "/var/lib/prestage-bench"
EMPTY = f"podman rmi --all --force; rm -rf {STATE}; sync"
TIMED = 'begin=$EPOCHREALTIME; {} >&2; code=$?; echo "$begin $EPOCHREALTIME $code"'


def tell(told, what, seconds):
    """The table of one place; how many times as fast as the loop is of medians."""
    loop = statistics.median(seconds[LOOP])
    told(what, "least", "median", "most", "times as fast")
    for way, found in seconds.items():
        middle = statistics.median(found)
        told(way, *(f"{value:.1f} s" for value in (min(found), middle, max(found))), f"{loop / middle:.2f}")
    told("load of the host at the end", "", f"{os.getloadavg()[0]:.1f}", "", "")


@needs_store
def test_our_extraction_and_the_sequential_loop_on_this_host(tmp_path, told):
    folder = tmp_path / "folder"
    references = write_folder(folder, COUNT, size=1_000_000, shared=8)
    listed = folder / "ai-images.txt"
    ways = {
        LOOP: lambda _: sequential(folder, listed),
        "ours, 1 job": lambda guest: guest.script(folder, "--jobs", 1),
        "ours, default": lambda guest: guest.script(folder, "--jobs", 0),
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
    tell(told, f"{COUNT} images of 2 MB, on the host", seconds)


@pytest.mark.boot
def test_our_extraction_and_the_sequential_loop_in_a_guest(restores, discovery, prestaged, data_label, told):
    """The images of both stages, from the pre-staged partition into the emptied storage of one machine."""
    references = [str(each.reference) for each in prestaged.folder.images.images]
    ours = [SCRIPT_PATH, "--state", STATE]
    ways = {
        LOOP: sequential(MOUNTED, LISTED),
        "ours, 1 job": [*ours, "--jobs", "1", MOUNTED, LISTED],
        "ours, default": [*ours, MOUNTED, LISTED],
    }
    seconds = {way: [] for way in ways}
    with restores(discovery, "bench-extraction") as machine:
        machine.guest.check_output(f"mount /dev/disk/by-partlabel/{data_label} {MOUNTED}")
        machine.run(f"printf '%s\\n' {' '.join(references)} >{LISTED}")
        for _ in range(ROUNDS):
            for way, command in ways.items():
                machine.run(EMPTY, Deadline(300))
                done = machine.run(TIMED.format(shlex.join(command)), Deadline(600))
                begin, end, code = done.text.split()[-3:]
                assert code == "0", f"{way}: {done}"
                seconds[way].append(float(end) - float(begin))
                found = machine.guest.check_output("podman images --format '{{.ID}}' | sort -u | wc -l")
                assert int(found) == len(references)
    tell(told, f"{len(references)} images, in a guest", seconds)
