"""What the README says of tests: each that it names is there, and is one of the night where it says so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`(test_[a-z0-9_]+)`( \*n\*)?")
DEFINED = re.compile(r"^(?P<marks>(?:@.*\n)*)def (?P<name>test_\w+)\(", re.MULTILINE)
OF_THE_NIGHT = re.compile(r"^pytestmark = .*\bnightly\b", re.MULTILINE)


@pytest.fixture(scope="module")
def defined() -> dict[str, bool]:
    """Every test of this project; true where it is only run by night."""
    found = {}
    for path in (ROOT / "suites").rglob("test_*.py"):
        text = path.read_text(encoding="utf-8")
        all_by_night = OF_THE_NIGHT.search(text) is not None
        for test in DEFINED.finditer(text):
            found[test["name"]] = all_by_night or "pytest.mark.nightly" in test["marks"]
    return found


def test_every_test_that_is_named_is_there_and_runs_when_it_is_said_to(defined):
    named = {name: bool(mark) for name, mark in NAMED.findall((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert len(named) > 30
    assert named == {name: defined.get(name) for name in named}


def test_every_yes_of_the_comparison_names_its_test():
    rows = [line.split("|") for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines()]
    compared = [[cell.strip() for cell in row[1:-1]] for row in rows if len(row) == 9]
    ours = {row[0]: row[6] for row in compared if row[5].startswith("yes")}
    assert len(ours) > 25
    assert [claim for claim, test in ours.items() if not NAMED.match(test)] == []
