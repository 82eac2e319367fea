"""`harness verify`."""

from __future__ import annotations

from pathlib import Path

import click

from harness.commands.progress import Bar
from harness.release.digests import Progress
from harness.release.verify import summary, warnings
from harness.release.verify import verify as verify_files

COLOURS = {"OK": "green", "FAIL": "red", "MISSING": "yellow"}


@click.command()
@click.argument("files", type=click.Path(path_type=Path), nargs=-1)
@click.option(
    "--against",
    type=click.Path(path_type=Path, exists=True),
    help="What was published. Default: what lies beside each file.",
)
def verify(files: tuple[Path, ...], against: Path | None) -> int:
    """Compare FILES with what was published about them.

    Knows sha256sum files, CoreOS' stream and release metadata, meta.json, the installer's rhcos.json of any age, and
    fast-vm's parts (name one of them, or their folder). What is inside a compressed file is compared too, where its
    digest is published. With no FILES, all that the checksums name are looked for beside them.

    Prints a line for each file and a summary. Exits with 1 when one differs or is missing.

    \b
    Examples:
      harness verify rhcos-qemu.x86_64.qcow2.gz --against meta.json
      harness verify --against sha256sum.txt
      harness verify 16g__rhcos-4.4.3.img.xz
    """
    if against:
        for oddity in warnings(against):
            click.secho(f"odd: {against.name}: {oddity}", fg="yellow", err=True)
    findings = []
    with Bar("verifying") as bar:

        def meter(file: Path) -> Progress:
            return bar.counting(file.name, file.stat().st_size)

        for finding in verify_files(files, against, progress=meter):
            findings.append(finding)
            click.echo(f"{click.style(f'{finding.state:8}', fg=COLOURS[finding.state])}{str(finding)[8:]}")
    click.echo(summary(findings))
    return 0 if all(finding.state == "OK" for finding in findings) else 1
