"""Run a suite as a user would, in a process of its own, and read what it found from its report."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from harness.report.folder import DATA, LATEST, MACHINES
from harness.report.verdict import CheckResult, Run
from suites.harness.mutants.forks import Forks
from suites.harness.mutants.mutant import Mutant

SUITE = "suites/rhcos"
# Says something of the harness's own editing, and writes a whole new disk to do so.
OF_THE_HARNESS = "test_injected_files.py::test_config_injected_into_boot_is_there_before_the_first_boot"
OFFLINE = ("-m", "not boot and not nightly", "--deselect", f"{SUITE}/{OF_THE_HARNESS}")
QUICK = (
    *("-q", "-p", "no:cacheprovider"),
    *("-p", "no:hypothesispytest"),  # imports all of hypothesis to print its summary: more time than all the checks
    *("--confcutdir", "suites"),  # and so does this repository's conftest.py
)


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
    forks: Forks, image: Path, folder: Path, store: Path, options: Sequence[object] = (), *, asks: str = ""
) -> Judgement:
    """The offline checks of suites/rhcos on `image`, or those that boot and match `asks` (see `run_suite`)."""
    chosen = ("-m", "boot", "-k", asks) if asks else OFFLINE
    return run_suite(forks, SUITE, folder, store, (*chosen, "--image", image, "--profile", "reference", *options))


def run_suite(forks: Forks, suite: str, folder: Path, store: Path, options: Sequence[object]) -> Judgement:
    """What a suite says with these options.

    Reports go into `folder`. Of a check with several parameters a failure counts.
    """
    code, said = forks.run((suite, *QUICK, "--reports", folder, "--store", store, *options))
    data = folder / LATEST / DATA
    run = msgspec.json.decode(data.read_bytes(), type=Run) if data.exists() else None
    results: dict[str, CheckResult] = {}
    for result in run.results if run else ():
        if not results.setdefault(check_name(result.nodeid), result).is_failure:
            results[check_name(result.nodeid)] = result
    machines = tuple(path.name for path in (folder / LATEST / MACHINES).glob("*"))
    return Judgement(code, said, results, machines)


def offline_checks(forks: Forks, image: Path, folder: Path) -> frozenset[str]:
    """All offline checks of the suite, collected and not run."""
    options = ("--image", image, "--profile", "reference", "--reports", folder)
    return collected(forks, SUITE, "-m", OFFLINE[1], *options)


def collected(forks: Forks, suite: str, *options: object) -> frozenset[str]:
    """The checks of a suite that these options choose."""
    _, said = forks.run((suite, *QUICK, "--collect-only", *options))
    return frozenset(check_name(line) for line in said.splitlines() if "::" in line)


def assert_caught(found: Judgement, mutant: Mutant) -> None:
    """Exactly the right checks failed, and one of them named the cause."""
    assert found.results, found.said
    assert found.failed == mutant.fails, found.causes
    assert {found.results[name].verdict_class for name in found.failed} == {mutant.verdict}
    assert re.search(mutant.cause, found.causes), f"no cause line matches {mutant.cause!r}:\n{found.causes}"


def assert_refused(found: Judgement, cause: str) -> None:
    """No check ran: one line said why."""
    told = [line for line in found.said.splitlines() if line.strip()]
    assert (found.exit_code, len(told)) == (2, 1), found.said
    assert re.search(cause, told[0]), textwrap.shorten(told[0], 400)


def check_name(nodeid: str) -> str:
    """A check without its folder and without the image it was run on.

    >>> check_name("suites/rhcos/test_qcow2.py::test_x[reference.qcow2]")
    'test_qcow2.py::test_x'
    """
    return nodeid.partition("[")[0].rpartition("/")[2]
