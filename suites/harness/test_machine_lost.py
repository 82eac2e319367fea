"""Machines are watched while tests use them: bad lines, and machines that several tests share and one of them loses."""

import time

import pytest

from suites.harness.echo_machine import CONFTEST
from suites.harness.small_run import run_small

pytest_plugins = ["pytester"]
PANIC = "Kernel panic - not syncing: of a test"
OOPS = "Oops: 0002 [#1] of a test"


@pytest.fixture
def suite(pytester):
    pytester.makeconftest(CONFTEST)
    pytester.makeini("[pytest]\nmarkers = boot: starts a machine")

    def write(text):
        path = pytester.path / "test_it.py"
        path.write_text(f"import os, time, pytest\nPANIC = {PANIC!r}\nOOPS = {OOPS!r}\n{text}")
        return pytester

    return write


# -- bad lines --------------------------------------------------------------------------------------------------------


def test_a_bad_line_fails_the_test_that_ran_and_no_other(suite):
    ran = run_small(
        suite("""
def test_before(guest): guest.say("all is well")
def test_oops(guest): guest.say(OOPS)
def test_after(guest): guest.say("all is well again")
""")
    )
    assert ran.outcomes() == {
        "test_before": ("passed", None),
        "test_oops": ("failed", "image"),
        "test_after": ("passed", None),
    }
    failure = ran.results["test_oops"]
    assert failure["cause"] == f"console: the kernel hit a fatal fault of its own [kernel-oops]: {OOPS}"
    assert failure["console"][-1].endswith(OOPS)
    assert failure["replay"] == "pytest test_it.py::test_oops"
    assert ran.properties("test_oops")["verdict_class"] == "image"
    ran.done.stdout.fnmatch_lines(["*- Console *shared/console.log -*", f"*{OOPS.replace('[', '[[]')}"])
    assert "MUST NOT SHIP: 1 of 3 checks failed" in ran.page.replace("</h1>\n  <p>", ": ")


def test_a_bad_line_tells_more_than_the_assertion_that_failed_with_it(suite):
    ran = run_small(
        suite("""
def test_it(fresh_machine):
    fresh_machine.say(OOPS)
    assert 1 == 2, "the unit is not active"
""")
    )
    failure = ran.results["test_it"]
    assert "[kernel-oops]" in failure["cause"]
    assert failure["evidence"][:2] == ["the check itself said: the unit is not active", "assert 1 == 2"]
    assert failure["evidence"][-1].startswith("at test_it.py:")


def test_a_kernel_that_stopped_fails_a_test_once_however_often_it_says_so(suite):
    ran = run_small(
        suite("""
@pytest.fixture
def machine_of_its_own(fresh_machine):
    yield fresh_machine
    fresh_machine.console.send(f"---[ end {PANIC} ]---\\n")
    time.sleep(0.2)
def test_it(machine_of_its_own): machine_of_its_own.say(PANIC)
""")
    )
    ran.done.assert_outcomes(failed=1, errors=0)


@pytest.mark.parametrize("when", ["in its fixture", "as it ends", "on a machine that has ended"])
def test_bad_lines_count_whenever_they_come(suite, when):
    text = {
        "in its fixture": """
@pytest.fixture
def broken(fresh_machine): fresh_machine.say(OOPS)
def test_it(broken): pass
""",
        "as it ends": """
@pytest.fixture
def ending(fresh_machine):
    yield
    fresh_machine.say(OOPS)
def test_it(ending): pass
""",
        "on a machine that has ended": """
def test_it(starts):
    with starts("own") as own:
        own.say(OOPS)
""",
    }[when]
    ran = run_small(suite(text))
    assert ran.results["test_it"]["verdict_class"] == "image"
    assert "[kernel-oops]" in ran.results["test_it"]["cause"]


