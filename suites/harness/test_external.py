"""External tests running in real guests, and the collector that makes pytest items of them."""

import json
import os
import subprocess
import sys

import pytest

from harness.errors import ExternalTestFailed, HostTooBusy
from harness.external.discovery import readable_tests, root_of
from harness.external.running import output_of, run_test
from suites.harness.small_project import external_project, header

pytestmark = pytest.mark.boot


def external(tmp_path, script, **keys):
    (test,) = readable_tests(root_of(external_project(tmp_path, {"basic/one": header(**keys) + script})))
    return test


def test_a_test_finds_its_data_and_all_that_kola_tells_it(tmp_path, fresh_machine):
    script = """
    set -euo pipefail
    . "$KOLA_EXT_DATA/lib.sh"
    test "$(wc -c <"$KOLA_EXT_DATA/deep/large")" = 300000
    test -x "$KOLA_EXT_DATA/tool"
    systemctl is-active "$KOLA_UNIT" || systemctl show -P ActiveState "$KOLA_UNIT"
    echo "$(id -u) $KOLA_TEST $KOLA_TEST_EXE $KOLA_UNIT mark='${AUTOPKGTEST_REBOOT_MARK-unset}' $from_library"
    """
    test = external(tmp_path, script)
    data = test.path.parent / "data"
    (data / "deep").mkdir(parents=True)
    (data / "lib.sh").write_text("from_library=yes\n")
    (data / "deep/large").write_bytes(os.urandom(300_000))  # more than goes by the channel
    (data / "tool").write_text("#!/bin/sh\n")
    (data / "tool").chmod(0o755)
    (test,) = readable_tests(root_of(tmp_path / "proj"))
    result = run_test(fresh_machine, test)
    told = "0 ext.proj.basic.one one kola-runext.service mark='unset' yes"
    assert (result.outcome, told in result.output.splitlines()) == ("passed", True), result.output
    assert output_of(fresh_machine, test).read_text() == result.output


def test_how_a_test_ended_is_told_with_its_last_words(tmp_path, fresh_machine):
    def end_of(script):
        try:
            return run_test(fresh_machine, external(tmp_path, script), seconds=60).outcome
        except ExternalTestFailed as failed:
            return str(failed)

    assert end_of("exit 77") == "skipped"
    assert end_of("kill -TERM $$") == "passed"
    assert end_of("echo working; echo it broke >&2; exit 3") == "ext.proj.basic.one: exited with 3: it broke"
    assert end_of("kill -KILL $$") == "ext.proj.basic.one: was ended by KILL (signal) and said nothing"
    missing = external_project(tmp_path, {"basic/one": ""}) / "tests/kola/basic/one"
    missing.write_text("#!/no/such/interpreter\n")
    (test,) = readable_tests(root_of(tmp_path / "proj"))
    with pytest.raises(ExternalTestFailed, match="exited with 203"):  # systemd's code for exec
        run_test(fresh_machine, test)


def test_a_test_that_takes_too_long_is_killed(tmp_path, fresh_machine):
    test = external(tmp_path, "echo begun; sleep 1000")
    with pytest.raises((ExternalTestFailed, HostTooBusy), match="ran longer than 3 s"):
        run_test(fresh_machine, test, seconds=3)
    assert fresh_machine.run("pgrep -f 'sleep 1000'").rc == 1
    assert external(tmp_path, "true", timeoutMin=2).seconds == 120


def test_a_test_that_shares_its_machine_may_not_reboot_it(tmp_path, fresh_machine):
    test = external(tmp_path, "/tmp/autopkgtest-reboot mark", exclusive="false")
    with pytest.raises(ExternalTestFailed, match=r"exited with 1: a test with 'exclusive: false' shares its machine"):
        run_test(fresh_machine, test, number=7)


@pytest.mark.nightly
def test_marks_survive_both_kinds_of_reboot(tmp_path, fresh_machine):
    script = """
    case "${AUTOPKGTEST_REBOOT_MARK-}" in
        '') echo begun; echo "$KOLA_EXT_DATA" >/var/lib/kept; /tmp/autopkgtest-reboot 'first mark' ;;
        'first mark') cat /var/lib/kept; /tmp/autopkgtest-reboot-prepare second; systemctl reboot; sleep 100 ;;
        second) echo "second boot"; test -e /var/lib/kept ;;
        *) exit 1 ;;
    esac
    """
    result = run_test(fresh_machine, external(tmp_path, script, timeoutMin=30))
    assert (result.outcome, result.reboots) == ("passed", 2)
    said = [line for line in result.output.splitlines() if line]
    assert said == [
        "begun",
        "--- reboot 1, mark 'first mark' ---",
        "/var/opt/kola/extdata",
        "--- reboot 2, mark 'second' ---",
        "second boot",
    ]


