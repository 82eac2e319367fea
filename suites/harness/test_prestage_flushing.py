"""Power cuts: what the guest's script had flushed at every moment, and what it makes of what a cut left."""

from collections import Counter

import pytest

from harness.prestage.archives.folder import SCRIPT_FILE
from suites.harness.prestaged import needs_store, write_folder
from suites.harness.recorded_extraction import RecordedGuest, violations

pytestmark = needs_store
COUNT = 7
MOMENTS = (
    "copy ends 3",
    "store flush begins 2",
    "mark flush begins 2",
)
MORE_MOMENTS = (
    "begun flush begins 2",
    "begun flush ends 2",
    "copy begins 3",
    "copy ends 1",
    "copy ends 5",
    "store flush begins 1",
    "store flush ends 2",
    "mark flush ends 2",
    "folder flush begins 6",  # the last one: all is done
)
MISTAKES = {
    "no flush of the store": ('! sync -f "$store" 2>"$scratch/error"', "false", "is marked before it is flushed"),
    "markers first": (
        '    if ! sync -f "$store"',
        '    printf \'%s\\n\' "${marks[@]}" >>"$state/finished"; if ! sync -f "$store"',
        "is marked before it is flushed",
    ),
    "markers for what is still being copied": (
        "        flush_when_due # while",
        '        unflushed+=("${queue[next]} 0"); flush_when_due # while',
        "is marked before it is flushed",
    ),
    "no flush of the markers": (' || ! sync "$state/finished"', "", "before its marker is flushed"),
    "no flush of what is begun": ('"$state/begun" && sync "$state/begun"', '"$state/begun"', "before it is noted"),
    "only the first of a group noted": ('begin "${queue[@]:next:group}"', 'begin "${queue[next]}"', "before it is"),
    "noted after the copy": ('if ! begin "${queue[@]:next:group}"', "if false", "before it is noted as begun"),
}


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """A prestage folder, and the pull specs of its list."""
    folder = tmp_path_factory.mktemp("prestage") / "folder"
    return folder, write_folder(folder, COUNT)


@pytest.fixture
def guest(tmp_path):
    return RecordedGuest(tmp_path)


def assert_complete(guest, references):
    assert set(references) - guest.names().keys() == set()
    assert guest.problems() == []
    assert guest.left() == ["before", "begun", "finished", "lock"]
    assert (guest.state / "begun").read_text() == ""


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_is_marked_was_flushed_and_what_is_copied_was_noted(staged, guest, jobs):
    folder, references = staged
    process = guest.start_recorded(folder, "--jobs", jobs)
    assert process.wait(300) == 0, guest.log.read_text()
    events = guest.events()
    counts = Counter(event["event"] for event in events)
    assert violations(events) == []
    assert (counts["copy ends"], counts["said"]) == (COUNT, COUNT)
    assert max(counts[f"{kind} flush ends"] for kind in ("store", "mark", "begun")) < COUNT
    assert_complete(guest, references)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_with_groups_would_be_seen(staged, guest, mistake, tmp_path):
    right, wrong, seen = MISTAKES[mistake]
    text = SCRIPT_FILE.read_text()
    assert text.count(right) == 1
    (tmp_path / "mistaken").write_text(text.replace(right, wrong))
    guest.start_recorded(staged[0], script=tmp_path / "mistaken").wait(300)
    assert [what for what in violations(guest.events()) if seen in what] != []


@pytest.mark.parametrize(
    "moment", [*MOMENTS, *(pytest.param(moment, marks=pytest.mark.nightly) for moment in MORE_MOMENTS)]
)
def test_whenever_the_power_is_cut_the_next_run_completes_with_sound_images(staged, guest, moment):
    folder, references = staged
    guest.extract_until_cut(folder, moment)
    done = guest.extract(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert_complete(guest, references)


@pytest.mark.nightly
@pytest.mark.parametrize("again", ["copy ends 1", "delete ends 1", "folder flush ends 3", "copy begins 5"])
def test_a_power_cut_while_a_run_puts_right_what_the_last_one_left(staged, guest, again):
    folder, references = staged
    guest.extract_until_cut(folder, "store flush begins 2")
    guest.extract_until_cut(folder, again)
    done = guest.extract(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert_complete(guest, references)


def test_an_image_torn_before_its_config_was_written_hinders_nobody(staged, guest):
    """podman then lists no image at all."""
    folder, references = staged
    guest.extract_until_cut(folder, "folder flush begins 6")
    guest.tear_image(references[1])
    marks = guest.state / "finished"
    marks.write_text("".join(line for line in marks.open() if references[1] not in line))
    assert guest.run("podman", "images").returncode != 0
    done = guest.extract(folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert_complete(guest, references)
