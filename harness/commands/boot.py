"""`harness boot`."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console as Screen

from harness.commands.starting import log_folder, machine_options, ready_to_boot
from harness.deadline import Deadline
from harness.errors import BadInput
from harness.machine.boot import BOOT_TIME, Boot
from harness.machine.console.tap import Tap
from harness.machine.console.terminal import HowItEnded, attend
from harness.machine.machine import CONSOLE_LOG, booted
from harness.machine.turns import turn_to_boot
from harness.store import Store

LAST_GASP = 10.0  # seconds QEMU may need to end after its console has


@click.command()
@machine_options
@click.option("--no-config", is_flag=True, help="Deliver no Ignition config at all: the image as it is.")
def boot(
    image: Path | None,
    *,
    ignition: Path | None,
    machine: str,
    accel: str | None,
    logs: Path | None,
    no_config: bool,
) -> None:
    """Boot IMAGE and sit at its serial console; Ctrl-] leaves, and the machine is gone.

    Without IMAGE it is the reference image. IMAGE is never written: the machine has a disk of its own on top of it,
    which is thrown away. Reads every container that `harness inspect` reads. The console logs in by itself, as core
    (with sudo), by an addition to the Ignition config. Everything also goes into a log, whose place is told at the end.

    \b
    Examples:
      harness boot                                        the reference image
      harness boot rhcos.qcow2.gz --ignition host.ign     yours, with a config
      harness boot fcos.vmdk --machine uefi,memory=4096   on another machine
      harness boot lab.qcow2 --no-config                  nothing added (a config may be inside)
      harness boot fcos-live.iso --ignition host.ign      a live ISO, from a CD, the config embedded for this once
    """
    if not sys.stdin.isatty():
        raise BadInput(
            "standard input is no terminal, and a console needs one",
            next_step="to run commands: harness shell [IMAGE] -c COMMAND",
        )
    if no_config and ignition:
        raise BadInput("--no-config and --ignition exclude each other")
    store = Store.default()
    with ready_to_boot(image, ignition, machine, accel, store, untouched=no_config) as ready:
        folder = log_folder(logs, "boot")
        what = f"{ready.image.name} ({ready.spec.describe()}, {ready.accel.reason})"
        click.echo(f"booting {what}; Ctrl-] leaves", err=True)
        try:
            ended = _sit_at(ready, store, folder)
            said = "left: the machine is gone" if ended == "left" else "the guest has powered off"
            click.echo(f"\n{said}", err=True)
        finally:
            click.echo(f"console log: {folder / CONSOLE_LOG}", err=True)


def _sit_at(boot: Boot, store: Store, logs: Path) -> HowItEnded:
    """Boot with the user at the console. Raises MachineFailed when QEMU fails meanwhile."""
    ours, theirs = socket.socketpair()
    with ours, theirs, ExitStack() as turn:
        with Screen(stderr=True).status("waiting until other machines have booted"):
            turn.enter_context(turn_to_boot(store, boot.spec))
        deadline = Deadline(BOOT_TIME[boot.accel.name])
        with booted(boot, store, logs, deadline, tap=(tap := Tap(theirs)), until=lambda *_: None) as machine:

            def meanwhile() -> None:
                """Whoever sits here for an hour keeps nobody else from booting."""
                if deadline.expired or machine.channel.greetings or "login prompt" in machine.timeline:
                    turn.close()

            tap.type_into(machine.console)
            try:
                ended = attend(ours, sys.stdin.fileno(), sys.stdout.fileno(), meanwhile=meanwhile)
                if ended == "ended" and machine.process.wait(Deadline(LAST_GASP)) != os.EX_OK:
                    raise machine.console.obituary()
                return ended
            finally:
                machine.process.kill()  # nobody will look at its disk again
