"""Prompts of a real guest while its kernel talks: a printk in the middle of one cannot break it."""

from __future__ import annotations

import pytest

from harness.deadline import Deadline

PROMPT_TIME = 90.0
# The kernel lets user space write ten messages in five seconds, unless told otherwise.
LOUD = "echo on >/proc/sys/kernel/printk_devkmsg; dmesg --console-level debug"
NOISE = "while sleep 0.05; do echo '<1>noise: the kernel has something to say' >/dev/kmsg; done"
ANSWER = "until [[ -s /run/answer ]]; do sleep 0.1; done; cat /run/answer"


def in_background(script: str) -> str:
    return f"( {script} ) </dev/null >/dev/null 2>&1 &"


@pytest.fixture
def noisy(fresh_machine):
    """A fresh machine whose kernel writes to the console twenty times a second."""
    fresh_machine.run(f"{LOUD}; {in_background(NOISE)}")
    return fresh_machine


def test_a_printk_in_the_middle_of_a_passphrase_prompt_does_not_hide_it(fresh_machine):
    ask = """
        exec 8<>/dev/ttyS0  # open from the beginning: what is typed while nobody has it open is lost
        printf 'Please enter pas' >&8
        sleep 0.3  # the line is slower than the kernel, which waits for nobody
        echo '<1>usb 1-1: new device' >/dev/kmsg
        sleep 0.2
        printf 'sphrase for disk root: ' >&8
        IFS= read -r answer <&8
        echo "$answer" >/run/answer
    """
    quiet = "systemctl stop serial-getty@ttyS0; stty sane </dev/ttyS0"  # getty leaves a line that knows no Enter
    fresh_machine.run(f"{quiet}; {LOUD}; {in_background(ask)}")
    deadline = Deadline(PROMPT_TIME)
    fresh_machine.console.expect(r"Please enter passphrase for disk root: $", deadline)
    fresh_machine.console.sendline("open sesame")
    assert fresh_machine.run(ANSWER, deadline).text == "open sesame"
    recorded = fresh_machine.console.log_path.read_text()
    assert "Please enter pas[" in recorded, "no kernel line fell into the prompt"


def test_a_login_succeeds_while_the_kernel_talks(noisy, console_password):
    deadline = Deadline(PROMPT_TIME)
    noisy.console.login("console", console_password[0], deadline)
    assert noisy.console.run("cat /etc/hostname; (exit 3)", deadline) == (3, "harness-guest\n")
    assert sum("noise: the kernel" in line for line in noisy.console.tail(2000)) > 3


def test_a_disk_is_unlocked_on_the_console_while_the_kernel_talks(noisy):
    """systemd's own prompt, as systemd-cryptsetup has it asked in an initramfs."""
    agent = "systemd-tty-ask-password-agent --watch --console=/dev/ttyS0"
    ask = "systemd-ask-password --no-tty 'Please enter passphrase for disk root:' >/run/answer"
    noisy.run(f"systemctl stop serial-getty@ttyS0; {in_background(agent)} {in_background(ask)}")
    deadline = Deadline(PROMPT_TIME)
    noisy.console.expect(r"Please enter passphrase for disk root:.*$", deadline)
    noisy.console.sendline("open sesame")
    assert noisy.run(ANSWER, deadline).text == "open sesame"
