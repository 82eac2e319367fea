"""A guest that floods its console: the harness's memory and log stay bounded, and the guest remains usable.

50 MB go straight into the console's socket. The guest itself sends one: its emulated serial port passes on 100 kB/s,
so that 50 MB would take it ten minutes, in which nothing else would be learnt.
"""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.machine.console.console import Console
from harness.machine.console.log import FULL, LIMIT

MB = 10**6
FLOOD = 50 * MB
MOST_MEMORY = 40 * MB  # that the harness may take for it; without bounds it would be more than the flood
BURSTS = {
    "lines": b"the quick brown fox jumps over the lazy dog, again and again, and never gets tired\r\n" * 800,
    "one endless line": b"x" * 65536,
    "shortest lines": b"y\r\n" * 20000,
    "kernel lines": b"[   12.345678] random: crng init done, and so on and so forth until the line is full\r\n" * 800,
    "bad lines": b"[   12.345678] WARNING: CPU: 1 PID: 77 at kernel/workqueue.c:3167 __flush_work+0x1a/0x20\r\n" * 800,
    "escape sequences": b"\x1b[2J\x1b[31;1mred\x1b[0m\x1b]0;title\x07" * 2500,
}


def memory(field: str) -> int:
    """Bytes: VmRSS now, VmHWM at most since the mark was reset."""
    return int(re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def reset_high_water_mark() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return memory("VmRSS")


@pytest.mark.parametrize("burst", BURSTS.values(), ids=BURSTS)
def test_a_flood_costs_bounded_memory_and_log(tmp_path, burst):
    size = FLOOD if burst is BURSTS["lines"] else FLOOD // 10
    log = tmp_path / "console.log"
    ours, theirs = socket.socketpair()
    before = reset_high_water_mark()
    with theirs, Console(ours, log) as console:
        for _ in range(size // len(burst)):
            theirs.sendall(burst)
        theirs.sendall(b"\x07\r\nlocalhost login: ")
        assert console.wait_for("^localhost login: $", Deadline(60)) == "localhost login: "
        assert console.expect("login: $", Deadline(60)) == 0
    assert memory("VmHWM") - before < MOST_MEMORY
    assert log.stat().st_size <= LIMIT + len(FULL) + 100


def test_a_log_ends_at_its_limit_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.machine.console.log.LIMIT", MB)
    log = tmp_path / "console.log"
    ours, theirs = socket.socketpair()
    with theirs, Console(ours, log) as console:
        for _ in range(3 * MB // len(BURSTS["lines"])):
            theirs.sendall(BURSTS["lines"])
        theirs.sendall(b"the end\r\n")
        console.wait_for("^the end$", Deadline(60))
    assert MB // 2 < log.stat().st_size < MB + 200
    assert log.read_text().endswith(f"{FULL}\n")


@pytest.mark.parametrize("log", ["/dev/full", "/nowhere/console.log"])
def test_a_log_that_cannot_be_written_does_not_stop_the_guest(log):
    ours, theirs = socket.socketpair()
    with theirs, Console(ours, Path(log)) as console:
        for _ in range(100):
            theirs.sendall(BURSTS["lines"])
        theirs.sendall(b"still here\r\n")
        assert console.wait_for("^still here$", Deadline(10)) == "still here"


GUEST_FLOOD = MB
PATIENCE = 20.0  # seconds a command may take meanwhile


def test_a_guest_that_floods_its_console_still_answers_by_the_channel(fresh_machine):
    line = BURSTS["lines"][:82].decode()
    flood = f"yes '{line}' | head -c {GUEST_FLOOD} >/dev/ttyS0; touch /run/flooded"
    before, started = reset_high_water_mark(), time.monotonic()
    fresh_machine.run(f"( {flood} ) </dev/null >/dev/null 2>&1 &")
    slowest, is_over = 0.0, False
    while not is_over:
        asked = time.monotonic()
        is_over = fresh_machine.run("sleep 0.5; test -e /run/flooded", Deadline(PATIENCE)).rc == 0
        slowest = max(slowest, time.monotonic() - asked)
    assert time.monotonic() - started < 120, f"the slowest answer took {slowest:.1f} s"
    assert memory("VmHWM") - before < MOST_MEMORY
    assert fresh_machine.console.log_path.stat().st_size > GUEST_FLOOD
