"""The linters, as ordinary tests (after mkosi): what fails here fails for everybody, with the linter's own words."""

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
LINTERS = {
    "ruff check": ["ruff", "check", "--no-cache"],
    "ruff format": ["ruff", "format", "--check", "--diff", "--quiet", "--no-cache"],
    "mypy": ["mypy", "--no-error-summary"],
}


@pytest.mark.parametrize("command", LINTERS.values(), ids=LINTERS.keys())
def test_linter_is_content(command):
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=CHECKOUT, capture_output=True, text=True, check=False, timeout=600
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)} found:\n{done.stdout}{done.stderr}", pytrace=False)
