"""Groups of commands that import a command only to run it: `--help` of a group needs to import none of them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

import click

Rows = Mapping[str, tuple[str, str, str]]  # command -> its module, the name there, and the line that help shows


def lazy_group(rows: Rows) -> type[click.Group]:
    """The class of a group with these commands."""

    class LazyGroup(click.Group):
        def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
            return sorted(rows)

        def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
            if cmd_name not in rows:
                return None
            module, name, _ = rows[cmd_name]
            command: click.Command = getattr(import_module(module), name)
            return command

        def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
            with formatter.section("Commands"):
                formatter.write_dl([(name, rows[name][2]) for name in sorted(rows)])

    return LazyGroup
