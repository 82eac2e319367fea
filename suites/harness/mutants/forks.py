"""pytest runs in processes of their own that need not import everything first: each is a fork of one that has.

Of a second that the offline checks of a suite take, more than half is imports; there are hundreds of mutants.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

CHECKOUT = Path(__file__).parents[3]
INHERITED = ("PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT")
LEFT_OUT = ("harness.plugin", "harness.cli", "harness.commands")  # pytest imports the first; no suite needs the rest


class Forks:
    """Runs pytest in this checkout. Compiled Python is kept in `bytecode`."""

    def __init__(self, bytecode: Path) -> None:
        self._bytecode = bytecode
        self._parent: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, arguments: Sequence[object]) -> tuple[int, str]:
        """The exit code, and all that was said."""
        said = self._bytecode.with_name("said")
        try:
            answer = self._ask(json.dumps([str(said), *map(str, arguments)]))
        except BaseException:  # it may still be at work, and would answer somebody else
            self.close()
            raise
        return int(answer), said.read_text(errors="replace")

    def close(self) -> None:
        """End the process and whatever runs in forks of it."""
        if self._parent is not None:
            os.killpg(self._parent.pid, signal.SIGKILL)
            self._parent.communicate()
            self._parent = None

    def _ask(self, line: str) -> str:
        if self._parent is None:
            self._parent = self._started()
        assert self._parent.stdin is not None
        assert self._parent.stdout is not None
        self._parent.stdin.write(f"{line}\n")
        self._parent.stdin.flush()
        answer = self._parent.stdout.readline()
        assert answer, "the process that forks has ended; what it said is above"
        return answer

    def _started(self) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name not in INHERITED}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(self._bytecode)
        return subprocess.Popen(
            [sys.executable, "-m", "suites.harness.mutants.forks"],
            cwd=CHECKOUT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


def main() -> None:
    """Import what suites need; then run each line of the input in a fork, and answer with its exit code."""
    for module in pkgutil.walk_packages([str(CHECKOUT / "harness")], "harness."):
        if not module.name.startswith(LEFT_OUT):
            importlib.import_module(module.name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run(*json.loads(line))
        sys.stdout.write(f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n")
        sys.stdout.flush()


def _run(said: str, *arguments: str) -> None:
    """In the fork."""
    code = 70  # something other than pytest's own
    try:
        out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        code = int(pytest.main(list(arguments)))
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
