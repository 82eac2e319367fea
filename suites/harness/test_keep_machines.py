"""`--keep-machines`: a machine stays up after its test until Enter is pressed, and lets its user in meanwhile."""

import re
import shlex
import subprocess
import sys

import pytest

TEST = "suites/rhcos/test_running_system.py::test_network_is_up"


@pytest.mark.boot
def test_a_kept_machine_lets_its_user_in_until_enter_is_pressed(snapshot, store, tmp_path):
    """`snapshot` is asked for so that the run below has only to restore it."""
    command = [sys.executable, "-u", "-m", "pytest", TEST, "--keep-machines", "--reports", tmp_path]
    command += ["--store", store.root, "--accel", snapshot.boot.accel.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        way_in = next(found for line in run.stderr if (found := re.search(r"get in by: (.*)", line.decode())))
        asked = subprocess.run([*shlex.split(way_in[1]), "hostname"], capture_output=True, timeout=60, check=True)
        out, _ = run.communicate(b"\n", timeout=120)
    assert asked.stdout == b"harness-guest\n"
    assert run.returncode == 0, out.decode()


def test_it_cannot_wait_for_a_key_in_several_workers():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", TEST, "--keep-machines", "-n", "2"], capture_output=True, check=False
    )
    assert (done.returncode, b"run it without -n" in done.stderr) == (4, True)
