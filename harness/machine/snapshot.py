"""Snapshots: a guest booted once, its state kept in the store, restored for everyone who wants it fresh.

The guest's memory is one file that all restored machines map copy-on-write (QEMU's x-ignore-shared migration), so a
restore reads half a megabyte of device state and nothing else. A restored guest is told the time and given new
entropy before anyone may use it; its machine-id, boot_id and ssh host keys are those of the snapshot.

What QEMU cannot notice is checked before each restore: that every file has the size it was saved with (it would make
guest memory anew where the file is gone or empty) and that the device state is the one that was saved.
"""

from __future__ import annotations

import hashlib
import json
import logging
import mmap
import os
import shlex
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.deadline import Deadline, overdue
from harness.errors import BadInput, DeadlinePassed, HostTooBusy, StoreError
from harness.ignition.access import with_access
from harness.machine.boot import Boot
from harness.machine.extras import prepare_overlays, restored_extras
from harness.machine.guest.shell import KEY, KeyPair
from harness.machine.guest.tpm import stir
from harness.machine.guest.wake import DEFINE, SLEEPER, clock_of, lay_to_sleep, wake
from harness.machine.hardware.spec import unsaveable
from harness.machine.machine import (
    CONFIG,
    CONSOLE_LOG,
    DISK,
    FOLLOW_JOURNAL,
    READ_HOST_KEYS,
    TIMELINE,
    VARIABLES,
    Machine,
    booted,
    overlay_of,
    own_variables,
)
from harness.machine.memory import Pool, memory_to_restore
from harness.machine.power import powered
from harness.machine.qemu.command_line import Ends, Memory, Wiring, command_line
from harness.machine.qemu.layers import Layer, layer_of
from harness.machine.qemu.swtpm import emulated_tpm
from harness.machine.turns import turn_to_boot
from harness.store import Store, content_key

KIND = "snapshot"
LAYOUT = 13  # raise it when the files below or what is done before saving changes; the command line counts by itself
PREPARE_TIME = 180.0  # seconds for each of the things done before saving; a few, unless the host is starved
BLOCK = 64 * 1024  # bytes; memory is kept sparse in units of this

RAM, STATE, EMPTY, FACTS = "ram", "state", "empty.qcow2", "snapshot.json"
FIRST_BOOT = "first-boot"
LATE_UNITS = """
for unit in $(systemctl --failed --no-legend --plain | cut -d ' ' -f 1); do
    [ "$(systemctl show --property Result --value "$unit")" != timeout ] || echo "$unit"
done
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A finished entry of the store, and the boot that it keeps: its logs, and its state where QEMU can save it."""

    folder: Path
    boot: Boot
    host_keys: str  # empty where the guest was given no config: such a one has neither ssh nor channel
    cold_boot: float  # seconds from starting QEMU to a settled guest
    saving: float  # seconds it took to save
    guest_clock: float  # what the guest's clock showed when it was stopped (seconds since 1970)

    @property
    def is_saved(self) -> bool:
        """Whether it can be restored; otherwise (harness.machine.hardware.spec.unsaveable) only booted again."""
        return not unsaveable(self.boot.spec)

    @property
    def first_boot(self) -> Path:
        """Console log, journal and timeline of the boot that was saved."""
        return self.folder / FIRST_BOOT

    def check(self) -> None:
        """Raise StoreError if its files are no longer what was saved."""
        try:
            saved = json.loads((self.folder / FACTS).read_text(encoding="utf-8"))["files"]
            for name, size in saved["sizes"].items():
                if (found := (self.folder / name).stat().st_size) != size:
                    raise _damaged(self.folder, f"{name} has {found} bytes instead of {size}")
            if self.is_saved and _sha256(self.folder / STATE) != saved["state"]:
                raise _damaged(self.folder, f"{STATE} is not what was saved")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
            raise _damaged(self.folder, str(cause)) from cause


def key_of(boot: Boot) -> str:
    """The key of a boot's snapshot: all that decides what the guest is like, and how it is saved and restored."""
    disk = [Layer(Path("disk"), "raw")]
    others = [disk] * len(boot.spec.disks)
    config = None if boot.ignition is None or boot.embeds else Path(CONFIG)
    wiring = Wiring(0, 0, 0, 0, disk, config, variables=Path(VARIABLES), tpm=0, is_incoming=True, disks=others)
    ours = [*command_line(boot.spec, boot.accel.name, wiring), DEFINE, SLEEPER, FOLLOW_JOURNAL]
    if boot.ignition is not None:
        ours.append(with_access(None, ssh_public_key="ssh-ed25519 AAAA").decode())
    return content_key({"layout": LAYOUT, "ours": ours, **boot.key()})


