"""A pytest plugin that breaks the code a suite judges, in the process that it is loaded into (`-p`, `--sabotage`).

What broken code makes is kept under keys of its own: nobody else shall take it from the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

import fixtures.prestaged
from suites.harness.prestage_mutants import of_configs, of_data_partition, of_guests

BROKEN_CODE = {**of_configs.MUTANTS, **of_data_partition.MUTANTS, **of_guests.MUTANTS}


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--sabotage`."""
    parser.addoption("--sabotage", metavar="MUTANT", choices=sorted(BROKEN_CODE), required=True)


def pytest_configure(config: pytest.Config) -> None:
    """Break it."""
    name = config.getoption("sabotage")
    patch = pytest.MonkeyPatch()
    make_key = fixtures.prestaged.content_key

    def key(inputs: Mapping[str, Any]) -> str:
        return make_key({**inputs, "sabotage": name})

    patch.setattr(fixtures.prestaged, "content_key", key)
    BROKEN_CODE[name].damage(patch)
