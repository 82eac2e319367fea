"""Snapshots: a guest booted once, its state kept in the store, restored for everyone who wants it fresh.

The guest's memory is one file that all restored machines map copy-on-write (QEMU's x-ignore-shared migration), so a
restore reads half a megabyte of device state and nothing else. A restored guest is told the time and given new
entropy before anyone may use it; its machine-id, boot_id and ssh host keys are those of the snapshot.
"""

from __future__ import annotations

import json
import mmap
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.deadline import Deadline
from harness.errors import DeadlinePassed, StoreError
from harness.machine.boot import Boot
from harness.machine.guest.shell import KEY, KeyPair
from harness.machine.guest.wake import clock_of, lay_to_sleep, wake
from harness.machine.machine import (
    CONSOLE_LOG,
    DISK,
    READ_HOST_KEYS,
    TIMELINE,
    VARIABLES,
    Machine,
    booted,
    overlay_of,
    own_variables,
)
from harness.machine.power import powered
from harness.machine.qemu.command_line import Ends, Layer, Memory, Wiring, command_line, layer_of
from harness.machine.turns import turn_to_boot
from harness.store import Store, content_key

KIND = "snapshot"
LAYOUT = 9  # raise it when the command line, the files below or what is done before saving changes
BLOCK = 64 * 1024  # bytes; memory is kept sparse in units of this