def snapshot_of(boot: Boot, store: Store, logs: Path, deadline: Deadline) -> Snapshot:
    """The snapshot of this boot; boots if nobody has done so yet, or if what they left is damaged.

    Several processes may ask at once: one boots, the others wait for it. `logs` receives console, journal and timeline
    of the boot, if there is one. The deadline of a boot starts anew when its turn has come (harness.machine.turns).
    Raises what `booted` raises.
    """
    key = key_of(boot)
    keep = _boot_and_look if unsaveable(boot.spec) else _boot_and_save

    def build(folder: Path) -> None:
        with turn_to_boot(store, boot.spec):
            keep(folder, boot, store, logs, Deadline(deadline.seconds))

    folder = store.entry(KIND, key, build)
    try:
        return _read(folder, boot)
    except StoreError as damage:
        log.warning("snapshot is made anew: %s", damage)
        store.discard(KIND, key, lambda folder: _is_damaged(folder, boot))
        return _read(store.entry(KIND, key, build), boot)


@contextmanager
def restored(
    snapshot: Snapshot, store: Store, logs: Path, deadline: Deadline, *, allowed: Sequence[str] = ()
) -> Iterator[Machine]:
    """A fresh machine from a snapshot, its clock set and its entropy its own. At the end it is thrown away.

    A guest without channel cannot be told either: it goes on from the second in which it was saved. It is killed rather
    than shut down: nobody will look at its disk again. The deadline starts anew once there is memory for it
    (harness.machine.memory). Raises BadInput for a snapshot that was not saved, StoreError for a damaged one,
    MachineFailed, DeadlinePassed.
    """
    if not snapshot.is_saved:
        raise BadInput(unsaveable(snapshot.boot.spec), next_step="boot it anew, as harness.machine.fresh does")
    logs.mkdir(parents=True, exist_ok=True)
    folder, boot, spec = snapshot.folder, snapshot.boot, snapshot.boot.spec
    with Pool.of_host().claim(memory_to_restore(spec), f"a restored {spec.describe()}"), ExitStack() as stack:
        deadline = Deadline(deadline.seconds)
        snapshot.check()
        store.find(KIND, folder.name)  # a use, of which pruning takes note
        scratch = stack.enter_context(store.scratch("machine"))
        tpm = stack.enter_context(emulated_tpm(spec, scratch))
        state = stack.enter_context((folder / STATE).open("rb"))
        overlay = Layer(scratch / DISK, "qcow2")
        shutil.copyfile(folder / EMPTY, overlay.path)
        layers = (overlay, Layer(folder / DISK, "qcow2"), layer_of(boot.image))
        memory = Memory(folder / RAM, is_shared=False)
        variables = own_variables(spec, scratch, folder / VARIABLES)
        extras = restored_extras(spec, folder, scratch)

        def argv(ends: Ends) -> list[str]:
            # With the config: the guest knows fw_cfg items by their number among all.
            config = folder / CONFIG if boot.ignition is not None and not boot.embeds else None
            wiring = Wiring(*ends, layers, config, memory, variables, tpm.control, is_incoming=True)
            wiring = replace(wiring, disks=extras.disks, fw_cfg=extras.fw_cfg)
            return command_line(spec, boot.accel.name, wiring)

        keep_open = (state.fileno(), *tpm.descriptors)
        parts = stack.enter_context(powered(argv, scratch, logs / CONSOLE_LOG, allowed=allowed, keep_open=keep_open))
        parts.console.timeline.look_no_more()
        mark = parts.console.timeline.mark
        mark("qemu answers", parts.console.elapsed)
        parts.qmp.allow_shared_memory()
        parts.qmp.migrate("migrate-incoming", f"fd:{state.fileno()}", deadline)
        behind = time.time() - snapshot.guest_clock
        mark("restored", parts.console.elapsed)
        keys = KeyPair(folder / KEY) if snapshot.host_keys else None
        machine = Machine(
            parts,
            logs,
            scratch,
            keys,
            host_keys=snapshot.host_keys,
            ignition=boot.ignition,
            has_network=boot.spec.nics > 0,
        )
        if machine.has_channel:
            wake(machine.channel, deadline, behind)
            if spec.tpm:
                stir(machine.channel, deadline)
        mark("awake", parts.console.elapsed)
        try:
            yield machine
        finally:
            machine.hang_up()
            machine.console.timeline.write(logs / TIMELINE)