def test_a_line_that_nobody_waited_for_is_seen(suite):
    """`send` returns before the console has read the echo; the watch waits for what has arrived."""
    ran = run_small(
        suite("""
@pytest.mark.parametrize("n", range(10))
def test_it(fresh_machine, n):
    fresh_machine.console.send(OOPS + "\n")
    time.sleep(0.1)
""")
    )
    assert {result["outcome"] for result in ran.results.values()} <= {"failed", "error"}


def test_bad_lines_that_a_test_provokes_are_allowed_by_its_mark(suite):
    ran = run_small(
        suite("""
allowed = pytest.mark.allow_badness("kernel-oops", reason="provokes it")
@allowed
def test_fresh(fresh_machine): fresh_machine.say(OOPS)
@allowed
def test_shared(machine): machine.say(OOPS)
@allowed
def test_other(fresh_machine):
    fresh_machine.say(OOPS)
    fresh_machine.say("stress invoked oom-killer: of a test")
def test_unmarked(fresh_machine): fresh_machine.say(OOPS)
""")
    )
    outcomes = {name: result["outcome"] for name, result in ran.results.items()}
    assert outcomes == {
        "test_fresh": "passed",
        "test_shared": "passed",
        "test_other": "failed",
        "test_unmarked": "failed",
    }
    assert "[oom-killer]" in ran.results["test_other"]["cause"]


@pytest.mark.parametrize(
    "mark, complaint",
    [
        ('"kernel-painc", reason="x"', "*no badness pattern is called 'kernel-painc' (known: emergency-shell, *"),
        ('"kernel-panic"', '*write it as allow_badness("kernel-panic", reason="why")'),
        ('reason="x"', '*write it as allow_badness("kernel-panic", reason="why")'),
    ],
)
@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "a worker"])
def test_a_mark_that_means_nothing_is_one_clear_error(suite, mark, complaint, workers):
    ran = run_small(
        suite(f"""
@pytest.mark.allow_badness({mark})
@pytest.mark.parametrize("n", range(3))
def test_it(n): pass
"""),
        *workers,
    )
    (result,) = ran.results.values()
    assert (result["outcome"], result["verdict_class"]) == ("error", "test")
    ran.done.stdout.fnmatch_lines([complaint])
    ran.done.stdout.no_fnmatch_line("*Traceback*")


def test_suspect_lines_are_listed_and_fail_nothing(suite):
    ran = run_small(
        suite("""
def test_it(machine): machine.say("WARNING: CPU: 1 PID: 77 at kernel/workqueue.c:3167")
def test_after(machine): pass
""")
    )
    assert ran.outcomes() == {"test_it": ("passed", None), "test_after": ("passed", None)}
    assert "[kernel-warning]" in ran.properties("test_it")["badness"]
    assert "Suspect lines of machines" in ran.page
    ran.done.stdout.fnmatch_lines(["test_it.py::test_it: console: *kernel-warning*"])


def test_a_check_that_saw_no_guest_shows_no_console(suite):
    ran = run_small(
        suite("""
def test_guest(machine): machine.say("a line of the guest")
def test_offline(): assert 1 == 2
def test_own(fresh_machine): assert 1 == 2
@pytest.mark.boot
def test_shared(machine): assert 1 == 2
""")
    )
    shown = {name: result["console"] for name, result in ran.results.items()}
    assert shown["test_offline"] == shown["test_own"] == []
    assert shown["test_shared"][-1].endswith("a line of the guest")


# -- machines that are lost -------------------------------------------------------------------------------------------

