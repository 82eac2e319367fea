"""`harness shell`."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import click

from harness.commands.stages import StageDisplay
from harness.commands.starting import log_folder, machine_options, ready_to_boot
from harness.deadline import Deadline
from harness.errors import BadInput, DeadlinePassed, MachineFailed
from harness.machine.boot import BOOT_TIME, RESTORE_TIME, Boot
from harness.machine.console.tap import Tap
from harness.machine.console.terminal import attend
from harness.machine.machine import CONSOLE_LOG, Machine
from harness.machine.snapshot import Snapshot, restored, snapshot_of
from harness.store import Store

SSH_TIME = 20.0  # seconds sshd of a restored guest may take to let us in
PATIENCE = 30 * 86400.0  # seconds a command may run: its user has Ctrl-C
SIGNALLED = 128  # what shells add to a signal's number


@click.command()
@machine_options
@click.option("-c", "command", metavar="COMMAND", help="Run this instead of a shell, and exit with its exit code.")
@click.option("--root", is_flag=True, help="With -c: run it as root, by the harness's own channel instead of ssh.")
def shell(
    image: Path | None,
    *,
    ignition: Path | None,
    machine: str,
    accel: str | None,
    logs: Path | None,
    command: str | None,
    root: bool,
) -> int:
    """Open a shell in a fresh guest of IMAGE; it is thrown away at the end.

    Without IMAGE it is the reference image. The first time, the image is booted and the machine saved; from then on
    it is restored as it was after its first boot, in about a second. You are core (with sudo), by ssh; where the guest
    has no ssh, -c goes through the harness's own channel and a shell is the one on the serial console.

    \b
    Examples:
      harness shell                                    look around in the reference image
      harness shell rhcos.qcow2 -c 'systemctl --failed'
      harness shell fcos.qcow2 -c 'sudo tar -c /etc' > etc.tar
      harness shell lab.raw --machine uefi --root -c 'cat /proc/cmdline'
    """
    if root and command is None:
        raise BadInput("--root needs a command", next_step="say -c COMMAND, or use sudo in the shell")
    if command is None and not sys.stdin.isatty():
        raise BadInput("standard input is no terminal, and a shell needs one", next_step="say -c COMMAND")
    store = Store.default()
    with ready_to_boot(image, ignition, machine, accel, store) as boot:
        folder = log_folder(logs, "shell")
        snapshot = _first_boot(boot, store, folder)
        with restored(snapshot, store, folder, Deadline(RESTORE_TIME)) as guest:
            return _run_as_root(guest, command or "") if root else _talk(guest, command)


def _first_boot(boot: Boot, store: Store, logs: Path) -> Snapshot:
    """The snapshot, with a word about the boot if there has to be one."""
    started = time.monotonic()
    log = logs / "first-boot" / CONSOLE_LOG
    with StageDisplay() as display:
        display("first boot", None)
        snapshot = snapshot_of(boot, store, log.parent, Deadline(BOOT_TIME[boot.accel.name]))
        if log.exists():
            display("first boot", time.monotonic() - started)
    return snapshot


def _talk(machine: Machine, command: str | None) -> int:
    """By ssh, or by what works without."""
    try:
        machine.shell.connect(Deadline(SSH_TIME), machine.console.check)
    except (MachineFailed, DeadlinePassed) as trouble:
        click.echo(f"{click.style('no ssh', fg='yellow')}: {trouble}", err=True)
        return _at_console(machine) if command is None else _run_as_root(machine, command)
    ssh = [*machine.shell.command, "--", command] if command is not None else [*machine.shell.command, "-t"]
    code = subprocess.run(ssh, check=False).returncode
    return SIGNALLED - code if code < 0 else code


def _run_as_root(machine: Machine, command: str) -> int:
    done = machine.run(f"cd /root; exec bash -c {shlex.quote(command)}", Deadline(PATIENCE))
    sys.stdout.buffer.write(done.out)
    sys.stdout.buffer.flush()
    sys.stderr.buffer.write(done.err)
    return done.rc


def _at_console(machine: Machine) -> int:
    click.echo("this is the serial console; Ctrl-] leaves", err=True)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        tap = Tap(theirs)
        machine.console.mirror_to(tap)
        tap.type_into(machine.console)
        machine.console.sendline()  # shows the prompt
        attend(ours, sys.stdin.fileno(), sys.stdout.fileno())
    return 0
