"""The framed channel, against the guest's own script where it can be run here, and against a hostile guest."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import harness.ignition
from harness.deadline import Deadline
from harness.errors import BootFailed, DeadlinePassed, MachineFailed
from harness.machine.guest.channel import Channel, Completed
from harness.machine.guest.settle import settle

GUEST_SCRIPT = Path(harness.ignition.__file__).with_name("channel.sh")
SOON = 5.0


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end and the guest's end of the port."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def guest(wire) -> socket.socket:
    return wire[1]


@pytest.fixture
def channel(wire) -> Iterator[Channel]:
    with Channel(wire[0]) as channel:
        yield channel


@pytest.fixture
def real_guest(wire, tmp_path) -> Iterator[subprocess.Popen[bytes]]:
    """The script that Ignition puts into guests, with the port as its descriptor 3."""
    command = ["bash", "-c", f"exec bash {GUEST_SCRIPT} 3<&{wire[1].fileno()} 3>&{wire[1].fileno()}"]
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)}
    with subprocess.Popen(command, pass_fds=[wire[1].fileno()], env=environment) as child:
        wire[1].close()
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.usefixtures("real_guest")
@pytest.mark.parametrize(
    "script, expected",
    [
        ("true", Completed(0, b"", b"")),
        ("echo out; echo err >&2; exit 7", Completed(7, b"out\n", b"err\n")),
        ("printf '\\0\\377'", Completed(0, b"\0\xff", b"")),
        ("cat <<E\nseveral 'quoted' \"lines\"\nE", Completed(0, b"several 'quoted' \"lines\"\n", b"")),
        ("kill -9 $BASHPID", Completed(137, b"", b"")),
        ("printf 'a \\\\s & %s\\r\\n' \\\\n =", Completed(0, b"a \\s & \\n\r\na \\s & =\r\n", b"")),
        ("printf ' =%s' {001..170}", Completed(0, b"".join(b" =%03d" % n for n in range(1, 171)), b"")),
        ("x='äö'; echo ${#x} $x", Completed(0, "2 äö\n".encode(), b"")),
    ],
)
def test_a_script_gives_its_exit_code_and_output(channel, script, expected):
    channel.await_ready(Deadline(SOON))
    assert channel.run(script, Deadline(SOON)) == expected


@pytest.mark.usefixtures("real_guest")
def test_scripts_follow_each_other_and_large_output_comes_through(channel):
    assert channel.run("head -c 5000000 /dev/zero", Deadline(30)).out == bytes(5_000_000)
    assert [channel.run(f"echo {n}", Deadline(SOON)).text for n in range(5)] == list("01234")


@pytest.mark.usefixtures("real_guest")
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=600))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
def test_any_text_comes_back_as_it_was_sent(channel, text):
    channel.await_ready(Deadline(SOON))
    assert channel.run(f"printf %s {shlex.quote(text)}", Deadline(SOON)) == Completed(0, text.encode(), b"")


@pytest.mark.usefixtures("real_guest")
def test_what_the_loop_itself_runs_stays_defined(channel):
    assert channel.run("greet() { echo hello $1; false; }", Deadline(SOON), is_inline=True).rc == 0
    assert channel.run("greet you", Deadline(SOON), is_inline=True) == Completed(1, b"hello you\n", b"")
    assert channel.run("if then", Deadline(SOON), is_inline=True).rc != 0
    assert channel.run("x=1", Deadline(SOON)).rc == 0
    assert channel.run("echo ${x-gone}", Deadline(SOON)).text == "gone"


@pytest.mark.usefixtures("real_guest")
def test_an_answer_after_its_deadline_is_dropped(channel):
    with pytest.raises(DeadlinePassed, match=r"'sleep 0\.5; echo late'"):
        channel.run("sleep 0.5; echo late", Deadline(0.1))
    assert channel.run("echo in time", Deadline(SOON)).text == "in time"


def test_a_restarted_guest_greets_again(channel, guest):
    guest.sendall(b"ready\n")
    channel.await_ready(Deadline(SOON))
    threading.Timer(0.1, guest.sendall, [b"\0\0ready\r\n"]).start()
    channel.await_ready(Deadline(SOON), greetings=2)
    assert channel.greetings == 2


def test_a_wait_can_be_ended_by_bad_news(channel):
    def check() -> None:
        raise BootFailed("the kernel stopped")

    with pytest.raises(BootFailed):
        channel.await_ready(Deadline(60), check=check)


def test_a_dead_guest_ends_a_wait(wire):
    with Channel(wire[0], obituary=lambda: MachineFailed("qemu was killed by signal 9")) as channel:
        threading.Timer(0.2, wire[1].close).start()
        started = time.monotonic()
        with pytest.raises(MachineFailed, match="signal 9"):
            channel.run("true", Deadline(60))
        assert time.monotonic() - started < SOON


@pytest.fixture
def systemctl(tmp_path, monkeypatch):
    """A guest's systemctl, in bash: told what its states are, one after the other, and what jobs there are."""

    def told(states: str, jobs: str = "") -> None:
        (tmp_path / "states").write_text(states)
        (tmp_path / "jobs").write_text(jobs)
        (tmp_path / "systemctl").write_text(
            f"#!/bin/bash\ncd {tmp_path}\n[[ $1 == list-jobs ]] && exec cat jobs\n"
            "head -n 1 states; (($(wc -l <states) == 1)) || sed -i 1d states\n"
        )
        (tmp_path / "systemctl").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    return told


