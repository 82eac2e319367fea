"""The console: drained whatever happens, recorded, watched for bad lines, and matched without the kernel's lines."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.deadline import Deadline
from harness.errors import BadInput, BootFailed, DeadlinePassed, MachineFailed
from harness.machine.console.console import Console
from harness.machine.console.screen import ROWS, Screen
from harness.machine.console.stream import LONGEST_LINE, KernelLineFilter, LineCutter, TextCleaner

KERNEL_LINE = "[   12.345678] random: crng init done\r\n"
SOON = 5.0


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end and the guest's end of a serial line."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def guest(wire) -> socket.socket:
    return wire[1]


@pytest.fixture
def console(wire, tmp_path) -> Iterator[Console]:
    with Console(wire[0], tmp_path / "console.log") as console:
        yield console


def test_a_kernel_line_in_the_middle_of_a_prompt_does_not_hide_it(console, guest):
    guest.sendall(f"Please enter pas{KERNEL_LINE}sphrase for disk root: ".encode())
    assert console.expect(r"Please enter passphrase for disk \w+: $", Deadline(SOON)) == 0


@pytest.mark.parametrize("cut", range(0, 60, 3))
def test_it_does_not_matter_where_the_stream_is_cut(console, guest, cut):
    text = f"Please enter pas{KERNEL_LINE}sphrase: ".encode()
    guest.sendall(text[:cut])
    time.sleep(0.01)
    guest.sendall(text[cut:])
    assert console.wait_for("^Please enter passphrase: $", Deadline(SOON)) == "Please enter passphrase: "


def test_half_a_kernel_line_before_a_prompt_does_not_hide_it_for_ever(console, guest):
    guest.sendall(b"[   12.345678] unfinished ...localhost login: ")
    assert console.expect("login: $", Deadline(SOON)) == 0


def test_a_kernel_line_can_be_waited_for_too(console, guest):
    guest.sendall(b"noise\r\n" + KERNEL_LINE.encode())
    assert console.wait_for("crng init", Deadline(SOON)) == KERNEL_LINE.strip()


def test_a_bad_line_ends_a_wait_at_once_and_names_the_cause(console, guest):
    threading.Timer(0.2, guest.sendall, [b"[    2.9] Kernel panic - not syncing: no init\r\n"]).start()
    started = time.monotonic()
    with pytest.raises(BootFailed, match=r"kernel stopped \[kernel-panic\].*no init"):
        console.wait_for("login: ", Deadline(60))
    assert time.monotonic() - started < SOON


def test_a_bad_line_ends_an_expectation_too(console, guest):
    threading.Timer(0.2, guest.sendall, [b"stress invoked oom-killer: gfp_mask\r\n"]).start()
    with pytest.raises(BootFailed, match="oom-killer"):
        console.expect("login: ", Deadline(60))


def test_old_bad_lines_do_not_spoil_what_is_typed_later(console, guest):
    guest.sendall(b"app[1]: segfault at 0 ip 0\r\n")
    with pytest.raises(BootFailed):
        console.wait_for("never", Deadline(SOON))
    guest.sendall(b"login: ")
    assert console.expect("login: $", Deadline(SOON)) == 0


def test_an_unfinished_bad_line_is_seen(console, guest):
    guest.sendall(b"Press Enter for emergency shell or wait 5 minutes for reboot")
    with pytest.raises(BootFailed, match="emergency-shell"):
        console.wait_for("login: ", Deadline(SOON))


def test_the_end_of_the_machine_ends_a_wait(wire, tmp_path):
    ours, theirs = wire
    with Console(ours, tmp_path / "log", obituary=lambda: MachineFailed("qemu exited with 1: no memory")) as console:
        threading.Timer(0.2, theirs.close).start()
        with pytest.raises(MachineFailed, match="no memory"):
            console.wait_for("login: ", Deadline(60))


def test_a_missed_deadline_says_what_was_seen_last(console, guest):
    guest.sendall(b"Starting something slow\r\n")
    with pytest.raises(DeadlinePassed, match=r"'login: '.*Starting something slow"):
        console.wait_for("login: ", Deadline(0.3))
    with pytest.raises(DeadlinePassed, match="last seen: Starting something slow"):
        console.expect("login: ", Deadline(0.3))


def test_the_log_has_one_stamped_line_a_line(console, guest):
    guest.sendall(b"\x1b[2J\x1b[1;1HGNU GRUB\r\n\x1b[0;32m  OK  \x1b[0m done\r\nlogin: ")
    console.wait_for("login: ", Deadline(SOON))
    guest.close()
    console.close()
    lines = console.log_path.read_text().splitlines()
    assert [line[11:] for line in lines] == ["GNU GRUB", "  OK   done", "login: "]
    assert all(re.fullmatch(r" *\d+\.\d{3} .*", line) for line in lines)


def test_a_flood_neither_stalls_the_guest_nor_hides_a_bad_line(console, guest):
    line = b"[   99.000000] audit: the same thing over and over again, eighty characters long ....\r\n"
    block = line * 8192
    started = time.monotonic()
    for _ in range(50 * 2**20 // len(block)):
        guest.sendall(block)
    guest.sendall(b"app[1]: segfault at 0 ip 0\r\n")
    with pytest.raises(BootFailed, match="segfault"):
        console.wait_for("never", Deadline(60))
    assert time.monotonic() - started < 60
    assert console.log_path.stat().st_size > 50 * 2**20


def test_a_flood_without_line_ends_is_bounded(console, guest):
    for _ in range(64):
        guest.sendall(b"x" * 2**16)
    guest.sendall(b"\r\nlogin: ")
    assert console.wait_for("login: $", Deadline(SOON)) == "login: "
    assert max(map(len, console.tail(2000))) <= LONGEST_LINE


def test_bytes_that_are_no_text_are_survived(console, guest):
    guest.sendall(bytes(range(256)) * 64 + b"\x1b[\x1b]\x1b\r\nlogin: ")
    assert console.wait_for("login: $", Deadline(SOON)).endswith("login: ")


def test_the_timeline_follows_the_boot(console, guest):
    guest.sendall(b"SeaBIOS\r\nWelcome to GRUB!\r\n[    0.000000] Linux version 6.1\r\nlocalhost login: ")
    console.wait_for("login: ", Deadline(SOON))
    assert list(console.timeline.events) == ["firmware", "boot loader", "kernel", "login prompt"]


@pytest.fixture
def shell(wire) -> Iterator[subprocess.Popen[bytes]]:
    """A real shell on a terminal at the other end of the line, as a getty would leave it."""
    script = "import pty, os; os.environ['PS1'] = '# '; os.environ['TERM'] = 'dumb'; pty.spawn(['sh'])"
    with subprocess.Popen(["python3", "-c", script], stdin=wire[1], stdout=wire[1]) as child:
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.usefixtures("shell")
def test_a_command_at_a_prompt_gives_exit_code_and_output(console):
    console.expect("# $", Deadline(SOON))
    assert console.run("echo hello; (exit 3)", Deadline(SOON)) == (3, "hello\n")
    assert console.run("true # not the end", Deadline(SOON)) == (0, "")


def test_a_login_answers_the_prompts(console, guest):
    def getty() -> None:
        lines = guest.makefile("rb")
        guest.sendall(b"host lo" + KERNEL_LINE.encode() + b"gin: ")
        guest.recv(1)  # the Enter that wakes a getty up
        assert guest.recv(64) == b"core\r"
        guest.sendall(b"Password: ")
        answer = guest.recv(64)
        guest.sendall(b"\r\n[core@host ~]$ " if answer == b"secret\r" else b"\r\nLogin incorrect\r\n")
        lines.close()

    thread = threading.Thread(target=getty)
    thread.start()
    console.login("core", "secret", Deadline(SOON))
    thread.join()


def test_a_refused_password_is_said_to_be_refused(console, guest):
    guest.sendall(b"login: Password: \r\nLogin incorrect\r\n")
    with pytest.raises(BadInput, match="refuses user core"):
        console.login("core", "wrong", Deadline(SOON))


class Grub:
    """GRUB's editor on a serial line: draws the whole entry after every key, `drawings` times, in a frame."""

    def __init__(self, guest: socket.socket, drawings: int) -> None:
        self.lines = ["setparams 'CoreOS' '" + "x" * 90 + "'", "\tinsmod gzio", '\tlinux "$2" ' + "$4" * 20, "\tinitrd"]
        self.original = [*self.lines]
        self.row = 0
        self.guest = guest
        self.drawings = drawings
        self.lost_keys = 0

    def serve(self) -> None:
        """Menu, editor and, after Ctrl-X, the end."""
        self.guest.sendall(b"\x1b[2J\x1b[20;7HPress enter to boot the selected OS, `e' to edit")
        while self.guest.recv(1) == b"e":
            self.lines, self.row = [*self.original], 0
            self.draw()
            while (key := self.guest.recv(1)) not in {b"\x18", b"\x1b"}:
                self.press(key.decode())
            if key == b"\x18":
                return
            self.guest.sendall(b"\x1b[2J\x1b[20;7HPress enter to boot the selected OS, `e' to edit")

    def press(self, key: str) -> None:
        if self.lost_keys and key.isalpha():
            self.lost_keys -= 1
        elif key in {"\x0e", "\x10"}:
            self.row = min(max(self.row + (1 if key == "\x0e" else -1), 0), len(self.lines) - 1)
        elif key != "\x05":
            self.lines[self.row] += key
        self.draw()

    def draw(self) -> None:
        picture, cursor, at = ["\x1b[2J\x1b[21;7Ha command-line or ESC to discard edits"], 0, 4
        for number, line in enumerate(self.lines):
            cursor = at if number == self.row else cursor
            text = line.replace("\t", " " * 8)
            while text:
                piece, text = text[:75], text[75:]
                picture.append(f"\x1b[{at};2H|{piece}" + ("\\" if text else "") + f"\x1b[{at};79H|")
                at += 1
        picture.append(f"\x1b[{cursor};3H")
        for _ in range(self.drawings):
            self.guest.sendall("".join(picture).encode())


