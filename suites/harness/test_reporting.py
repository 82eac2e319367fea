"""The reporting hooks, in real pytest runs of small suites."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

pytest_plugins = ["pytester"]
PLUGINS = ["-p", "no:image_harness", "-p", "fixtures.watch", "-p", "fixtures.expectations", "-p", "fixtures.reporting"]
PLUGINS += ["-p", "fixtures.comparison", "-p", "fixtures.corpus"]
SUITE = """
    from dataclasses import dataclass
    import pytest
    from fixtures.reporting import show_console_of
    from harness.errors import BootFailed, MachineFailed
    from harness.report.folder import contribute, machine_folder
    from harness.report.verdict import ImageFacts

    @dataclass(frozen=True)
    class Partition:
        number: int
        start: int

    @pytest.fixture(scope="session")
    def image(run_folder):
        contribute(run_folder, "image-x", ImageFacts("x.qcow2", "reference"))

    @pytest.fixture
    def guest(request, run_folder):
        log = machine_folder(run_folder, "one") / "console.log"
        show_console_of(request.node, log)
        lines = [*(f"{n}.000 line {n}" for n in range(40)), "41.0 Kernel panic - not syncing: no root"]
        log.write_text("\\n".join(lines))
        raise BootFailed("the kernel panicked: Kernel panic - not syncing: no root", where="console")

    @pytest.fixture
    def broken():
        raise RuntimeError("socket in use")

    def test_passes(image): pass
    def test_partitions(image): assert (Partition(3, 10),) == (Partition(3, 20),)
    def test_boots(guest): pass
    def test_fixture_breaks(broken): pass
    def test_qemu(): raise MachineFailed("QEMU died", next_step="look at its log")
    def test_typo(): undefined_name
    def test_skipped(): pytest.skip("profile has no LUKS root")
    @pytest.mark.xfail(reason="tracker 7")
    def test_known(): assert False
    def test_asks_corpus(corpus): pass
