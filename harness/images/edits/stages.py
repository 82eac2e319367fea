"""Long work told in stages, to whoever wants to show them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[str, float | None], None]  # a stage and its seconds, or None while it runs


def silent(stage: str, seconds: float | None) -> None:
    """For callers who do not want to be told."""
    del stage, seconds


@contextmanager
def stage(progress: Progress, name: str) -> Iterator[None]:
    """Tell when a stage begins, and when it ended well."""
    progress(name, None)
    started = time.monotonic()
    yield
    progress(name, time.monotonic() - started)
