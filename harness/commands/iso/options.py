"""What every command of `harness iso` that changes an ISO takes, and what it prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from harness.commands.edit import refuse_existing
from harness.iso.edit import STDOUT, Plan, change

Command = TypeVar("Command", bound=Callable[..., Any])


def changes_an_iso(command: Command) -> Command:
    """ISO, -o FILE and --force."""
    for decorate in (
        click.option("--force", is_flag=True, help="Overwrite FILE if it is there."),
        click.option(
            "-o",
            "--output",
            metavar="FILE",
            type=click.Path(path_type=Path, allow_dash=True),
            help="Write a new ISO, `-` for standard output. Default: change ISO itself.",
        ),
        click.argument("iso", type=click.Path(path_type=Path)),
    ):
        command = decorate(command)
    return command


def carry_out(iso: Path, plan: Plan, output: Path | None, *, force: bool) -> None:
    """Change an ISO, and say on standard error what became of it: standard output may be the ISO."""
    if output is not None and output != STDOUT:
        refuse_existing(output, force=force)
    changed = change(iso, plan, output)
    what = f"{changed:,} bytes changed" if changed else "nothing to change"
    click.echo(f"{output if output is not None else iso}: {what}", err=True)
