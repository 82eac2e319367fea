"""Runs injected checks in a pytest of their own, on a store of their own, and tells what the run said and left behind.

The store borrows what the session's store has built, so that a machine costs a restore. Its path is in the environment
of whatever the run starts: nobody else's process or scratch folder can be taken for one of the run's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.store import ENVIRONMENT_VARIABLE, Store

CHECKS = Path(__file__).with_name("injected.py")
RUN_LIMIT = 3000  # seconds a run may take, whatever it does
DEATH_TIME = 5  # seconds until nothing may be left of a run


@dataclass(frozen=True, slots=True)
class Told:
    """What a run reported: its checks by name, and what it printed."""

    results: Mapping[str, Mapping[str, Any]]
    printed: str
    load: float = 0.0  # waiting processes for each processor, a minute's average

    def assert_lost(self, verdict_class: str, *words: str, within: float) -> None:
        """All checks failed with that class and a cause in these words, in so many seconds, fixtures included.

        On a host that has more to do than it has processors, everything may take as much longer.
        """
        assert self.results, self.printed
        within *= max(1.0, self.load)
        for name, result in self.results.items():
            cause = result["cause"]
            found = (result.get("verdict_class"), [word for word in words if word not in cause])
            assert found == (verdict_class, []), f"{name}: {cause}\n{self.printed}"
            assert result["duration"] < within, f"{name}: noticed after {result['duration']:.0f} s: {cause}"

    def assert_passed(self) -> None:
        assert {name: result["cause"] for name, result in self.results.items() if result["outcome"] != "passed"} == {}


def borrowed_store(store: Store, folder: Path, *, without: Collection[str] = ()) -> Path:
    """A new store in which all that was built is there already, as links, except kinds named in `without`."""
    for entry in store.root.glob("*/[!.]*"):
        kind = entry.parent.name
        if entry.is_dir() and kind not in {"scratch", "locks", *without}:
            (folder / kind).mkdir(parents=True, exist_ok=True)
            (folder / kind / entry.name).symlink_to(entry)
    return folder


def start(
    names: Sequence[str], store: Path, accel: str, *options: str, within: Sequence[str] = (), **environment: str
) -> subprocess.Popen[bytes]:
    """A pytest that runs the injected checks of these names; `within` is a command that runs it in turn."""
    checks = [f"{CHECKS}::{name}" for name in names]
    command = [*within, sys.executable, "-m", "pytest", *checks, "--accel", accel, *options]
    command += ["--reports", str(reports_of(store)), "-p", "no:cacheprovider"]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, ENVIRONMENT_VARIABLE: str(store), **environment},
    )


def run(
    names: Sequence[str], store: Path, accel: str, *options: str, within: Sequence[str] = (), **environment: str
) -> Told:
    """Start it, wait for its end, and assert that it left neither process nor scratch folder."""
    with start(names, store, accel, *options, within=within, **environment) as pytest:
        printed, _ = pytest.communicate(timeout=RUN_LIMIT)
    told = told_by(store, printed.decode(errors="replace"))
    assert_nothing_is_left(store)
    return told


def told_by(store: Path, printed: str) -> Told:
    """The newest report of the runs on this store."""
    report = reports_of(store) / "latest" / "run.json"
    assert report.exists(), printed
    results = json.loads(report.read_bytes())["results"]
    by_name = {result["nodeid"].partition("::")[2]: {"cause": "", **result} for result in results}
    return Told(by_name, printed, os.getloadavg()[0] / (os.cpu_count() or 1))


def reports_of(store: Path) -> Path:
    return store.with_name(f"{store.name}-reports")


def assert_nothing_is_left(store: Path) -> None:
    until = time.monotonic() + DEATH_TIME
    while (left := processes_of(store)) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == {}
    assert [path.name for path in (store / "scratch").iterdir()] == []


def processes_of(store: Path) -> dict[int, str]:
    """Command lines, by process id, of what has this store on its command line or in its environment."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
            told = line + (process / "environ").read_bytes()
        except OSError:
            continue  # gone, or not ours to look at
        if os.fsencode(store) in told and int(process.name) != os.getpid():
            found[int(process.name)] = line.replace(b"\0", b" ").decode(errors="replace")
    return found
