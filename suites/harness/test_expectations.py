"""The expectations file: what it may say, which failures it foretells, and how it is held to its word."""

import json
import re
from datetime import UTC, date, datetime, timedelta

import pytest

from harness.errors import BadInput
from harness.report.expectations import Census, Circumstances, foretold, note_of, read_expectations
from harness.report.verdict import CheckResult
from suites.harness.small_run import PLUGINS, run_small

pytest_plugins = ["pytester"]
TODAY = date(2026, 11, 21)
ENTRY = {"pattern": "a.py", "tracker": "https://x.example/7", "owner": "storage team", "expires": TODAY}
SUITE = """
    import pytest
    from harness.errors import MachineFailed
    from harness.report.folder import contribute
    from harness.report.verdict import ImageFacts

    @pytest.fixture(scope="session")
    def image(run_folder):
        contribute(run_folder, "image-x", ImageFacts("x.qcow2", "rhcos-4.18"))

    def test_good(image): pass
    def test_bad(image): assert 1 == 2, "backup header is missing"
    @pytest.mark.parametrize("path", ["/usr", "/boot"])
    def test_each(image, path): assert path == "/usr"
    def test_qemu(image): raise MachineFailed("QEMU died")
"""


def written(folder, *entries, name="expectations.toml"):
    text = ""
    for entry in entries:
        text += "[[expectation]]\n"
        for key, value in entry.items():
            text += f"{key} = {value if isinstance(value, date) else json.dumps(value)}\n"
    (folder / name).write_text(text)
    return folder / name


def entry(**changes):
    return {**ENTRY, "expires": datetime.now(UTC).date() + timedelta(days=30), **changes}


# -- the file ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"owner": None}, "entry 2: the key 'owner' is missing"),
        ({"tracker": None}, "entry 2: the key 'tracker' is missing"),
        ({"expires": None}, "entry 2: the key 'expires' is missing"),
        ({"pattern": None}, "entry 2: the key 'pattern' is missing"),
        ({"expires": "soon"}, "entry 2: expires: Invalid RFC3339 encoded date"),
        ({"expires": 7}, "entry 2: expires: Expected `date`, got `int`"),
        ({"warn": "yes"}, "entry 2: warn: Expected `bool`, got `str`"),
        ({"arch": "x86_64"}, "entry 2: arch: Expected `array`, got `str`"),
        ({"snooze": 1}, "entry 2: unknown key 'snooze'"),
        ({"number": 1}, "entry 2: unknown key 'number'"),
        ({"owner": " "}, "entry 2: owner: is not a line of text"),
        ({"owner": "two\nlines"}, "entry 2: owner: is not a line of text"),
        ({"tracker": "#7"}, "entry 2: tracker: '#7' is no http(s) address"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_one_line_with_entry_and_key(tmp_path, change, complaint):
    wrong = {key: value for key, value in {**ENTRY, **change}.items() if value is not None}
    with pytest.raises(BadInput, match=re.escape(complaint)) as raised:
        read_expectations(written(tmp_path, ENTRY, wrong))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"\xff\xfe", "is not TOML"),
        (b"[[expectation]", "is not TOML"),
        (b"expectation = 3", "expectation is not a list"),
        (b"expectation = [3]", "entry 1: is not a table"),
        (b"[[denylist]]\n", "unknown key 'denylist'"),
        (b"a = " + b"[" * 100_000, "is not TOML"),
        (b"#" * (5 * 2**20), "is larger than"),
    ],
    ids=["no text", "broken", "no list", "no table", "other name", "too deep", "too large"],
)
def test_a_file_that_is_none_is_told_in_one_line(tmp_path, content, complaint):
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(BadInput, match=complaint) as raised:
        read_expectations(tmp_path / "x.toml")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "pattern, nodeid, is_named",
    [
        ("a/b.py::test_x", "a/b.py::test_x", True),
        ("a/b.py::test_x", "a/b.py::test_x[/usr]", True),
        ("a/b.py::test_x[/usr]", "a/b.py::test_x[/usr]", True),
        ("a/b.py::test_x[/usr]", "a/b.py::test_x[/boot]", False),
        ("a/b.py::test_x", "a/b.py::test_xy", False),
        ("a/b.py", "a/b.py::test_x", True),
        ("a", "a/b.py::test_x", True),
        ("a", "ab/b.py::test_x", False),
        ("*::test_x", "a/b.py::test_x", True),
        ("a/?.py", "a/b.py::test_x", True),
        ("a/b.py::Test.", "a/b.py::Testx", False),
        ("a/b.py::test_x", "a/b.py::test_x@gw", True),
    ],
)
def test_a_pattern_means_what_it_means_to_pytest(tmp_path, pattern, nodeid, is_named):
    (only,) = read_expectations(written(tmp_path, {**ENTRY, "pattern": pattern}))
    assert only.names(nodeid) is is_named


