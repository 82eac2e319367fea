"""`harness prestage lint`."""

from __future__ import annotations

import json
import re
from itertools import groupby
from pathlib import Path

import click

from harness.errors import BadInput
from harness.prestage.lint.lint import Finding, Release
from harness.prestage.lint.lint import lint as lint_subjects
from harness.prestage.lint.rules import RULES
from harness.prestage.lint.subject import read_subjects

RELEASE = re.compile(r"4\.(\d{1,2})(?:\.[\w.-]+)?", re.ASCII)
OLDEST = 6  # OpenShift 4.6 was the first with Ignition 3


@click.command(short_help="Find what is known to go wrong in configs of others.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--release", metavar="4.N", help="The release of OpenShift they are for: it says which spec they need.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def lint(files: tuple[Path, ...], *, release: str | None, as_json: bool) -> int:
    """Look in FILE... for defects that pre-staging configs are known to have.

    Takes Ignition configs, patches for assisted-service (compared with the config beside them, if that is given too),
    bare unit files and bare scripts. Scripts inside configs are read as well.

    Exits with 1 when there is a finding, each with its JSON path, what it does to a host, and what to write instead.

    \b
    Examples:
      harness prestage lint discovery.ign
      harness prestage lint pointer.patch pointer.ign --release 4.10
      harness prestage lint var-mnt.mount precache-images.service extract-ai.sh
    """
    findings = lint_subjects(read_subjects(files), RULES, _release(release))
    if as_json:
        click.echo(json.dumps([_document(each) for each in findings], indent=2))
    else:
        for found in findings:
            click.echo(f"{click.style(found.rule, fg='yellow', bold=True)}  {found.where}")
            click.echo(f"    {found.what}: {found.reason}")
            click.echo(f"    -> {found.remedy}")
        click.echo(_summary(findings, len(files)))
    return 1 if findings else 0


def _summary(findings: tuple[Finding, ...], files: int) -> str:
    where = f"{files} file{'' if files == 1 else 's'}"
    if not findings:
        return f"no finding in {where}"
    rules = ", ".join(rule for rule, _ in groupby(sorted(found.rule for found in findings)))
    return f"{len(findings)} finding{'' if len(findings) == 1 else 's'} in {where}: {rules}"


def _release(text: str | None) -> Release | None:
    match = RELEASE.fullmatch(text or "")
    if text and (match is None or int(match[1]) < OLDEST):
        raise BadInput(
            "is not a release that we know", where=f"--release {text}", next_step=f"as 4.10; from 4.{OLDEST} on"
        )
    return (4, int(match[1])) if match else None


def _document(found: Finding) -> dict[str, str | int]:
    return {
        "rule": found.rule,
        "file": found.place.file,
        "path": found.place.path,
        "line": found.line,
        "what": found.what,
        "reason": found.reason,
        "remedy": found.remedy,
    }
