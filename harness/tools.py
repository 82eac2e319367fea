"""Host programs: which we use, what package brings each, and how we run them.

Arguments are lists, never shell strings. The table lives in host-tools.tsv because `setup` reads it before any
Python of ours can run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from harness.errors import MissingTool, ToolFailed

TABLE = Path(__file__).with_name("host-tools.tsv")
EVIDENCE_LINES = 6


@dataclass(frozen=True, slots=True)
class Tool:
    """One host program: `name` is looked up on PATH unless `path` is absolute (firmware, boot loader files)."""

    name: str
    apt: str
    dnf: str
    needed_for: str

    def find(self) -> Path | None:
        """Where it is, or None."""
        if self.name.startswith("/"):
            found = Path(self.name)
            return found if found.exists() else None
        search = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
        hit = shutil.which(self.name, path=search)
        return Path(hit) if hit else None


@cache
def known_tools() -> Mapping[str, Tool]:
    """The table of host programs, by name."""
    rows = (line.split("\t") for line in TABLE.read_text().splitlines() if line and not line.startswith("#"))
    return {row[0]: Tool(*row) for row in rows}


def find_tool(name: str) -> str:
    """The absolute path of a host program. Raises MissingTool naming the package that brings it."""
    tool = known_tools().get(name) or Tool(name, name, name, "")
    found = tool.find()
    if found is None:
        raise MissingTool(
            f"{name} is not installed (needed for: {tool.needed_for})",
            next_step=f"run ./setup, or install the package {tool.apt} (apt) / {tool.dnf} (dnf)",
        )
    return str(found)


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    stdin: bytes = b"",
    timeout: float | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """Run a host program to its end and return what it printed on standard output.

    `env` is laid over a fixed C locale. Raises MissingTool, and ToolFailed with the last lines of its error output
    when it exits non-zero or runs longer than `timeout` seconds.
    """
    command = [find_tool(os.fspath(argv[0])), *(os.fspath(argument) for argument in argv[1:])]
    name = Path(command[0]).name
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            timeout=timeout,
            cwd=cwd,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(env or {})},
            check=False,
        )
    except subprocess.TimeoutExpired as slow:
        raise ToolFailed(f"{name} ran longer than {timeout:.0f} s", next_step=" ".join(command)) from slow
    if done.returncode:
        lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        evidence = " | ".join(lines[-EVIDENCE_LINES:]) or "it printed nothing"
        raise ToolFailed(f"{name} exited with {done.returncode}: {evidence}", next_step=" ".join(command)[:400])
    return done.stdout
