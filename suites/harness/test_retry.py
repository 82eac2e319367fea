"""Only failures of class infra are tried again, once, and both tries are told."""

import pytest

from suites.harness.small_run import run_small

pytest_plugins = ["pytester"]
SUITE = """
    import time
    import pytest
    from pathlib import Path
    from harness.errors import BadInput, BootFailed, DamagedImage, MachineFailed

    def nth(name):
        path = Path(f"{name}.count")
        count = int(path.read_text()) + 1 if path.exists() else 1
        path.write_text(str(count))
        return count

    @pytest.fixture
    def fresh():
        nth("fresh")
        yield object()
        nth("fresh-ended")

    @pytest.fixture(scope="session")
    def shaky():
        if nth("shaky") == 1:
            raise MachineFailed("QEMU did not start")
        yield "steady"
        nth("shaky-ended")

    @pytest.fixture(scope="session")
    def hopeless(request):
        raise MachineFailed(f"no QEMU for try {nth('hopeless')}")

    @pytest.fixture(scope="session")
    def indirectly(request):
        return request.getfixturevalue("shaky")

    def test_qemu_dies_once(fresh):
        if nth("once") == 1:
            time.sleep(0.2)
            raise MachineFailed("QEMU was killed by signal 9")
    def test_qemu_dies_always(fresh):
        raise MachineFailed(f"QEMU died, try {nth('always')}")
    def test_second_try_finds_more(fresh):
        if nth("more") == 1:
            raise MachineFailed("QEMU was killed by signal 9")
        assert 1 == 2, "partition 3 is missing"
    def test_image():
        nth("image")
        raise DamagedImage("is empty")
    def test_boot():
        nth("boot")
        raise BootFailed("no login prompt")
    def test_check():
        nth("check")
        undefined_name
    def test_option():
        nth("option")
        raise BadInput("unknown accelerator")
    def test_session_fixture(shaky):
        assert shaky == "steady"
    def test_session_fixture_again(shaky): pass
    def test_hopeless_one(hopeless): pass
    def test_hopeless_two(hopeless): pass
    def test_skipped(): pytest.skip("not promised")
    def test_last_of_all(fresh, shaky):
        if nth("last") == 1:
            raise MachineFailed("QEMU was killed by signal 9")
"""
TEARDOWN = """
    from pathlib import Path
    import pytest
    from harness.errors import MachineFailed

    @pytest.fixture
    def sticky():
        yield
        if not Path("seen").exists():
            Path("seen").write_text("")
            raise MachineFailed("QEMU does not end")

    def test_it(sticky): pass
"""


@pytest.fixture
def suite(pytester):
    pytester.makepyfile(test_it=SUITE)
    pytester.makeini("[pytest]\ntimeout_func_only = true")
    return pytester


def count(pytester, name):
    path = pytester.path / f"{name}.count"
    return int(path.read_text()) if path.exists() else 0


def test_only_infra_is_tried_again_and_only_once(suite):
    ran = run_small(suite)
    assert ran.outcomes() == {
        "test_qemu_dies_once": ("passed", None),
        "test_qemu_dies_always": ("failed", "infra"),
        "test_second_try_finds_more": ("failed", "image"),
        "test_image": ("failed", "image"),
        "test_boot": ("failed", "boot"),
        "test_check": ("failed", "test"),
        "test_option": ("failed", "infra"),
        "test_session_fixture": ("passed", None),
        "test_session_fixture_again": ("passed", None),
        "test_hopeless_one": ("error", "infra"),
        "test_hopeless_two": ("error", "infra"),
        "test_skipped": ("skipped", None),
        "test_last_of_all": ("passed", None),
    }
    counts = {name: count(suite, name) for name in ("once", "always", "more", "image", "boot", "check", "option")}
    assert counts == {"once": 2, "always": 2, "more": 2, "image": 1, "boot": 1, "check": 1, "option": 1}