def _read(folder: Path, boot: Boot) -> Snapshot:
    """A finished entry. Raises StoreError if it is damaged."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        measured = (facts[name] for name in ("host_keys", "cold_boot", "saving", "guest_clock"))
        snapshot = Snapshot(folder, boot, *measured)
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise _damaged(folder, str(cause)) from cause
    snapshot.check()
    return snapshot


def _is_damaged(folder: Path, boot: Boot) -> bool:
    try:
        _read(folder, boot)
    except StoreError:
        return True
    return False


def _damaged(folder: Path, what: str) -> StoreError:
    return StoreError(f"snapshot is damaged: {what}", where=str(folder), next_step="run it again: it is made anew")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _boot_and_save(folder: Path, boot: Boot, store: Store, logs: Path, deadline: Deadline) -> None:
    """Boot into memory of our own (gone when we are), prepare, save, and copy everything into `folder`."""
    ram = os.memfd_create("guest-memory", os.MFD_CLOEXEC)
    try:
        os.ftruncate(ram, boot.spec.memory * 2**20)
        memory = Memory(Path(f"/proc/self/fd/{ram}"), is_shared=True)
        with booted(boot, store, logs, deadline, memory=(ram, memory)) as machine:
            booting = _booting_time(machine)
            clock_error = _prepare(machine, deadline) if machine.has_channel else 0.0
            started = time.monotonic()
            machine.qmp.allow_shared_memory()
            machine.qmp.migrate("migrate", f"exec:cat > {shlex.quote(str(folder / STATE))}", deadline)
            guest_clock = time.time() + clock_error
            machine.qmp.execute("quit")
            if machine.process.wait(Deadline(30)) is None:
                raise DeadlinePassed("waited 30 s for QEMU to end after saving")
            machine.hand_over(folder)
            _copy_sparse(ram, folder / RAM)
            overlay_of(Layer(folder / DISK, "qcow2"), folder / EMPTY)
            prepare_overlays(boot.spec, folder)
            saving = time.monotonic() - started
    finally:
        os.close(ram)
    measured = {"cold_boot": booting, "saving": round(saving, 3), "guest_clock": guest_clock}
    _keep_facts(folder, boot, logs, {"host_keys": machine.host_keys, **measured})


def _boot_and_look(folder: Path, boot: Boot, store: Store, logs: Path, deadline: Deadline) -> None:
    """Boot a machine that QEMU cannot save, for what there is to see of it."""
    with booted(boot, store, logs, deadline) as machine:
        booting = _booting_time(machine)
        if machine.has_channel:
            machine.collect_journal(Deadline(PREPARE_TIME))
            _refuse_late_units(machine)
        machine.process.kill()
    _keep_facts(folder, boot, logs, {"host_keys": "", "cold_boot": booting, "saving": 0.0, "guest_clock": 0.0})


def _refuse_late_units(machine: Machine) -> None:
    """Raise HostTooBusy where units timed out on an overloaded host: kept, that would be told of every later run."""
    if late := machine.run(LATE_UNITS).text.split():
        error = overdue(f"{late[0]}: timed out in the first boot", where="guest")
        if isinstance(error, HostTooBusy):
            raise error


def _booting_time(machine: Machine) -> float:
    return machine.timeline["settled" if machine.has_channel else "login prompt"]


def _keep_facts(folder: Path, boot: Boot, logs: Path, facts: dict[str, Any]) -> None:
    shutil.copytree(logs, folder / FIRST_BOOT)
    files = {
        "sizes": {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()},
        "state": _sha256(folder / STATE) if (folder / STATE).exists() else "",
    }
    text = json.dumps({**facts, "files": files, **boot.key(), "file": str(boot.image)}, indent=1)
    (folder / FACTS).write_text(text, encoding="utf-8")


def _prepare(machine: Machine, deadline: Deadline) -> float:
    """Leave a guest so that it answers soon after a restore; returns how far its clock is ahead of ours."""
    machine.collect_journal(Deadline(PREPARE_TIME))
    _refuse_late_units(machine)
    machine.host_keys = machine.run(READ_HOST_KEYS).text
    if machine.has_network:
        # First use starts the user's session and fills caches.
        machine.shell.run("sudo -n true", Deadline(PREPARE_TIME))
    machine.hang_up()
    machine.follow_journal()
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
