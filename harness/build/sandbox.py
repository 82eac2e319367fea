"""Runs a build stage as root of its own namespaces: mounts, processes and host name stay inside and end with it.

Only root can: overlay whiteouts and other people's files cannot be made in a user namespace (tried with sub-ids).
A stage is a function of this package called by name in a fresh Python, with one JSON-able argument.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from harness.errors import BuildFailed
from harness.tools import find_tool

EVIDENCE_LINES = 8
# A clock that lies (libfaketime) goes along, so that a build can prove that it does not look at it.
FALSE_CLOCK = ("FAKETIME", "LD_PRELOAD", "NO_FAKE_STAT", "FAKETIME_DONT_FAKE_MONOTONIC")


def check_root() -> None:
    """Raise BuildFailed for anybody but root, before minutes are spent."""
    if os.geteuid():
        raise BuildFailed(
            "the reference image is built by root",
            next_step="run it with sudo, or give an image with --image: looking into and booting one needs no root",
        )


def run_stage(stage: str, arguments: Mapping[str, Any], epoch: int) -> None:
    """Run `module:function` of harness.build with keyword arguments.

    Raises BuildFailed with its last lines, or for anybody but root.
    """
    check_root()
    namespaces = ["--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": str(epoch),
        "E2FSPROGS_FAKE_TIME": str(epoch),
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TMPDIR": os.environ.get("TMPDIR", "/tmp"),  # noqa: S108 - the host's own choice of scratch space
    }
    if "FAKETIME" in os.environ:
        environment |= {name: os.environ[name] for name in FALSE_CLOCK if name in os.environ}
    done = subprocess.run(
        [find_tool("unshare"), *namespaces, "--", sys.executable, "-m", "harness.build.sandbox", stage],
        input=json.dumps(arguments).encode(),
        capture_output=True,
        env=environment,
        umask=0o022,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it printed nothing"]
        raise BuildFailed(" | ".join(lines[-EVIDENCE_LINES:])[:1500], where=f"build stage {stage}")


def main() -> None:
    """Inside the namespaces: call the stage."""
    module, _, function = sys.argv[1].partition(":")
    try:
        getattr(import_module(f"harness.build.{module}"), function)(**json.load(sys.stdin))
    except subprocess.CalledProcessError as failed:
        name = next(word for word in map(str, failed.cmd) if word != "chroot" and not word.startswith("/"))
        said = (failed.stderr or b"").decode(errors="replace").strip()
        sys.exit(f"{name} exited with {failed.returncode} {said}")


if __name__ == "__main__":
    main()
