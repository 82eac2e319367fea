"""`harness ignition`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Final

import click

from harness.errors import BadInput
from harness.ignition.butane.dialect import Dialect
from harness.ignition.butane.document import SIZE_LIMIT
from harness.ignition.butane.translate import BUILT_IN, Options, Translation, examine, translate
from harness.ignition.config import Config, read_config
from harness.ignition.show import lines_of
from harness.ignition.spec import text_of
from harness.ignition.validate import validate as validate_config
from harness.store import replacing

BUTANE_SUFFIXES: Final = (".bu", ".fcc", ".butane", ".yaml", ".yml")
FILES_DIR = click.option(
    "-d",
    "--files-dir",
    type=click.Path(path_type=Path),
    help="The folder that local paths of a Butane config are relative to; without it, none can be used.",
)


@click.group()
def ignition() -> None:
    """Check Ignition configs, show what they do, and make them of Butane's YAML."""


@ignition.command()
@click.argument("file", type=click.Path(path_type=Path))
@FILES_DIR
def validate(file: Path, files_dir: Path | None) -> int:
    """Judge FILE by the Ignition specification it declares (2.2.0, 3.0.0 to 3.5.0).

    Prints each finding with its JSON path and line. Exits with 1 when there is an error; warnings alone are fine.
    A Butane config (.bu, .fcc) is translated first; what is found is blamed on its lines.
    """
    if _is_butane(file):
        return _validate_butane(file, files_dir)
    config = read_config(file)
    report = validate_config(config)
    _print_findings([str(found) for found in report.errors], [str(found) for found in report.warnings])
    if report.is_valid:
        click.echo(f"{config.name}: valid Ignition config of spec {text_of(config.version)}")
    return 0 if report.is_valid else 1


@ignition.command("translate")
@click.argument("file", metavar="FILE.bu", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write there instead of to standard output.")
@FILES_DIR
@click.option("-s", "--strict", is_flag=True, help="Refuse configs that a warning is about.")
@click.option("-p", "--pretty", is_flag=True, help="One value a line.")
@click.option("-r", "--raw", is_flag=True, help="Ignition, where the variant would give a MachineConfig (openshift).")
@click.option(
    "--by",
    type=click.Choice(["auto", "built-in", "butane"]),
    default="auto",
    show_default=True,
    help="Who translates: butane if this machine has it, or always the built-in translator, or always butane.",
)
@click.option("--container", metavar="IMAGE", default="", help="Butane from this container image, by podman.")
def translate_command(
    file: Path,
    output: Path | None,
    files_dir: Path | None,
    by: str,
    container: str,
    *,
    strict: bool,
    pretty: bool,
    raw: bool,
) -> None:
    """Make an Ignition config of FILE.bu (- is standard input); says on standard error who did it.

    \b
    Examples:
      harness ignition translate host.bu -o host.ign
      harness ignition translate --strict --files-dir files host.bu
      harness ignition translate --raw worker.bu > worker.ign
    """
    options = Options(files_dir, strict=strict, pretty=pretty, raw=raw)
    content, name = _content(file)
    made, translator = _translated(content, name, options, by, container)
    if output is None:
        sys.stdout.buffer.write(made)
        sys.stdout.buffer.flush()
    else:
        with replacing(output) as aside:
            aside.write_bytes(made)
    click.echo(f"{name}: translated by {translator}", err=True)


@ignition.command()
@click.argument("file", type=click.Path(path_type=Path))
@FILES_DIR
def show(file: Path, files_dir: Path | None) -> None:
    """Say what FILE, an Ignition or Butane config, does: disks, users, files, units and configs it merges.

    \b
    Examples:
      harness ignition show host.ign
      harness ignition show --files-dir files host.bu
    """
    for line in lines_of(_config_of(file, files_dir)):
        click.echo(line)


def _translated(content: bytes, name: str, options: Options, by: str, container: str) -> tuple[bytes, str]:
    from harness.ignition.butane import external  # noqa: PLC0415 - most runs need no other program

    if container:
        if by == "built-in":
            raise BadInput("--container contradicts --by built-in", next_step="leave one of them out")
        return external.translate_by_container(content, name, options, container), f"butane in {container}"
    if by == "butane" or (by == "auto" and external.is_installed()):
        return external.translate_by_butane(content, name, options), external.version()
    made = translate(content, name, options)
    _print_remarks(made)
    return made.output, f"{BUILT_IN} ({_languages(made.dialect)})"


def _validate_butane(file: Path, files_dir: Path | None) -> int:
    content, name = _content(file)
    made, errors = examine(content, name, Options(files_dir))
    found = [f"{name}:{made.mark(error.path)}: {error.message} ({error.path})" for error in errors]
    _print_findings(found, [f"{name}:{remark.at}: {remark.message}" for remark in made.remarks])
    if not errors:
        click.echo(f"{name}: valid Butane config ({_languages(made.dialect)})")
    return 1 if errors else 0


def _config_of(file: Path, files_dir: Path | None) -> Config:
    if not _is_butane(file):
        return read_config(file)
    content, name = _content(file)
    made = translate(content, name, Options(files_dir))
    return replace(made.config, name=f"{name} ({made.dialect})")


def _languages(dialect: Dialect) -> str:
    return f"{dialect} to Ignition {text_of(dialect.spec)}"


def _content(file: Path) -> tuple[bytes, str]:
    if str(file) == "-":
        return sys.stdin.buffer.read(SIZE_LIMIT + 1), "standard input"
    try:
        if not file.is_file():
            raise BadInput("is not a regular file" if file.exists() else "does not exist", where=str(file))
        with file.open("rb") as stream:
            return stream.read(SIZE_LIMIT + 1), str(file)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(file)) from cause


def _is_butane(file: Path) -> bool:
    return str(file) == "-" or file.suffix.lower() in BUTANE_SUFFIXES


def _print_remarks(made: Translation) -> None:
    for remark in made.remarks:
        click.echo(f"{click.style('warning', fg='yellow')}  {made.name}:{remark.at}: {remark.message}", err=True)


def _print_findings(errors: list[str], warnings: list[str]) -> None:
    for line in errors:
        click.echo(f"{click.style('error', fg='red')}    {line}")
    for line in warnings:
        click.echo(f"{click.style('warning', fg='yellow')}  {line}")
