"""`harness rehydrate`."""

from __future__ import annotations

import stat
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from harness.commands.progress import Bars
from harness.delta.family.delivery import ToDevice, ToFolder, ToStream
from harness.delta.family.known import remembering
from harness.delta.family.rehydrate import Delivery, Identify, Wish, check_family
from harness.delta.family.rehydrate import rehydrate as rehydrate_family
from harness.delta.identity import identity_of
from harness.errors import BadInput, StoreError
from harness.images.formats.compression import Compression
from harness.store import Store


@click.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "all_images", is_flag=True, help="All images of the family.")
@click.option(
    "-o",
    "--output",
    metavar="DIR|-|DEVICE",
    default=".",
    help="Where to write: a folder (default: here), - for standard output, or a block device.",
)
@click.option(
    "--base",
    "given",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="An image that DIR lacks, or that need not be made again (repeatable).",
)
@click.option("--compress", type=click.Choice(["gz", "zst"]), help="Pack each image for the way.")
@click.option("--check", is_flag=True, help="Make and compare, and keep nothing.")
@click.option("-j", "--jobs", type=click.IntRange(1, 256), help="Images made at the same time (default: one a core).")
@click.option("--force", is_flag=True, help="Replace files that are there.")
def rehydrate(
    folder: Path,
    names: tuple[str, ...],
    *,
    all_images: bool,
    output: str,
    given: tuple[Path, ...],
    check: bool,
    jobs: int | None,
    **how: Any,
) -> None:
    """Make images again from the family in DIR, each with the SHA-256 it had.

    An image appears only when its SHA-256 is right; what was there before stays until then. Standard output gets one
    image, or a tar archive of several; a block device gets one raw disk or ISO, which is read back to compare.

    \b
    Examples:
      harness rehydrate fcos-41 fcos-aws.vmdk
      harness rehydrate fcos-41 --all -o images
      harness rehydrate fcos-41 fcos-openstack.qcow2 --compress zst -o - | ssh lab 'cat > fcos.zst'
      harness rehydrate update fcos-42-qemu.qcow2 --base fcos-41-qemu.qcow2
      harness rehydrate fcos-41 fcos-metal.raw -o /dev/sdx
    """
    if bool(names) == all_images:
        raise BadInput(
            "no image is named" if not names else "either names or --all", next_step="name some, or say --all"
        )
    wish = Wish(names, given, jobs or 0)
    with ExitStack() as stack:
        if check:
            done = check_family(folder, wish, stack.enter_context(Bars()))
        else:
            delivery = _delivery(output, names, **how)
            identify = _memory() if given else identity_of
            done = rehydrate_family(folder, wish, delivery, stack.enter_context(Bars()), identify)
    for image in done:
        click.echo(f"{image.sha256}  {image.name}", err=output == "-")


def _delivery(output: str, names: tuple[str, ...], *, compress: Compression | None, force: bool) -> Delivery:
    if output == "-":
        if sys.stdout is None or sys.stdout.isatty():
            raise BadInput(
                "standard output cannot take an image: it is a terminal, or closed",
                next_step="send it to a file or a program, or name a folder",
            )
        return ToStream(sys.stdout.buffer, as_tar=len(names) != 1, compress=compress)
    path = Path(output)
    try:
        is_device = stat.S_ISBLK(path.stat().st_mode)
    except OSError:
        is_device = False
    if not is_device:
        return ToFolder(path, compress=compress, force=force)
    if len(names) != 1 or compress:
        raise BadInput("takes one image, not packed", where=output, next_step="name one")
    return ToDevice(path)


def _memory() -> Identify:
    """What files were found to be, remembered where there is a place for it."""
    try:
        return remembering(Store.default())
    except StoreError:
        return identity_of
