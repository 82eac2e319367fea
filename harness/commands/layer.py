"""`harness layer`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.compose.delta import Delta, layered
from harness.compose.epoch import chosen_epoch
from harness.compose.layering import AddedLayer, add_layer
from harness.compose.ociarchive import copied_layout, opened_layout, pack
from harness.compose.overlay import in_name_order, overlays_of, read_overlays
from harness.compose.umoci import add_layer_by_umoci
from harness.errors import BadInput
from harness.store import Store, check_replaceable

PATH = click.Path(path_type=Path)
DIFFERENT = 1  # exit code


@click.group()
def layer() -> None:
    """Add layers of files to container images in ociarchives and OCI layouts, and say what they added."""


@layer.command(short_help="Add files to an image as one layer.")
@click.argument("image", type=PATH)
@click.option("-f", "--files", "folders", metavar="FOLDER", type=PATH, multiple=True, help="Stands for /; repeatable.")
@click.option("--overlays", metavar="FOLDER", type=PATH, help="An overlay.d: every folder in it stands for /.")
@click.option("--remove", "removed", metavar="PATH", multiple=True, help="Hide a path of the image; repeatable.")
@click.option("-o", "--output", metavar="ARCHIVE", type=PATH, required=True, help="The new ociarchive; may be the old.")
@click.option("--tag", metavar="TAG", default="", help="Which image (default: the only one).")
@click.option(
    "--by", type=click.Choice(["harness", "umoci"]), default="harness", show_default=True, help="Who does it."
)
@click.option(
    "--as-is", is_flag=True, help="Owners, modes, hard links and xattrs as in FOLDER, not root's 0644 and 0755."
)
@click.option("--epoch", metavar="SECONDS", type=int, help="Time of the files (default: $SOURCE_DATE_EPOCH, else 0).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
def add(  # noqa: PLR0913 - one option each
    image: Path,
    *,
    folders: tuple[Path, ...],
    overlays: Path | None,
    removed: tuple[str, ...],
    output: Path,
    tag: str,
    by: str,
    as_is: bool,
    epoch: int | None,
    as_json: bool,
) -> None:
    """Add the files of folders to IMAGE, an ociarchive or the folder of an OCI layout, under the same tag.

    Folders are applied in the order of their names, first those of --overlays, then --files. A file `statoverride` in a
    folder sets modes, as cosa has it. The same files, image and time give the same archive.

    \b
    Examples:
      harness layer add base.ociarchive --files motd/ -o new.ociarchive
      harness layer add base.ociarchive --overlays src/config/overlay.d --files overrides/rootfs -o new.ociarchive
      harness layer add base.ociarchive --files motd/ -o new.ociarchive --by umoci
    """
    check_replaceable(output)
    when = chosen_epoch(epoch)
    chosen = (*(overlays_of(overlays) if overlays else ()), *in_name_order(folders))
    overlay = read_overlays(chosen, removed=removed, as_is=as_is)
    with Store.default().scratch("layer") as scratch:
        layout = copied_layout(image, scratch / "layout")
        if by == "umoci":
            added = add_layer_by_umoci(layout, overlay, when, scratch, tag=tag, where=str(image))
        else:
            added = add_layer(layout, overlay, when, tag=tag, where=str(image))
        _write(layout, output, when)
    click.echo(json.dumps(_document(added, output), indent=2) if as_json else _told(added, output))


@layer.command(short_help="Say what a layer added, and what else differs.")
@click.argument("base", type=PATH)
@click.argument("new", type=PATH)
@click.option("--tag", metavar="TAG", default="", help="Which image (default: the only one).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
def diff(base: Path, new: Path, *, tag: str, as_json: bool) -> int:
    """Compare two ociarchives or OCI layouts: is NEW exactly BASE with one layer more?

    Ends with 0 if so, else with 1 and every difference.

    \b
    Example:
      harness layer diff base.ociarchive new.ociarchive
    """
    with (
        Store.default().scratch("layer") as scratch,
        opened_layout(base, scratch) as before,
        opened_layout(new, scratch) as after,
    ):
        delta = layered(before, after, tag=tag)
    if as_json:
        click.echo(json.dumps(_delta_document(delta), indent=2))
    else:
        for path, member in delta.members.items():
            click.echo(
                f"{member.kind:<10} {member.mode:04o} {member.uid}:{member.gid} {member.size:>12,}  {ascii(path)[1:-1]}"
            )
        for difference in delta.differences:
            click.secho(str(difference), fg="red")
        if not delta.differences:
            click.echo(f"one layer more: {delta.layer} ({delta.size:,} bytes)")
    return DIFFERENT if delta.differences else 0


def _write(layout: Path, output: Path, epoch: int) -> None:
    try:
        pack(layout, output, epoch)
    except OSError as cause:
        raise BadInput(f"cannot be written: {cause.strerror}", where=str(output)) from cause


def _told(added: AddedLayer, output: Path) -> str:
    shown = [ascii(path)[1:-1] for path in added.paths[:10]]
    more = [f"          and {len(added.paths) - 10} more"] if len(added.paths) > 10 else []
    rows = [
        f"image     {output}",
        f"tag       {added.tag}",
        f"manifest  {added.manifest}",
        f"layer     {added.layer} ({added.size:,} bytes)",
        f"diff_id   {added.diff_id}",
    ]
    return "\n".join([*rows, *(f"          {path}" for path in shown), *more])


def _document(added: AddedLayer, output: Path) -> dict[str, object]:
    return {
        "schema": 1,
        "path": str(output),
        "tag": added.tag,
        "manifest": added.manifest,
        "config": added.config,
        "layer": added.layer,
        "diff_id": added.diff_id,
        "size": added.size,
        "paths": [ascii(path)[1:-1] for path in added.paths],
    }


def _delta_document(delta: Delta) -> dict[str, object]:
    return {
        "schema": 1,
        "tag": delta.tag,
        "layer": delta.layer,
        "diff_id": delta.diff_id,
        "size": delta.size,
        "paths": [ascii(path)[1:-1] for path in delta.members],
        "differences": [{"where": each.where, "base": each.base, "new": each.new} for each in delta.differences],
    }
