"""`harness ostree`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from harness.commands.stages import StageDisplay
from harness.compose.base import opened_repo
from harness.compose.encapsulate import encapsulate
from harness.compose.ociarchive import opened_layout, pack
from harness.compose.ociimage import open_image
from harness.compose.unencapsulate import unencapsulate
from harness.errors import BadInput
from harness.store import Store, check_new, check_replaceable

PATH = click.Path(path_type=Path)


@click.group()
def ostree() -> None:
    """Make container images of ostree commits, and commits of container images."""


@ostree.command(short_help="A commit as an ociarchive.")
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("rev", default="")
@click.option("-o", "--output", metavar="ARCHIVE", type=PATH, required=True, help="The ociarchive to write.")
@click.option("--tag", metavar="TAG", default="latest", show_default=True, help="Its name in the archive.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
def export(source: Path, rev: str, *, output: Path, tag: str, as_json: bool) -> None:
    """Write the commit REV of SOURCE, a repository's folder or a disk image, as an ociarchive.

    REV is a ref or a checksum; in a repository of one ref it need not be given. The archive is what `ostree container
    encapsulate` makes: docs/encapsulation.md. The same commit gives the same archive.

    \b
    Examples:
      harness ostree export reference.qcow2 -o reference-ostree.x86_64.ociarchive
      harness ostree export tmp/repo fedora/x86_64/coreos/stable -o fcos.ociarchive
    """
    check_replaceable(output)
    with opened_repo(source) as repo, Store.default().scratch("ostree") as scratch, StageDisplay() as display:
        started = time.monotonic()
        display("encapsulating", None)
        layout = scratch / "layout"
        done = encapsulate(repo, rev or repo.only_ref(), layout, tag=tag)
        _pack(layout, output)
        display("encapsulated", time.monotonic() - started)
    document = {
        "schema": 1,
        "path": str(output),
        "commit": done.commit,
        "manifest": done.manifest,
        "layer": done.layer,
        "diff_id": done.diff_id,
        "size": done.size,
        "files": done.files,
    }
    _tell(document, as_json=as_json)


@ostree.command("import", short_help="An ociarchive's commit as a repository.")
@click.argument("image", type=click.Path(path_type=Path, exists=True))
@click.option("-o", "--output", metavar="FOLDER", type=PATH, required=True, help="The new repository, in archive mode.")
@click.option("--ref", metavar="REF", default="", help="How the commit is called there.")
@click.option("--tag", metavar="TAG", default="", help="Which image (default: the only one).")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON document.")
def import_(image: Path, *, output: Path, ref: str, tag: str, as_json: bool) -> None:
    """Write the commit in IMAGE, an ociarchive or OCI layout, as a new ostree repository.

    Every object is proven by its checksum. Layers above the commit's are told, and not looked into.

    \b
    Example:
      harness ostree import reference-ostree.x86_64.ociarchive -o repo --ref reference/x86_64/coreos
    """
    check_new(output)
    with (
        Store.default().scratch("ostree") as scratch,
        opened_layout(image, scratch) as layout,
        StageDisplay() as display,
    ):
        started = time.monotonic()
        display("importing", None)
        done = unencapsulate(open_image(layout, tag, where=str(image)), output, ref=ref, where=str(image))
        display("imported", time.monotonic() - started)
    document = {
        "schema": 1,
        "path": str(output),
        "commit": done.commit,
        "version": done.version,
        "files": done.files,
        "layers_above": list(done.layers_above),
    }
    _tell(document, as_json=as_json)


def _tell(document: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(document, indent=2))
        return
    for name, value in document.items():
        if name != "schema":
            text = ", ".join(value) or "none" if isinstance(value, list) else value
            click.echo(
                f"{name.replace('_', ' '):<13} {text:,}"
                if isinstance(text, int)
                else f"{name.replace('_', ' '):<13} {text}"
            )


def _pack(layout: Path, output: Path) -> None:
    try:
        pack(layout, output, 0)
    except OSError as cause:
        raise BadInput(f"cannot be written: {cause.strerror}", where=str(output)) from cause
