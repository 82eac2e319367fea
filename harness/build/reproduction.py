"""The proof that the reference image is reproducible: a second build in other circumstances, compared byte by byte.

The second build starts from an empty store elsewhere; only the fetched packages are reused, their digests checked.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from harness.build.packages import is_intact, read_lock
from harness.build.reference import LOCK, Built, build_reference
from harness.errors import BuildFailed, HarnessError
from harness.images.difference.explain import explain_difference
from harness.images.source import open_image
from harness.places import REFERENCE
from harness.store import Store, content_key
from harness.tools import find_tool

KIND = "reproduction"
LAYOUT = 1  # raise it when the circumstances below change
VERDICT = "reproduction.json"
SECOND = "second.qcow2"  # kept for whoever looks for the cause, where the two builds differ
FALSE_CLOCK = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
DAYS_AHEAD = 400
ELSEWHERE = "another place"
HOST_NAME = "another-host"
TIME_ZONE = "ELSE-13:45"  # POSIX form: needs no zone files
UMASK = 0o077
EVIDENCE_LINES = 8
UNLESS_ORPHANED = '[ "$PPID" = "$0" ] && exec "$@"'


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Two builds of one image. `perturbations` says what was really different around the second one."""

    equal: bool
    sha256_first: str  # of the qcow2 files
    sha256_second: str
    perturbations: tuple[str, ...]
    differences: tuple[str, ...]
    seconds: float  # that the second build took


def reproduce(store: Store, *, first: Built, definition: Path = REFERENCE) -> Reproduction:
    """Build the reference image again, everything around the build being different, and compare.

    It costs minutes, so the answer is kept in the store with the image's key. Raises BuildFailed when the second
    build fails, or when the definition or the code is no longer that of `first`.
    """
    key = content_key({"image": first.key, "sha256": first.sha256_qcow2, "layout": LAYOUT})
    entry = store.entry(KIND, key, lambda folder: _build_and_compare(folder, store, first, definition))
    return msgspec.json.decode((entry / VERDICT).read_bytes(), type=Reproduction)


def _build_and_compare(folder: Path, store: Store, first: Built, definition: Path) -> None:
    with store.scratch(KIND) as scratch:
        elsewhere = scratch / ELSEWHERE
        _copy_definition(definition, first, elsewhere / "definition")
        copy_packages(store, first, Store(elsewhere / "store"))
        words = _circumstances()
        started = time.monotonic()
        second = _build_again(elsewhere, words)
        seconds = round(time.monotonic() - started, 1)
        if second["key"] != first.key:
            raise BuildFailed(
                "the definition, the code or the host's tools changed since the image was built",
                where="reproduction",
                next_step="build the image again",
            )
        differences: tuple[str, ...] = ()
        if second["sha256_qcow2"] != first.sha256_qcow2:
            with open_image(first.path) as one, open_image(Path(second["path"])) as other:
                differences = tuple(map(str, explain_difference(one, other)))
            shutil.move(second["path"], folder / SECOND)
        verdict = Reproduction(
            equal=second["sha256_qcow2"] == first.sha256_qcow2,
            sha256_first=first.sha256_qcow2,
            sha256_second=second["sha256_qcow2"],
            perturbations=tuple(words.values()),
            differences=differences,
            seconds=seconds,
        )
        (folder / VERDICT).write_text(json.dumps(asdict(verdict), indent=1))


def _copy_definition(definition: Path, first: Built, target: Path) -> None:
    """As a checkout under another umask leaves it; with the packages that `first` really has."""
    shutil.copytree(definition, target, symlinks=True)
    shutil.copyfile(first.path.with_name(LOCK), target / LOCK)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~UMASK)


def copy_packages(store: Store, first: Built, other: Store) -> None:
    """Hard links (or copies) of the packages; one that is not intact is left out and fetched again."""
    for package in read_lock(first.path.with_name(LOCK)):
        entry = store.find("deb", package.sha256)
        if entry is not None and is_intact(entry / "package.deb", package):
            other.entry("deb", package.sha256, partial(_link, entry / "package.deb"))


def _link(source: Path, folder: Path) -> None:
    target = folder / source.name
    try:
        target.hardlink_to(source)
    except OSError:  # another filesystem, or one without hard links
        shutil.copyfile(source, target)


def _circumstances() -> Mapping[str, str]:
    """What will be different, each by its word for the builder and its words for the reader."""
    words = {
        "directory": f"empty store and definition in a directory named {ELSEWHERE!r}",
        "umask": f"umask {UMASK:04o}",
        "zone": f"time zone {TIME_ZONE}",
        "locale": f"locale {_locale()}",
    }
    if os.geteuid() == 0:
        words["host"] = f"host name {HOST_NAME}"
    if len(os.sched_getaffinity(0)) > 1:
        words["cores"] = f"1 core instead of {len(os.sched_getaffinity(0))}"
    if FALSE_CLOCK.exists():
        words["clock"] = f"clock {DAYS_AHEAD} days ahead (libfaketime, outside chroots)"
    return words


def _locale() -> str:
    """One that this process does not have."""
    return "C.UTF-8" if os.environ.get("LC_ALL", os.environ.get("LANG", "C")) in {"C", "POSIX"} else "C"


def _build_again(elsewhere: Path, words: Mapping[str, str]) -> Mapping[str, Any]:
    """Run `main` below as a process of its own, which dies with us and takes all that it started along."""
    command = [find_tool("setpriv"), "--pdeathsig", "KILL", "--"]
    command += [find_tool("sh"), "-c", UNLESS_ORPHANED, str(os.getpid())]
    if "host" in words:
        command += [find_tool("unshare"), "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "--"]
    command += [sys.executable, "-m", __name__, os.fspath(elsewhere), *words]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "TZ": TIME_ZONE}
    environment |= {"LC_ALL": _locale(), "LANG": _locale()}
    if "clock" in words:
        environment |= {"LD_PRELOAD": os.fspath(FALSE_CLOCK), "FAKETIME": f"+{DAYS_AHEAD}d", "NO_FAKE_STAT": "1"}
        environment |= {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    child = subprocess.Popen(
        command, env=environment, cwd=elsewhere, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    )
    try:
        answer, complaints = child.communicate()
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if child.returncode:
        lines = complaints.decode(errors="replace").strip().splitlines() or [f"exit {child.returncode}"]
        raise BuildFailed(f"the second build failed: {' | '.join(lines[-EVIDENCE_LINES:])}", where="reproduction")
    found: Mapping[str, Any] = json.loads(answer)
    return found


def main() -> None:
    """In the second build's process: change what can be changed from within, build, print the result as JSON."""
    elsewhere, words = Path(sys.argv[1]), sys.argv[2:]
    os.umask(UMASK)
    if "host" in words:
        socket.sethostname(HOST_NAME)
    if "cores" in words:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    try:
        built = build_reference(Store(elsewhere / "store"), definition=elsewhere / "definition")
    except HarnessError as failure:
        sys.exit(str(failure))
    answer = {"path": os.fspath(built.path), "sha256_qcow2": built.sha256_qcow2, "key": built.key}
    sys.stdout.write(json.dumps({**answer, "seconds": dict(built.seconds)}))


if __name__ == "__main__":
    main()
