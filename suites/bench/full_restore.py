"""The yardstick: a machine restored as QEMU does it by itself, all of its memory read from a stream."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.machine.machine import DISK, Machine, own_variables
from harness.machine.power import powered
from harness.machine.qemu.command_line import Wiring, command_line
from harness.machine.qemu.layers import Layer, layer_of
from harness.machine.snapshot import Snapshot, restored
from harness.store import Store

PATIENCE = 120.0  # seconds


@dataclass(frozen=True, slots=True)
class Stream:
    """State and memory of a machine in one file, and the disk that goes with them."""

    state: Path
    disk: Path
    snapshot: Snapshot


def saved_in_full(snapshot: Snapshot, store: Store, folder: Path) -> Stream:
    """The same guest as in the snapshot, saved once more with all its memory."""
    stream = Stream(folder / "stream", folder / "stream.qcow2", snapshot)
    with restored(snapshot, store, folder / "logs", Deadline(PATIENCE)) as machine:
        off = [{"capability": "x-ignore-shared", "state": False}]
        machine.qmp.execute("migrate-set-capabilities", {"capabilities": off})
        machine.qmp.migrate("migrate", f"exec:cat > {shlex.quote(str(stream.state))}", Deadline(PATIENCE))
        machine.qmp.execute("quit")
        machine.process.wait(Deadline(PATIENCE))
        shutil.copyfile(machine.scratch / DISK, stream.disk)
    return stream


@contextmanager
def fully_restored(stream: Stream, store: Store, logs: Path) -> Iterator[Machine]:
    """A machine from such a stream. Its clock is not set: that was done before it was saved in full."""
    logs.mkdir(parents=True, exist_ok=True)
    boot = stream.snapshot.boot
    with store.scratch("full") as scratch, stream.state.open("rb") as state:
        shutil.copyfile(stream.disk, scratch / DISK)
        layers = (Layer(scratch / DISK, "qcow2"), Layer(stream.snapshot.folder / DISK, "qcow2"), layer_of(boot.image))
        variables = own_variables(boot.spec, scratch)

        def argv(ends: tuple[int, int, int]) -> list[str]:
            wiring = Wiring(*ends, layers, variables=variables, is_incoming=True)
            return command_line(boot.spec, boot.accel.name, wiring)

        with powered(argv, scratch, logs / "console.log", keep_open=(state.fileno(),)) as parts:
            events = [{"capability": "events", "state": True}]
            parts.qmp.execute("migrate-set-capabilities", {"capabilities": events})
            parts.qmp.migrate("migrate-incoming", f"fd:{state.fileno()}", Deadline(PATIENCE))
            yield Machine(parts, logs, scratch, None, ignition=None)


def private_memory(machine: Machine) -> int:
    """Bytes that no other process maps (proc(5), smaps_rollup: Private_Clean and Private_Dirty)."""
    lines = Path(f"/proc/{machine.process.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
