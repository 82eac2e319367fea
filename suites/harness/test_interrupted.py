"""A command that is stopped in the middle leaves nothing behind: no file, no child."""

import os
import signal
import subprocess
import sys
import time

import pytest

from suites.harness.small_disk import small_disk

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
SOON = 60  # seconds


@pytest.mark.parametrize("stop", EXIT_CODES, ids=lambda stop: stop.name)
def test_a_stopped_export_leaves_no_file(tmp_path, stop):
    disk, out = small_disk(tmp_path), tmp_path / "out"
    os.truncate(disk, 64 * 2**30)  # minutes of zeroes
    command = [sys.executable, "-m", "harness.cli", "export", disk, "-o", out, "--format", "gz"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as export:
        until = time.monotonic() + SOON
        while not (out.exists() and list(out.iterdir())):
            assert time.monotonic() < until
            assert export.poll() is None
            time.sleep(0.05)
        export.send_signal(stop)
        _, words = export.communicate(timeout=SOON)
    assert (export.returncode, list(out.iterdir())) == (EXIT_CODES[stop], []), words.decode()
