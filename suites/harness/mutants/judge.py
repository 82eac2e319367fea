"""Run suites/rhcos on an image as a user would, in a process of its own, and read what it found from its report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.report.folder import DATA, LATEST, MACHINES
from harness.report.verdict import CheckResult, Run

CHECKOUT = Path(__file__).parents[3]
SUITE = "suites/rhcos"
# Says something of the harness's own editing, and writes a whole new disk to do so.
OF_THE_HARNESS = "test_injected_files.py::test_config_injected_into_boot_is_there_before_the_first_boot"
OFFLINE = ("-m", "not boot and not nightly", "--deselect", f"{SUITE}/{OF_THE_HARNESS}")
QUICK = (
    *("-q", "-p", "no:cacheprovider"),
    *("-p", "no:hypothesispytest"),  # imports all of hypothesis to print its summary: more time than all the checks
)
INHERITED = ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT")


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a run of the suite came to. Checks are named `test_file.py::test_name`."""

    exit_code: int
    said: str
    results: dict[str, CheckResult]
    machines: tuple[str, ...]

    @property
    def failed(self) -> frozenset[str]:
        return frozenset(name for name, result in self.results.items() if result.is_failure)

    def outcome(self, name: str) -> str:
        return self.results[name].outcome

    @property
    def causes(self) -> str:
        """The failed checks with their cause lines, one a line."""
        return "\n".join(f"{name}: {self.results[name].cause}" for name in sorted(self.failed))


def judge(
    image: Path, folder: Path, store: Path, bytecode: Path, options: Sequence[object] = (), *, asks: str = ""
) -> Judgement:
    """The offline checks of suites/rhcos on `image`, or those that boot and match `asks`.

    Reports go into `folder`; compiled Python is kept in `bytecode`, for compiling takes longer than all the checks.
    """
    chosen = ("-m", "boot", "-k", asks) if asks else OFFLINE
    done = _pytest(
        *chosen,
        "--image",
        image,
        "--profile",
        "reference",
        "--reports",
        folder,
        "--store",
        store,
        *options,
        bytecode=bytecode,
    )
    data = folder / LATEST / DATA
    run = msgspec.json.decode(data.read_bytes(), type=Run) if data.exists() else None
    results = {check_name(result.nodeid): result for result in run.results} if run else {}
    machines = tuple(path.name for path in (folder / LATEST / MACHINES).glob("*"))
    return Judgement(done.returncode, done.stdout + done.stderr, results, machines)


def offline_checks(image: Path, folder: Path) -> frozenset[str]:
    """All offline checks of the suite, collected and not run."""
    done = _pytest("-m", OFFLINE[1], "--collect-only", "--image", image, "--profile", "reference", "--reports", folder)
    return frozenset(check_name(line) for line in done.stdout.splitlines() if "::" in line)


def check_name(nodeid: str) -> str:
    """A check without its folder and without the image it was run on.

    >>> check_name("suites/rhcos/test_qcow2.py::test_x[reference.qcow2]")
    'test_qcow2.py::test_x'
    """
    return nodeid.partition("[")[0].rpartition("/")[2]


def _pytest(*arguments: object, bytecode: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
    if bytecode:
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
    return subprocess.run(
        [sys.executable, "-m", "pytest", SUITE, *QUICK, *map(str, arguments)],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
