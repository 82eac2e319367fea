"""A machine nobody has touched: restored from its first boot, or booted anew where QEMU cannot save such a machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness.deadline import Deadline
from harness.machine.machine import Machine, booted
from harness.machine.snapshot import Snapshot, restored
from harness.machine.turns import turn_to_boot
from harness.store import Store


@contextmanager
def fresh(
    snapshot: Snapshot,
    store: Store,
    logs: Path,
    *,
    restore_time: float,
    boot_time: float,
    allowed: Sequence[str] = (),
) -> Iterator[Machine]:
    """A machine as after its first boot; at the end it is killed and thrown away.

    `restore_time` and `boot_time` are seconds; those of a boot count from its turn (harness.machine.turns).
    Raises what `restored` and `booted` raise.
    """
    spec = snapshot.boot.spec
    with ExitStack() as stack:
        if snapshot.is_saved:
            yield stack.enter_context(restored(snapshot, store, logs, Deadline(restore_time), allowed=allowed))
            return
        with turn_to_boot(store, spec):  # given back once it has booted: others may boot beside it
            machine = stack.enter_context(booted(snapshot.boot, store, logs, Deadline(boot_time), allowed=allowed))
        yield machine
        machine.process.kill()
