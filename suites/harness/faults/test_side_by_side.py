"""Two pytest runs at once on one store that knows no snapshot yet: one boots, the other waits for it, both restore."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from suites.harness.faults.driver import assert_nothing_is_left, borrowed_store, processes_of, start, told_by

pytestmark = [pytest.mark.boot, pytest.mark.nightly, pytest.mark.timeout(1800)]
BOOT_LIMIT = 1200  # seconds; both share the processors with whatever else runs


@contextmanager
def cold_boots_of(store: Path) -> Iterator[set[int]]:
    """The process ids of all QEMUs on this store, meanwhile, that boot instead of restoring."""
    seen: set[int] = set()
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.1):
            seen.update(pid for pid, line in processes_of(store).items() if is_cold_boot(line))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        is_over.set()
        watcher.join()


def is_cold_boot(line: str) -> bool:
    """A machine that is given an Ignition config and no state; the trial of an accelerator gets no config."""
    is_machine = "qemu-system" in line.partition(" ")[0] and "opt/com.coreos/config" in line
    return is_machine and "-incoming" not in line


def test_two_runs_boot_once(reference, store, accel, tmp_path):
    shared = borrowed_store(store, tmp_path / "store", without=["snapshot"])
    started = time.monotonic()
    with cold_boots_of(shared) as booted:
        runs = [start(["test_machine_answers"], shared, accel.name) for _ in range(2)]
        printed = [run.communicate(timeout=BOOT_LIMIT)[0].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], "\n".join(printed)
    told_by(shared, printed[0]).assert_passed()
    assert len(booted) == 1, f"{len(booted)} cold boots in {time.monotonic() - started:.0f} s"
    assert len(list((shared / "snapshot").iterdir())) == 1
    assert_nothing_is_left(shared)
