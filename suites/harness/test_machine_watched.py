"""Guests that really break while tests use them: class, cause and speed of what is said."""

import json
import subprocess
import sys

import pytest

SUITE = """
import os
import time
import pytest

CRASH = "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger"
OOPS = "echo '<1>Oops: 0002 [#1] of a test' >/dev/kmsg"
SEGFAULT = "logger -t podman 'segfault at 0 ip 000055d0 sp 00007ffc error 4'"

def test_fresh_panics(fresh_machine):
    fresh_machine.run(CRASH)
@pytest.mark.allow_badness("kernel-oops", "segfault", reason="provokes both")
def test_allowed(fresh_machine):
    assert fresh_machine.run(f"{OOPS}; {SEGFAULT}").rc == 0
def test_only_the_journal_says_so(fresh_machine):
    assert fresh_machine.run(f"{SEGFAULT}; sleep 3").rc == 0  # until the journal has it
def test_shared_oops(machine):
    assert machine.run(OOPS).rc == 0
def test_shared_is_well(guest):
    assert guest.run("true").rc == 0
def test_killed_once(machine, tmp_path_factory):
    if not (seen := tmp_path_factory.getbasetemp() / "seen").exists():
        seen.touch()
        os.kill(machine.process.pid, 9)
    assert machine.run("true").rc == 0
def test_shared_panics(guest):
    assert guest.run(CRASH).rc == 0
def test_lost(guest):
    assert guest.run("true").rc == 0
"""
OOPS_CAUSE = "console: the kernel hit a fatal fault of its own [kernel-oops]: "
SEGFAULT_CAUSE = "journal: a program touched memory that is not its own [segfault]: "
PANIC_CAUSE = "console: the kernel stopped [kernel-panic]: "


@pytest.mark.boot
def test_each_broken_guest_gets_its_class_and_cause_within_seconds(snapshot, store, tmp_path):
    """`snapshot` is asked for so that the run below has only to restore it."""
    (tmp_path / "test_it.py").write_text(SUITE)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", tmp_path, "--reports", "reports"]
    command += ["--store", store.root, "--accel", snapshot.boot.accel.name]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300, check=False)
    report = tmp_path / "reports/latest/run.json"
    assert report.exists(), done.stdout.decode() + done.stderr.decode()
    results = {
        one["nodeid"].partition("::")[2].partition("[")[0]: one for one in json.loads(report.read_text())["results"]
    }
    assert {name: (one["outcome"], one["verdict_class"]) for name, one in results.items()} == {
        "test_fresh_panics": ("failed", "image"),
        "test_allowed": ("passed", None),
        "test_only_the_journal_says_so": ("error", "image"),
        "test_shared_oops": ("failed", "image"),
        "test_shared_is_well": ("passed", None),
        "test_killed_once": ("passed", None),
        "test_shared_panics": ("failed", "image"),
        "test_lost": ("error", "infra"),
    }
    assert results["test_fresh_panics"]["cause"].startswith(PANIC_CAUSE)
    assert results["test_only_the_journal_says_so"]["cause"].startswith(SEGFAULT_CAUSE)
    assert results["test_shared_oops"]["cause"].startswith(OOPS_CAUSE)
    assert "killed by signal 9" in results["test_killed_once"]["first_try"]["cause"]
    words = f"machine lost by test_it.py::test_shared_panics[reference]: {PANIC_CAUSE}"
    assert results["test_lost"]["cause"].startswith(words)
    assert any("Kernel panic" in line for line in results["test_shared_panics"]["console"])
    slowest = max(results.values(), key=lambda one: one["duration"])
    assert slowest["duration"] < 90, f"{slowest['nodeid']} took {slowest['duration']:.0f} s"
