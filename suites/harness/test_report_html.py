"""The report's page: what it says, that hostile text stays text, and that a browser can show it."""

import os
import shutil
import struct
import subprocess
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest

from harness.errors import BadInput
from harness.report.excerpt import console_excerpt, excerpt
from harness.report.folder import (
    contribute,
    create_run_folder,
    discard_if_empty,
    host_of,
    images_of,
    machine_folder,
    machines_of,
    point_latest,
)
from harness.report.html import render, write_page
from harness.report.svg import partition_map, timeline
from harness.report.verdict import (
    Attempt,
    CheckResult,
    ExpectationNote,
    ImageFacts,
    MachineLogs,
    PartitionFacts,
    Run,
    Stage,
    judge,
    most_telling_first,
)

MIB = 2**20
IMAGE = ImageFacts(
    name="reference.qcow2",
    profile="reference",
    disk_sha256="4f1c" * 16,
    file_sha256="9be2" * 16,
    disk_size=3584 * MIB,
    partitions=(
        PartitionFacts(1, "BIOS-BOOT", MIB, MIB),
        PartitionFacts(2, "EFI-SYSTEM", 2 * MIB, 127 * MIB, "vfat"),
        PartitionFacts(3, "boot", 129 * MIB, 384 * MIB, "ext4"),
        PartitionFacts(4, "root", 513 * MIB, 3070 * MIB, "ext4"),
    ),
)
STAGES = tuple(
    Stage(name, at)
    for name, at in [("firmware", 0.4), ("boot loader", 2.1), ("kernel", 3.8), ("ignition", 9.0), ("ssh", 31.5)]
)
PASSED = tuple(CheckResult(f"suites/rhcos/test_boot.py::test_fact_{n}", "passed", 0.01 * n) for n in range(12))
SKIPPED = CheckResult("suites/rhcos/test_luks.py::test_root_is_luks", "skipped", cause="profile has no LUKS root")
BROKEN = CheckResult(
    "suites/rhcos/test_partitions.py::test_partitions_are_exactly_those_of_the_profile",
    "failed",
    0.021,
    "image",
    "partition 3 'boot' differs: start",
    ("expected   | found      | where", "135,266,304 | 135,267,328 | [2].start"),
    replay="pytest 'suites/rhcos/test_partitions.py::test_partitions_are_exactly_those_of_the_profile' --image x.qcow2",
)
NO_BOOT = CheckResult(
    "suites/rhcos/test_first_boot.py::test_ignition_ran_once",
    "error",
    47.3,
    "boot",
    "console: the kernel panicked [kernel-panic]: Kernel panic - not syncing: VFS: Unable to mount root fs",
    console=(
        *(f"{n:10.3f} [    {n}.000000] systemd[1]: line {n} of the boot" for n in range(19)),
        "    19.200 [   19.2] Kernel panic - not syncing: VFS: Unable to mount root fs",
    ),
    console_log="machines/gw0-uefi/console.log",
    replay="pytest suites/rhcos/test_first_boot.py::test_ignition_ran_once",
    sections=(("Captured log setup", "starting qemu"),),
)
GREEN = Run(
    started=datetime(2026, 11, 21, 7, 8, 0, tzinfo=UTC),
    seconds=131.4,
    command="pytest suites/rhcos -n 4",
    results=(*PASSED, SKIPPED),
    images=(IMAGE,),
    machines=(MachineLogs("gw0-uefi", ("machines/gw0-uefi/console.log", "machines/gw0-uefi/journal.txt"), STAGES),),
    host={"accelerator": "tcg (kvm: there is no /dev/kvm)"},
)
RED = replace(GREEN, results=(*PASSED, SKIPPED, BROKEN, NO_BOOT))
PANIC = "console: the kernel stopped [kernel-panic]: Kernel panic - not syncing: sysrq triggered crash"
CULPRIT = CheckResult("suites/rhcos/test_kdump.py::test_sysrq", "failed", 2.0, "image", PANIC, lost_by="")
LOST = tuple(
    CheckResult(
        f"suites/rhcos/test_running.py::test_{name}",
        "error",
        0.001,
        "infra",
        f"machine lost by {CULPRIT.nodeid}: {PANIC}",
        lost_by=CULPRIT.nodeid,
    )
    for name in ("network_is_up", "no_unit_has_failed")
)
FORETOLD = CheckResult(
    "suites/rhcos/test_first_boot.py::test_backup_gpt_moved",
    "expected",
    0.4,
    "image",
    "the backup GPT is not at the end of the disk",
    expectation="https issue 77, owner storage team, until 2026-12-31",
)
WARNED = replace(FORETOLD, nodeid="suites/rhcos/test_clock.py::test_clock_is_right", outcome="warned", cause="3 s late")
ATTEMPT = Attempt(
    "infra",
    "qemu-system-x86_64 was killed by signal 9: it said nothing (the guest is lost)",
    ("at suites/rhcos/test_reboot.py:12",),
    ("    18.200 login:",),
)
RETRIED = CheckResult("suites/rhcos/test_reboot.py::test_reboot", "passed", 61.0, first_try=ATTEMPT)
TWICE = CheckResult(
    "suites/rhcos/test_reboot.py::test_power_cut", "failed", 3.0, "infra", "QEMU died again", first_try=ATTEMPT
)
SUSPECT = CheckResult(
    "suites/rhcos/test_load.py::test_load",
    "passed",
    1.0,
    warnings=("console: the kernel reached a state [x]: WARNING",),
)
NOTES = (
    ExpectationNote("holds", "expectation 1 (suites/rhcos/test_first_boot.py) holds until 2026-12-31"),
    ExpectationNote("no longer fails", "expectation 2 (*test_clock) no longer fails: remove it"),
    ExpectationNote("expired", "expectation 3 (*luks*) expired on 2026-01-31, owner storage team"),
    ExpectationNote("matches no test", "expectation 4 (*gone*) matches no test"),
)
MIXED = replace(
    GREEN,
    results=(*PASSED, SKIPPED, TWICE, *LOST, CULPRIT, FORETOLD, WARNED, RETRIED, SUSPECT),
    expectations=NOTES,
)