def test_both_tries_are_told_everywhere(suite):
    ran = run_small(suite, "-k", "dies_once or dies_always")
    assert ran.results["test_qemu_dies_once"]["duration"] > 0.2, "both tries took time"
    assert ran.results["test_qemu_dies_once"]["first_try"]["cause"] == "QEMU was killed by signal 9"
    assert ran.results["test_qemu_dies_always"]["first_try"]["cause"] == "QEMU died, try 1"
    assert ran.properties("test_qemu_dies_once") == {"first_try": "infra: QEMU was killed by signal 9"}
    assert ran.properties("test_qemu_dies_always")["first_try"] == "infra: QEMU died, try 1"
    assert "passed on the second try" in ran.page
    assert "QEMU died, try 1" in ran.page
    ran.done.stdout.fnmatch_lines(
        [
            "infra QEMU died, try 2",
            "      second try; first: QEMU died, try 1",
            "test_it.py::test_qemu_dies_once: passed on the second try; first: QEMU was killed by signal 9",
        ]
    )


def test_fixtures_of_a_test_are_made_anew(suite):
    run_small(suite, "-k", "dies_once")
    assert (count(suite, "fresh"), count(suite, "fresh-ended")) == (2, 2)


def test_a_session_fixture_that_failed_is_made_anew_once(suite):
    ran = run_small(suite, "-k", "session_fixture or hopeless")
    assert ran.results["test_session_fixture"]["first_try"]["cause"] == "QEMU did not start"
    assert ran.results["test_session_fixture_again"]["first_try"] is None
    assert (count(suite, "shaky"), count(suite, "shaky-ended")) == (2, 1)
    assert count(suite, "hopeless") == 2
    assert ran.results["test_hopeless_one"]["first_try"]["cause"] == "no QEMU for try 1"
    assert ran.results["test_hopeless_two"]["cause"] == "no QEMU for try 2"


def test_a_session_fixture_asked_for_on_the_way_is_made_anew_too(suite):
    (suite.path / "test_it.py").write_text((suite.path / "test_it.py").read_text() + "\ndef test_x(indirectly): pass\n")
    ran = run_small(suite, "-k", "test_x")
    assert ran.outcomes()["test_x"] == ("passed", None)
    assert count(suite, "shaky") == 2


def test_a_teardown_that_failed_is_tried_again_with_its_test(pytester):
    pytester.makepyfile(test_it=TEARDOWN)
    ran = run_small(pytester)
    assert ran.outcomes() == {"test_it": ("passed", None)}
    assert ran.results["test_it"]["first_try"]["cause"] == "QEMU does not end"


def test_no_retry_tries_nothing_again(suite):
    ran = run_small(suite, "--no-retry")
    assert count(suite, "once") == 1
    assert ran.outcomes()["test_qemu_dies_once"] == ("failed", "infra")


def test_workers_try_again_by_themselves(suite):
    ran = run_small(suite, "-k", "dies_once or dies_always", "-n", "2")
    assert ran.outcomes() == {"test_qemu_dies_once": ("passed", None), "test_qemu_dies_always": ("failed", "infra")}
    assert ran.properties("test_qemu_dies_once") == {"first_try": "infra: QEMU was killed by signal 9"}


def test_a_test_that_hangs_is_not_given_its_time_twice(pytester):
    pytester.makepyfile(
        test_it="""
        import pytest, time
        from pathlib import Path
        @pytest.fixture
        def slow():
            Path("tries").open("a").write("x")
            time.sleep(60)
        @pytest.mark.timeout(0.5, func_only=False)
        def test_it(slow): pass
        @pytest.mark.timeout(0.5)
        def test_call(): time.sleep(60)
    """
    )
    ran = run_small(pytester)
    assert ran.outcomes() == {"test_it": ("error", "infra"), "test_call": ("failed", "test")}
    assert (pytester.path / "tries").read_text() == "x"


@pytest.mark.parametrize("options", [(), ("--no-retry",)])
def test_a_worker_that_was_killed_is_replaced_and_its_test_tried_again(pytester, options):
    pytester.makepyfile(
        test_it="""
        import os, signal
        from pathlib import Path
        def test_it():
            if not Path("seen").exists():
                Path("seen").write_text("")
                os.kill(os.getpid(), signal.SIGKILL)
        def test_always(): os.kill(os.getpid(), signal.SIGKILL)
    """
    )
    ran = run_small(pytester, "-n", "2", *options)
    assert ran.outcomes()["test_always"] == ("error", "infra")
    assert ran.outcomes()["test_it"] == (("error", "infra") if options else ("passed", None))
    tried = ran.results["test_always"]["first_try"]
    assert (tried is None) is bool(options)
    assert "crashed while running" in ran.results["test_always"]["cause"]
