"""Stages of long work as they pass, on standard error."""

from __future__ import annotations

import sys
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner


class StageDisplay:
    """Stages as they pass: a spinner for the running one on a terminal, a line each when it is done anywhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, transient=True, refresh_per_second=8)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()
        sys.stderr.flush()

    def __call__(self, stage: str, seconds: float | None) -> None:
        from harness.report.html import seconds_text  # noqa: PLC0415 - brings Jinja, which `--help` can do without

        if seconds is None:
            self._live.update(Spinner("dots", f"{stage} ..."))
        else:
            self._console.print(f"[green]done[/]  {stage:18} [dim]{seconds_text(seconds)}[/]")
