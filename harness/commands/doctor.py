"""`harness doctor`."""

from __future__ import annotations

import json

import click
from rich.console import Console

from harness.doctor import as_document, examine, render
from harness.store import Store

FILE_WIDTH = 140  # columns where nobody's terminal says how wide lines may be


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.option("--accel", help="Believe this accelerator (kvm or tcg) instead of trying.")
def doctor(*, as_json: bool, accel: str | None) -> int:
    """Say what this machine can do, and what it lacks.

    Shows each host program with its version, the accelerator as tried, UEFI firmware, and room to work. Exits with 1
    when something required is missing; ./setup installs it.
    """
    health = examine(Store.default(), accel)
    if as_json:
        click.echo(json.dumps(as_document(health), indent=2))
    else:
        console = Console(highlight=False)
        render(health, console if console.is_terminal else Console(highlight=False, width=FILE_WIDTH))
    return 1 if health.complaints else 0
