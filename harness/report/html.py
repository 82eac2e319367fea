"""The report as one HTML page that needs nothing else: no script, no network, light and dark."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from harness.report.svg import partition_map, size_text, timeline
from harness.report.verdict import CheckResult, Run, judge, most_telling_first
from harness.store import replacing

CLASS_MEANING = {
    "image": "the image breaks its specification",
    "boot": "the machine never came up",
    "infra": "our fault or the host's: may be tried again",
    "test": "a fault of the check itself",
}


def render(run: Run) -> str:
    """The page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seconds": seconds_text, "bytes": size_text}
    return environment.get_template("page.html").render(
        run=run,
        verdict=judge(run),
        failures=most_telling_first(run.failures),
        culprits={result.nodeid for result in run.failures},
        foretold=[result for result in run.results if result.outcome in {"expected", "warned"}],
        retried=[result for result in run.results if result.first_try and not result.is_failure],
        warned=[result for result in run.results if result.warnings],
        groups=_by_file(run.results),
        class_meaning=CLASS_MEANING,
        partition_map=partition_map,
        timeline=timeline,
    )


def write_page(run: Run, target: Path) -> None:
    """Write the page as a whole or not at all."""
    with replacing(target) as aside:
        aside.write_text(render(run), encoding="utf-8", errors="replace")


def seconds_text(seconds: float) -> str:
    """A duration for people.

    >>> seconds_text(0.004), seconds_text(4.25), seconds_text(75)
    ('4 ms', '4.2 s', '1 min 15 s')
    """
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _by_file(results: Iterable[CheckResult]) -> list[tuple[str, list[CheckResult]]]:
    ordered = sorted(results, key=lambda result: result.file)
    return [(file, list(group)) for file, group in groupby(ordered, key=lambda result: result.file)]
