"""A person at a guest's console beside the harness: taps, visitors, and the user's terminal."""

import os
import pty
import socket
import termios
import threading

import pytest

from harness.deadline import Deadline
from harness.machine.console.console import Console
from harness.machine.console.socket_path import at_socket
from harness.machine.console.tap import Tap, served
from harness.machine.console.terminal import WindowGuard, attend

SOON = 20.0  # seconds


@pytest.fixture
def line(tmp_path):
    """A guest's end of a console, and the console."""
    ours, theirs = socket.socketpair()
    with theirs, Console(ours, tmp_path / "console.log") as console:
        theirs.settimeout(SOON)
        yield theirs, console


def read_until(connection, wanted):
    connection.settimeout(SOON)
    seen = b""
    while wanted not in seen:
        seen += (more := connection.recv(4096))
        assert more, seen
    return seen


@pytest.mark.parametrize("folder", [".", "deep/" + "x" * 120], ids=["short", "longer than a socket's address"])
def test_visitors_see_what_was_said_and_type(line, tmp_path, folder):
    guest, console = line
    guest.sendall(b"before\r\nlogin: ")
    console.wait_for("login: $", Deadline(SOON))
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    with served(console, tmp_path / folder / "console.sock") as path:
        for visit in (b"first", b"second"):
            with socket.socket(socket.AF_UNIX) as visitor:
                with at_socket(path) as address:
                    visitor.connect(address)
                read_until(visitor, b"login: ")
                visitor.sendall(visit + b"\xc3\xa9\r")
                assert read_until(guest, b"\r") == visit + b"\xc3\xa9\r"
                guest.sendall(b"hello " + visit)
                read_until(visitor, b"hello " + visit)
    assert not path.exists()


def test_a_guest_that_has_said_nothing_yet_can_be_visited(line, tmp_path):
    guest, console = line
    with served(console, tmp_path / "console.sock") as path, socket.socket(socket.AF_UNIX) as visitor:
        visitor.connect(str(path))
        visitor.sendall(b"\r")
        assert read_until(guest, b"\r") == b"\r"
        guest.sendall(b"login: ")
        assert read_until(visitor, b"login: ") == b"login: "


def test_a_guest_that_ends_is_told_to_whoever_watches(line):
    guest, console = line
    ours, theirs = socket.socketpair()
    with ours, theirs:
        console.mirror_to(Tap(theirs))
        guest.sendall(b"the last words")
        guest.shutdown(socket.SHUT_RDWR)
        ours.settimeout(SOON)
        seen = b""
        while more := ours.recv(4096):
            seen += more
        assert seen == b"the last words"


def test_the_guest_never_waits_for_a_visitor_who_reads_nothing(line):
    """And the visitor is told that something is missing."""
    guest, console = line
    ours, theirs = socket.socketpair()
    with ours, theirs:
        console.mirror_to(Tap(theirs))
        for number in range(400):
            guest.sendall(b"x" * 16_000 + b"\r\n")
            if number % 20 == 0:
                guest.sendall(b"mark %d\r\n" % number)
                console.wait_for(f"^mark {number}$", Deadline(SOON))
        guest.sendall(b"all said\r\n")
        console.wait_for("all said", Deadline(SOON))
        ours.setblocking(False)
        seen = b""
        while b"all heard" not in seen:
            try:
                seen += ours.recv(2**20)
            except BlockingIOError:
                guest.sendall(b"all heard\r\n")
                ours.settimeout(SOON)
    assert len(seen) < 4 * 2**20
    assert b"bytes are not shown; the log has them]" in seen


def test_the_window_keeps_its_title_its_size_and_its_history():
    """Whatever the cuts between chunks; other sequences pass."""
    said = b"A\x1bcB\x1b]0;root@guest\x07C\x1b[8;24;80tD\x1b[2JE\x1b]2;title\x1b\\F\x1b[31mred\x1b[0m\x1b]8;;link\x07"
    wanted = b"ABCD\x1b[2JEF\x1b[31mred\x1b[0m\x1b]8;;link\x07"
    for size in range(1, len(said) + 1):
        guard = WindowGuard()
        shown = b"".join(guard.feed(said[start : start + size]) for start in range(0, len(said), size))
        assert shown == wanted, size


def test_the_terminal_is_the_users_again_after_leaving():
    """Ctrl-C goes to the guest, what follows Ctrl-] to nobody, and every setting comes back."""
    keyboard, terminal = pty.openpty()
    ours, theirs = socket.socketpair()
    before = termios.tcgetattr(terminal)
    ended = []
    with ours, theirs:
        thread = threading.Thread(target=lambda: ended.append(attend(ours, terminal, terminal)))
        thread.start()
        theirs.sendall(b"\x1b[?7lraw now")
        while b"raw now" not in os.read(keyboard, 4096):
            pass
        assert termios.tcgetattr(terminal) != before
        os.write(keyboard, b"\x03ls\r\x1dlost")
        assert read_until(theirs, b"\r") == b"\x03ls\r"
        thread.join(SOON)
    assert (ended, termios.tcgetattr(terminal)) == (["left"], before)
    assert b"\x1b[?7h" in os.read(keyboard, 4096)
    os.close(keyboard)
    os.close(terminal)
