"""`harness iso show`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from harness.iso.facts import describe
from harness.iso.text import render


@click.command()
@click.argument("iso", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
def show(iso: Path, *, as_json: bool) -> None:
    """Describe ISO: how it boots, the places that may be changed and what is in them, what it installs from.

    What contradicts itself is a note at the end.
    """
    facts = describe(iso)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(facts), indent=2).decode())
    else:
        click.echo(render(facts), nl=False)
