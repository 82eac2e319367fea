"""Checks that break what they stand on. Not collected by name: test_faults.py and its neighbours run them one by one.

Each is written as a suite's author would write it: it uses its machine and knows nothing of the fault. What it waits
for never comes, so it can only end early or too late.
"""

from __future__ import annotations

import os
import signal
import threading

import pytest

from harness.machine.machine import Machine

AWHILE = "sleep 300"  # what the checks are busy with when the fault strikes
SOON = "sleep 2"  # so that it strikes when they are
BOTH_WAYS = pytest.mark.parametrize("way", ["channel", "ssh"])
# Not all images call it the same. Sessions outlive the service: that is systemd's KillMode=process.
END_SSH = """
systemctl stop ssh.socket ssh.service sshd.socket sshd.service
for process in /proc/[0-9]*; do
    [[ $(<$process/comm) == sshd* ]] && kill -9 ${process##*/}
done
"""


def use(machine: Machine, way: str, command: str = AWHILE) -> None:
    """Run a command as checks do, by the channel or as testinfra does it."""
    if way == "channel":
        assert machine.run(command).rc == 0
    else:
        assert machine.guest.run(command).rc == 0


def meanwhile(machine: Machine, script: str) -> None:
    """Let the guest do something to itself while it is busy with something else."""
    assert machine.run(f"( {SOON}; {script} ) </dev/null >/dev/null 2>&1 &").rc == 0


@BOTH_WAYS
def test_qemu_is_killed(fresh_machine, way):
    threading.Timer(2, os.kill, [fresh_machine.process.pid, signal.SIGKILL]).start()
    use(fresh_machine, way)


@BOTH_WAYS
def test_kernel_panics(fresh_machine, way):
    meanwhile(fresh_machine, "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger")
    use(fresh_machine, way)


@BOTH_WAYS
def test_disk_is_full(fresh_machine, way):
    use(fresh_machine, way, "dd if=/dev/zero of=/var/filler bs=1M count=400 conv=fsync")


def test_ssh_is_stopped_while_a_command_runs(fresh_machine):
    meanwhile(fresh_machine, END_SSH)
    use(fresh_machine, "ssh")


def test_ssh_is_stopped_between_commands(fresh_machine):
    use(fresh_machine, "ssh", "true")
    fresh_machine.run(END_SSH)
    use(fresh_machine, "ssh", "true")


def cut_network(machine: Machine) -> None:
    """As if somebody had pulled the plug."""
    machine.qmp.execute("set_link", {"name": "net0", "up": False})


def test_network_is_cut_while_a_command_runs(fresh_machine):
    threading.Timer(3, cut_network, [fresh_machine]).start()
    use(fresh_machine, "ssh")


def test_network_is_cut_between_commands(fresh_machine):
    use(fresh_machine, "ssh", "true")
    cut_network(fresh_machine)
    use(fresh_machine, "ssh", "true")


def test_network_is_switched_off_by_the_guest(fresh_machine):
    use(fresh_machine, "ssh", "true")
    fresh_machine.run("for card in /sys/class/net/*/device; do ip link set $(basename ${card%/device}) down; done")
    use(fresh_machine, "ssh", "true")


def test_worker_is_killed(fresh_machine):
    assert fresh_machine.run("true").rc == 0
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("number", range(4))
def test_machine_answers(fresh_machine, number):
    assert fresh_machine.run(f"echo {number}").text == str(number)


@pytest.mark.parametrize("number", range(int(os.environ.get("REPETITIONS", "1"))))
def test_boot_and_check(fresh_machine, number):
    assert fresh_machine.run(f"echo {number}").text == str(number)
    assert fresh_machine.guest.check_output("hostname") == "harness-guest"
