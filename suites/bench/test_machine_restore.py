"""What a fresh guest costs: booted from cold against restored from a snapshot, on this machine in this run.

Cold boots are what takes long here. IMAGE_HARNESS_BENCH_BOOTS=4 measures fewer of them beside each other than there are
restores, and counts them up.
"""

import os
import statistics
import sys
import time

import pytest

from harness.deadline import Deadline
from suites.bench.full_restore import fully_restored, private_memory, saved_in_full
from suites.bench.measuring import measure, step

RESTORES = 7
FASTER_BY_CHANNEL, FASTER_BY_SSH = 100, 20  # times, to the end of the first command
MEMORY_SHARE = 1 / 3  # of what a machine has for itself whose memory is read from a stream
FRESH_GUESTS, WORKERS = 32, 4
COLD_BOOTS = int(os.environ.get("IMAGE_HARNESS_BENCH_BOOTS", FRESH_GUESTS))
TIME_SHARE = 1 / 10  # of as many cold boots
MOST_CPU = 24 * 3600  # seconds; the test's own time limit ends it sooner
pytestmark = [pytest.mark.nightly, pytest.mark.boot, pytest.mark.timeout(3 * 3600)]

SUITE = """
import pytest

@pytest.mark.parametrize("number", range({restores}))
def test_restored(fresh_machine, number):
    assert fresh_machine.run("echo here").text == "here"

@pytest.mark.parametrize("number", range({boots}))
def test_booted(boots, number):
    with boots(f"bench-{{number}}") as machine:
        assert machine.run("echo here").text == "here"
"""


def first_commands(machine, started):
    """Seconds from `started` to the end of the first command by channel, and of the first one by ssh."""
    assert machine.run("echo here").text == "here"
    by_channel = time.monotonic() - started
    assert machine.shell.run("true", Deadline(120)).rc == 0
    return by_channel, time.monotonic() - started


def test_a_restored_guest_answers_100_times_sooner_than_a_booted_one(snapshot, boots, restores, accel, told):
    started = time.monotonic()
    with boots("bench-cold-boot") as machine:
        cold = first_commands(machine, started)
    warm = []
    for number in range(RESTORES):
        started = time.monotonic()
        with restores(snapshot, f"bench-restore-{number}") as machine:
            warm.append(first_commands(machine, started))
    by_channel, by_ssh = (statistics.median(column) for column in zip(*warm, strict=True))
    told(f"{accel.name}, median of {RESTORES}", "cold boot", "restore", "faster", "bar")
    told("first channel command", *compared(cold[0], by_channel, FASTER_BY_CHANNEL))
    told("first ssh command", *compared(cold[1], by_ssh, FASTER_BY_SSH))
    told("snapshot saved in", "", f"{snapshot.saving:.2f} s", "", "")
    assert cold[0] / by_channel >= FASTER_BY_CHANNEL
    assert cold[1] / by_ssh >= FASTER_BY_SSH


def compared(cold, warm, bar):
    return f"{cold:.2f} s", f"{warm:.3f} s", f"{cold / warm:.0f} x", f"{bar} x"


def test_a_restored_machine_has_a_third_of_the_memory_of_a_full_restore_to_itself(
    snapshot, restores, store, tmp_path, told
):
    """Two of each kind side by side: what both only map from the snapshot's file belongs to neither."""
    with restores(snapshot, "bench-memory-1") as first, restores(snapshot, "bench-memory-2") as second:
        assert [machine.run("echo here").text for machine in (first, second)] == ["here"] * 2
        ours = [private_memory(machine) for machine in (first, second)]
    stream = saved_in_full(snapshot, store, tmp_path)
    with (
        fully_restored(stream, store, tmp_path / "1") as first,
        fully_restored(stream, store, tmp_path / "2") as second,
    ):
        answers = [machine.channel.run("echo here", Deadline(120)).text for machine in (first, second)]
        assert answers == ["here"] * 2
        full = [private_memory(machine) for machine in (first, second)]
    share = max(ours) / min(full)
    told("private memory after the first command", "copy on write", "in full", "share", "bar")
    told("of each machine", f"{max(ours) / 2**20:.0f} MiB", f"{min(full) / 2**20:.0f} MiB", f"{share:.2f}", "<= 0.33")
    assert share <= MEMORY_SHARE


def test_fresh_guests_for_32_tests_take_a_tenth_of_the_time_of_cold_boots(snapshot, store, accel, tmp_path, told):
    """The same pytest command for both, from its start to its end; `snapshot` is asked for so that it is there."""
    suite = tmp_path / "test_fresh.py"
    suite.write_text(SUITE.format(restores=FRESH_GUESTS, boots=COLD_BOOTS))
    command = [sys.executable, "-m", "pytest", "-q", suite, "-n", WORKERS, "--dist=worksteal", "-p", "no:cacheprovider"]
    command += ["--import-mode=importlib", "--store", store.root, "--accel", accel.name]
    command += ["--image", snapshot.boot.image, "--rootdir", tmp_path, "--reports", tmp_path / "reports"]
    cost = {name: measure([step(*command, "-k", name)], MOST_CPU) for name in ("test_restored", "test_booted")}
    assert {name: each.failure for name, each in cost.items()} == {"test_restored": "", "test_booted": ""}
    warm, cold = cost["test_restored"].wall, cost["test_booted"].wall * FRESH_GUESTS / COLD_BOOTS
    counted = f"{COLD_BOOTS} booted" + ("" if COLD_BOOTS == FRESH_GUESTS else ", counted up")
    told(f"{FRESH_GUESTS} tests, -n {WORKERS}", "cold boots", "restores", "share", "bar")
    told(counted, f"{cold:.0f} s", f"{warm:.1f} s", f"{warm / cold:.3f}", "<= 0.100")
    told(
        "cores kept busy by others", *(f"{cost[name].others:.1f}" for name in ("test_booted", "test_restored")), "", ""
    )
    assert warm / cold <= TIME_SHARE
