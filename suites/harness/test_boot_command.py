"""`harness boot`, `harness shell` and `harness console`: a person and a machine."""

import hashlib
import os
import re
import signal
import subprocess
import sys
import termios
from pathlib import Path

import pexpect
import pytest

from harness.commands.shell import _run_as_root, _talk

HARNESS = [sys.executable, "-m", "harness.cli"]
LOG = re.compile(r"console log: (\S+)")
FIRMWARE = 60  # seconds until SeaBIOS or GRUB have said something, on a busy host
TURN = 600  # seconds until then, for others may be booting: it says what it boots, then waits for its turn
CTRL_BRACKET = "\x1d"


def run_harness(*arguments, **more):
    return subprocess.run([*HARNESS, *map(str, arguments)], capture_output=True, text=True, check=False, **more)


@pytest.mark.parametrize("arguments", [["boot"], ["shell"], ["console", "some.sock"]])
def test_without_a_terminal_it_says_so_in_one_line(arguments):
    done = run_harness(*arguments, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (2, "")
    assert "standard input is no terminal" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["shell", "no-such.qcow2", "-c", "true"], "no-such.qcow2"),
        (["shell", "--machine", "uefi,memory=lots", "-c", "true"], "memory takes a number, not 'lots'"),
        (["shell", "--ignition", "no-such.ign", "-c", "true"], "no-such.ign"),
        (["shell", "--root"], "--root needs a command"),
    ],
)
def test_bad_input_is_one_line(arguments, words, tmp_path):
    done = run_harness(*arguments, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_help_shows_how():
    for command in ("boot", "shell", "console"):
        assert "Example" in run_harness(command, "--help").stdout


def children_of(pid):
    pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {child: Path(f"/proc/{child}/comm").read_text() for child in pids}


@pytest.fixture
def sitting(reference, accel, store, tmp_path):
    """`harness boot` of the reference image, on a terminal of its own."""
    environment = {**os.environ, "IMAGE_HARNESS_STORE": str(store.root), "TMPDIR": str(tmp_path)}
    command = [*HARNESS, "boot", str(reference.path), "--accel", accel.name]
    child = pexpect.spawn(command[0], command[1:], env=environment, encoding="utf-8", timeout=FIRMWARE)
    child.settings = termios.tcgetattr(child.child_fd)
    child.expect(r"booting reference.qcow2 \(x86_64 bios, .*\); Ctrl-\] leaves", timeout=TURN)
    yield child
    child.close(force=True)


@pytest.mark.boot
def test_ctrl_bracket_leaves_a_booting_machine_and_the_image_as_it_was(sitting, reference):
    sitting.expect("SeaBIOS|GRUB", timeout=TURN)
    qemu = next(pid for pid, name in children_of(sitting.pid).items() if name.startswith("qemu"))
    assert termios.tcgetattr(sitting.child_fd) != sitting.settings
    sitting.send(CTRL_BRACKET)
    sitting.expect("left: the machine is gone")
    sitting.expect(LOG)
    log = Path(sitting.match[1])
    assert termios.tcgetattr(sitting.child_fd) == sitting.settings
    sitting.expect(pexpect.EOF)
    sitting.close()
    assert sitting.exitstatus == 0
    assert not Path(f"/proc/{qemu}").exists()
    assert "SeaBIOS" in log.read_text() or "GRUB" in log.read_text()
    assert hashlib.sha256(reference.path.read_bytes()).hexdigest() == reference.sha256_qcow2


@pytest.mark.boot
def test_a_terminated_boot_gives_the_terminal_back(sitting):
    sitting.expect("SeaBIOS|GRUB", timeout=TURN)
    qemu = next(pid for pid, name in children_of(sitting.pid).items() if name.startswith("qemu"))
    sitting.kill(signal.SIGTERM)
    sitting.expect(LOG)
    assert termios.tcgetattr(sitting.child_fd) == sitting.settings
    sitting.expect(pexpect.EOF)
    sitting.close()
    assert (sitting.exitstatus, Path(f"/proc/{qemu}").exists()) == (143, False)


@pytest.mark.nightly
@pytest.mark.boot
def test_the_console_logs_in_by_itself_and_the_guest_may_power_off(sitting):
    sitting.expect(r"core@\S+:~\$ ", timeout=400)
    sitting.send("echo $((6 * 7)); id -un; sudo id -un\r")
    sitting.expect("42\r\ncore\r\nroot\r\n", timeout=60)
    sitting.send("sudo poweroff\r")
    sitting.expect("the guest has powered off", timeout=120)
    sitting.expect(pexpect.EOF)
    sitting.close()
    assert sitting.exitstatus == 0


@pytest.mark.boot
def test_a_command_gets_its_output_and_exit_code_through(fresh_machine, capfd):
    assert _talk(fresh_machine, "id -un; echo trouble >&2; exit 7") == 7
    assert capfd.readouterr() == ("core\n", "trouble\n")
    assert _run_as_root(fresh_machine, "id -un; pwd; echo trouble >&2; exit 8") == 8
    assert capfd.readouterr() == ("root\n/root\n", "trouble\n")


@pytest.mark.boot
def test_without_ssh_commands_go_through_the_channel(fresh_machine, capfd, monkeypatch):
    monkeypatch.setattr("harness.commands.shell.SSH_TIME", 3.0)
    fresh_machine.run("systemctl stop ssh.socket ssh.service; systemctl mask --now ssh.socket ssh.service; pkill sshd")
    assert _talk(fresh_machine, "id -un; exit 5") == 5
    out, err = capfd.readouterr()
    assert (out, err.startswith("no ssh: ")) == ("root\n", True)


@pytest.mark.nightly
@pytest.mark.boot
def test_a_shell_boots_once_and_is_restored_ever_after(reference, accel, store, tmp_path):
    environment = {**os.environ, "IMAGE_HARNESS_STORE": str(store.root), "TMPDIR": str(tmp_path)}

    def shell(command, stdin=""):
        arguments = ["shell", reference.path, "--accel", accel.name, "-c", command]
        return run_harness(*arguments, env=environment, input=stdin, timeout=500)

    first = shell("cat; touch changed; exit 3", "told on standard input\n")
    assert (first.returncode, first.stdout) == (3, "told on standard input\n"), first.stderr
    second = shell("ls -A changed")
    assert (second.returncode, second.stdout) == (2, "")
    assert "first boot" not in second.stderr
