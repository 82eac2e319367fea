"""Waiting for systemd: a guest is up when no job of its start-up is left, not when somebody answers.

What is still being started then may be the very thing that a test is about, and a snapshot would keep it half done.
"""

from __future__ import annotations

from collections.abc import Callable

from harness.deadline import Deadline, overdue
from harness.machine.guest.channel import Channel

GRACE = 15.0  # seconds for the guest's own limit to end the wait before ours does, so that it can say what it waits for
JOBS_SHOWN = 5

# Before 240 `is-system-running` does not know --wait and answers at once (systemd's NEWS), hence the loop.
SETTLE = """
timeout {seconds} bash -c '
    while state=$(systemctl is-system-running --wait); [[ $state == initializing || $state == starting ]]; do
        sleep 1
    done
'
(($? == 124)) || exit 0
systemctl list-jobs --no-legend --plain
exit 124
"""


def settle(channel: Channel, deadline: Deadline, check: Callable[[], None] = lambda: None) -> None:
    """Wait until systemd has finished starting up, whether all went well (`running`) or not (`degraded`).

    Raises DeadlinePassed naming the jobs that are left, and what `Channel.run` raises.
    """
    seconds = max(1, int(deadline.left - GRACE))
    done = channel.run(SETTLE.format(seconds=seconds), deadline.at_most(seconds + GRACE), check)
    if done.rc == 124:
        waited = f"waited {deadline.seconds:.0f} s for systemd to finish starting up"
        raise overdue(f"{waited}; still to be done: {_told(done.text)}", where="guest")


def _told(jobs: str) -> str:
    """Lines of `systemctl list-jobs` (number, unit, type, state) in a few words, those that run first."""
    rows = [fields for line in jobs.splitlines() if len(fields := line.split()) == 4]
    rows.sort(key=lambda fields: fields[3] != "running")
    told = [f"{unit} ({kind} {state})" for _, unit, kind, state in rows[:JOBS_SHOWN]]
    more = [f"{len(rows) - JOBS_SHOWN} more"] if len(rows) > JOBS_SHOWN else []
    return ", ".join(told + more) or "nothing that it lists"
