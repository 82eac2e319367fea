"""A pytest plugin that breaks the code a suite judges, in the process that it is loaded into (`-p`, `--sabotage`)."""

from __future__ import annotations

import pytest

from suites.harness.fcos_mutants import of_layers

BROKEN_CODE = {name: mutant for name, mutant in of_layers.MUTANTS.items() if mutant.kind == "code"}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--sabotage`."""
    parser.addoption("--sabotage", metavar="MUTANT", choices=sorted(BROKEN_CODE), required=True)


def pytest_configure(config: pytest.Config) -> None:
    """Break it."""
    BROKEN_CODE[config.getoption("sabotage")].damage(pytest.MonkeyPatch())
