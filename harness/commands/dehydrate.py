"""`harness dehydrate`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.stages import StageDisplay
from harness.delta.coding import EFFORTS, Effort
from harness.delta.family.dehydrate import dehydrate as dehydrate_family
from harness.delta.family.listing import Listed


@click.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", metavar="DIR", type=click.Path(path_type=Path), required=True, help="The new folder to write."
)
@click.option(
    "--base",
    "given",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An image that who rehydrates has already (repeatable): copied from, not stored.",
)
@click.option(
    "--effort",
    type=click.Choice(EFFORTS),
    default="normal",
    help="How hard to compress what is new: fast takes seconds, best minutes (default: normal).",
)
@click.option("--no-verify", is_flag=True, help="Do not make every image again to compare it.")
def dehydrate(
    images: tuple[Path, ...], output: Path, *, given: tuple[Path, ...], effort: Effort, no_verify: bool
) -> None:
    """Make a family of images small: DIR gets one of them, recipes for the others, and an index.

    `harness rehydrate` makes every image of it again, bit for bit. Which image is stored, and which is made from which,
    is decided by what it costs. Reads any file; qcow2, VMDK, OVA, VHD, VHDX, tar.gz and ISO are understood, so that
    their disks are compared and not their packing. An image packed by gzip, xz or zstd is listed as what is inside:
    that is what its `uncompressed-sha256` is of.

    \b
    Examples:
      harness dehydrate fcos-*.qcow2 fcos-aws.vmdk fcos-vmware.ova -o fcos-41
      harness dehydrate fcos-42-qemu.qcow2 --base fcos-41-qemu.qcow2 -o update
    """
    with StageDisplay() as display:
        done = dehydrate_family(
            images,
            output,
            given=given,
            effort=effort,
            verify=not no_verify,
            progress=display,
        )
    width = max(len(image.name) for image in done.images)
    for image in done.images:
        source = _source(image)
        click.echo(f"{image.name:{width}}  {image.size:>18,} -> {image.stored:>15,}  {source}")
    total = sum(image.size for image in done.images if image.file)
    click.echo(f"{'together':{width}}  {total:>18,} -> {done.size:>15,}  {done.folder}")


def _source(image: Listed) -> str:
    """Where an image comes from, in words."""
    if image.bases:
        return f"from {', '.join(image.bases)}"
    if not image.file:
        return "not stored"
    return "taken apart" if image.is_recipe else "packed" if image.stored < image.size else "as it is"
