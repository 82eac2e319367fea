"""`harness diff`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from harness.images.difference.explain import MOST, MOST_FOUND, explain_difference
from harness.images.difference.telling import render, to_json
from harness.images.source import open_image


@click.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON document (docs/difference.md).")
@click.option("--most", type=click.IntRange(min=0), default=MOST, show_default=True, help="Differences shown at most.")
def diff(first: Path, second: Path, *, as_json: bool, most: int) -> int:
    """Say why two images differ: FIRST left of each slash, SECOND right of it.

    Compares container, partition table, filesystems file by file, packages, and then the bytes that nothing explains.
    Each difference comes with its cause and, where one is known, the knob of the build that removes it. Exits with 0
    when the files are equal, 1 when they differ, 2 when one cannot be read.

    \b
    Examples:
      harness diff yesterday.qcow2 today.qcow2
      harness diff rhcos-aws.vmdk.gz rhcos-qemu.qcow2.gz
      harness diff --json a.raw.xz b.raw.xz | jq .by_cause
    """
    with Console(stderr=True).status("opening ...") as status, open_image(first) as one, open_image(second) as other:
        status.update("comparing ...")
        found = explain_difference(one, other, MOST_FOUND)
        if as_json:
            sys.stdout.buffer.write(to_json(one, other, found, most))
            sys.stdout.buffer.flush()
        else:
            click.echo(render(one, other, found, most).rstrip("\n"))
    return 1 if found else 0
