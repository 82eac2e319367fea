"""testinfra through the channel: the same answers as by ssh, and answers where ssh has none."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

import harness.ignition
from harness.deadline import Deadline
from harness.errors import DeadlinePassed, MachineFailed
from harness.machine.guest.backend import ScriptBackend
from harness.machine.guest.channel import Channel
from harness.machine.guest.outcome import outcome

GUEST_SCRIPT = Path(harness.ignition.__file__).with_name("channel.sh")
SOON = 10.0
AWKWARD = "a 'single' \"double\" $HOME `id` \\ ü ; & | * # %d\nsecond line"


@pytest.fixture
def here(tmp_path) -> Iterator[Host]:
    """This host, as if it were a guest: the guest's own script on a socket."""
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    command = ["bash", "-c", f"exec bash {GUEST_SCRIPT} 3<&{number} 3>&{number}"]
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(tmp_path)}
    with subprocess.Popen(command, pass_fds=[number], env=environment) as child, Channel(ours) as channel:
        theirs.close()
        try:
            channel.await_ready(Deadline(SOON))
            yield Host(ScriptBackend(channel))
        finally:
            child.kill()


def test_arguments_are_quoted(here):
    assert here.check_output("printf %%s %s", AWKWARD) == AWKWARD


def test_bytes_come_through_as_they_are(here, tmp_path):
    (tmp_path / "all").write_bytes(bytes(range(256)) * 1000)
    assert here.file(str(tmp_path / "all")).content == bytes(range(256)) * 1000


def test_exit_code_and_error_output_come_through(here):
    done = here.run("echo out; echo err >&2; exit 7")
    assert (done.rc, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_a_command_that_fails_is_told_in_one_line(here):
    with pytest.raises(AssertionError) as failed:
        here.check_output("echo 'first line' >&2; echo 'no such image' >&2; exit 125 # %s", "x" * 200)
    first = str(failed.value).splitlines()[0]
    asked = "echo 'first line' >&2; echo 'no such image' >&2; exit 125 # " + "x" * 99
    assert first == f"Unexpected exit code 125 for {asked}…: no such image"


@pytest.mark.parametrize(
    "command", ["podman run 'a b'", "sudo /bin/sh -c 'podman run '\"'\"'a b'\"'\"''", "/bin/sh -c 'torn"]
)
def test_what_testinfra_puts_around_a_command_is_not_told(here, command):
    told = str(outcome(here.backend, 1, command.encode(), b"", b""))
    assert told == ("/bin/sh -c 'torn" if "torn" in command else "podman run 'a b'") + ": it said nothing"


def test_a_late_command_is_a_typed_error_and_the_next_one_is_answered(here):
    with pytest.raises(DeadlinePassed, match="sleep 1"):
        here.run("sleep 1", within=0.2)
    assert here.check_output("echo next") == "next"


@pytest.fixture(params=["guest", "channel_guest"], ids=["by ssh", "by channel"])
def either_guest(request, machine):
    """The shared machine's guest, by each way in."""
    return request.getfixturevalue(request.param)


LOOKS = {
    "a file": (
        lambda guest: (
            guest.file("/etc/hostname").content,
            guest.file("/etc/hostname").mode,
            guest.file("/etc/hostname").user,
            guest.file("/etc/nowhere").exists,
        ),
        (b"harness-guest\n", 0o644, "root", False),
    ),
    "a file only for root": (
        lambda guest: guest.file("/etc/image-harness/secret").content_string,
        "only for root\n",
    ),
    "a folder and a link": (
        lambda guest: (guest.file("/usr/bin").is_directory, guest.file("/etc/os-release").linked_to),
        (True, "/usr/lib/os-release"),
    ),
    "a service": (
        lambda guest: (guest.service("ssh").is_running, guest.service("nothing-like-it").is_running),
        (True, False),
    ),
    "a package": (
        lambda guest: (guest.package("podman").is_installed, guest.package("emacs").is_installed),
        (True, False),
    ),
    "a user": (lambda guest: (guest.user("core").uid, guest.user("core").home), (1000, "/home/core")),
    "who runs commands": (lambda guest: guest.user().name, "root"),
    "a group": (lambda guest: guest.group("wheel").exists, True),
    "an interface": (lambda guest: guest.interface("lo").addresses[0], "127.0.0.1"),
    "a socket": (lambda guest: guest.socket("tcp://0.0.0.0:22").is_listening, True),
    "a mount point": (lambda guest: guest.mount_point("/boot").filesystem, "ext4"),
    "the system": (lambda guest: (guest.system_info.type, guest.system_info.arch), ("linux", "x86_64")),
    "an awkward argument": (lambda guest: guest.check_output("printf %%s %s", AWKWARD), AWKWARD),
    "bytes": (lambda guest: guest.run("printf '\\000\\377\\n'").stdout_bytes, b"\0\xff\n"),
    "an exit code": (lambda guest: guest.run("exit 7").rc, 7),
}


@pytest.mark.parametrize("look, expected", LOOKS.values(), ids=LOOKS)
def test_both_ways_see_the_same(either_guest, look, expected):
    assert look(either_guest) == expected


def test_the_channel_works_where_ssh_does_not(fresh_machine):
    guest = fresh_machine.guest_by_channel
    guest.check_output("systemctl stop ssh.socket ssh.service")
    assert not guest.service("ssh").is_running
    assert guest.file("/proc/sys/kernel/hostname").content_string == "harness-guest\n"


def test_a_guest_that_is_lost_is_a_typed_error(fresh_machine):
    fresh_machine.process.kill()
    with pytest.raises(MachineFailed, match="killed by signal 9"):
        fresh_machine.guest_by_channel.run("true")
