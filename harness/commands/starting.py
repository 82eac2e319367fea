"""What `harness boot` and `harness shell` have in common: an image the user names, made ready to be booted."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from harness.build.reference import Progress, build_reference
from harness.commands.stages import StageDisplay
from harness.errors import BadInput
from harness.ignition.autologin import with_autologin
from harness.ignition.config import Config, read_config
from harness.ignition.validate import check
from harness.images.source import open_image
from harness.iso.initrd import embedded_config
from harness.iso.opened import open_live_iso
from harness.machine.accel import choose
from harness.machine.boot import Boot
from harness.machine.bootable import PLAIN, disk_of, on_a_cd, readable_kernel
from harness.machine.hardware.spec import MachineSpec
from harness.places import REFERENCE
from harness.store import Store

Command = TypeVar("Command", bound=Callable[..., Any])


def machine_options(command: Command) -> Command:
    """What every command takes that starts a machine."""
    for decorate in (
        click.option(
            "--logs", metavar="DIR", type=click.Path(path_type=Path), help="Where the logs go (default: a new folder)."
        ),
        click.option("--accel", type=click.Choice(["kvm", "tcg"]), help="Trust this accelerator, do not try KVM."),
        click.option("--machine", metavar="SPEC", default="", help="For instance uefi,memory=2048,cpus=4."),
        click.option(
            "--ignition", metavar="CONFIG", type=click.Path(path_type=Path), help="Boot with this Ignition config."
        ),
        click.argument("image", required=False, type=click.Path(path_type=Path)),
    ):
        command = decorate(command)
    return command


@contextmanager
def ready_to_boot(
    image: Path | None, ignition: Path | None, machine: str, accel: str | None, store: Store, *, untouched: bool = False
) -> Iterator[Boot]:
    """The boot of an image in any container, for as long as the block lasts; without one, of the reference image.

    The guest gets the config `ignition`, else what its owner has embedded in a live ISO, with a shell of `core` on the
    console; `untouched` gives it nothing at all. Raises HarnessError of many kinds: an image may be anything.
    """
    given = _judged(ignition) if ignition else None
    spec, digest = MachineSpec.parse(machine) if machine else MachineSpec(), ""
    with StageDisplay() as display:
        if image is None:
            built = build_reference(store, definition=REFERENCE, progress=_only_long(display))
            image, digest = built.path, built.sha256_qcow2
    with open_image(image, store=store) as opened:
        kernel = None if accel else readable_kernel(opened, store)
        if not digest and (opened.compression or opened.container not in PLAIN):
            digest = opened.uncompressed_sha256()  # of a plain file it is asked for only where it matters
        is_iso = opened.container == "iso"
        spec = on_a_cd(spec) if is_iso else spec
        disk, embeds = disk_of(opened, digest, store), is_iso and not untouched
        config = None if untouched else with_autologin(given or (_embedded_in(disk) if is_iso else None))
        yield Boot(disk, config, spec, choose(store, kernel, accel), digest, embeds)


def _judged(path: Path) -> Config:
    """The user's config, with a word about what it should not have. Raises BadInput, InvalidIgnition."""
    config = read_config(path)
    for finding in check(config).warnings:
        click.echo(f"{click.style('warning', fg='yellow')}  {path}: {finding}", err=True)
    return config


def _embedded_in(iso: Path) -> Config | None:
    with open_live_iso(iso) as live:
        found = embedded_config(live.embed)
    return None if found is None else read_config(found, f"the config embedded in {iso.name}")


def log_folder(given: Path | None, purpose: str) -> Path:
    """Where a machine's logs go: as the user says, or a new folder among temporary files. Raises BadInput."""
    if given is None:
        return Path(tempfile.mkdtemp(prefix=f"harness-{purpose}-"))
    try:
        given.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise BadInput(f"--logs: cannot be made: {cause.strerror}", where=str(given)) from cause
    return given


def _only_long(display: StageDisplay) -> Progress:
    """Stages that come from the store in no time are no news."""

    def progress(stage: str, seconds: float | None) -> None:
        if seconds is None or seconds > 1:
            display(stage, seconds)

    return progress
