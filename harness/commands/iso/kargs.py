"""`harness iso kargs`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.iso.options import carry_out, changes_an_iso
from harness.errors import BadInput
from harness.images.filesystems.files import shown
from harness.iso.edit import modify_kargs, reset_kargs
from harness.iso.kargs import GRUB_READS, current
from harness.iso.opened import open_live_iso


@click.group()
def kargs() -> None:
    """Show and change the kernel arguments of a live ISO."""


@kargs.command()
@click.argument("iso", type=click.Path(path_type=Path))
@click.option("--default", "as_shipped", is_flag=True, help="Those that ISO was shipped with.")
def show(iso: Path, *, as_shipped: bool) -> None:
    """Print the kernel arguments of ISO."""
    with open_live_iso(iso) as opened:
        found = opened.kargs
        click.echo(shown(found.default if as_shipped else current(found)))


@kargs.command()
@changes_an_iso
@click.option("--append", metavar="ARG", multiple=True, help="An argument to append (repeatable).")
@click.option("--delete", metavar="ARG", multiple=True, help="An argument to delete, as it stands there (repeatable).")
@click.option("--replace", metavar="KEY=OLD=NEW", multiple=True, help="A value to replace (repeatable).")
def modify(
    iso: Path,
    output: Path | None,
    *,
    force: bool,
    append: tuple[str, ...],
    delete: tuple[str, ...],
    replace: tuple[str, ...],
) -> None:
    """Change the kernel arguments of ISO: first delete, then replace, then append.

    \b
    Example:
      harness iso kargs modify live.iso --replace ignition.platform.id=metal=qemu --append console=ttyS0
    """
    if not (append or delete or replace):
        raise BadInput("there is nothing to change", next_step="say --append, --delete or --replace")
    for word in (*append, *replace):
        if mangled := "".join(sorted(GRUB_READS.intersection(word))):
            click.echo(f"{click.style('warning', fg='yellow')}  {word}: GRUB may take {mangled} for itself", err=True)
    carry_out(iso, modify_kargs(append=append, delete=delete, replace=replace), output, force=force)


@kargs.command()
@changes_an_iso
def reset(iso: Path, output: Path | None, *, force: bool) -> None:
    """Give ISO the kernel arguments that it was shipped with."""
    carry_out(iso, reset_kargs, output, force=force)
