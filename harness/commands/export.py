"""`harness export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from harness.commands.progress import Bar
from harness.errors import BadInput
from harness.images.formats.compression import Compression
from harness.release.export import Dialect, Wish
from harness.release.export import export as export_image


def _dialects(_context: click.Context, _option: click.Parameter, value: str) -> tuple[Any, ...]:
    wanted = tuple(word.strip() for word in value.split(",") if word.strip())
    for word in wanted:
        if word not in get_args(Dialect):
            raise BadInput(f"there are no checksums called {word}", next_step=f"known: {', '.join(get_args(Dialect))}")
    return wanted


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder to write into.")
@click.option(
    "--format",
    "formats",
    type=click.Choice(get_args(Compression)),
    multiple=True,
    help="How to pack it (repeatable; all in one pass). Default: gz, for fast-vm xz.",
)
@click.option(
    "--checksums", default="", callback=_dialects, help="What to say about it: any of sha256sum,meta,fast-vm."
)
@click.option("--fast-vm", metavar="NAME", default="", help="Pack the raw disk as <N>g__NAME.img.<xz|zst|gz>.")
@click.option("--platform", default="", help="Its name in meta.json (default: by the file's name, else qemu or metal).")
@click.option("--threads", type=click.IntRange(1, 256), default=None, help="Cores to use; with xz see below.")
def export(image: Path, output: Path, *, formats: tuple[Compression, ...], threads: int | None, **wanted: Any) -> None:
    """Pack IMAGE for publication, and write its checksums.

    The same image gives the same bytes, on any number of cores. CoreOS' settings: gzip -9, xz -9, zstd -10; fast-vm's:
    gzip, xz -9 in blocks of 16 MiB, zstd -19. xz -9 in CoreOS' way is one block, which only one core can pack; with
    --threads it is cut into blocks of 16 MiB too, which any number of cores pack to the same, but other, bytes.

    \b
    Examples:
      harness export rhcos.qcow2 -o out --checksums sha256sum,meta
      harness export rhcos.qcow2 -o out --format xz --format zst --threads 8
      harness export rhcos.qcow2 -o out --fast-vm rhcos-4.4.3 --checksums fast-vm
    """
    kinds = tuple(dict.fromkeys(formats)) or (("xz",) if wanted["fast_vm"] else ("gz",))
    wish = Wish(kinds, threads=threads or 0, **wanted)
    with Bar(f"packing {image.name}") as bar:
        done = export_image(image, output, wish, progress=bar)
    for file in done.files:
        click.echo(f"{file.packed.sha256}  {file.path}")
    for path in done.checksums:
        click.echo(f"checksums  {path}")
