"""`harness prestage list`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from harness.prestage.lists.lists import Checked, Listed, Stage, check_lists
from harness.prestage.lists.problem import summed_up

KINDS = {
    "release": "list of a release",
    "discovery": "list of the discovery stage",
    "mapping": "mapping.txt",
    "json": "JSON of a release",
}


@click.command("list", short_help="Check lists of images, and say what goes where.")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--discovery",
    metavar="LIST",
    multiple=True,
    type=click.Path(path_type=Path),
    help="All of LIST is needed in discovery: a list of assisted-installer (repeatable).",
)
@click.option("--stage", type=click.Choice([str(stage) for stage in Stage]), help="Show only what this stage needs.")
@click.option("--mixed", is_flag=True, help="Images of several repositories are meant.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document.")
def list_images(
    files: tuple[Path, ...], *, discovery: tuple[Path, ...], stage: str | None, mixed: bool, as_json: bool
) -> int:
    """Check the lists in FILE..., and show their images with the stages that need them.

    Takes lists with a pull spec a line, image-references of a release, oc adm release info -o json, and mapping.txt;
    what each is, its content says. A release's JSON and mapping.txt name the operators, so its stages are known; a
    plain list of a release needs the list of assisted-installer beside it.

    Exits with 1 when a list has errors, each of which would make an installation without network fail.

    \b
    Examples:
      harness prestage list release.json
      harness prestage list ocp_images.txt.4.10.3 --discovery initial-images-4.10.3.txt
      harness prestage list --stage discovery --json release.json ai.txt | jq -r '.images[].pull_spec'
    """
    checked = check_lists(files, discovery=discovery, mixed=mixed)
    shown = checked.images.images if stage is None else checked.images.of(Stage(stage))
    if as_json:
        click.echo(json.dumps(_document(checked, shown), indent=2))
    else:
        _tell(checked, shown)
    return 1 if checked.errors else 0


def _tell(checked: Checked, shown: tuple[Listed, ...]) -> None:
    width = max((len(each.name) for each in shown), default=0)
    for each in shown:
        name = f"{each.name:<{width}}  " if width else ""
        click.echo(f"{_stages(each):<9}  {name}{each.reference}")
    warnings = [problem for problem in checked.problems if problem.severity == "warning"]
    for line in summed_up(checked.errors):
        click.echo(f"{click.style('error', fg='red')}    {line}")
    for line in summed_up(warnings):
        click.echo(f"{click.style('warning', fg='yellow')}  {line}")
    click.echo(summary(checked))


def summary(checked: Checked) -> str:
    """The last line: what was read, what each stage needs, and whether it will do."""
    images = checked.images
    read = ", ".join(sorted({KINDS[kind] for _, kind in checked.kinds}))
    needs = ", ".join(f"{len(images.of(stage)):,} for {stage}" for stage in Stage)
    verdict = _counted(len(checked.errors), "error") if checked.errors else "no error"
    return f"{_counted(len(images.images), 'image')} ({needs}), {verdict} in {read}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _stages(listed: Listed) -> str:
    return "both" if len(listed.stages) == len(Stage) else "".join(listed.stages)


def _document(checked: Checked, shown: tuple[Listed, ...]) -> dict[str, Any]:
    return {
        "lists": [{"file": file, "kind": kind} for file, kind in checked.kinds],
        "images": [
            {
                "pull_spec": str(each.reference),
                "archive": each.reference.archive,
                "stages": sorted(each.stages),
                "name": each.name,
                "tag": each.tag,
                "file": each.file,
                "line": each.line,
            }
            for each in shown
        ],
        "problems": [
            {
                "severity": each.severity,
                "kind": each.kind,
                "file": each.file,
                "line": each.line,
                "path": each.path,
                "what": each.what,
                "remedy": each.remedy,
            }
            for each in checked.problems
        ],
        "count": {"all": len(checked.images.images), **{str(stage): len(checked.images.of(stage)) for stage in Stage}},
    }
