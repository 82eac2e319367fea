"""Commands on families that are stopped in the middle leave nothing: no file, no folder, and soon."""

import os
import signal
import subprocess
import sys
import time

import pytest

from harness.delta.family.dehydrate import dehydrate

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
SOON = 60  # seconds
HUGE = 4 * 2**30  # bytes of zeroes: seconds of hashing


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    made = []
    for name in ("one", "other"):
        made.append(folder / name)
        made[-1].write_bytes(name.encode() * 100_000)
        os.truncate(made[-1], HUGE)
    return made


@pytest.fixture(scope="module")
def family(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("family") / "set"
    dehydrate(images, folder, effort="fast", verify=False)
    return folder


def stopped(arguments, folder, stop):
    """Start a command, stop it when the first thing lies in `folder`; exit code, words, and how long it took to end."""
    hearing = ["env", "--default-signal=INT,TERM,HUP"]  # under nohup, or behind a shell's &, we do not hear all of them
    command = [*hearing, sys.executable, "-m", "harness.cli", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        until = time.monotonic() + SOON
        while not (folder.exists() and list(folder.iterdir())):
            assert time.monotonic() < until
            assert running.poll() is None, running.communicate()
            time.sleep(0.02)
        running.send_signal(stop)
        sent = time.monotonic()
        _, words = running.communicate(timeout=SOON)
    return running.returncode, words.decode(), time.monotonic() - sent


@pytest.mark.parametrize("stop", EXIT_CODES, ids=lambda stop: stop.name)
def test_a_stopped_rehydration_leaves_no_file(family, tmp_path, stop):
    out = tmp_path / "out"
    code, words, seconds = stopped(["rehydrate", family, "--all", "-o", out], out, stop)
    assert (code, list(out.iterdir())) == (EXIT_CODES[stop], []), words
    assert "Traceback" not in words
    assert seconds < 5


@pytest.mark.parametrize("stop", EXIT_CODES, ids=lambda stop: stop.name)
def test_a_stopped_dehydration_leaves_no_folder(images, tmp_path, stop):
    code, words, _ = stopped(["dehydrate", *images, "-o", tmp_path / "new/set"], tmp_path / "new", stop)
    assert (code, list((tmp_path / "new").iterdir())) == (EXIT_CODES[stop], []), words
    assert "Traceback" not in words
