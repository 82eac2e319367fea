"""`harness prestage pull`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from harness.containers.skopeo import Access
from harness.prestage.archives import pull as pulling
from harness.prestage.archives.wanted import Retries
from harness.prestage.lists.lists import read_list
from harness.prestage.lists.reference import Reference

TERMINAL_SECONDS = 30.0  # over which the speed is reckoned
PATH = click.Path(path_type=Path)
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Display(pulling.Watch):
    """A line for each archive, with its number, bytes and how much longer; on a terminal a bar below them as well."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
            speed_estimate_period=TERMINAL_SECONDS,
        )
        self._task = self._bar.add_task("asking", total=None)
        self._started, self._size, self._moved = time.monotonic(), 0, 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        sys.stderr.flush()

    def begun(self, *, total: int, kept: int, size: int) -> None:
        """Say what is to be done."""
        self._started, self._size = time.monotonic(), size
        self._bar.reset(self._task, total=size, description="pulling")
        if kept < total:
            self._tell(f"{total - kept} of {total} archives to pull, {in_words(size)}")

    def moved(self, size: int) -> None:
        """Move the bar."""
        self._moved += size
        self._bar.advance(self._task, size)

    def done(self, number: int, total: int, reference: Reference, size: int) -> None:
        """A line for an archive that is complete."""
        seconds = (time.monotonic() - self._started) / max(self._moved, 1) * max(self._size - self._moved, 0)
        so_far = f"{in_words(self._moved)} of {in_words(self._size)}"
        left = f", {seconds:.0f} s left" if number < total else ""
        self._tell(f"[{number}/{total}] {reference} {in_words(size)} ({so_far}{left})")

    def said(self, reference: Reference, what: str) -> None:
        """A line for anything else."""
        self._tell(f"{reference}: {what}")

    def _tell(self, line: str) -> None:
        self._console.print(line, markup=False)


def in_words(size: int) -> str:
    """Bytes for people.

    >>> in_words(1536)
    '1.5 KiB'
    """
    amount, unit = float(size), 0
    while amount >= 1024 and unit + 1 < len(UNITS):
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f} {UNITS[unit]}" if unit else f"{size} B"


@click.command("pull")
@click.argument("lists", metavar="LIST...", nargs=-1, required=True, type=PATH)
@click.option("-o", "--output", metavar="FOLDER", type=PATH, required=True, help="New, or begun before.")
@click.option("--discovery", metavar="LIST", multiple=True, type=PATH, help="All of LIST is needed in discovery.")
@click.option("--mixed", is_flag=True, help="Images of several repositories are meant.")
@click.option("--jobs", type=click.IntRange(1, 32), default=pulling.JOBS, show_default=True, help="Side by side.")
@click.option("--all", "with_all", is_flag=True, help="Of an image for several architectures, all of them.")
@click.option("--arch", "architecture", metavar="ARCH", default="", help="Otherwise this one (default: as here).")
@click.option("--authfile", metavar="FILE", type=PATH, help="Pull secret (default: skopeo login's).")
@click.option(
    "--tls-verify", metavar="BOOL", type=bool, default=True, help="false: plain HTTP will do, and any certificate."
)
@click.option("--cert-dir", metavar="DIR", type=PATH, help="With the registry's ca.crt.")
@click.option("--registries-conf", metavar="FILE", type=PATH, help="Mirrors (containers-registries.conf(5)).")
@click.option("--retries", type=click.IntRange(0, 20), default=5, show_default=True, help="Of what may pass.")
@click.option("--rm-stale", "removes_stale", is_flag=True, help="Remove archives of images that no list names.")
def pull(lists: tuple[Path, ...], output: Path, discovery: tuple[Path, ...], *, mixed: bool, **given: Any) -> None:
    """Pull the images of all LISTs into FOLDER, an archive each, every blob and manifest verified by its digest.

    A second run pulls only what is missing or was touched; so does one after Ctrl-C. An image of several lists is
    pulled once. FOLDER is what `harness prestage disk` takes; `sha256sum -c SHA256SUMS` works in it.

    \b
    Examples:
      harness prestage pull ocp_images.txt --discovery ai_images.txt -o images --authfile pull-secret.json
      harness prestage pull release.json -o images --jobs 8 --rm-stale
      harness prestage pull release.json -o images --registries-conf mirrors.conf --cert-dir certs
    """
    images = read_list(*lists, discovery=discovery, mixed=mixed)
    access = Access(*(given.pop(name) for name in ("authfile", "tls_verify", "cert_dir", "registries_conf")))
    options = pulling.Options(access=access, retries=Retries(times=given.pop("retries")), **given)
    with Display() as display:
        done = pulling.pull(images, output, options, display)
    for name in done.stale:
        click.echo(
            f"removed {name}: of no listed image" if options.removes_stale else f"stale   {name}: of no listed image"
        )
    if done.stale and not options.removes_stale:
        click.echo("--rm-stale removes what is stale")
    click.echo(f"pulled {done.pulled} archives ({in_words(done.size)}) into {output}; {done.kept} were there already")
