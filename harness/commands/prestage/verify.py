"""`harness prestage verify`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.prestage.archives.verify import LABEL
from harness.prestage.archives.verify import verify as verify_place


@click.command("verify")
@click.argument("place", metavar="FOLDER|IMAGE", type=click.Path(path_type=Path))
@click.option("--label", metavar="PARTLABEL", default=LABEL, show_default=True, help="The partition, of a disk image.")
@click.option("-q", "--quiet", is_flag=True, help="Only what is wrong.")
def verify(place: Path, *, label: str, quiet: bool) -> int:
    """Say of every listed image whether its archive is there and whole, and what is there without being listed.

    Reads a prestage folder, or the data partition of a disk image, without mounting and without root. Every blob and
    manifest is compared with the digest it is named by, and every archive with SHA256SUMS. Exits with 1 when anything
    is wrong.

    \b
    Examples:
      harness prestage verify images
      harness prestage verify disk.qcow2 --label data
    """
    whole = wrong = size = 0
    for each in verify_place(place, label):
        if each.is_whole:
            whole, size = whole + 1, size + each.size
            if not quiet:
                click.echo(f"{click.style('OK      ', fg='green')}{each.name}")
        else:
            wrong += 1
            for finding in each.findings:
                click.echo(f"{click.style('FAIL    ', fg='red')}{finding}")
    click.echo(f"{whole} archives are whole ({size:,} bytes), {wrong or 'none'} {'is' if wrong == 1 else 'are'} not")
    return 1 if wrong else 0
