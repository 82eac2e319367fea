"""What programs cost: CPU seconds with all their children, wall time, the largest memory, and what else the host did.

They are started by a small process of their own (this file, run as a script): memory is counted from the fork on, and
a child of pytest would begin with all that pytest holds.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

EVIDENCE = 300  # characters of what a failed program said


class Step(NamedTuple):
    """A pipeline: programs with their arguments, and the file that takes what the last one puts out."""

    pipeline: tuple[tuple[str, ...], ...]
    output: str = os.devnull


class Cost(NamedTuple):
    """What steps came to. `memory` is bytes, of a pipeline the sum; `others` is how many cores others kept busy.

    `failure` is empty, or why there is no result.
    """

    cpu: float
    wall: float
    memory: int
    others: float
    failure: str = ""


def step(*argv: object, output: object = os.devnull) -> Step:
    """One program."""
    return Step((tuple(map(str, argv)),), str(output))


def piped(*pipeline: Sequence[object], output: object = os.devnull) -> Step:
    """Programs, each reading what the one before it puts out."""
    return Step(tuple(tuple(map(str, argv)) for argv in pipeline), str(output))


def measure(steps: Sequence[Step], most: int) -> Cost:
    """Run steps one after another, each program for at most `most` CPU seconds; the first failure ends it."""
    done: list[Cost] = []
    for each in steps:
        asked = json.dumps([each.pipeline, each.output, most])
        command = [sys.executable, "-I", "-S", __file__]
        told = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
        found = Cost(*json.loads(told.stdout)) if told.returncode == 0 else Cost(0, 0, 0, 0, told.stderr[-EVIDENCE:])
        done.append(found)
        if found.failure:
            break
    wall = sum(cost.wall for cost in done)
    return Cost(
        sum(cost.cpu for cost in done),
        wall,
        max(cost.memory for cost in done),
        sum(cost.others * cost.wall for cost in done) / wall if wall else 0,
        done[-1].failure,
    )


def _run(pipeline: list[list[str]], output: str, most: int) -> Cost:
    busy, started = _busy(), time.monotonic()
    reading, complaints, running = None, [], []
    with open(output, "wb") as out:  # noqa: PTH123 - importing pathlib would be memory
        for argv in pipeline:
            is_last = argv is pipeline[-1]
            complaints.append(os.memfd_create("stderr"))
            process = subprocess.Popen(
                ["/usr/bin/prlimit", f"--cpu={most}:{most + 5}", *argv],
                stdin=reading or subprocess.DEVNULL,
                stdout=out if is_last else subprocess.PIPE,
                stderr=complaints[-1],
            )
            if reading:
                reading.close()
            reading = process.stdout
            running.append(process)
        cpu, memory, failure = 0.0, 0, ""
        for process, complaint in zip(running, complaints, strict=True):
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            cpu += used.ru_utime + used.ru_stime
            memory += used.ru_maxrss * 1024
            if process.returncode and not failure:
                failure = _said(process.returncode, complaint, most)
    wall = time.monotonic() - started
    return Cost(cpu, wall, memory, max(0.0, (_busy() - busy - cpu) / wall), failure)


def _said(code: int, complaint: int, most: int) -> str:
    if -code in (signal.SIGXCPU, signal.SIGKILL):
        return f"takes more than {most} CPU s"
    os.lseek(complaint, 0, os.SEEK_SET)
    with os.fdopen(complaint, errors="replace") as stream:
        lines = stream.read()[-EVIDENCE:].strip().splitlines()
    return lines[-1].strip() if lines else f"exit code {code}"


def _busy() -> float:
    """Seconds of all cores that were not idle, since the host started (proc(5), /proc/stat)."""
    with open("/proc/stat") as stat:  # noqa: PTH123
        user, nice, system, _idle, _wait, *interrupts = map(int, stat.readline().split()[1:9])
    return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    print(json.dumps(_run(*json.load(sys.stdin))))  # noqa: T201 - the answer
