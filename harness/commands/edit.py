"""`harness edit`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from harness.commands.stages import StageDisplay
from harness.errors import BadInput
from harness.ignition.config import SIZE_LIMIT, read_config
from harness.ignition.validate import check
from harness.images.edits.draft import Form
from harness.images.edits.grow import grow as grow_image
from harness.images.edits.inject import ignition_file, read_new_file
from harness.images.edits.inject import inject as inject_files
from harness.images.edits.platform import set_platform
from harness.images.edits.sparsify import Sparsified
from harness.images.edits.sparsify import sparsify as sparsify_image
from harness.images.filesystems.files import shown

GIB = 2**30
Command = TypeVar("Command", bound=Callable[..., Any])


def from_image_to_file(command: Command) -> Command:
    """What every edit takes: an image, the file to write, its format."""
    for decorate in (
        click.option("--force", is_flag=True, help="Overwrite FILE if it is there."),
        click.option("--format", "form", type=click.Choice(["raw", "qcow2"]), help="Default: by FILE's extension."),
        click.option(
            "-o", "--output", metavar="FILE", type=click.Path(path_type=Path), required=True, help="The new image."
        ),
        click.argument("image", type=click.Path(path_type=Path)),
    ):
        command = decorate(command)
    return command


def refuse_existing(output: Path, *, force: bool) -> None:
    """Raise BadInput for a file that is there already, unless it may go."""
    if output.exists() and not force:
        raise BadInput("is there already", where=str(output), next_step="choose another name, or say --force")


@click.group()
def edit() -> None:
    """Make a new image from an old one. IMAGE itself never changes.

    Reads every container that `harness inspect` reads, writes raw or qcow2. The same input gives the same bytes.
    """


@edit.command()
@from_image_to_file
@click.option(
    "--ignition", metavar="CONFIG", type=click.Path(path_type=Path), help="An Ignition config for first boot."
)
@click.option("--file", "files", metavar="SRC:DEST[:MODE]", multiple=True, help="A file to put there (repeatable).")
@click.option("--no-validate", is_flag=True, help="Do not judge the Ignition config.")
@click.option("--replace", is_flag=True, help="Replace files that are there already.")
def inject(
    image: Path,
    output: Path,
    *,
    form: Form | None,
    force: bool,
    ignition: Path | None,
    files: tuple[str, ...],
    no_validate: bool,
    replace: bool,
) -> None:
    """Put files and an Ignition config into the boot filesystem of IMAGE (ext4).

    The config goes to /ignition/config.ign, where CoreOS looks at first boot. DEST is absolute as seen from the boot
    filesystem; MODE is octal, 0644 if not given.

    \b
    Examples:
      harness edit inject rhcos.qcow2 --ignition config.ign -o rhcos-lab.qcow2
      harness edit inject fcos.raw.xz --file motd:/notes/motd:0600 -o fcos.raw
    """
    refuse_existing(output, force=force)
    wanted = [read_new_file(each) for each in files]
    if ignition:
        wanted.append(ignition_file(judged_config(ignition, judged=not no_validate)))
    if not wanted:
        raise BadInput("there is nothing to inject", next_step="say --ignition CONFIG or --file SRC:DEST")
    with StageDisplay() as display:
        done = inject_files(image, wanted, output, replace=replace, form=form, progress=display)
    for path, digest in done.digests:
        click.echo(f"injected  {shown(path)}  sha256 {digest}")
    click.echo(f"image     {output}")


@edit.command()
@from_image_to_file
@click.argument("platform")
def platform(image: Path, output: Path, platform: str, *, form: Form | None, force: bool) -> None:
    """Make IMAGE one for PLATFORM: its Ignition platform id, kernel arguments and GRUB console settings.

    What belongs to a platform is taken from /boot/coreos/platforms.json of the image; a platform that is not in there
    gets its id and nothing else. Only the boot filesystem changes.

    \b
    Example:
      harness edit platform fcos-qemu.qcow2 aws -o fcos-aws.raw && harness convert fcos-aws.raw --to aws -o fcos.vmdk
    """
    refuse_existing(output, force=force)
    with StageDisplay() as display:
        done = set_platform(image, platform, output, form=form, progress=display)
    click.echo(f"platform  {shown(done.before or 'none')} -> {done.after}")
    click.echo(f"removed   {shown(' '.join(done.removed)) or 'nothing'}")
    click.echo(f"added     {shown(' '.join(done.added)) or 'nothing'}")
    click.echo(f"changed   {shown(', '.join(done.changed_files)) or 'nothing'}")
    click.echo(f"image     {output}")


@edit.command()
@from_image_to_file
@click.option("--keep-backup", is_flag=True, help="Leave the backup GPT where it is.")
def sparsify(image: Path, output: Path, *, form: Form | None, force: bool, keep_backup: bool) -> None:
    """Drop what IMAGE holds without need: free blocks of ext4 and xfs, zeroes, all after the last partition.

    The backup GPT lies there too and goes with it, unless you keep it; first boot writes a new one. Filesystems with
    a journal to replay and those behind LUKS are left alone.

    \b
    Example:
      harness edit sparsify rhcos-lab.qcow2 -o rhcos-lab.raw
    """
    refuse_existing(output, force=force)
    with StageDisplay() as display:
        done = sparsify_image(image, output, keep_backup=keep_backup, form=form, progress=display)
    click.echo(_table(done))
    if done.backup_gpt == "discarded":
        click.echo("The backup GPT is gone; first boot writes a new one, and so does: sgdisk --move-second-header")
    click.echo(f"image     {output}")


@edit.command()
@from_image_to_file
@click.option(
    "--size", metavar="GIB", type=click.IntRange(1, 16384), required=True, help="Size of the new disk, in GiB."
)
@click.option("--move-backup", is_flag=True, help="Move the backup GPT to the new end.")
def grow(image: Path, output: Path, *, form: Form | None, force: bool, size: int, move_backup: bool) -> None:
    """Lengthen the virtual disk of IMAGE, as CoreOS makes its cloud images.

    Partitions stay as they are, and so does the backup GPT unless you move it: first boot does both.

    \b
    Example:
      harness edit grow fcos-metal.raw --size 10 -o fcos.qcow2
    """
    refuse_existing(output, force=force)
    with StageDisplay() as display:
        done = grow_image(image, size * GIB, output, move_backup=move_backup, form=form, progress=display)
    click.echo(f"disk      {done.before:,} -> {done.after:,} bytes")
    if done.backup_at is not None:
        click.echo(f"backup    GPT header at byte {done.backup_at:,}")
    click.echo(f"image     {output}")


def judged_config(path: Path, *, judged: bool) -> bytes:
    """The exact bytes of a config; warnings go to standard error."""
    if judged:
        config = read_config(path)
        for finding in check(config).warnings:
            click.echo(f"{click.style('warning', fg='yellow')}  {path}: {finding}", err=True)
        return config.raw
    try:
        with path.open("rb") as file:
            raw = file.read(SIZE_LIMIT + 1)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path)) from cause
    if len(raw) > SIZE_LIMIT:
        raise BadInput(f"has more than {SIZE_LIMIT:,} bytes", where=str(path))
    return raw


def _table(done: Sparsified) -> str:
    """Bytes of data before and after, a line each part."""
    rows = [(part.name, part.filesystem or "-", part.before, part.after, part.left_alone) for part in done.parts]
    rows.append(("all", "", done.before, done.after, ""))
    width = max(len(shown(row[0])) for row in rows)
    lines = [f"{'':{width}}  {'':8}  {'before':>17}  {'after':>17}"]
    for name, kind, before, after, reason in rows:
        note = f"  left alone but for zeroes: {shown(reason)}" if reason else ""
        lines.append(f"{shown(name):{width}}  {kind:8}  {before:17,}  {after:17,}{note}")
    return "\n".join(lines)
