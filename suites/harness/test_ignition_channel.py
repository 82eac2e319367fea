"""The guest's end of the channel, run for real: bash at one end of a socket pair, this test at the other."""

import base64
import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

import harness.ignition

FOLDER = Path(harness.ignition.__file__).parent


class Host:
    """The host's end, as simple as can be."""

    def __init__(self, end):
        self.end = end
        self.lines = end.makefile("rb")
        self.count = 0

    def send(self, line):
        self.end.sendall(line + b"\n")

    def run(self, script):
        self.count += 1
        name = b"round-%d" % self.count
        self.send(name + b" " + base64.b64encode(script.encode()))
        found, status, out, err = self.lines.readline().removesuffix(b"\n").split(b" ")
        assert found == name
        return int(status), base64.b64decode(out, validate=True), base64.b64decode(err, validate=True)


@pytest.fixture
def guest(tmp_path):
    """The process and the socket of a channel that has just started."""
    here, there = socket.socketpair()
    here.settimeout(20)
    command = ["bash", "-c", f'exec 3<&{there.fileno()} {there.fileno()}<&-; exec bash "$0"', FOLDER / "channel.sh"]
    environment = {"PATH": os.environ["PATH"], "RUNTIME_DIRECTORY": str(tmp_path), "LANG": "C.UTF-8"}
    process = subprocess.Popen(command, pass_fds=[there.fileno()], env=environment, cwd="/", stdin=subprocess.DEVNULL)
    there.close()
    yield process, here
    process.kill()
    process.wait()
    here.close()


@pytest.fixture
def host(guest):
    host = Host(guest[1])
    assert host.lines.readline() == b"ready\n"
    return host


@pytest.mark.parametrize(
    "script, answer",
    [
        ("true", (0, b"", b"")),
        ("echo hello", (0, b"hello\n", b"")),
        ("echo oops >&2; exit 7", (7, b"", b"oops\n")),
        ("echo a; echo b >&2; false", (1, b"a\n", b"b\n")),
        ("printf 'a\\0b\\377'", (0, b"a\0b\xff", b"")),
        ("printf '\\n'", (0, b"\n", b"")),
        ("kill -9 $BASHPID", (137, b"", b"")),
        ("cat; echo end", (0, b"end\n", b"")),
        ("set -e; false; echo not reached", (1, b"", b"")),
        ("set -o pipefail; exit 3 | true", (3, b"", b"")),
        ("echo $#", (0, b"0\n", b"")),
        ('read -r x; echo "<$x>"', (0, b"<>\n", b"")),
        ("cat <<'E'\ntwo\nlines\nE\n", (0, b"two\nlines\n", b"")),
        ("x='äö'; echo ${#x} $x", (0, "2 äö\n".encode(), b"")),
        ("ls /proc/self/fd | wc -l", (0, b"4\n", b"")),  # 0 to 2 and the folder itself: no trace of the port
    ],
)
def test_a_script_is_answered_with_its_exit_code_and_outputs(host, script, answer):
    assert host.run(script) == answer


def test_a_syntax_error_is_an_answer(host):
    status, out, err = host.run("if then")
    assert (status > 0, out, b"syntax error" in err) == (True, b"", True)


def test_rounds_do_not_see_each_other(host):
    host.run("cd /tmp; x=1; umask 077; f() { :; }; trap 'echo trapped' EXIT; set -u; exec >/dev/null")
    assert host.run('echo "$PWD ${x-unset} $(umask) $(type -t f)"') == (0, b"/ unset 0022 \n", b"")


def test_five_megabytes_come_back_whole(host):
    status, out, err = host.run("head -c 5242880 /dev/zero; head -c 100000 /dev/zero >&2")
    assert (status, out, err) == (0, bytes(5 * 2**20), bytes(100_000))


def test_a_long_script_is_read_whole(host):
    text = "x" * 60_000
    assert host.run(f"echo {text} | wc -c") == (0, b"60001\n", b"")


@pytest.mark.parametrize(
    "line", [b"", b"   ", b"ready", b"x", b"x ", b"$(id) ZWNobw==", b"x ZWNobyB4;id", b"x Z", b"\0\xff\0 \xff"]
)
def test_a_line_that_is_no_request_is_ignored(host, line):
    host.send(line)
    assert host.run("echo still here") == (0, b"still here\n", b"")


def test_requests_sent_ahead_are_answered_in_order(host):
    scripts = {b"%d" % n: base64.b64encode(b"echo %d" % n) for n in range(20)}
    host.end.sendall(b"".join(name + b" " + code + b"\n" for name, code in scripts.items()))
    answers = [host.lines.readline().split(b" ") for _ in scripts]
    assert [(name, base64.b64decode(out)) for name, _, out, _ in answers] == [(n, n + b"\n") for n in scripts]


def test_a_daemon_left_behind_neither_holds_up_nor_mixes_with_later_rounds(host):
    started = time.monotonic()
    assert host.run("(sleep 0.3; echo late) & echo early")[1] == b"early\n"
    assert time.monotonic() - started < 0.3
    assert host.run("sleep 0.6; echo next")[1] == b"next\n"


def test_outputs_do_not_pile_up(host, tmp_path):
    for _ in range(130):
        host.run("echo x")
    assert len(list(tmp_path.iterdir())) < 140
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 10


def test_without_a_host_the_guest_waits_quietly(guest):
    """A virtio port whose host is gone reads as empty, as a shut-down socket does."""
    process, end = guest
    end.shutdown(socket.SHUT_WR)
    time.sleep(1)
    ticks = sum(map(int, Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    assert process.poll() is None
    assert ticks / os.sysconf("SC_CLK_TCK") < 0.3


def test_a_round_trip_is_quick(host):
    started = time.monotonic()
    for _ in range(50):
        host.run("echo x")
    assert (time.monotonic() - started) / 50 < 0.1


def test_the_script_is_sound_bash():
    assert subprocess.run(["bash", "-n", FOLDER / "channel.sh"], capture_output=True, check=False).stderr == b""
    words = set(re.findall(r"^\s*(?:\w+=\$\()?([a-z0-9]+)\b", (FOLDER / "channel.sh").read_text(), re.MULTILINE))
    assert {"python3", "socat", "stty", "sleep"}.isdisjoint(words)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    unit = tmp_path / "image-harness-channel.service"
    unit.write_bytes((FOLDER / "channel.service").read_bytes())
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []
