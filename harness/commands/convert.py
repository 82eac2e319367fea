"""`harness convert`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.edit import refuse_existing
from harness.commands.stages import StageDisplay
from harness.errors import HarnessError
from harness.images.edits.convert import convert as convert_image
from harness.images.edits.platform import platform_of
from harness.images.edits.shapes import FORMATS, PLATFORMS, shape_of
from harness.images.filesystems.files import shown
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--to", metavar="PLATFORM|FORMAT", required=True, help="What to write; see below.")
@click.option(
    "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), required=True, help="The file to write."
)
@click.option(
    "--base",
    "bases",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="The backing file of a qcow2 (repeatable, the nearest first): the result stands alone.",
)
@click.option("--force", is_flag=True, help="Overwrite FILE if it is there.")
def convert(image: Path, *, to: str, output: Path, bases: tuple[Path, ...], force: bool) -> None:
    """Write the disk of IMAGE as another platform or format has it, with the options CoreOS uses.

    The same disk gives the same bytes: identifiers and times that QEMU makes up follow from the content instead. The
    content does not change; `harness edit platform` makes it one for another platform.

    \b
    Platforms: aliyun applehv aws azure azurestack digitalocean exoscale gcp hetzner hyperv ibmcloud metal nutanix
               openstack oraclecloud proxmoxve qemu virtualbox vmware vultr
    Formats:   ova qcow2 raw tar.gz vhd vhd-dynamic vhdx vmdk vmdk-sparse

    \b
    Examples:
      harness convert fcos-aws.raw --to aws -o fcos.vmdk
      harness convert crc.qcow2 --base test1-base --to qcow2 -o flat.qcow2
    """
    shape_of(to)
    refuse_existing(output, force=force)
    _warn_of_other_platform(image, to, bases)
    with StageDisplay() as display:
        done = convert_image(image, to, output, bases=bases, progress=display)
    click.echo(f"{done.container:8}  {output}")
    click.echo(f"disk      {done.disk_size:,} bytes")
    click.echo(f"file      {done.size:,} bytes")


def _warn_of_other_platform(image: Path, to: str, bases: tuple[Path, ...]) -> None:
    """An image in one platform's container that tells Ignition of another will not find its config there."""
    if to not in PLATFORMS or to in FORMATS or bases:
        return
    try:
        with open_image(image) as opened:
            found = platform_of(read_layout(opened.block))
    except HarnessError:
        return  # whether it can be read at all is for the conversion to say
    if found is not None and found != to:
        warning = click.style("warning", fg="yellow")
        click.echo(f"{warning}  {image} is for {shown(found)}; first: harness edit platform {image} {to} ...", err=True)
