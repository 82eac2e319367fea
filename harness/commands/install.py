"""`harness install`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.edit import judged_config, refuse_existing
from harness.commands.stages import StageDisplay
from harness.errors import BadInput
from harness.images.edits.draft import Form
from harness.install.device import is_device
from harness.install.install import Wishes, install_in_place
from harness.install.install import install as install_image
from harness.install.saved import Filter, Saved, index_filters, label_filter


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--onto", metavar="DISK", type=click.Path(path_type=Path), required=True, help="A disk image, or device.")
@click.option("--save-partlabel", "labels", metavar="GLOB", multiple=True, help="Save partitions of this name.")
@click.option("--save-partindex", "indexes", metavar="LIST", multiple=True, help="Save these numbers: 5,7-9,12-,-3.")
@click.option("--ignition", metavar="CONFIG", type=click.Path(path_type=Path), help="An Ignition config, first boot.")
@click.option("--no-validate", is_flag=True, help="Do not judge the Ignition config.")
@click.option("--platform", metavar="ID", help="Ignition's platform id, such as metal or qemu.")
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), help="The new disk image.")
@click.option("--format", "form", type=click.Choice(["raw", "qcow2"]), help="Default: by FILE's extension.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it is there.")
def install(
    image: Path,
    *,
    onto: Path,
    labels: tuple[str, ...],
    indexes: tuple[str, ...],
    output: Path | None,
    form: Form | None,
    force: bool,
    **configuration: Any,
) -> None:
    """Write IMAGE onto a disk as coreos-installer does, and save partitions that are on it.

    A saved partition keeps its place, GUIDs and content; its number becomes the next behind the image's. The result is
    a new file: DISK itself never changes, unless it is a block device and no -o is said. Then it is written in place,
    in an order that leaves the saved partitions whole at any moment.

    \b
    Examples:
      harness install rhcos.qcow2 --onto staged.qcow2 --save-partlabel data -o installed.qcow2
      harness install rhcos-metal.raw --onto /dev/sdx --save-partlabel 'data*' --ignition host.ign
    """
    save = (*map(label_filter, labels), *(index for each in indexes for index in index_filters(each)))
    wishes = _wishes(save, **configuration)
    if output is None:
        if not is_device(onto):
            raise BadInput("is no block device, and stays as it is", where=str(onto), next_step="name a file with -o")
        with StageDisplay() as display:
            install_in_place(image, onto, wishes, progress=display, tell=_tell)
        click.echo(f"disk  {onto}")
        return
    refuse_existing(output, force=force)
    with StageDisplay() as display:
        done = install_image(image, onto, output, wishes, form=form, progress=display, tell=_tell)
    for each in done.unmatched:
        click.echo(f"{click.style('warning', fg='yellow')}  {onto}: no partition meets {each}", err=True)
    click.echo(f"image {output}")


def _wishes(save: tuple[Filter, ...], *, ignition: Path | None, no_validate: bool, platform: str | None) -> Wishes:
    config = judged_config(ignition, judged=not no_validate) if ignition else None
    return Wishes(save, config, platform)


def _tell(saved: Saved) -> None:
    click.echo(saved.told, err=True)
