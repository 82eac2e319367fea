"""`harness prestage disk`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from harness.commands.edit import refuse_existing
from harness.commands.sizes import Size
from harness.commands.stages import StageDisplay
from harness.images.edits.draft import Form
from harness.prestage.disk.staging import Staged, Wanted, stage_disk


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-o", "--output", metavar="FILE", type=click.Path(path_type=Path), required=True, help="The new disk.")
@click.option("--image", metavar="FILE", type=click.Path(path_type=Path), help="An image that gets the partition.")
@click.option("--size", metavar="SIZE", type=Size(), help="Size of an empty disk, or of the image's disk from now on.")
@click.option("--start", metavar="SECTOR", type=click.IntRange(1), help="Begin at this sector, moved to a full MiB.")
@click.option("--data-size", metavar="SIZE", type=Size(), help="Or: as large as this, at the end of the disk.")
@click.option("--label", default="data", show_default=True, help="Name of the partition and its filesystem.")
@click.option("--number", metavar="N", type=click.IntRange(1), help="Number of the partition (default: the next).")
@click.option("--filesystem", type=click.Choice(["xfs", "ext4"]), default="xfs", show_default=True)
@click.option("--sector-size", type=click.Choice(["512", "4096"]), default="512", help="Of an empty disk.")
@click.option("--format", "form", type=click.Choice(["raw", "qcow2"]), help="Default: by FILE's extension.")
@click.option("--force", is_flag=True, help="Overwrite FILE if it is there.")
def disk(folder: Path, output: Path, *, sector_size: str, form: Form | None, force: bool, **wishes: Any) -> None:
    """Put the files of FOLDER on a partition at the end of a disk, as `harness prestage pull` filled it.

    The disk is an image (raw, qcow2 and all that `harness inspect` reads) or an empty one with a GPT of its own.
    Partitions that are there stay as they are. Nothing is mounted and no root is needed; the same folder, image and
    options give the same bytes. Files are read once and never held in memory; where FOLDER has SHA256SUMS, each must
    be what it says. XFS is made so that Linux 4.18 (RHEL 8) mounts it.

    \b
    Examples:
      harness prestage disk images-4.10.3 --size 120G --start 120000000 -o staged.qcow2
      harness prestage disk images-4.10.3 --image rhcos.qcow2 --size 220G --data-size 100G -o staged.qcow2
    """
    refuse_existing(output, force=force)
    wanted = Wanted(sector_size=int(sector_size), **wishes)
    with StageDisplay() as display:
        done = stage_disk(folder, output, wanted, form=form, progress=display)
    click.echo(_told(done, wanted))
    click.echo(f"image      {output}")


def _told(done: Staged, wanted: Wanted) -> str:
    span = done.span
    return "\n".join(
        [
            f"partition  {done.number} ({wanted.label!r}), GUID {done.part_guid}",
            f"sectors    {span.first} to {span.last} ({span.sectors} of {done.sector_size} bytes)",
            f"filesystem {wanted.filesystem}, UUID {done.filesystem_uuid}",
            f"files      {done.files:,} with {done.used:,} bytes; room for {done.free:,} more",
        ]
    )
