"""Whose turn it is to boot: as many cold boots at a time as the host has processors and memory for, over all processes.

Four guests booting on two cores under TCG need four times as long each, and run into deadlines that say nothing about
the image. Whoever waits here has not started its deadline yet.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from harness.machine.hardware.spec import MachineSpec
from harness.machine.memory import Pool, memory_to_boot
from harness.store import Store

log = logging.getLogger(__name__)


def turns_of(spec: MachineSpec) -> int:
    """How many machines of this kind may boot at the same time on this host."""
    return max(1, (os.cpu_count() or 1) // spec.cpus)


@contextmanager
def turn_to_boot(store: Store, spec: MachineSpec) -> Iterator[None]:
    """Wait for one of the turns, then for memory; given back at the end, or by the kernel when this process dies."""
    locks = [FileLock(store.root / "locks" / f"boot-turn-{number}") for number in range(turns_of(spec))]
    for lock in locks:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        break
    else:
        lock = locks[os.getpid() % len(locks)]
        log.warning("waiting for a turn to boot: %d may at a time", len(locks))
        lock.acquire()
    try:
        with Pool.of_host().claim(memory_to_boot(spec), spec.describe()):
            yield
    finally:
        lock.release()
