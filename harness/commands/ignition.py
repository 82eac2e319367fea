"""`harness ignition`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.ignition.config import read_config
from harness.ignition.spec import text_of
from harness.ignition.validate import validate as validate_config


@click.group()
def ignition() -> None:
    """Check Ignition configs."""


@ignition.command()
@click.argument("file", type=click.Path(path_type=Path))
def validate(file: Path) -> int:
    """Judge FILE by the Ignition specification it declares (2.2.0, 3.0.0 to 3.5.0).

    Prints each finding with its JSON path and line. Exits with 1 when there is an error; warnings alone are fine.
    """
    config = read_config(file)
    report = validate_config(config)
    for finding in report.errors:
        click.echo(f"{click.style('error', fg='red')}    {finding}")
    for finding in report.warnings:
        click.echo(f"{click.style('warning', fg='yellow')}  {finding}")
    if report.is_valid:
        click.echo(f"{config.name}: valid Ignition config of spec {text_of(config.version)}")
    return 0 if report.is_valid else 1