RAM, STATE, EMPTY, FACTS = "ram", "state", "empty.qcow2", "snapshot.json"
FIRST_BOOT = "first-boot"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A finished entry of the store, and the boot that it keeps."""

    folder: Path
    boot: Boot
    host_keys: str  # empty where the guest was given no config: such a one has neither ssh nor channel
    cold_boot: float  # seconds from starting QEMU to a settled guest
    saving: float  # seconds it took to save
    guest_clock: float  # what the guest's clock showed when it was stopped (seconds since 1970)

    @property
    def first_boot(self) -> Path:
        """Console log, journal and timeline of the boot that was saved."""
        return self.folder / FIRST_BOOT


def snapshot_of(boot: Boot, store: Store, logs: Path, deadline: Deadline) -> Snapshot:
    """The snapshot of this boot; boots if nobody has done so yet.

    Several processes may ask at once: one boots, the others wait for it. `logs` receives console, journal and timeline
    of the boot, if there is one. The deadline of a boot starts anew when its turn has come (harness.machine.turns).
    Raises what `booted` raises.
    """

    def build(folder: Path) -> None:
        with turn_to_boot(store, boot.spec):
            _boot_and_save(folder, boot, store, logs, Deadline(deadline.seconds))

    folder = store.entry(KIND, content_key({"layout": LAYOUT, **boot.key()}), build)
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        measured = (facts[name] for name in ("host_keys", "cold_boot", "saving", "guest_clock"))
        return Snapshot(folder, boot, *measured)
    except (OSError, ValueError, KeyError) as cause:
        raise StoreError(f"snapshot cannot be used: {cause}", where=str(folder), next_step="remove it") from cause


@contextmanager
def restored(
    snapshot: Snapshot, store: Store, logs: Path, deadline: Deadline, *, allowed: Sequence[str] = ()
) -> Iterator[Machine]:
    """A fresh machine from a snapshot, its clock set and its entropy its own. At the end it is thrown away.

    A guest without channel cannot be told either: it goes on from the second in which it was saved.
    It is killed rather than shut down: nobody will look at its disk again. Raises MachineFailed, DeadlinePassed.
    """
    logs.mkdir(parents=True, exist_ok=True)
    folder, boot, spec = snapshot.folder, snapshot.boot, snapshot.boot.spec
    with store.scratch("machine") as scratch, (folder / STATE).open("rb") as state:
        overlay = Layer(scratch / DISK, "qcow2")
        shutil.copyfile(folder / EMPTY, overlay.path)
        layers = (overlay, Layer(folder / DISK, "qcow2"), layer_of(boot.image))
        memory = Memory(folder / RAM, is_shared=False)
        variables = own_variables(spec, scratch, folder / VARIABLES)

        def argv(ends: Ends) -> list[str]:
            wiring = Wiring(*ends, layers, None, memory, variables, is_incoming=True)
            return command_line(spec, boot.accel.name, wiring)

        with powered(argv, scratch, logs / CONSOLE_LOG, allowed=allowed, keep_open=(state.fileno(),)) as parts:
            parts.console.timeline.look_no_more()
            mark = parts.console.timeline.mark
            mark("qemu answers", parts.console.elapsed)
            parts.qmp.allow_shared_memory()
            parts.qmp.migrate("migrate-incoming", f"fd:{state.fileno()}", deadline)
            behind = time.time() - snapshot.guest_clock
            mark("restored", parts.console.elapsed)
            keys = KeyPair(folder / KEY) if snapshot.host_keys else None
            machine = Machine(parts, logs, scratch, keys, host_keys=snapshot.host_keys, ignition=boot.ignition)
            if machine.has_channel:
                wake(machine.channel, deadline, behind)
            mark("awake", parts.console.elapsed)
            try:
                yield machine
            finally:
                machine.hang_up()
                machine.console.timeline.write(logs / TIMELINE)


def _boot_and_save(folder: Path, boot: Boot, store: Store, logs: Path, deadline: Deadline) -> None:
    """Boot into memory of our own (gone when we are), prepare, save, and copy everything into `folder`."""
    ram = os.memfd_create("guest-memory", os.MFD_CLOEXEC)
    try:
        os.ftruncate(ram, boot.spec.memory * 2**20)
        memory = Memory(Path(f"/proc/self/fd/{ram}"), is_shared=True)
        with booted(boot, store, logs, deadline, memory=(ram, memory)) as machine:
            booting = machine.timeline["settled" if machine.has_channel else "login prompt"]
            clock_error = _prepare(machine, deadline) if machine.has_channel else 0.0
            started = time.monotonic()
            machine.qmp.allow_shared_memory()
            machine.qmp.migrate("migrate", f"exec:cat > {shlex.quote(str(folder / STATE))}", deadline)
            guest_clock = time.time() + clock_error
            machine.qmp.execute("quit")
            if machine.process.wait(Deadline(30)) is None:
                raise DeadlinePassed("waited 30 s for QEMU to end after saving")
            machine.hand_over(folder / DISK, folder / VARIABLES, folder / KEY)
            _copy_sparse(ram, folder / RAM)
            overlay_of(Layer(folder / DISK, "qcow2"), folder / EMPTY)
            saving = time.monotonic() - started
    finally:
        os.close(ram)
    shutil.copytree(logs, folder / FIRST_BOOT)
    facts = {
        "host_keys": machine.host_keys,
        "cold_boot": booting,
        "saving": round(saving, 3),
        "guest_clock": guest_clock,
        **boot.key(),
        "file": str(boot.image),
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")


def _prepare(machine: Machine, deadline: Deadline) -> float:
    """Leave a guest so that it answers soon after a restore; returns how far its clock is ahead of ours."""
    machine.collect_journal(Deadline(60))
    machine.host_keys = machine.run(READ_HOST_KEYS).text
    machine.shell.run("sudo -n true", Deadline(60))  # first use starts the user's session and fills caches
    machine.hang_up()
    machine.run("sync")
    lay_to_sleep(machine.channel, deadline)
    return clock_of(machine.channel, deadline)


def _copy_sparse(source: int, target: Path) -> None:
    """Copy a file of guest memory; blocks of zeros become holes."""
    size = os.fstat(source).st_size
    zeros = bytes(BLOCK)
    with target.open("wb") as copy, mmap.mmap(source, size, mmap.MAP_SHARED, mmap.PROT_READ) as memory:
        copy.truncate(size)
        position = 0
        while position < size:
            try:
                start = os.lseek(source, position, os.SEEK_DATA)
            except OSError:
                break  # nothing but holes up to the end
            position = os.lseek(source, start, os.SEEK_HOLE)
            for offset in range(start - start % BLOCK, position, BLOCK):
                block = memory[offset : offset + BLOCK]
                if block != zeros[: len(block)]:
                    os.pwrite(copy.fileno(), block, offset)
