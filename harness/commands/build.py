"""`harness build`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import tomllib
from pathlib import Path

import click

from harness.build.live.live import BuiltLive, build_live
from harness.build.packages import host_mirrors, resolve, write_lock
from harness.build.reference import LOCK, Built, build_reference
from harness.commands.composing import build_ostree
from harness.commands.extending import extend
from harness.commands.stages import StageDisplay
from harness.errors import BadInput
from harness.places import REFERENCE
from harness.report.html import seconds_text
from harness.store import Store, replacing


@click.group()
def build() -> None:
    """Build images."""


@build.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write the image into.")
@click.option("--mirror", metavar="URL", help="Debian mirror to fetch from (default: those of this host's apt).")
@click.option("--unlocked", is_flag=True, help="Where the archive lost locked packages, resolve them anew.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
def reference(output: Path, *, mirror: str | None, unlocked: bool, as_json: bool) -> None:
    """Build the reference image: a CoreOS-shaped disk from Debian packages, the same bytes every time.

    Stages come from the store when nothing they depend on has changed. Ends with the image's path, its SHA-256 as raw
    disk and as qcow2 file, and the time of each stage.
    """
    started = time.monotonic()
    with StageDisplay() as display:
        built = build_reference(
            Store.default(), definition=REFERENCE, mirror=mirror, unlocked=unlocked, progress=display
        )
        target = hand_out(built.path, output)
    if as_json:
        click.echo(json.dumps(_document(built, target), indent=2))
        return
    if built.unlocked:
        click.secho("unlocked: packages were resolved anew; this is not the image of the committed lock", fg="yellow")
    click.echo(f"image         {target}")
    click.echo(f"sha256 raw    {built.sha256_raw}")
    click.echo(f"sha256 qcow2  {built.sha256_qcow2}")
    click.echo(f"time          {seconds_text(time.monotonic() - started)}")


@build.command()
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write the ISO into.")
@click.option("--mirror", metavar="URL", help="Debian mirror to fetch from (default: those of this host's apt).")
@click.option("--unlocked", is_flag=True, help="Where the archive lost locked packages, resolve them anew.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
def live(output: Path, *, mirror: str | None, unlocked: bool, as_json: bool) -> None:
    """Build the live ISO of the reference system, with the reference image's deployment as its root.

    It boots from a CD or a disk, by BIOS or UEFI, and is the same bytes every time. Kernel, initrd and root filesystem
    for PXE lie in its images/pxeboot. Ends with its path, its SHA-256 and its volume id.
    """
    started = time.monotonic()
    with StageDisplay() as display:
        built = build_live(Store.default(), definition=REFERENCE, mirror=mirror, unlocked=unlocked, progress=display)
        target = hand_out(built.path, output)
    if as_json:
        click.echo(json.dumps(_live_document(built, target), indent=2))
        return
    if built.reference.unlocked:
        click.secho("unlocked: packages were resolved anew; this is not the ISO of the committed lock", fg="yellow")
    click.echo(f"ISO           {target}")
    click.echo(f"sha256        {built.sha256}")
    click.echo(f"volume id     {built.volume_id}")
    click.echo(f"commit        {built.reference.ostree_commit}")
    click.echo(f"time          {seconds_text(time.monotonic() - started)}")


@build.command()
@click.option("--mirror", metavar="URL", help="Debian mirror to ask (default: those of this host's apt).")
def lock(mirror: str | None) -> None:
    """Resolve the reference image's packages anew and write its lock.

    Do this where the archive has dropped locked versions, look at the change with git diff, and commit it.
    """
    wanted = tomllib.loads((REFERENCE / "reference.toml").read_text())["packages"]
    with Store.default().scratch("resolve") as scratch:
        packages = resolve(wanted, host_mirrors(mirror), scratch)
    write_lock(REFERENCE / LOCK, packages)
    click.echo(f"{len(packages)} packages locked in {REFERENCE / LOCK}")


build.add_command(build_ostree)
build.add_command(extend)


def hand_out(image: Path, folder: Path) -> Path:
    """Copy an image out of the store, sharing its blocks where the filesystem can. Raises BadInput."""
    target = folder / image.name
    try:
        with replacing(target) as aside:
            copied = subprocess.run(["/bin/cp", "--reflink=auto", "--sparse=always", image, aside], check=False)
            if copied.returncode:
                shutil.copyfile(image, aside)
    except OSError as cause:
        raise BadInput(f"cannot be written: {cause.strerror}", where=os.fspath(target)) from cause
    return target


def _document(built: Built, target: Path) -> dict[str, object]:
    return {
        "schema": 1,
        "path": os.fspath(target),
        "sha256_raw": built.sha256_raw,
        "sha256_qcow2": built.sha256_qcow2,
        "unlocked": built.unlocked,
        "ostree_commit": built.ostree_commit,
        "seconds": dict(built.seconds),
    }


def _live_document(built: BuiltLive, target: Path) -> dict[str, object]:
    return {
        "schema": 1,
        "path": os.fspath(target),
        "sha256": built.sha256,
        "volume_id": built.volume_id,
        "unlocked": built.reference.unlocked,
        "ostree_commit": built.reference.ostree_commit,
        "seconds": dict(built.seconds),
    }
