"""A machine's process: dead when we are, and its last words are the error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.deadline import Deadline
from harness.errors import MissingTool
from harness.machine.qemu.process import Process

PARENT = """
import sys, time
from pathlib import Path
from harness.machine.qemu.process import Process
with Process(["sleep", "60"], Path(sys.argv[1])) as child:
    print(child.pid, flush=True)
    time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda death: death.name)
def test_it_dies_with_us_whatever_kills_us(tmp_path, death):
    with subprocess.Popen([sys.executable, "-c", PARENT, tmp_path], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(death)
        parent.wait(10)
    deadline = Deadline(5)
    while is_alive(pid) and not deadline.expired:
        time.sleep(0.02)
    assert not is_alive(pid)


def test_it_is_gone_at_the_end_of_the_block(tmp_path):
    with Process(["sleep", "60"], tmp_path) as process:
        assert process.is_running
    assert not is_alive(process.pid)


def test_it_does_not_hear_our_control_c(tmp_path):
    with Process(["sleep", "60"], tmp_path) as process:
        assert os.getpgid(process.pid) != os.getpgid(0)


def test_an_obituary_quotes_exit_code_and_last_words(tmp_path):
    with Process(["sh", "-c", "echo first >&2; echo no such drive >&2; exit 3"], tmp_path) as process:
        process.wait(Deadline(5))
        assert "sh exited with 3: first | no such drive" in str(process.obituary())


def test_an_obituary_names_the_signal(tmp_path):
    with Process(["sh", "-c", "kill -SEGV $$"], tmp_path) as process:
        process.wait(Deadline(5))
        assert "killed by signal 11: it said nothing" in str(process.obituary())


def test_endless_error_output_is_quoted_from_its_end(tmp_path):
    with Process(["sh", "-c", "yes noise | head -c 4000000 >&2; echo last >&2; exit 1"], tmp_path) as process:
        process.wait(Deadline(10))
        assert process.last_words.endswith("last")
        assert len(process.last_words) <= 2000


def test_waiting_ends_at_the_deadline(tmp_path):
    with Process(["sleep", "60"], tmp_path) as process:
        assert process.wait(Deadline(0.1)) is None


def test_a_missing_program_is_named(tmp_path):
    with pytest.raises(MissingTool, match="qemu-system-pdp11"):
        Process(["qemu-system-pdp11"], tmp_path)


def test_descriptors_are_handed_over(tmp_path):
    read, write = os.pipe()
    with Process(["bash", "-c", f"echo hello >&{write}"], tmp_path, [write]) as process:
        os.close(write)
        assert process.wait(Deadline(5)) == 0, process.last_words
        assert os.read(read, 100) == b"hello\n"
    os.close(read)
