"""`harness artifact`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from harness.commands.stages import StageDisplay
from harness.containers.artifact import TYPE_OF_SET
from harness.containers.manifest import Artifact
from harness.containers.registry import pull as pull_artifact
from harness.containers.registry import push as push_artifact

Command = TypeVar("Command", bound=Callable[..., Any])


def with_registry_options(command: Command) -> Command:
    """What both directions take."""
    for decorate in (
        click.option("--insecure", is_flag=True, help="Plain HTTP and unknown certificates will do."),
        click.option(
            "--authfile",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="Credentials (default: those of skopeo login, or $REGISTRY_AUTH_FILE).",
        ),
        click.option(
            "--type", "artifact_type", metavar="TYPE", default=TYPE_OF_SET, show_default=True, help="Its artifactType."
        ),
    ):
        command = decorate(command)
    return command


@click.group()
def artifact() -> None:
    """Push files to a container registry, and pull them, as an OCI artifact.

    Any registry that takes container images will do. A layer is a file, named as ORAS names it.
    """


@artifact.command(short_help="Push the files of a folder.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("reference")
@with_registry_options
def push(folder: Path, reference: str, *, artifact_type: str, authfile: Path | None, insecure: bool) -> None:
    """Push the files of FOLDER, or the artifact of an OCI layout, to REFERENCE.

    The same files give the same digest (the time in it is $SOURCE_DATE_EPOCH, else 1970). What the registry has already
    is not sent again.

    \b
    Examples:
      harness artifact push out quay.io/me/images:4.21
      harness artifact push out localhost:5000/rhcos/images:4.21 --insecure
    """
    with StageDisplay() as display:
        display("pushing", None)
        started = time.monotonic()
        pushed = push_artifact(
            folder, reference, artifact_type=artifact_type, authfile=authfile, tls_verify=not insecure
        )
        display("pushed", time.monotonic() - started)
    _tell(pushed)


@artifact.command(short_help="Pull files into a new folder.")
@click.argument("reference")
@click.option("-o", "--output", metavar="FOLDER", type=click.Path(path_type=Path), required=True, help="A new folder.")
@with_registry_options
def pull(reference: str, *, output: Path, artifact_type: str, authfile: Path | None, insecure: bool) -> None:
    """Pull the files of REFERENCE into FOLDER: all of them, each as its digest says, or nothing.

    \b
    Examples:
      harness artifact pull quay.io/me/images:4.21 -o images
      harness artifact pull quay.io/me/images@sha256:c7f5e5... -o images --authfile pull-secret.json
    """
    with StageDisplay() as display:
        display("pulling", None)
        started = time.monotonic()
        pulled = pull_artifact(
            reference, output, artifact_type=artifact_type, authfile=authfile, tls_verify=not insecure
        )
        display("pulled", time.monotonic() - started)
    _tell(pulled)


def _tell(done: Artifact) -> None:
    for file in done.files:
        click.echo(f"{file.size:>16,}  {file.name}")
    click.echo(f"{done.size:>16,}  {done.digest}")
