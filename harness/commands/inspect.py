"""`harness inspect`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harness.images.inspection import inspect as inspect_image
from harness.images.manifest import to_json
from harness.images.manifest_text import render
from harness.images.source import open_image


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The manifest as one JSON document.")
def inspect(image: Path, *, as_json: bool) -> None:
    """Show what is inside IMAGE, without booting or mounting it.

    Reads raw and qcow2, also compressed by gzip, xz or zstd: partitions, filesystems, boot entries, stamp files,
    container images. Needs no root. What could not be read is said in the notes.

    \b
    Examples:
      harness inspect rhcos-qemu.qcow2.gz
      harness inspect --json fcos.raw.xz > fcos.json
    """
    with open_image(image) as opened:
        manifest = inspect_image(opened)
    if as_json:
        sys.stdout.buffer.write(to_json(manifest))
        sys.stdout.buffer.flush()
    else:
        click.echo(render(manifest).rstrip("\n"))
