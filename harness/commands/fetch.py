"""`harness fetch`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.progress import Bar
from harness.errors import BadInput
from harness.images.formats.compression import DEFAULT_LIMIT
from harness.release.fetch import fetch_to_folder, fetch_to_store, is_remote, order
from harness.store import Store

GIB = 2**30


@click.command()
@click.argument("image", metavar="URL|STREAM:PLATFORM[:FORMAT]")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Folder to write into (default: the store).")
@click.option("--sha256", default="", metavar="HEX", help="What the file must be; also as URL#sha256=HEX.")
@click.option("--stream-url", default="", metavar="URL|FILE", help="Read the stream's metadata from here instead.")
@click.option("--arch", default="", help="x86_64, aarch64, ppc64le or s390x (default: this machine's).")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=DEFAULT_LIMIT // GIB,
    show_default=True,
    help="Refuse more GiB than this.",
)
def fetch(image: str, *, output: Path | None, sha256: str, stream_url: str, arch: str, limit: int) -> None:
    """Download an image and verify it.

    Goes on where an earlier try broke off. The file gets its name when its SHA-256, and that of what is inside where it
    is published, are right. A URL without a checksum is fetched over https only, and only into a folder. Signatures are
    not checked. Prints the file's SHA-256 and path.

    \b
    Examples:
      harness fetch fcos-stable:qemu -o images
      harness fetch rhcos-4.16:metal:raw.gz --arch aarch64
      harness fetch fcos-stable:qemu --stream-url stable.json -o images
      harness fetch https://example.org/rhcos.qcow2.gz --sha256 32d6716f... -o images
    """
    if not is_remote(image):
        raise BadInput("is neither a URL nor an image of a stream", where=image, next_step="as fcos-stable:qemu")
    store = Store.default()
    wanted, oddities = order(image, store, sha256=sha256, stream_source=stream_url, architecture=arch)
    for oddity in oddities:
        click.secho(f"odd: {oddity}", fg="yellow", err=True)
    with Bar(f"fetching {wanted}") as bar:
        if output:
            done = fetch_to_folder(wanted, output, store, limit=limit * GIB, progress=bar)
        else:
            done = fetch_to_store(wanted, store, limit=limit * GIB, progress=bar)
    if not wanted.published.sha256:
        click.secho("unverified: nobody said what its SHA-256 should be", fg="yellow", err=True)
    click.echo(f"{done.sha256}  {done.path}")