AROUND = Circumstances({"x86_64"}, {"fcos-stable"}, {"rhcos-4.18"}, {"uefi,nvme", "uefi", "nvme"})


@pytest.mark.parametrize(
    "change, is_foretold",
    [
        ({}, True),
        ({"expires": date(2026, 11, 20)}, False),
        ({"cause": "backup"}, True),
        ({"cause": "primary"}, False),
        ({"profile": ["rhcos-4*"]}, True),
        ({"profile": ["fcos*", "rhcos-4*"]}, True),
        ({"profile": ["fcos*"]}, False),
        ({"arch": ["aarch64"]}, False),
        ({"stream": ["fcos-*"], "arch": ["x86_64"], "machine": ["nvme"]}, True),
        ({"stream": ["fcos-*"], "arch": ["x86_64"], "machine": ["bios"]}, False),
    ],
    ids=str,
)
def test_an_entry_foretells_failures_in_its_time_scope_and_cause(tmp_path, change, is_foretold):
    entries = read_expectations(written(tmp_path, {**ENTRY, **change}))
    found = foretold(entries, "a.py::test_x", "backup header is missing", AROUND, TODAY)
    assert (found is not None) is is_foretold


def test_what_is_not_known_is_out_of_scope(tmp_path):
    entries = read_expectations(written(tmp_path, {**ENTRY, "profile": ["*"]}))
    assert foretold(entries, "a.py", "x", Circumstances(), TODAY) is None


@pytest.mark.parametrize(
    "change, outcome, census, standing",
    [
        ({}, "expected", {}, "holds"),
        ({}, "passed", {}, "no longer fails"),
        ({}, "skipped", {}, "did not run"),
        ({}, None, {}, "did not run"),
        ({"expires": date(2026, 11, 20)}, "passed", {}, "expired"),
        ({"expires": date(2026, 11, 20)}, None, {"named": ()}, "expired"),
        ({"expires": date(2026, 11, 20), "arch": ["s390x"]}, "failed", {}, "elsewhere"),
        ({}, None, {"named": ()}, "matches no test"),
        ({}, None, {"named": (), "asked": ("suites/b",)}, "did not run"),
        ({"expires": date(2026, 11, 20)}, None, {"named": (), "asked": ("b.py::test_y",)}, "did not run"),
        ({}, None, {"named": (), "asked": ("a.py::test_y",)}, "matches no test"),
    ],
)
def test_each_entry_is_held_to_its_word(tmp_path, change, outcome, census, standing):
    (only,) = read_expectations(written(tmp_path, {**ENTRY, **change}))
    results = {"a.py::test_x": CheckResult("a.py::test_x", outcome)} if outcome else {}
    told = Census(**{"results": results, "named": (1,), "circumstances": AROUND, "today": TODAY, **census})
    assert note_of(only, told).standing == standing


# -- in a run ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def suite(pytester):
    pytester.makepyfile(test_it=SUITE)
    pytester.makeini("[pytest]\nmarkers =\n    nightly: late")
    return pytester


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_a_failure_that_was_foretold_does_not_count(suite, workers):
    written(suite.path, entry(pattern="test_it.py::test_bad", profile=["rhcos-*"]), entry(pattern="*test_each"))
    ran = run_small(suite, "-k", "not qemu", *workers)
    assert ran.done.ret == 0
    assert {name: result["outcome"] for name, result in ran.results.items()} == {
        "test_good": "passed",
        "test_bad": "expected",
        "test_each[/usr]": "passed",
        "test_each[/boot]": "expected",
    }
    assert ran.properties("test_bad")["verdict_class"] == "image"
    assert "https://x.example/7" in ran.properties("test_bad")["expectation"]
    assert ran.case("test_bad").find("skipped").get("message") == "expected failure (https://x.example/7)"
    assert "storage team" in ran.page
    ran.done.stdout.fnmatch_lines(
        [
            "test_it.py::test_bad: expected failure (https://x.example/7, owner storage team, until *): backup header*",
            "UNDECIDED: all 2 checks passed, 2 failed as expected, but only a part was asked for*",
        ]
    )


