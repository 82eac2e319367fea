"""A conftest for small suites: machines without QEMU or guest, whose console says whatever is typed at it.

Console, process and watch are the real ones; only what runs is `cat`. So that a line on a console costs milliseconds.
"""

CONFTEST = r"""
import os
import re
import signal
import socket
from contextlib import contextmanager

import pytest

from fixtures.reporting import show_console_of
from fixtures.watch import allowed_in, watched
from harness.deadline import Deadline
from harness.machine.console.console import Console
from harness.machine.guest.channel import Channel
from harness.machine.machine import Machine
from harness.machine.power import Powered
from harness.machine.qemu.process import Process
from harness.report.folder import contribute, new_machine_folder
from harness.report.verdict import ImageFacts


class EchoMachine(Machine):
    def say(self, line):
        self.console.send(line + "\n")
        self.console.wait_for(re.escape(line), Deadline(10))

    def die(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(Deadline(10))


@contextmanager
def started(request, run_folder, scratch, name):
    contribute(run_folder, "image-x", ImageFacts("x.qcow2", "reference"))
    logs = new_machine_folder(run_folder, name)
    show_console_of(request.node, logs / "console.log")
    ours, theirs = socket.socketpair()
    channel, _ = socket.socketpair()
    fd = theirs.fileno()
    with Process(["bash", "-c", f"exec cat <&{fd} >&{fd}"], scratch, [fd]) as process:
        theirs.close()
        allowed = allowed_in(request.node)
        with (
            Console(ours, logs / "console.log", allowed=allowed, obituary=process.obituary) as console,
            Channel(channel, console.pulse) as channel,
        ):
            machine = EchoMachine(Powered(process, console, None, channel, None), logs, scratch, None, ignition=None)
            with watched(request, machine):
                yield machine


@pytest.fixture(scope="session")
def machine(request, run_folder, tmp_path_factory):
    with started(request, run_folder, tmp_path_factory.mktemp("m"), "shared") as machine:
        yield machine


@pytest.fixture(scope="session")
def guest(machine):
    return machine


@pytest.fixture
def fresh_machine(request, run_folder, tmp_path):
    with started(request, run_folder, tmp_path, f"fresh-{request.node.name}") as machine:
        yield machine


@pytest.fixture
def starts(request, run_folder, tmp_path):
    return lambda name: started(request, run_folder, tmp_path, name)
"""
