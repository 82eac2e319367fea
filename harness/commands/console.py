"""`harness console`."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import click

from harness.errors import BadInput
from harness.machine.console.socket_path import at_socket
from harness.machine.console.terminal import attend


@click.command()
@click.argument("path", metavar="SOCKET", type=click.Path(path_type=Path))
def console(path: Path) -> None:
    """Sit at the console of a machine that a test run keeps; Ctrl-] leaves it as it is.

    SOCKET is what `pytest --keep-machines` prints. One visitor at a time; the others wait.

    \b
    Example:
      pytest suites/rhcos --keep-machines=on-failure       in one terminal, and in another:
      harness console .../machine-x1/console.sock
    """
    if not sys.stdin.isatty():
        raise BadInput("standard input is no terminal, and a console needs one")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            with at_socket(path) as address:
                connection.connect(address)
        except OSError as cause:
            raise BadInput(
                f"cannot be reached: {cause.strerror or cause}", where=str(path), next_step="is its machine still kept?"
            ) from cause
        ended = attend(connection, sys.stdin.fileno(), sys.stdout.fileno())
    click.echo("\nleft" if ended == "left" else "\nthe machine is gone", err=True)