@pytest.mark.parametrize("drawings", [1, 2], ids=["drawn once", "drawn twice"])
@pytest.mark.parametrize("lost_keys", [0, 1], ids=["all keys arrive", "a key is lost"])
def test_kernel_arguments_are_added_to_the_linux_line_of_the_menu_entry(
    console, guest, drawings, lost_keys, monkeypatch
):
    monkeypatch.setattr("harness.machine.console.bootmenu.KEY_TIME", 0.5)
    grub = Grub(guest, drawings)
    grub.lost_keys = lost_keys
    thread = threading.Thread(target=grub.serve)
    thread.start()
    console.add_kernel_arguments("rd.break image.harness=a-value-that-needs-another-row", Deadline(30))
    thread.join(SOON)
    edited = [*grub.original]
    edited[2] += " rd.break image.harness=a-value-that-needs-another-row"
    assert grub.lines == edited


def test_an_editor_that_takes_nothing_is_reported_with_its_screen(console, guest, monkeypatch):
    monkeypatch.setattr("harness.machine.console.bootmenu.KEY_TIME", 0.1)
    grub = Grub(guest, 1)
    grub.lost_keys = 1000
    threading.Thread(target=grub.serve, daemon=True).start()
    with pytest.raises(MachineFailed, match=r"did not take 'rd.break'; it shows .*Press enter to boot"):
        console.add_kernel_arguments("rd.break", Deadline(30))


