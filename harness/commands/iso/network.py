"""`harness iso network`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.iso.options import carry_out, changes_an_iso
from harness.errors import BadInput, MissingFile
from harness.images.filesystems.files import shown
from harness.iso.edit import embed_network, remove_network
from harness.iso.initrd import NETWORK, embedded
from harness.iso.opened import open_live_iso
from harness.store import new_folder

LARGEST_KEYFILE = 2**20  # bytes


@click.group()
def network() -> None:
    """Embed NetworkManager keyfiles in a live ISO, or take them out."""


@network.command()
@changes_an_iso
@click.option(
    "-k",
    "--keyfile",
    "keyfiles",
    metavar="FILE",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="A NetworkManager keyfile (repeatable).",
)
@click.option("--replace", is_flag=True, help="Replace settings that are embedded already.")
def embed(iso: Path, output: Path | None, *, force: bool, keyfiles: tuple[Path, ...], replace: bool) -> None:
    """Embed keyfiles in ISO, for the live system's first boot."""
    read = [(each.name, _keyfile(each)) for each in keyfiles]
    if len(dict(read)) < len(read):
        raise BadInput("two keyfiles have the same name", next_step="they all go into one folder")
    carry_out(iso, embed_network(read, replace=replace), output, force=force)


@network.command()
@click.argument("iso", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
def extract(iso: Path, folder: Path) -> None:
    """Write the keyfiles embedded in ISO to FOLDER, which must be new or empty."""
    with open_live_iso(iso) as opened:
        members = embedded(opened.embed)
    found = {each.name.removeprefix(NETWORK): each.content for each in members if each.name.startswith(NETWORK)}
    if not found:
        raise MissingFile("has no network settings embedded", where=str(iso))
    for name in found:
        if "/" in name or name in {"", ".", ".."} or shown(name) != name:
            raise BadInput(f"has a keyfile named {shown(name)}", where=str(iso))
    with new_folder(folder) as aside:
        for name, content in found.items():
            (aside / name).touch(0o600)
            (aside / name).write_bytes(content)
    for name in found:
        click.echo(folder / name)


@network.command()
@changes_an_iso
def remove(iso: Path, output: Path | None, *, force: bool) -> None:
    """Take all keyfiles out of ISO; a config embedded there stays."""
    carry_out(iso, remove_network, output, force=force)


def _keyfile(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise BadInput("is no file", where=str(path), next_step="name a NetworkManager keyfile")
        with path.open("rb") as file:
            content = file.read(LARGEST_KEYFILE + 1)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path)) from cause
    if len(content) > LARGEST_KEYFILE:
        raise BadInput(f"has more than {LARGEST_KEYFILE:,} bytes", where=str(path))
    return content
