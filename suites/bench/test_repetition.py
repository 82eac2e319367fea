"""One boot-and-check test, a hundred times in four workers: a harness that fails once in a hundred is no judge."""

import statistics
import time

import pytest

from suites.harness.faults.driver import borrowed_store, run

pytestmark = [pytest.mark.boot, pytest.mark.nightly, pytest.mark.timeout(3600)]
TIMES = 100
WORKERS = 4


def test_a_hundred_of_a_hundred_pass(snapshot, store, tmp_path, told):
    """Each restores a machine of its own, asks it something by the channel and something by ssh."""
    shared = borrowed_store(store, tmp_path / "store")
    options = ("-n", str(WORKERS))
    started = time.monotonic()
    ran = run(["test_boot_and_check"], shared, snapshot.boot.accel.name, *options, REPETITIONS=str(TIMES))
    wall = time.monotonic() - started
    seconds = sorted(result["duration"] for result in ran.results.values())
    passed = sum(result["outcome"] == "passed" for result in ran.results.values())
    told(f"{passed} of {len(seconds)} passed, -n {WORKERS}", "least", "median", "most", "all")
    told("a test", *(f"{t:.2f} s" for t in (seconds[0], statistics.median(seconds), seconds[-1])), f"{wall:.0f} s")
    ran.assert_passed()
    assert len(seconds) == TIMES
