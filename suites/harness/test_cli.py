"""The command line, run as users run it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

HARNESS = [sys.executable, "-m", "harness.cli"]
CONFIG = {"ignition": {"version": "3.3.0"}}


def run_harness(*arguments, **more):
    return subprocess.run([*HARNESS, *map(str, arguments)], capture_output=True, text=True, check=False, **more)


def test_help_teaches_by_examples():
    done = run_harness("--help")
    assert done.returncode == 0
    for example in ("harness doctor", "harness build reference -o", "harness inspect", "harness ignition validate"):
        assert example in done.stdout


def test_help_imports_no_room_of_the_harness():
    code = "import sys, harness.cli; print([m for m in sys.modules if m.startswith('harness.')])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "['harness.commands', 'harness.commands.lazy', 'harness.errors', 'harness.cli']"


@pytest.mark.parametrize(
    "command",
    [
        "artifact",
        "artifact pull",
        "artifact push",
        "boot",
        "build",
        "build reference",
        "console",
        "convert",
        "doctor",
        "edit",
        "edit inject",
        "edit sparsify",
        "export",
        "fetch",
        "ignition",
        "ignition show",
        "ignition translate",
        "ignition validate",
        "inspect",
        "prestage",
        "prestage lint",
        "prestage list",
        "shell",
        "verify",
    ],
)
def test_every_command_has_help(command):
    done = run_harness(*command.split(), "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: harness")


def test_unusable_image_is_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "notes.txt").write_text("not an image\n")
    done = run_harness("inspect", tmp_path / "notes.txt")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_unknown_command_names_the_help():
    done = run_harness("inspcet")
    assert done.returncode == 2
    assert "--help" in done.stderr


def test_valid_ignition_config_is_said_to_be_so(tmp_path):
    (tmp_path / "a.ign").write_text(json.dumps(CONFIG))
    done = run_harness("ignition", "validate", tmp_path / "a.ign")
    assert (done.returncode, done.stderr) == (0, "")
    assert "valid Ignition config of spec 3.3.0" in done.stdout


def test_invalid_ignition_config_gives_path_and_line(tmp_path):
    broken = {**CONFIG, "storage": {"files": [{"path": "relative"}]}}
    (tmp_path / "a.ign").write_text(json.dumps(broken, indent=1))
    done = run_harness("ignition", "validate", tmp_path / "a.ign")
    assert done.returncode == 1
    assert "storage.files[0].path (line " in done.stdout


def test_reader_that_has_enough_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run([*HARNESS, "doctor", "--json"], stdout=closed, stderr=subprocess.PIPE, check=False)
    assert done.stderr == b""


def test_interrupt_is_quiet():
    code = (
        "import harness.cli as c, time; c.harness.main = lambda *_, **__: time.sleep(60); print(flush=True); c.main()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b""
    assert process.returncode == 130
