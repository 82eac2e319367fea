"""`kill -9` of pytest in the middle of a boot: no QEMU survives, and the next run trusts nothing half-made."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.store import Store

START_TIME = 120  # seconds until the machine must have been started
DEATH_TIME = 10  # seconds until nothing may be left


def qemus_of(store: Path) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if words.partition(b"\0")[0].endswith(b"qemu-system-x86_64") and os.fsencode(store) in words:
            found.append(int(entry.parent.name))
    return found


def wait_until(condition, seconds):
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def left_by_the_dead(store: Path) -> list[str]:
    """Scratch folders of the killed run that are still there after a new run has swept."""
    with Store(store).scratch("next") as scratch:
        return [path.name for path in scratch.parent.iterdir() if not path.name.startswith("next-")]


@pytest.mark.boot
@pytest.mark.parametrize("workers", ["0", "2"])
def test_kill_9_leaves_no_qemu_and_a_store_that_can_be_trusted(reference, tmp_path, workers):
    store = tmp_path / "store"
    options = {"--image": reference.path, "--store": store, "--reports": tmp_path / "reports", "--accel": "tcg"}
    command = [sys.executable, "-m", "pytest", "suites/rhcos", "-k", "test_network_is_up", "-n", workers]
    command += [str(word) for pair in options.items() for word in pair]
    with (tmp_path / "output").open("wb") as output:
        run = subprocess.Popen(command, stdout=output, stderr=output)
        assert wait_until(lambda: qemus_of(store) or run.poll() is not None, START_TIME)
        assert run.poll() is None, (tmp_path / "output").read_text()
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
    assert wait_until(lambda: not qemus_of(store), DEATH_TIME), "QEMU outlived the run"
    # A worker may outlive its QEMU by a moment, and holds the lock of its scratch folder until then.
    assert wait_until(lambda: not left_by_the_dead(store), DEATH_TIME), f"scratch folders: {left_by_the_dead(store)}"
    finished = [entry for entry in store.glob("snapshot/*") if not entry.name.startswith(".")]
    assert not finished, "a snapshot that was never finished counts as one"
