"""`harness inspect`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harness.images.inspection import inspect as inspect_image
from harness.images.manifest import SECTIONS, to_json
from harness.images.manifest_text import render
from harness.images.source import open_chain


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The manifest as one JSON document.")
@click.option("--only", metavar="SECTION,...", help=f"Look only for these: {', '.join(SECTIONS)}.")
@click.option(
    "--base", multiple=True, metavar="FILE", type=click.Path(path_type=Path), help="Its backing file (repeatable)."
)
def inspect(image: Path, *, as_json: bool, only: str | None, base: tuple[Path, ...]) -> None:
    """Show what is inside IMAGE, without booting or mounting it.

    Reads raw, qcow2, VMDK, VHD, VHDX, OVA, tar and ISO, also compressed by gzip, xz or zstd: partitions, filesystems,
    boot entries, stamp files, packages, container images, the areas of a live ISO. Needs no root. What could not be
    read is said in the notes. `hashes` reads the whole image and is only done when asked for.

    \b
    Examples:
      harness inspect rhcos-qemu.qcow2.gz
      harness inspect --json fcos.raw.xz > fcos.json
      harness inspect --only layout,hashes fcos-live.iso
      harness inspect overlay.qcow2 --base base.qcow2
    """
    wanted = None if only is None else [name.strip() for name in only.split(",")]
    with open_chain(image, base) as opened:
        manifest = inspect_image(opened, wanted)
    if as_json:
        sys.stdout.buffer.write(to_json(manifest))
        sys.stdout.buffer.flush()
    else:
        click.echo(render(manifest).rstrip("\n"))
