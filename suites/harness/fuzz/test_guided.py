"""Recipes and plans under a fuzzer that sees which code it reaches; it needs atheris, which nothing else here does."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

import pytest

SEED = 20261121
SECONDS = 600


@pytest.mark.nightly
@pytest.mark.skipif(not importlib.util.find_spec("atheris"), reason="atheris is not installed: pip install atheris")
@pytest.mark.parametrize("kind", ["recipe", "plan"])
def test_ten_minutes_of_guided_fuzzing_find_no_accident(tmp_path, capsys, kind):
    argv = [sys.executable, "-m", "suites.harness.fuzz.guided", kind, tmp_path / "corpus"]
    options = [f"-max_total_time={SECONDS}", f"-seed={SEED}"]
    done = subprocess.run([*argv, *options], check=False, capture_output=True, text=True, timeout=SECONDS + 240)
    words = re.findall(r"^(?:Done .*|#\d+\s+DONE .*)$", done.stderr, re.MULTILINE)
    with capsys.disabled():
        sys.stderr.write(f"\n{kind}: seed {SEED}: {' '.join(words)}\n")
    assert not done.returncode, done.stderr[-4000:]
    assert words
