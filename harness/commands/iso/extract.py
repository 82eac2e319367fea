"""`harness iso extract`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.edit import refuse_existing
from harness.images.filesystems.files import shown
from harness.iso.extract import extract_minimal, extract_pxe


@click.group()
def extract() -> None:
    """Take out of a live ISO what boots from the network."""


@extract.command()
@click.argument("iso", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output-dir",
    "folder",
    metavar="FOLDER",
    type=click.Path(path_type=Path),
    default=".",
    help="Default: here.",
)
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
def pxe(iso: Path, folder: Path, *, force: bool) -> None:
    """Write kernel, initrd and root filesystem of ISO to FOLDER, and what is embedded as one more initrd.

    Prints the files, and the kernel arguments for them.
    """
    done = extract_pxe(iso, folder, force=force)
    for path in done.files:
        click.echo(path)
    if done.kargs is not None:
        click.echo(f"kernel arguments: {shown(done.kargs)}", err=True)


@extract.command("minimal-iso")
@click.argument("iso", type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), required=True, help="The new ISO.")
@click.option("--rootfs-url", metavar="URL", help="Where the new ISO fetches its root filesystem.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it is there.")
def minimal_iso(iso: Path, output: Path, *, rootfs_url: str | None, force: bool) -> None:
    """Write the minimal ISO that ISO has the recipe of: without root filesystem, which it fetches when it boots.

    It is checked against the SHA-256 in the recipe. ISO must be as shipped.
    """
    refuse_existing(output, force=force)
    extract_minimal(iso, output, rootfs_url=rootfs_url)
    click.echo(f"{output}: {output.stat().st_size:,} bytes", err=True)