LOSES = """
def test_before(machine): pass
def test_loses(machine): {loses}
@pytest.mark.parametrize("n", range(3))
def test_after(guest, n): guest.say("are you there?")
def test_without(): pass
def test_own(fresh_machine): fresh_machine.say("I am")
"""


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "a worker"])
def test_a_lost_machine_speaks_once_and_names_who_lost_it(suite, workers):
    ran = run_small(suite(LOSES.format(loses="machine.say(PANIC)")), *workers)
    assert ran.outcomes() == {
        "test_before": ("passed", None),
        "test_loses": ("failed", "image"),
        **{f"test_after[{n}]": ("error", "infra") for n in range(3)},
        "test_without": ("passed", None),
        "test_own": ("passed", None),
    }
    cause = f"console: the kernel stopped [kernel-panic]: {PANIC}"
    words = f"machine lost by test_it.py::test_loses: {cause}"
    assert {ran.results[f"test_after[{n}]"]["cause"] for n in range(3)} == {words}
    assert ran.properties("test_after[1]")["lost_by"] == "test_it.py::test_loses"
    assert "Lost with its machine" in ran.page
    shown = [line.replace("[", "[[]") for line in (cause, words)]
    ran.done.stdout.fnmatch_lines([f"image {shown[0]}", f"lost  3 checks: {shown[1]}"])
    ran.done.stdout.fnmatch_lines(["MUST NOT SHIP: 1 of 7 checks failed, 3 could not be made; first cause: console: *"])


def test_nobody_waits_for_a_machine_that_is_lost(suite):
    started = time.monotonic()
    run_small(suite(LOSES.format(loses="machine.say(PANIC)")))
    assert time.monotonic() - started < 30


def test_qemu_that_was_killed_is_restored_and_its_test_tried_again(suite):
    """Class infra: the second try gets a machine of its own, and nobody after it has lost anything."""
    ran = run_small(
        suite(
            LOSES.format(
                loses="""
    if not os.path.exists("seen"):
        open("seen", "w")
        machine.die()
        assert machine.console.expect("never", __import__("harness.deadline").deadline.Deadline(5))
"""
            )
        )
    )
    assert {result["outcome"] for result in ran.results.values()} == {"passed"}
    assert "was killed by signal 9" in ran.results["test_loses"]["first_try"]["cause"]
    assert sorted(path.name for path in (suite("").path / "reports/latest/machines").iterdir()) == [
        "fresh-test_own",
        "shared",
        "shared-2",
    ]


def test_qemu_that_is_killed_again_stays_lost(suite):
    ran = run_small(suite(LOSES.format(loses="machine.die()")))
    assert ran.outcomes()["test_loses"] == ("failed", "infra")
    assert "signal 9" in ran.results["test_loses"]["first_try"]["cause"]
    assert ran.results["test_after[0]"]["cause"].startswith("machine lost by test_it.py::test_loses: bash was killed")
    assert ran.outcomes()["test_own"] == ("passed", None)
    ran.done.stdout.fnmatch_lines(["UNDECIDED: the image was not fully judged: 1 of 7 checks failed, 3 could not*"])


def test_an_assertion_about_a_machine_that_died_is_not_held_against_the_image(suite):
    ran = run_small(
        suite("""
def test_it(fresh_machine):
    fresh_machine.die()
    assert False, "ssh: connection closed"
"""),
        "--no-retry",
    )
    assert ran.outcomes() == {"test_it": ("failed", "infra")}
    assert "was killed by signal 9" in ran.results["test_it"]["cause"]
    assert "the check itself said: ssh: connection closed" in ran.results["test_it"]["evidence"]


def test_a_test_may_end_its_own_machine(suite):
    ran = run_small(suite("def test_it(fresh_machine): fresh_machine.process.kill()"))
    assert ran.outcomes() == {"test_it": ("passed", None)}


def test_a_machine_lost_by_an_expected_failure_leaves_the_image_undecided(suite):
    pytester = suite(LOSES.format(loses="machine.say(PANIC)"))
    (pytester.path / "expectations.toml").write_text(
        '[[expectation]]\npattern = "*test_loses"\nowner = "us"\n'
        'tracker = "https://x.example/7"\nexpires = 2999-01-01\n'
    )
    ran = run_small(pytester)
    assert ran.results["test_loses"]["outcome"] == "expected"
    ran.done.stdout.fnmatch_lines(["UNDECIDED: the image was not fully judged: 0 of 6 checks failed, 3 could not*"])
    assert "machine lost by" in ran.page