@given(st.lists(st.binary(max_size=200) | st.sampled_from([b"\x1b[", b"9" * 9, b";", b"@", b"L", b"H", b"?25h"])))
def test_any_bytes_are_drawn_without_harm(chunks):
    screen = Screen()
    for chunk in chunks:
        screen.feed(chunk)
    screen.feed(b"\x1bc\x1b[3;2Hhello")
    assert screen.rows[2].strip() == "hello"
    assert len(screen.rows) == ROWS


def read(chunks: list[bytes]) -> str:
    cleaner, kernel = TextCleaner(), KernelLineFilter()
    return "".join(kernel.feed(cleaner.feed(chunk)) for chunk in chunks) + kernel.flush()


@given(st.data())
def test_user_space_text_comes_through_whatever_the_kernel_and_the_wire_do(data):
    words = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"], exclude_characters="["), max_size=12)
    said = data.draw(st.lists(words, max_size=6))
    stream = data.draw(st.just(KERNEL_LINE)).join(said).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(chunks) == "".join(said)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_are_read_in_bounded_memory(chunks):
    cleaner, cutter, kernel = TextCleaner(), LineCutter(), KernelLineFilter()
    for chunk in chunks:
        text = cleaner.feed(chunk)
        kernel.feed(text)
        assert all("\x1b[" not in line and len(line) <= LONGEST_LINE for line in cutter.feed(text))