def test_green_run_may_ship():
    assert judge(GREEN).headline == "MAY SHIP"
    assert "all 12 checks passed, 1 skipped" in render(GREEN)


def test_boot_failure_is_the_first_cause_of_a_red_run():
    verdict = judge(RED)
    assert verdict.headline == "MUST NOT SHIP"
    assert verdict.sentence == f"2 of 14 checks failed; first cause: {NO_BOOT.cause}"


@pytest.mark.parametrize(
    "change,headline",
    [
        ({"results": (*PASSED, replace(BROKEN, verdict_class="infra"))}, "UNDECIDED"),
        ({"results": (*PASSED, replace(BROKEN, verdict_class="test"))}, "UNDECIDED"),
        ({"results": (SKIPPED,)}, "UNDECIDED"),
        ({"results": ()}, "UNDECIDED"),
        ({"selection": "-k gpt"}, "UNDECIDED"),
        ({"interrupted": "Ctrl-C"}, "UNDECIDED"),
        ({"images": ()}, "PASSED"),
        ({"images": (), "results": (BROKEN,)}, "FAILED"),
        ({"results": (BROKEN,), "interrupted": "Ctrl-C"}, "MUST NOT SHIP"),
    ],
)
def test_verdict_never_says_more_than_was_found(change, headline):
    assert judge(replace(GREEN, **change)).headline == headline


def test_who_lost_a_machine_comes_first_and_its_victims_last():
    for verdict_class in ("image", "infra", "test"):
        culprit = replace(CULPRIT, verdict_class=verdict_class)
        assert most_telling_first((*LOST, culprit)) == [culprit, *LOST]


def test_victims_of_a_lost_machine_are_not_counted_as_failures():
    verdict = judge(replace(GREEN, results=(*PASSED, *LOST, CULPRIT)))
    assert verdict.sentence == f"1 of 15 checks failed, 2 could not be made; first cause: {PANIC}"


@pytest.mark.parametrize(
    "results, said",
    [
        ((*PASSED, FORETOLD, WARNED), "MAY SHIP: all 12 checks passed, 2 failed as expected"),
        ((FORETOLD,), "UNDECIDED: nothing was checked, of 1 check all were skipped or failed as expected"),
        ((*PASSED, RETRIED, SUSPECT), "MAY SHIP: all 14 checks passed"),
        ((*PASSED, *LOST), "UNDECIDED: the image was not fully judged: 0 of 14 checks failed, 2 could not be made"),
    ],
)
def test_verdict_weighs_what_was_foretold_retried_or_lost(results, said):
    verdict = judge(replace(GREEN, results=results))
    assert f"{verdict.headline}: {verdict.sentence}".startswith(said)


def test_page_tells_of_every_state():
    page = render(MIXED)
    for said in (
        "Lost with its machine",
        "2 checks could not be made",
        "Known failures",
        "owner storage team, until 2026-12-31",
        "no longer fails: remove it",
        "Passed on the second try",
        "killed by signal 9",
        "Console of the first try",
        "Suspect lines of machines",
        "2</b> failed, <b>2</b> lost with a machine",
        "2</b> failed as expected",
    ):
        assert said in page, said
    assert page.count("<article") == 3  # both failures, and the one that passed on the second try


def test_page_gives_cause_evidence_console_and_replay_of_each_failure():
    page = render(RED)
    for said in (
        "differs: start",
        "135,267,328",
        "line 0 of the boot",
        "--image x.qcow2",
        "profile has no LUKS root",
        'href="machines/gw0-uefi/journal.txt"',
    ):
        assert said in page, said


