"""`harness recipe`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harness.delta.description import describe, render, to_json
from harness.delta.recipe import open_recipe


@click.group()
def recipe() -> None:
    """Look into recipes."""


@recipe.command()
@click.argument("file", metavar="RECIPE", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As one JSON document.")
def show(file: Path, *, as_json: bool) -> None:
    """Say what RECIPE makes, from which bases, and what it holds; all of it is checked against its checksums.

    \b
    Examples:
      harness recipe show fcos-41/fcos-aws.vmdk.recipe
      harness recipe show --json fcos-41/fcos-aws.vmdk.recipe | jq .bases
    """
    with open_recipe(file) as opened:
        description = describe(opened)
    if as_json:
        sys.stdout.buffer.write(to_json(description))
        sys.stdout.buffer.flush()
    else:
        click.echo(render(description))
