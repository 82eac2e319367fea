"""The guest agent's client against the real qemu-ga, which here runs on the host, and against a hostile one."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from testinfra.host import Host

from harness.deadline import Deadline
from harness.errors import DeadlinePassed, MachineFailed
from harness.machine.guest.agent import Agent
from harness.machine.guest.backend import ScriptBackend
from harness.machine.guest.channel import Completed
from harness.tools import find_tool

SOON = 10.0


def qemu_ga(folder, *options) -> list[str]:
    port = ["--method=unix-listen", f"--path={folder / 'port'}", f"--statedir={folder}"]
    return [find_tool("qemu-ga"), *port, f"--pidfile={folder / 'pid'}", *options]


@pytest.fixture
def options() -> list[str]:
    return []


@pytest.fixture
def agent(tmp_path, options) -> Iterator[Agent]:
    with subprocess.Popen(qemu_ga(tmp_path, *options)) as child, socket.socket(socket.AF_UNIX) as port:
        try:
            connect(port, tmp_path / "port", Deadline(SOON))
            yield Agent(port)
        finally:
            child.kill()


def connect(port, path, deadline) -> None:
    """Its file is there a moment before it listens."""
    while True:
        try:
            return port.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            if deadline.expired:
                raise
            time.sleep(0.01)


@pytest.mark.parametrize(
    "script, expected",
    [
        ("true", Completed(0, b"", b"")),
        ("echo out; echo err >&2; exit 7", Completed(7, b"out\n", b"err\n")),
        ("printf '\\0\\377'", Completed(0, b"\0\xff", b"")),
        ("cat; [[ -n $BASH ]]", Completed(0, b"", b"")),
        ("kill -9 $$", Completed(137, b"", b"")),
        (f"echo {'x' * 300_000} | wc -c", Completed(0, b"300001\n", b"")),
    ],
    ids=["nothing", "both outputs", "bytes", "no standard input", "killed", "longer than an argument may be"],
)
def test_a_script_gives_its_exit_code_and_output(agent, script, expected):
    assert agent.run(script, Deadline(SOON)) == expected


def test_testinfra_works_through_it(agent, tmp_path):
    (tmp_path / "it's a file").write_text("content")
    assert Host(ScriptBackend(agent)).file(str(tmp_path / "it's a file")).content_string == "content"


def test_an_agent_that_runs_answers(agent):
    assert agent.answers()


def test_a_port_without_an_agent_does_not_answer():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not Agent(ours).answers(Deadline(0.1))


def test_a_late_script_is_named_and_the_agent_stays_usable(agent):
    with pytest.raises(DeadlinePassed, match=r"'sleep 1; echo late'"):
        agent.run("sleep 1; echo late", Deadline(0.3))
    assert agent.run("echo next", Deadline(SOON)).text == "next"


def test_output_that_the_agent_cuts_is_no_result(agent):
    with pytest.raises(MachineFailed, match="cut the output"):
        agent.run("head -c 17000000 /dev/zero", Deadline(30))


@pytest.mark.parametrize("options", [["--blacklist=guest-exec"]], ids=["as in RHEL"])
def test_a_forbidden_command_is_reported_with_the_agents_words(agent, options):
    assert agent.answers()
    with pytest.raises(MachineFailed, match=r"refuses guest-exec: .*disabled"):
        agent.run("true", Deadline(SOON))


def test_what_was_half_said_before_does_no_harm(agent):
    agent._socket.sendall(b'{"execute": "guest-')
    assert agent.run("echo whole", Deadline(SOON)).text == "whole"


HOSTILE = [
    b"no json\n",
    b"[" * 100_000 + b"\n",
    b'{"return": 1}\n',
    b'{"return": {"pid": "one"}}\n',
    b'{"error": 7}\n',
    b'{"error": {"desc": null}}\n',
    b"\xff" * 1000 + b"\n",
]


@pytest.mark.parametrize("answer", HOSTILE, ids=range(len(HOSTILE)))
def test_nonsense_is_a_typed_error(answer):
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def guest() -> None:
            lines = theirs.makefile("rb")
            number = json.loads(lines.readline().lstrip(b"\xff"))["arguments"]["id"]
            theirs.sendall(b"\xff" + json.dumps({"return": number}).encode() + b"\n")
            lines.readline()
            theirs.sendall(answer)

        thread = threading.Thread(target=guest)
        thread.start()
        with pytest.raises(MachineFailed, match="the guest agent"):
            Agent(ours).run("true", Deadline(SOON))
        thread.join()


def test_a_port_that_is_closed_ends_the_wait():
    ours, theirs = socket.socketpair()
    with ours:
        threading.Timer(0.1, theirs.close).start()
        with pytest.raises(MachineFailed, match="port was closed"):
            Agent(ours).run("true", Deadline(SOON))