"""


def run_pytest(pytester, *arguments):
    return pytester.runpytest_subprocess(*PLUGINS, *arguments)


def read_report(pytester):
    folder = pytester.path / "reports/latest"
    data = json.loads((folder / "run.json").read_text())
    return folder, {result["nodeid"].partition("::")[2]: result for result in data["results"]}


@pytest.fixture
def suite(pytester):
    pytester.makepyfile(test_it=SUITE)
    pytester.makeini("[pytest]\n")
    return pytester


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_each_failure_gets_class_cause_and_replay(suite, workers):
    done = run_pytest(suite, *workers)
    folder, results = read_report(suite)
    assert {name: (r["outcome"], r["verdict_class"]) for name, r in results.items()} == {
        "test_passes": ("passed", None),
        "test_partitions": ("failed", "image"),
        "test_boots": ("error", "boot"),
        "test_fixture_breaks": ("error", "infra"),
        "test_qemu": ("failed", "infra"),
        "test_typo": ("failed", "test"),
        "test_skipped": ("skipped", None),
        "test_known": ("skipped", None),
        "test_asks_corpus": ("skipped", None),
    }
    assert results["test_partitions"]["cause"] == "1 value differs at [number=3].start: expected 20, found 10"
    assert "20       | 10    | [number=3].start" in [line.strip() for line in results["test_partitions"]["evidence"]]
    assert results["test_boots"]["console"][-1] == "41.0 Kernel panic - not syncing: no root"
    assert len(results["test_boots"]["console"]) == 20
    assert results["test_boots"]["console_log"] == "machines/one/console.log"
    assert results["test_fixture_breaks"]["cause"] == "RuntimeError: socket in use"
    assert results["test_skipped"]["cause"] == "profile has no LUKS root"
    assert results["test_known"]["cause"] == "expected to fail: tracker 7"
    assert results["test_qemu"]["replay"] == "pytest test_it.py::test_qemu"
    assert ET.parse(folder / "junit.xml").getroot()[0].get("tests") == "9"
    assert "MUST NOT SHIP" in (folder / "index.html").read_text()
    done.stdout.fnmatch_lines(
        [
            "boot  console: the kernel panicked*",
            "      pytest test_it.py::test_boots",
            "MUST NOT SHIP: 2 of 6 checks failed; first cause: console: the kernel panicked*",
            "report: reports/*/index.html",
        ]
    )


def test_typed_errors_show_no_traceback(suite):
    done = run_pytest(suite, "-k", "qemu")
    done.stdout.fnmatch_lines(["*MachineFailed: QEMU died (look at its log)*"])
    done.stdout.no_fnmatch_line("*raise MachineFailed*")


def test_a_selection_is_no_verdict(suite):
    run_pytest(suite, "-k", "passes").stdout.fnmatch_lines(["UNDECIDED: the one check passed, but only a part*"])


def test_own_tests_speak_of_the_harness_not_of_the_image(pytester):
    pytester.makeini("[pytest]\nharness_self_tests = suites/harness\n")
    folder = pytester.path / "suites/harness"
    folder.mkdir(parents=True)
    (folder / "test_own.py").write_text("def test_own(): assert 1 == 2")
    run_pytest(pytester)
    assert read_report(pytester)[1]["test_own"]["verdict_class"] == "test"


def test_replay_repeats_what_is_under_test(pytester):
    pytester.makepyfile(test_it="def test_it(x): pass")
    run_pytest(pytester, "--corpus", "other files")
    assert read_report(pytester)[1]["test_it"]["replay"] == "pytest test_it.py::test_it --corpus 'other files'"


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_collection_that_fails_by_a_typed_error_is_one_line(pytester, workers):
    pytester.makepyfile(
        test_it="from harness.errors import DamagedImage\nraise DamagedImage('is empty', where='x.img')"
    )
    done = run_pytest(pytester, *workers)
    result = next(iter(read_report(pytester)[1].values()))
    assert (result["outcome"], result["cause"]) == ("error", "x.img: is empty")
    done.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.parametrize("looking", ["--collect-only", "--markers", "--fixtures", "--help"])
def test_looking_leaves_no_report(suite, looking):
    run_pytest(suite, looking)
    assert not (suite.path / "reports").exists()


def test_run_without_tests_leaves_no_report(pytester):
    pytester.makepyfile(test_it="")
    run_pytest(pytester)
    assert not (pytester.path / "reports").exists()


def test_junit_goes_where_the_user_says(suite):
    run_pytest(suite, "--junitxml", "mine.xml")
    assert (suite.path / "mine.xml").exists()
    assert not (suite.path / "reports/latest/junit.xml").exists()


def test_reports_go_where_the_user_says(suite):
    run_pytest(suite, "--reports", "elsewhere")
    assert (suite.path / "elsewhere/latest/index.html").exists()


def test_crashed_worker_is_our_fault(pytester):
    pytester.makepyfile(test_it="import os\ndef test_it(): os._exit(9)")
    run_pytest(pytester, "-n", "1", "--max-worker-restart", "0")
    result = read_report(pytester)[1]["test_it"]
    assert result["verdict_class"] == "infra"
    assert "crashed" in result["cause"]


def test_killed_controller_takes_its_workers_along(pytester):
    pytester.makepyfile(
        test_it="""
        import os, pathlib, time, pytest
        @pytest.mark.parametrize("n", range(2))
        def test_it(n):
            pathlib.Path(f"pid{n}").write_text(str(os.getpid()))
            time.sleep(60)
    """
    )
    controller = subprocess.Popen(
        [sys.executable, "-m", "pytest", *PLUGINS, "-n", "2"], cwd=pytester.path, stdout=subprocess.DEVNULL
    )
    pids = [pytester.path / f"pid{n}" for n in range(2)]
    wait_until(lambda: all(path.exists() and path.read_text() for path in pids))
    controller.send_signal(signal.SIGKILL)
    controller.wait()
    wait_until(lambda: not any(is_alive(int(path.read_text())) for path in pids), seconds=5)


def test_interrupted_run_says_during_which_test(pytester):
    pytester.makepyfile(
        test_it="""
        import pathlib, time
        def test_passes(): pass
        def test_long():
            pathlib.Path("running").touch()
            time.sleep(60)
    """
    )
    run = subprocess.Popen([sys.executable, "-m", "pytest", *PLUGINS], cwd=pytester.path, stdout=subprocess.PIPE)
    wait_until((pytester.path / "running").exists)
    run.send_signal(signal.SIGINT)
    out, _ = run.communicate(timeout=30)
    assert run.returncode == 2
    assert b"UNDECIDED: the run ended early: it was interrupted during test_it.py::test_long" in out


def wait_until(is_true, seconds=60):
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def is_alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
