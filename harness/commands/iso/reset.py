"""`harness iso reset` and `harness iso recover`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.iso.options import carry_out, changes_an_iso
from harness.iso.edit import reset as as_shipped
from harness.iso.undo import is_cut, locked


@click.command()
@changes_an_iso
def reset(iso: Path, output: Path | None, *, force: bool) -> None:
    """Give ISO its own bytes back: nothing embedded, and the kernel arguments it was shipped with.

    Also heals places that something else has filled.
    """
    carry_out(iso, as_shipped, output, force=force)


@click.command()
@click.argument("iso", type=click.Path(path_type=Path))
def recover(iso: Path) -> None:
    """Take back an edit of ISO in place that was cut short, by a crash or a lack of power.

    The next edit in place does the same by itself.
    """
    was_cut = is_cut(iso)
    with locked(iso):
        click.echo(f"{iso}: {'as before the edit again' if was_cut else 'no edit was cut short'}", err=True)
