"""Measurements end as tables below the results, and as properties in the run's JUnit file."""

import pytest

PROPERTY = "measured"


@pytest.fixture
def told(request):
    """`told("what", "12.3 s", ...)`: one row of the table that ends a measurement."""
    return lambda *row: request.node.user_properties.append((PROPERTY, "\t".join(map(str, row))))


def pytest_terminal_summary(terminalreporter):
    """Print what was measured, each test's rows as one table."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    for report in reports:
        rows = [value.split("\t") for name, value in report.user_properties if name == PROPERTY]
        if rows and report.when == "call":
            terminalreporter.section(report.nodeid.rpartition("::")[2])
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            for first, *others in rows:
                cells = (f"{cell:>{width}}" for cell, width in zip(others, widths[1:], strict=True))
                terminalreporter.write_line("  ".join((f"{first:{widths[0]}}", *cells)))