@pytest.mark.parametrize("end", ["running", "degraded", "maintenance"])
def test_a_guest_has_settled_when_systemd_says_so(systemctl, request, channel, end, tmp_path):
    systemctl(f"initializing\nstarting\n{end}\n")
    request.getfixturevalue("real_guest")
    settle(channel, Deadline(30))
    assert (tmp_path / "states").read_text() == f"{end}\n"


def test_a_guest_that_does_not_settle_says_what_it_is_at(systemctl, request, channel, monkeypatch):
    systemctl("starting\n", "7 multi-user.target start waiting\n9 prestage-discovery.service start running\n")
    request.getfixturevalue("real_guest")
    monkeypatch.setattr("harness.machine.guest.settle.GRACE", 5.0)
    words = r"waited 6 s for systemd .* to be done: prestage-discovery\.service \(start running\), multi-user\.target"
    with pytest.raises(DeadlinePassed, match=words):
        settle(channel, Deadline(6))


@pytest.mark.parametrize(
    "noise",
    [b"1 0\n", b"1 0 a b c\n", b"9 0 b3V0 \n", b"1 0 %% \n", b"1 0 b3V b3V0\n", b"1 zero  \n", b"\n\n", b"\xff\xfe\n"],
    ids=repr,
)
def test_lines_that_are_no_answer_are_ignored(channel, guest, noise):
    def answer() -> None:
        guest.recv(1000)  # an answer to what nobody asked yet would be noise too
        guest.sendall(noise + b"1 4 b3V0Cg== \n")

    threading.Thread(target=answer).start()
    assert channel.run("true", Deadline(SOON)) == Completed(4, b"out\n", b"")


def test_a_half_line_is_waited_for(channel, guest):
    def answer() -> None:
        identifier, script = guest.recv(1000).split()
        assert script == b"=true"
        for piece in (identifier + b" 0 b3", b"V0Cg=", b"= \n"):
            guest.sendall(piece)
            time.sleep(0.05)

    threading.Thread(target=answer).start()
    assert channel.run("true", Deadline(SOON)).out == b"out\n"


def test_an_endless_line_is_thrown_away(channel, guest, monkeypatch):
    monkeypatch.setattr("harness.machine.guest.channel.LONGEST_ANSWER", 2**20)
    for _ in range(64):
        guest.sendall(b"A" * 2**16)
    guest.sendall(b"\n1 0 b3V0Cg== \n")
    assert channel.run("true", Deadline(SOON)).out == b"out\n"
