"""The serial line between QEMU and us: nothing is lost on it while we are busy."""

import itertools
import socket
import string
import subprocess
import time

import pytest

from harness.machine.qemu.wire import serial_line

LETTERS = 100_000
BUSY = 2.0  # seconds in which nobody reads
# A boot sector that writes letters to its UART (8250, registers at 0x3f8) and does not wait for anything.
SPEAKER = (
    bytes.fromhex("fa 66b9")
    + LETTERS.to_bytes(4, "little")
    + bytes.fromhex(
        "b361"  # mov bl, 'a'
        "baf803 88d8 ee"  # out to 0x3f8
        "43 80fb7b 7502 b361"  # next letter
        "6649 75ee"  # dec ecx, jnz
        "f4 ebfd"  # hlt
    )
)


@pytest.fixture
def line():
    ours, theirs = serial_line()
    with ours, theirs:
        yield ours, theirs


def test_what_is_said_at_one_end_is_heard_at_the_other(line):
    for speaker, listener in itertools.permutations(line):
        speaker.sendall(b"word")
        assert listener.recv(10) == b"word"


def test_the_end_of_one_is_heard_at_the_other(line):
    ours, theirs = line
    theirs.close()
    assert ours.recv(1) == b""


def test_a_megabyte_waits_byte_by_byte(line):
    ours, theirs = line
    theirs.setblocking(False)
    assert sum(theirs.send(b"x") for _ in range(2**20)) == 2**20
    assert len(ours.recv(2**10)) == 2**10


def test_a_host_without_loopback_has_a_line_as_well(monkeypatch):
    monkeypatch.setattr(socket, "create_server", lambda *_, **__: (_ for _ in ()).throw(OSError("no network")))
    ours, theirs = serial_line()
    with ours, theirs:
        theirs.sendall(b"word")
        assert ours.recv(10) == b"word"


def test_no_byte_of_a_guest_is_lost_while_nobody_reads(line, tmp_path):
    ours, theirs = line
    disk = tmp_path / "disk"
    disk.write_bytes(SPEAKER.ljust(510, b"\0") + b"\x55\xaa")
    command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-no-user-config"]
    command += ["-drive", f"file={disk},format=raw,if=ide", "-chardev", f"socket,id=c,fd={theirs.fileno()}"]
    with subprocess.Popen([*command, "-serial", "chardev:c"], pass_fds=[theirs.fileno()]) as qemu:
        theirs.close()
        try:
            time.sleep(BUSY)
            ours.settimeout(30)
            heard = b""
            while len(heard) < LETTERS:
                heard += ours.recv(2**16)
        finally:
            qemu.kill()
    assert heard[-LETTERS:] == "".join(itertools.islice(itertools.cycle(string.ascii_lowercase), LETTERS)).encode()