def test_hostile_text_stays_text():
    hostile = "<script>alert(1)</script>\"'>&\x00"
    facts = ImageFacts(hostile, hostile, hostile, partitions=(PartitionFacts(1, hostile, 0, 10 * MIB, hostile),))
    result = replace(NO_BOOT, nodeid=hostile, cause=hostile, evidence=(hostile,), console=(hostile,), replay=hostile)
    logs = MachineLogs(hostile, (hostile,), (Stage(hostile, 1.0),))
    run = replace(RED, results=(result,), images=(facts,), machines=(logs,), host={hostile: hostile}, command=hostile)
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, _: tags.append(tag)
    parser.feed(render(run))
    assert "script" not in tags
    assert "svg" in tags


def test_page_needs_nothing_but_itself():
    page = render(RED)
    for outside in ("http://", "https://", "<script", "<link", "@import", "url("):
        assert outside not in page


def test_tiny_partitions_are_wide_enough_to_be_read():
    picture = str(partition_map(IMAGE))
    assert picture.count("<rect") == 4
    assert "BIOS-BOOT" in picture


@pytest.mark.parametrize("stages", [(), (Stage("firmware", 0.0),)])
def test_timeline_of_a_boot_that_never_began_is_no_picture(stages):
    assert timeline(stages) == ""


def test_excerpt_is_around_the_line_the_cause_quotes():
    log = "\n".join([f"{n:10.3f} boot line number {n}" for n in range(100)])
    found = excerpt(log, "it said: boot line number 42 [x]")
    assert len(found) == 20
    assert any(line.endswith("number 42") for line in found)


def test_excerpt_without_a_quote_is_the_end_without_colours(tmp_path):
    log = tmp_path / "console.log"
    log.write_bytes(b"\n".join(b"%d \x1b[0;32mOK\x1b[0m \xff" % n for n in range(50)) + b"\n\n")
    assert console_excerpt(log, "nothing of it")[-1] == "49 OK �"
    assert console_excerpt(tmp_path / "absent", "x") == ()


def test_run_folder_takes_facts_from_anybody(tmp_path):
    now = datetime(2026, 11, 21, 7, 8, tzinfo=UTC)
    run = create_run_folder(tmp_path / "reports", now)
    contribute(run, "image-reference.qcow2", IMAGE)
    contribute(run, "host", {"accelerator": "tcg"})
    logs = machine_folder(run, "gw0/uefi ../..")
    (logs / "console.log").write_text("hello")
    (logs / "timeline.json").write_text('[{"name": "kernel", "seconds": 1.5}]')
    point_latest(run)
    assert run.name == "2026-11-21T070800Z"
    assert images_of(tmp_path / "reports/latest") == (IMAGE,)
    assert host_of(run) == {"accelerator": "tcg"}
    assert [(machine.stages, logs.parent) for machine in machines_of(run)] == [
        ((Stage("kernel", 1.5),), run / "machines")
    ]


def test_a_first_boot_that_was_kept_says_when_it_was_booted(tmp_path):
    run = create_run_folder(tmp_path, datetime(2026, 11, 21, 7, 8, tzinfo=UTC))
    for name, minute in (("kept", 0), ("own", 9)):
        log = machine_folder(run, name) / "console.log"
        log.write_text("hello")
        moment = datetime(2026, 11, 21, 7, minute, tzinfo=UTC).timestamp()
        os.utime(log, (moment, moment))
    assert {logs.name: logs.kept_from for logs in machines_of(run)} == {"kept": "2026-11-21 07:00 UTC", "own": ""}


def test_runs_of_one_second_get_folders_of_their_own(tmp_path):
    now = datetime(2026, 11, 21, 7, 8, tzinfo=UTC)
    folders = [create_run_folder(tmp_path, now) for _ in range(3)]
    for folder in folders:
        point_latest(folder)
    assert len(set(folders)) == 3
    assert (tmp_path / "latest").resolve() == folders[-1]


def test_run_folder_that_stayed_empty_goes_away(tmp_path):
    discard_if_empty(create_run_folder(tmp_path / "reports"))
    assert not (tmp_path / "reports").exists()


def test_report_folder_in_the_way_of_a_file_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="choose another"):
        create_run_folder(tmp_path / "file")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium, which would look at the page, is not installed")
@pytest.mark.parametrize("run", [GREEN, RED, MIXED], ids=["green", "red", "mixed"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_browser_shows_the_page(tmp_path, run, scheme):
    write_page(run, tmp_path / "index.html")
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    subprocess.run(
        [
            *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *dark),
            *("--window-size=1100,1500", f"--user-data-dir={tmp_path}/profile"),
            *(f"--screenshot={tmp_path}/page.png", f"{tmp_path}/index.html"),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    picture = (tmp_path / "page.png").read_bytes()
    assert struct.unpack(">II", picture[16:24]) == (1100, 1500)
    assert len(picture) > 40_000
