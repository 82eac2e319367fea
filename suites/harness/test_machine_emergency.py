"""A boot that fails: the emergency shell is found and used, its journal is kept, and the error names unit and cause."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.deadline import Deadline
from harness.errors import BootFailed, HostTooBusy
from harness.ignition.blame import place_of
from harness.machine.autopsy import blame_the_host
from harness.machine.console.console import Console
from harness.machine.console.emergency import journal_by_shell
from harness.machine.guest.journal import Failure, first_failure, read_entries
from harness.machine.machine import CONSOLE_LOG, JOURNAL, booted
from harness.machine.qemu.command_line import JOURNAL_PORT, JOURNAL_RING, JOURNAL_SIZE
from harness.machine.turns import turn_to_boot
from harness.store import Store

SOON = 15.0
NO_PORT = "/dev/virtio-ports/none"
A_PORT = "/dev/null"  # a character device, as the port is one

CONFIG = {
    "ignition": {"version": "3.0.0"},
    "storage": {"files": [{"path": "/etc/fine"}, {"path": "/etc/passwd/below", "contents": {"source": "data:,x"}}]},
    "passwd": {"users": [{"name": "core", "groups": ["wheel", "nosuch"]}]},
    "systemd": {"units": [{"name": "broken.service"}]},
}

# What Ignition 2.14 says in the reference image's initramfs.
WORDS = "error creating /sysroot/etc/passwd/below: lstat /sysroot/etc/passwd/below: not a directory"
AT = "Nov 21 16:05:10 localhost "
SHORT = f"""\
{AT}kernel: Linux version 6.1.0-42-cloud-amd64
{AT}ignition[343]: INFO     : Stage: files
{AT}ignition[343]: CRITICAL : Ignition failed: failed to create files: failed to create files: {WORDS}
{AT}systemd[1]: ignition-files.service: Main process exited, code=exited, status=1/FAILURE
{AT}systemd[1]: ignition-files.service: Failed with result 'exit-code'.
{AT}systemd[1]: Failed to start ignition-files.service - Ignition (files).
"""
FILES_FAILED = Failure("ignition-files.service", "files", f"failed to create files: {WORDS}")

PROMPTS = {
    "sulogin": r"printf 'Press Enter for maintenance\n(or press Control-D to continue): '; read -r",
    "CoreOS, then sulogin": r"printf 'Press Enter for emergency shell or wait 5 minutes for reboot. '; read -r; "
    r"printf '\nPress Enter for maintenance\n(or press Control-D to continue): '; read -r",
    "a shell at once": "true",
    "sulogin that forgets the first key": r"printf 'Press Enter for maintenance\n'; sleep 0.5; read -r -t 0.01 -n 9; "
    r"printf '(or press Control-D to continue): '; read -r",
}


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def console(wire, tmp_path) -> Iterator[Console]:
    with Console(wire[0], tmp_path / "console.log") as console:
        yield console


@pytest.fixture
def initramfs(wire, tmp_path) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a real shell on a terminal, behind a prompt; its journalctl shows the recorded journal."""
    (tmp_path / "short").write_text(SHORT)
    children = []

    def start(prompt: str) -> None:
        journalctl = f"journalctl() {{ case \"$*\" in *json*) echo '{{}}';; *) cat {tmp_path}/short;; esac; }}"
        script = f"{journalctl}; export -f journalctl; {prompt}; PS1=':/# ' exec bash --norc --noprofile -i"
        spawn = f"import pty; pty.spawn(['bash', '-c', {script!r}])"
        children.append(subprocess.Popen([sys.executable, "-c", spawn], stdin=wire[1], stdout=wire[1]))

    yield start
    for child in children:
        child.kill()
        child.wait()


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_the_emergency_shell_gives_its_journal(console, initramfs, prompt):
    initramfs(prompt)
    journal = journal_by_shell(console.typist, NO_PORT, lambda: b"", Deadline(SOON))
    assert first_failure(read_entries(journal)) == FILES_FAILED
    assert len(read_entries(journal)) == len(SHORT.splitlines())


def test_a_journal_goes_through_the_port_where_there_is_one(console, initramfs):
    initramfs(PROMPTS["sulogin"])
    parts = iter([b"", b'{"MESSAGE": "by port"}\n{}\n'])
    assert b"by port" in journal_by_shell(console.typist, A_PORT, lambda: next(parts), Deadline(SOON))


