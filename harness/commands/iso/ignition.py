"""`harness iso ignition`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harness.commands.edit import judged_config
from harness.commands.iso.options import carry_out, changes_an_iso
from harness.errors import BadInput, MissingFile
from harness.ignition.config import SIZE_LIMIT, read_config
from harness.ignition.validate import check
from harness.iso.edit import embed_config, remove_config
from harness.iso.initrd import Compression, embedded_config
from harness.iso.opened import open_live_iso


@click.group()
def ignition() -> None:
    """Embed an Ignition config in a live ISO, show it, take it out."""


@ignition.command()
@changes_an_iso
@click.option(
    "-i",
    "--ignition-file",
    "config",
    metavar="CONFIG",
    type=click.Path(path_type=Path, allow_dash=True),
    default="-",
    help="The config; `-`, the default, is standard input.",
)
@click.option("--replace", is_flag=True, help="Replace a config that is embedded already.")
@click.option("--no-validate", is_flag=True, help="Do not judge the config.")
@click.option(
    "--compression", type=click.Choice(["xz", "gzip"]), default="xz", show_default=True, help="Of the archive."
)
def embed(
    iso: Path,
    output: Path | None,
    *,
    force: bool,
    config: Path,
    replace: bool,
    no_validate: bool,
    compression: Compression,
) -> None:
    """Embed CONFIG in ISO, for the live system's first boot; network settings embedded there stay.

    \b
    Examples:
      harness iso ignition embed fcos-live.iso -i config.ign
      butane config.bu | harness iso ignition embed fcos-live.iso -o lab.iso
    """
    raw = _from_input(judged=not no_validate) if str(config) == "-" else judged_config(config, judged=not no_validate)
    carry_out(iso, embed_config(raw, replace=replace, compression=compression), output, force=force)


@ignition.command()
@click.argument("iso", type=click.Path(path_type=Path))
def show(iso: Path) -> None:
    """Print the config that is embedded in ISO, byte by byte."""
    with open_live_iso(iso) as opened:
        found = embedded_config(opened.embed)
    if found is None:
        raise MissingFile("has no Ignition config embedded", where=str(iso))
    click.echo(found, nl=False)


@ignition.command()
@changes_an_iso
def remove(iso: Path, output: Path | None, *, force: bool) -> None:
    """Take the config out of ISO; network settings embedded there stay."""
    carry_out(iso, remove_config, output, force=force)


def _from_input(*, judged: bool) -> bytes:
    if sys.stdin.isatty():
        raise BadInput("there is no config", next_step="name one with -i CONFIG, or pipe it in")
    raw = sys.stdin.buffer.read(SIZE_LIMIT + 1)
    if len(raw) > SIZE_LIMIT:
        raise BadInput(f"has more than {SIZE_LIMIT:,} bytes", where="standard input")
    if judged:
        for finding in check(read_config(raw, "standard input")).warnings:
            click.echo(f"{click.style('warning', fg='yellow')}  standard input: {finding}", err=True)
    return raw
