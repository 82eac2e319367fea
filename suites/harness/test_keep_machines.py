"""`--keep-machines`: a machine stays up after its test until Enter is pressed, and lets its user in meanwhile."""

import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.machine.console.socket_path import at_socket

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


FAILING = """
def test_that_fails(fresh_machine):
    assert fresh_machine.run("hostname").text == "somebody else"

def test_inside_a_block(restores, snapshot):
    with restores(snapshot, "block") as machine:
        assert machine.run("hostname").text == "somebody else"

def test_with_the_shared_one(machine):
    assert machine.run("hostname").text == "somebody else"

def test_that_passes(fresh_machine):
    assert fresh_machine.run("hostname").text == "harness-guest"

def test_without_a_machine(layout):
    assert layout is None
"""


@pytest.mark.boot
def test_after_a_failure_ssh_and_console_are_offered_and_nowhere_else(snapshot, store, tmp_path):
    """The three failures with a machine wait for Enter; the console is the guest's own."""
    (tmp_path / "test_it.py").write_text(FAILING)
    command = [sys.executable, "-u", "-m", "pytest", "test_it.py", "--keep-machines=on-failure"]
    command += ["-p", "no:cacheprovider", f"--store={store.root}", f"--accel={snapshot.boot.accel.name}"]
    offers, asked = [], None
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=tmp_path, text=True, **pipes) as run:
        for line in run.stderr:
            offers.append(line.strip())
            if way_in := re.search(r"get in by: (.*)", line):
                if asked is None:
                    asked = subprocess.run(
                        [*shlex.split(way_in[1]), "hostname"], capture_output=True, timeout=100, check=True
                    )
                    path = next(line.split()[-1] for line in offers if "harness console" in line)
                    seen = visit_console(path)
                run.stdin.write("\n")
                run.stdin.flush()
        out = run.stdout.read()
    assert run.wait(60) == 1, out
    assert (asked.stdout, seen) == (b"harness-guest\n", True)
    failures = [line.partition(" failed: ")[0] for line in offers if " failed: " in line]
    names = ["test_that_fails", "test_inside_a_block", "test_with_the_shared_one"]
    assert sorted(failures) == sorted(f"test_it.py::{name}[reference]" for name in names), out
    assert "4 failed, 1 passed" in out


def visit_console(path):
    """Whether a login prompt answers to Enter on the console behind this socket."""
    with socket.socket(socket.AF_UNIX) as visitor, at_socket(Path(path)) as address:
        visitor.settimeout(60)
        visitor.connect(address)
        visitor.sendall(b"\r")
        said = b""
        while b"login: " not in said and (more := visitor.recv(4096)):
            said += more
    return b"login: " in said


def test_what_else_it_is_given_is_refused():
    done = subprocess.run([sys.executable, "-m", "pytest", "--keep-machines", TEST], capture_output=True, check=False)
    assert (done.returncode, b"is neither always nor on-failure" in done.stderr) == (4, True)