LEAVES = "echo $KOLA_TEST >>/run/seen; "


@pytest.fixture
def project(tmp_path):
    """Tests that can see who was there before them, and some that cannot run."""
    return external_project(
        tmp_path,
        {
            "alone": LEAVES + "test $(wc -l </run/seen) = 1",
            "shared/a": header(exclusive="false") + LEAVES,
            "shared/b": header(exclusive="false", tags="quick") + LEAVES + "grep -x ext.proj.shared.a /run/seen",
            "shared/c": header(exclusive="false", conflicts="[ext.proj.shared.a]")
            + LEAVES
            + "! grep shared.a /run/seen",
            "fails": header(tags="quick needs-internet") + "echo no luck; exit 9",
            "gives-up": header(exclusive="false") + "echo nothing to test here; exit 77",
            "disks": header(additionalDisks='["5G"]', appendKernelArgs="foo") + "true",
            "cloud": header(platforms="aws") + "true",
            "slow": header(requiredTag="slow") + "true",
        },
    )


def run_pytest(project, *arguments):
    """What became of each test, by the last part of its node id; and everything pytest said."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--external={project}", *arguments]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    told = {}
    if (run := project / "reports/latest/run.json").exists():
        results = json.loads(run.read_text())["results"]
        told = {result["nodeid"].removeprefix("tests/kola/"): result for result in results}
    return told, done.stdout + done.stderr


@pytest.fixture
def host(snapshot, store):
    """The options that have a run use what is there already."""
    return [f"--store={store.root}", f"--accel={snapshot.boot.accel.name}"]


def test_executables_become_items_that_share_or_do_not(project, host):
    told, said = run_pytest(project, *host)
    assert {name: result["outcome"] for name, result in told.items()} == {
        "alone::test[reference]": "passed",
        "shared/a::test[reference]": "passed",
        "shared/b::test[reference]": "passed",
        "shared/c::test[reference]": "passed",
        "fails::test[reference]": "failed",
        "gives-up::test[reference]": "skipped",
        "disks::test[reference]": "skipped",
        "cloud::test[reference]": "skipped",
        "slow::test[reference]": "skipped",
    }, said
    causes = {name.partition(":")[0]: result["cause"] for name, result in told.items()}
    assert causes["fails"] == "ext.proj.fails: exited with 9: no luck"
    assert told["fails::test[reference]"]["verdict_class"] == "image"
    assert "additionalDisks, appendKernelArgs" in causes["disks"]
    assert "nothing to test here" in causes["gives-up"]
    assert "--tag slow" in causes["slow"]


def test_a_broken_header_stops_the_run_with_its_line(tmp_path):
    project = external_project(tmp_path, {"broken": "## kola:\n##   exclusive: perhaps\n", "good": "true"})
    told, said = run_pytest(project)
    cause = f"{project}/tests/kola/broken:3: the metadata has exclusive 'perhaps', not true or false"
    assert {name: result["cause"] for name, result in told.items()} == {"broken": cause}, said


@pytest.mark.parametrize(
    "choice, wanted",
    [
        (["--tag=slow"], {"slow"}),
        (["-m", "slow"], {"slow"}),
        (["-m", "quick and needs-internet"], {"fails"}),
        (["--tag=quick"], {"fails", "shared/b"}),
        (["--tag=quick", "tests/kola/shared"], {"shared/b"}),
        (["tests/kola/alone::test[reference]"], {"alone"}),
    ],
)
def test_tags_and_paths_select(project, choice, wanted):
    _, said = run_pytest(project, "--collect-only", "-q", *choice)
    assert {line.removeprefix("tests/kola/").partition("::")[0] for line in said.splitlines() if "::" in line} == wanted


def test_a_required_tag_that_is_asked_for_runs(project, host):
    told, said = run_pytest(project, *host, "--tag=slow")
    assert {name: result["outcome"] for name, result in told.items()} == {"slow::test[reference]": "passed"}, said


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--external", "nowhere"], cwd=tmp_path, capture_output=True, check=False
    )
    assert (done.returncode, b"--external: " in done.stderr + done.stdout) == (2, True)
