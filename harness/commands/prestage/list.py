"""`harness prestage list`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("list")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
def list_images(files: tuple[Path, ...]) -> int:
    """Check lists of container images."""
    return 0 if files else 1