def test_a_journal_that_coreos_wrote_by_itself_is_not_asked_for(console, initramfs):
    initramfs(PROMPTS["CoreOS, then sulogin"])
    assert journal_by_shell(console.typist, A_PORT, lambda: b"already there", Deadline(SOON)) == b"already there"
    assert "journalctl" not in "".join(console.tail(100))


@pytest.mark.parametrize(
    "said",
    [
        b"Cannot open access to console, the root account is locked.\r\nPress Enter to continue.",
        b"Give root password for maintenance\r\n(or press Control-D to continue): ",
    ],
    ids=["locked", "password"],
)
def test_a_locked_root_account_is_no_way_in_and_costs_no_time(console, wire, said):
    wire[1].sendall(said)
    started = time.monotonic()
    assert journal_by_shell(console.typist, NO_PORT, lambda: b"", Deadline(60)) == b""
    assert time.monotonic() - started < SOON


@pytest.mark.parametrize(
    "said",
    [b"You are in emergency mode.\r\n", b"Press Enter for maintenance", b":/# "],
    ids=["no prompt", "a prompt that does not react", "a shell that does not react"],
)
def test_a_shell_that_never_comes_costs_no_more_than_its_deadline(console, wire, said, monkeypatch):
    monkeypatch.setattr("harness.machine.console.emergency.PATIENCE", 0.2)
    wire[1].sendall(said)
    started = time.monotonic()
    assert journal_by_shell(console.typist, NO_PORT, lambda: b"", Deadline(1.5)) == b""
    assert time.monotonic() - started < 5


def as_json(**fields: object) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def test_a_journal_in_json_tells_what_a_failed_unit_said():
    journal = b"".join(
        (
            as_json(__MONOTONIC_TIMESTAMP="8096661", SYSLOG_IDENTIFIER="kernel", MESSAGE="Linux version 6.1"),
            as_json(SYSLOG_IDENTIFIER="mount", _PID="9", _SYSTEMD_UNIT="data.mount", MESSAGE=[98, 97, 100, 255]),
            as_json(SYSLOG_IDENTIFIER="systemd", _PID="1", MESSAGE="data.mount: Failed with result 'exit-code'."),
            as_json(SYSLOG_IDENTIFIER="systemd", _PID="1", MESSAGE="later.service: Failed with result 'timeout'."),
            b"{}\n",
        )
    )
    entries = read_entries(journal)
    assert entries[0].line == "[    8.096661] kernel: Linux version 6.1"
    assert first_failure(entries) == Failure("data.mount", "", "bad�")


def test_an_operation_that_ignition_says_failed_explains_more_than_its_last_words():
    operation = (
        """op(2): [failed]   creating or modifying user "core": exit status 6: Stderr: "usermod: group 'nosuch'"""
    )
    journal = (
        f"{AT}ignition[405]: CRITICAL : files: ensureUsers: {operation} does not exist\n"
        f"{AT}ignition[405]: CRITICAL : Ignition failed: failed to create users/groups\n"
        f"{AT}systemd[1]: ignition-files.service: Failed with result 'exit-code'.\n"
    )
    failure = first_failure(read_entries(journal.encode()))
    assert failure is not None
    assert failure.words.startswith('creating or modifying user "core": exit status 6')
    assert place_of(json.dumps(CONFIG).encode(), failure.words) == "$.passwd.users[0].groups[1]"


def test_a_unit_that_says_nothing_is_told_by_its_end():
    systemd = "Nov 21 16:05:10 localhost systemd[1]: data.service: "
    journal = f"{systemd}Main process exited, code=exited, status=203/EXEC\n{systemd}Failed with result 'exit-code'.\n"
    failure = first_failure(read_entries(journal.encode()))
    assert failure is not None
    assert failure.describe() == "failed: code=exited, status=203/EXEC"


def test_a_device_that_never_comes_is_a_failure_of_its_unit():
    device = r"dev-disk-by\x2dlabel-boot.device"
    failure = first_failure(read_entries(f"{AT}systemd[1]: {device}: Job {device}/start timed out.\n".encode()))
    assert failure == Failure(device, "", "timed out")


