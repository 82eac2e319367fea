"""What a fresh guest costs: booted from cold against restored from a snapshot, on this machine in this run."""

import statistics
import time

import pytest

from harness.deadline import Deadline

RESTORES = 5
TARGET = 15  # times that a restore must be faster, to the first ssh command
pytestmark = [pytest.mark.nightly, pytest.mark.boot, pytest.mark.timeout(1800)]


def first_commands(machine, started):
    """Seconds from `started` to the end of the first command by channel, and of the first one by ssh."""
    assert machine.run("echo here").text.strip() == "here"
    by_channel = time.monotonic() - started
    assert machine.shell.run("true", Deadline(120)).rc == 0
    return by_channel, time.monotonic() - started


def test_a_restored_guest_answers_15_times_sooner_than_a_booted_one(snapshot, boots, restores, accel, told):
    started = time.monotonic()
    with boots("bench-cold-boot") as machine:
        cold = first_commands(machine, started)
    warm = []
    for number in range(RESTORES):
        started = time.monotonic()
        with restores(snapshot, f"bench-restore-{number}") as machine:
            warm.append(first_commands(machine, started))
    by_channel, by_ssh = (statistics.median(column) for column in zip(*warm, strict=True))
    told(f"{accel.name}, median of {RESTORES}", "cold boot", "restore", "faster")
    told("first channel command", f"{cold[0]:.2f} s", f"{by_channel:.3f} s", f"{cold[0] / by_channel:.0f} x")
    told("first ssh command", f"{cold[1]:.2f} s", f"{by_ssh:.3f} s", f"{cold[1] / by_ssh:.0f} x")
    told("snapshot saved in", f"{snapshot.saving:.2f} s", "", "")
    assert cold[1] / by_ssh >= TARGET
