"""A bar on standard error for work that takes long: how far, how fast, how much longer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


def _shown() -> Progress:
    """Bars on a terminal, which are gone when the work is done; elsewhere nothing."""
    console = Console(stderr=True, highlight=False)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class Bars:
    """A bar for each of several things that are done side by side; call it with a name and the total of bytes."""

    def __init__(self) -> None:
        self._progress = _shown()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, name: str, total: int) -> Callable[[int], None]:
        task = self._progress.add_task(name, total=total)
        return lambda more: self._progress.advance(task, more)


class Bar:
    """One bar; call it with bytes done and their total."""

    def __init__(self, title: str) -> None:
        self._progress = _shown()
        self._task = self._progress.add_task(title, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def counting(self, title: str, total: int) -> Callable[[int], None]:
        """Begin anew for the next file; what is returned takes how many more bytes are done."""
        self._progress.reset(self._task, description=title, total=total)
        return lambda more: self._progress.advance(self._task, more)

    def __call__(self, done: int, total: int | None) -> None:
        self._progress.update(self._task, completed=done, total=total)