@pytest.mark.parametrize("what", ["failed: timed out [emergency-shell]", "[ TIME ] Timed out waiting for device x"])
@pytest.mark.parametrize("load, blamed", [(0.5, BootFailed), (1000.0, HostTooBusy)])
def test_what_timed_out_on_an_overloaded_host_does_not_speak_against_the_image(what, load, blamed, monkeypatch):
    monkeypatch.setattr("os.getloadavg", lambda: (load, load, load))
    assert type(blame_the_host(BootFailed(what))) is blamed
    kernel = BootFailed("the kernel stopped [kernel-panic]")
    assert blame_the_host(kernel) is kernel


def test_a_journal_without_failures_explains_nothing():
    assert first_failure(read_entries(SHORT.splitlines()[0].encode())) is None


@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"{", b'{"MESSAGE":', b"[1]", b"}", b"\n", b"[" * 5000])))
def test_any_bytes_are_read_as_a_journal(pieces):
    first_failure(read_entries(b"".join(pieces)))


@pytest.mark.parametrize(
    "words, place",
    [
        (FILES_FAILED.words, "$.storage.files[1].path"),
        ("usermod: group 'nosuch' does not exist", "$.passwd.users[0].groups[1]"),
        ('enabling unit "broken.service"', "$.systemd.units[0].name"),
        ("no space left on device", ""),
        ('"/etc/fine-and-longer"', ""),
        ("error creating /sysroot/etc/fine.d: read-only", ""),
        ("error creating /sysroot/etc/fine.", "$.storage.files[0].path"),
    ],
)
def test_the_part_of_the_config_that_is_to_blame_is_found(words, place):
    assert place_of(json.dumps(CONFIG).encode(), words) == place


def test_a_config_that_cannot_be_read_is_not_to_blame():
    assert place_of(b"{", "anything") == place_of(b"", "anything") == ""


def test_an_ignition_failure_names_stage_config_path_and_words(first_boot, store, tmp_path):
    """A real boot: the config is valid, but one of its files lies below another file."""
    config = {**CONFIG, "passwd": {}, "systemd": {}}
    boot = replace(first_boot, ignition=json.dumps(config).encode())
    logs, own = tmp_path / "logs", Store(tmp_path / "store")
    with (
        turn_to_boot(store, boot.spec),
        pytest.raises(BootFailed) as raised,
        booted(boot, own, logs, Deadline(400)),
    ):
        pytest.fail("it came up")
    said = str(raised.value)
    assert said.startswith("ignition-files.service: Ignition failed in its files stage: failed to create files: ")
    assert f"{WORDS} (config: $.storage.files[1].path)" in said
    journal = (logs / JOURNAL).read_text()
    assert "ignition[" in journal
    assert "Linux version" in journal
    assert (logs / CONSOLE_LOG).exists()
    assert list((own.root / "scratch").iterdir()) == []


@pytest.mark.nightly
def test_a_mount_that_fails_is_named_although_root_is_locked_on_the_console(first_boot, store, tmp_path):
    """Emergency mode of the real system: the channel is left alone, the console lets nobody in."""
    mount = "[Mount]\nWhat=/etc/hostname\nWhere=/var/data\nType=ext4\n[Install]\nRequiredBy=local-fs.target\n"
    units = [{"name": "var-data.mount", "enabled": True, "contents": mount}]
    config = {"ignition": {"version": "3.0.0"}, "systemd": {"units": units}}
    boot = replace(first_boot, ignition=json.dumps(config).encode())
    with (
        turn_to_boot(store, boot.spec),
        pytest.raises(BootFailed, match=r"^var-data\.mount: failed: .*\[emergency-shell\]"),
        booted(boot, store, tmp_path / "logs", Deadline(400)),
    ):
        pytest.fail("it came up")


def test_a_journal_written_by_the_guest_is_read_from_its_port(fresh_machine):
    """What CoreOS does when its initramfs fails; here a guest that runs does it."""
    port = f"/dev/virtio-ports/{JOURNAL_PORT}"
    assert fresh_machine.run(f"journalctl -b -o json >{port} && echo '{{}}' >{port}").rc == 0
    entries = read_entries(fresh_machine.qmp.read_ring(JOURNAL_RING, JOURNAL_SIZE))
    assert any("Linux version" in entry.message for entry in entries)
    assert fresh_machine.qmp.read_ring(JOURNAL_RING, JOURNAL_SIZE) == b""
