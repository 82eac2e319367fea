"""Memory for machines, shared by processes that know nothing of each other: real processes, small numbers."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.machine import memory
from harness.machine.hardware.spec import MachineSpec
from harness.machine.memory import Pool, available_memory, memory_to_boot, memory_to_restore

SOON = 10.0
HOST = 100  # MiB that the host of these tests has; its machines never come to use what they were granted

# A process that does what it is told on standard input and says when it has: "30" claims so much, "release" gives the
# last claim back, "use 30" starts a child that comes to use so much, "end" ends it.
PROGRAM = """
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from harness.machine import memory
pool = memory.Pool(Path(sys.argv[1]), available=lambda: 100, reserve=0)
memory.PATIENCE_HOLDING = memory.PATIENCE = float(sys.argv[2])
held = []
for line in sys.stdin:
    if line.startswith("release"):
        held.pop().close()
    elif line.startswith("use"):
        machine = [sys.executable, "-c", f"x = b'x' * ({line.split()[1]} << 20); print(flush=True); input()"]
        child = subprocess.Popen(machine, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
    elif line.startswith("end"):
        child.communicate(b"\\n")
    else:
        held.append(ExitStack())
        held[-1].enter_context(pool.claim(int(line), "a machine"))
    print("done", flush=True)
"""


class Claimant:
    """One such process."""

    def __init__(self, folder: Path, patience: float) -> None:
        command = [sys.executable, "-u", "-c", PROGRAM, folder, str(patience)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        os.set_blocking(self.process.stdout.fileno(), False)

    def tell(self, line: object) -> None:
        self.process.stdin.write(f"{line}\n")

    def is_done(self, within: float = SOON) -> bool:
        """Whether it has done what it was told."""
        until = time.monotonic() + within
        while not (said := self.process.stdout.readline()) and time.monotonic() < until:
            time.sleep(0.02)
        return said == "done\n"

    def does(self, line: object) -> bool:
        self.tell(line)
        return self.is_done()

    gets = does

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "pool").mkdir()
    return tmp_path / "pool"


@pytest.fixture
def start(folder) -> Iterator[Callable[..., Claimant]]:
    """Starts processes that share a pool."""
    started = []

    def claimant(patience: float = 1000) -> Claimant:
        started.append(Claimant(folder, patience))
        return started[-1]

    yield claimant
    for each in started:
        with each.process:
            each.kill()


def is_waiting(folder: Path, count: int = 1) -> bool:
    until = time.monotonic() + SOON
    while len(list(folder.glob("ticket-*"))) < count and time.monotonic() < until:
        time.sleep(0.02)
    return len(list(folder.glob("ticket-*"))) == count


def test_who_does_not_fit_waits_until_another_gives_back(start, folder):
    first, second = start(), start()
    assert first.gets(60)
    second.tell(60)
    assert is_waiting(folder)
    assert not second.is_done(within=0.5)
    first.tell("release")
    assert first.is_done()
    assert second.is_done()


def test_who_fits_does_not_wait(start):
    assert all(start().gets(30) for _ in range(3))


def test_the_kernel_gives_back_what_a_killed_process_held(start, folder):
    first, second = start(), start()
    assert first.gets(80)
    second.tell(80)
    assert is_waiting(folder)
    first.kill()
    assert second.is_done()
    assert len(list(folder.glob("claim-*"))) == 1


def test_who_is_killed_in_line_does_not_hold_up_the_next(start, folder):
    first, second, third = start(), start(), start()
    assert first.gets(80)
    second.tell(80)
    assert is_waiting(folder)
    third.tell(80)
    assert is_waiting(folder, 2)
    second.kill()
    first.tell("release")
    assert third.is_done()


def test_first_come_first_served_even_if_the_second_would_fit(start, folder):
    first, big, small = start(), start(), start()
    assert first.gets(50)
    big.tell(80)
    assert is_waiting(folder)
    small.tell(10)
    assert is_waiting(folder, 2)
    assert not small.is_done(within=0.5)
    first.tell("release")
    assert big.is_done()
    assert small.is_done()


def test_a_machine_larger_than_the_host_may_be_tried_alone(start):
    assert start().gets(1000)


def test_processes_that_hold_and_want_more_do_not_wait_for_each_other(start):
    """Each holds the machine it shares among its tests and wants a fresh one: nobody would ever give back."""
    first, second = start(), start()
    assert first.gets(45)
    assert second.gets(45)
    first.tell(45)
    second.tell(45)
    assert first.is_done() or second.is_done()


def test_who_holds_memory_goes_on_when_nothing_changes(start):
    """The other may be waiting for a lock of ours."""
    first, second = start(), start(patience=0.5)
    assert first.gets(45)
    assert second.gets(45)
    assert second.gets(45)


def test_eight_workers_on_a_host_for_three_never_have_more(start, folder):
    workers = [start() for _ in range(8)]
    for worker in workers:
        worker.tell(30)
    served = 0
    until = time.monotonic() + 60
    while served < len(workers) and time.monotonic() < until:
        assert len(list(folder.glob("claim-*"))) <= HOST // 30
        for worker in [each for each in workers if each.is_done(within=0)]:
            served += 1
            worker.tell("release")
            assert worker.is_done()
    assert served == len(workers)


def test_waiting_is_said_once(start, folder, caplog, monkeypatch):
    monkeypatch.setattr(memory, "POLL", 0.01)
    monkeypatch.setattr(memory, "PATIENCE", 0.3)
    other = start()
    assert other.gets(80)
    with caplog.at_level(logging.WARNING), Pool(folder, lambda: HOST, 0).claim(40, "a restored machine"):
        pass
    assert caplog.messages == ["waiting for memory: a restored machine needs 40 MiB, 100 are available"]


def test_what_a_machine_has_come_to_use_is_not_counted_twice(start, folder):
    """Available memory is less by it already."""
    owner, pool = start(), Pool(folder, lambda: 40, 0)
    assert owner.gets(60)
    assert owner.does("use 60")
    assert pool._fits(40, pool._notes("claim"))
    assert not pool._fits(45, pool._notes("claim"))
    assert owner.does("end")
    assert not pool._fits(40, pool._notes("claim"))


def test_the_host_has_one_pool_for_all_stores():
    assert Pool.of_host() == Pool.of_host()
    assert Pool.of_host().folder.stat().st_mode & 0o777 == 0o700


@pytest.fixture
def stranger(monkeypatch) -> Iterator[int]:
    """Who we seem to be; what is made is not his."""
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    yield 4_000_000_000
    Path("/dev/shm/image-harness-4000000000").rmdir()


def test_a_strangers_folder_is_refused(stranger):
    with pytest.raises(StoreError, match=rf"image-harness-{stranger}: is not a folder of ours \(remove it\)"):
        Pool.of_host()


def test_the_host_tells_what_is_available():
    assert 0 < available_memory() < 2**30


def test_a_restored_machine_takes_a_fraction_of_a_booted_one():
    spec = MachineSpec(memory=1024)
    assert memory_to_restore(spec) < memory_to_boot(spec) / 5