def test_with_known_failures_only_an_image_may_ship(suite):
    written(suite.path, entry(pattern="test_it.py"))
    (suite.path / "test_it.py").write_text((suite.path / "test_it.py").read_text().partition("def test_qemu")[0])
    ran = run_small(suite)
    ran.done.stdout.fnmatch_lines(["MAY SHIP: all 2 checks passed, 2 failed as expected"])


def test_a_failure_of_ours_is_never_expected(suite):
    written(suite.path, entry(pattern="test_it.py"))
    ran = run_small(suite)
    assert ran.results["test_qemu"]["outcome"] == "failed"
    assert ran.done.ret == 1


def test_another_cause_than_the_known_one_counts(suite):
    written(suite.path, entry(pattern="*test_bad", cause="primary header"))
    assert run_small(suite).results["test_bad"]["outcome"] == "failed"


def test_a_warning_is_told_apart(suite):
    written(suite.path, entry(pattern="*test_bad", warn=True), entry(pattern="*test_good", warn=True))
    ran = run_small(suite, "-k", "bad or good")
    assert (ran.results["test_bad"]["outcome"], ran.done.ret) == ("warned", 0)
    ran.done.stdout.fnmatch_lines(
        ["*test_bad: failed, which is only a warning (*", "*(*test_good) did not fail this time*"]
    )
    assert "warned" in ran.page


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_an_expired_entry_fails_the_gate_though_its_test_passes(suite, workers):
    written(suite.path, entry(pattern="*test_good", expires=date(2026, 1, 31)))
    ran = run_small(suite, "-k", "good", *workers)
    words = "expectation 1 (*test_good) expired on 2026-01-31, owner storage team, tracker https://x.example/7"
    assert ran.done.ret == 1
    assert (ran.results["1"]["cause"], ran.results["1"]["verdict_class"]) == (words, "test")
    assert words in ran.page
    assert int(ran.junit.get("failures")) == 1
    ran.done.stdout.fnmatch_lines([f"test  {words.replace('*', '[*]')}", "UNDECIDED: the image was not fully judged*"])


def test_an_expired_entry_excuses_nothing(suite):
    written(suite.path, entry(pattern="*test_bad", expires=date(2026, 1, 31)))
    ran = run_small(suite, "-k", "bad")
    assert ran.results["test_bad"]["outcome"] == "failed"
    ran.done.stdout.fnmatch_lines(["MUST NOT SHIP: 1 of 2 checks failed; first cause: backup header is missing*"])


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_entries_that_are_of_no_use_are_remarked_and_fail_nothing(suite, workers):
    written(suite.path, entry(pattern="*test_good"), entry(pattern="test_gone.py"), entry(pattern="*test_bad"))
    ran = run_small(suite, "-k", "good", *workers)
    assert ran.done.ret == 0
    ran.done.stdout.fnmatch_lines(
        ["expectation 1 (*test_good) no longer fails: remove it*", "expectation 2 (test_gone.py) matches no test*"]
    )
    ran.done.stdout.no_fnmatch_line("expectation 3*")


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one process", "two workers"])
def test_a_malformed_file_ends_the_run_before_anything_else(suite, workers):
    written(suite.path, {**entry(), "expires": "never"})
    done = suite.runpytest_subprocess(*PLUGINS, *workers)
    assert done.ret == 4
    done.stderr.fnmatch_lines(["ERROR: *expectations.toml: entry 1: expires: *"])
    assert not (suite.path / "reports").exists()


def test_another_file_can_be_named(suite):
    written(suite.path, entry(pattern="*test_bad"), name="mine.toml")
    assert run_small(suite, "-k", "bad", "--expectations", "mine.toml").done.ret == 0


def test_a_file_that_is_not_there_is_one_line(suite):
    done = suite.runpytest_subprocess(*PLUGINS, "--expectations", "absent.toml")
    assert done.ret == 4
    done.stderr.fnmatch_lines(["ERROR: *absent.toml: cannot be read: No such file*"])
