"""The guest's script on this host: real skopeo and podman, a store and a prestage folder of the test's own."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest

from harness.containers.layout import Image, LayerFile, write_layout
from harness.prestage.archives.folder import SCRIPT_FILE
from suites.harness.prestaged import ART, EPOCH, Guest, list_sums, needs_store, pack, stem_of, unpack, write_folder

COUNT = 6
DIFFERS = "Digest did not match, expected sha256:"  # skopeo's words


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A prestage folder, and the pull specs of its list."""
    folder = tmp_path_factory.mktemp("prestage") / "folder"
    return folder, write_folder(folder, COUNT)


@pytest.fixture
def staged(pristine, tmp_path):
    """A copy of it that a test may damage."""
    shutil.copytree(pristine[0], tmp_path / "folder")
    return tmp_path / "folder", pristine[1]


@pytest.fixture
def guest(tmp_path):
    return Guest(tmp_path)


@pytest.fixture(scope="module")
def filled(pristine, tmp_path_factory):
    """A guest after its first run, that run and its seconds. Not to be changed."""
    guest = Guest(tmp_path_factory.mktemp("filled"))
    started = time.monotonic()
    done = guest.extract(pristine[0], "--stamp", guest.stamp)
    return guest, done, time.monotonic() - started


def told(done):
    """Reference -> what was said of it, without numbers that vary; and the summary's counts."""
    lines = [line.partition("] ")[2] for line in done.stdout.splitlines() if line.startswith("[")]
    said = {}
    for line in lines:
        verb, reference, rest = (*line.split(" ", 2), "")[:3]
        said[reference.rstrip(":")] = verb if verb == "extracted" else f"{verb}: {rest}"
    return said


def expected_names(references):
    tagged = {f"{ART}:4.10-agent{number}" for number in range(1, len(references), 3)}
    return {*references, *tagged}


def assert_complete(guest, references):
    """Every name, every byte of every layer, and nothing left behind."""
    assert set(guest.names()) == expected_names(references)
    assert guest.problems() == []
    assert guest.left() == ["before", "begun", "finished", "lock"]


@needs_store
def test_every_image_is_extracted_whole_and_tagged(filled, pristine):
    guest, done, _ = filled
    assert (done.returncode, done.stderr, told(done)) == (0, "", dict.fromkeys(pristine[1], "extracted"))
    assert_complete(guest, pristine[1])
    assert guest.stamp.exists()


@needs_store
def test_by_digest_images_have_the_digest_that_they_are_known_by(filled):
    digests = {name: digest for name, digest in filled[0].digests().items() if "@" in name}
    assert digests == {name: name.partition("@")[2] for name in digests}


@needs_store
def test_lines_count_up_and_the_last_one_sums_up(filled):
    lines = filled[1].stdout.splitlines()
    assert [line.split(" ")[0] for line in lines[:-1]] == [f"[{number}/{COUNT}]" for number in range(1, COUNT + 1)]
    assert lines[0].endswith(" s)")
    assert lines[-1].startswith(f"extracted {COUNT}, skipped 0, FAILED 0 of {COUNT} images (")


@needs_store
def test_a_second_run_skips_all_in_less_than_a_tenth_of_the_time(filled, pristine):
    guest, _, seconds = filled
    again = []
    for _ in range(3):  # the best one counts: a host does other things as well
        started = time.monotonic()
        done = guest.extract(pristine[0])
        again.append(time.monotonic() - started)
        assert (done.returncode, told(done)) == (0, dict.fromkeys(pristine[1], "skipped: present"))
    assert min(again) < seconds / 10


@needs_store
@pytest.mark.parametrize("is_whole_group", [True, False], ids=["with all its jobs", "the shell alone"])
def test_what_a_kill_interrupts_is_completed_by_the_next_run(staged, guest, is_whole_group):
    folder, references = staged
    process = guest.start(folder)
    wait_for_marker(guest, process)
    (os.killpg if is_whole_group else os.kill)(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    if is_whole_group:
        guest.kill_jobs()
    done = guest.extract(folder)
    said = told(done)
    assert (done.returncode, set(said)) == (0, set(references))
    assert "skipped: present" in said.values()
    assert "extracted" in said.values()
    assert_complete(guest, references)


def wait_for_marker(guest, process):
    marks = guest.state / "finished"
    while not (marks.exists() and marks.read_text()):
        assert process.poll() is None, "it ended before it could be stopped"
        time.sleep(0.01)


@needs_store
def test_told_to_end_it_ends_its_jobs_and_leaves_no_scratch(staged, guest):
    process = guest.start(staged[0])
    wait_for_marker(guest, process)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert guest.left() == ["before", "begun", "finished", "lock"]
    assert subprocess.run(["fuser", guest.state / "lock"], check=False, capture_output=True).stdout == b""


@needs_store
def test_each_damaged_archive_is_named_with_its_cause_and_the_others_are_extracted(staged, guest):
    folder, references = staged
    archives = [folder / f"{stem_of(reference)}.tgz" for reference in references]
    corrupt, truncated, missing, other, blob = archives[:5]
    sound = bytearray(corrupt.read_bytes())
    replace_manifest(other)
    damage_blob(blob)
    list_sums(folder)
    sound[len(sound) // 2] ^= 0xFF
    corrupt.write_bytes(sound)
    truncated.write_bytes(truncated.read_bytes()[:-300])
    missing.unlink()
    done = guest.extract(folder, "--stamp", guest.stamp)
    causes = ["its SHA-256 is ", "its SHA-256 is ", "it is missing", "its manifest.json has the digest sha256:", ""]
    said = told(done)
    wanted = [f"FAILED: archive {path.name}: {cause}" for path, cause in zip(archives[:5], causes, strict=True)]
    assert done.returncode == 1
    assert [said[name][: len(want)] for name, want in zip(references, wanted, strict=False)] == wanted
    assert DIFFERS in said[references[4]]
    assert f'"{guest.state}/scratch/' in said[references[4]]  # where skopeo has its temporary files
    assert said[references[5]] == "extracted"
    assert set(guest.names()) == {references[5]}
    assert guest.problems() == []
    assert guest.left() == ["before", "begun", "finished", "lock"]
    assert not guest.stamp.exists()


def replace_manifest(archive):
    """Another manifest than the name says, in an archive that SHA256SUMS knows."""
    plain = unpack(archive)
    manifest = plain / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()), indent=1))
    pack(plain)


def damage_blob(archive):
    """A byte of the time in a layer's gzip header, which only the digest protects; no other image has this layer."""
    plain = unpack(archive)
    layers = json.loads((plain / "manifest.json").read_text())["layers"]
    blob = plain / layers[-1]["digest"].removeprefix("sha256:")
    content = bytearray(blob.read_bytes())
    content[4] ^= 1
    blob.write_bytes(content)
    pack(plain)


@needs_store
def test_skopeos_cache_of_digests_does_not_reach_the_disk(pristine, guest):
    """It would be flushed some forty times an image."""
    over = 'mkdir -p {0}; mount -t tmpfs cache {0} && "$@" >/dev/null && ls -A {0}'.format("/var/lib/containers/cache")
    done = guest.run("bash", "-c", over, "over", *guest.script(pristine[0]))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert guest.names().keys() >= set(pristine[1])


@needs_store
def test_a_mended_archive_is_all_that_the_next_run_extracts(staged, guest):
    folder, references = staged
    archive = folder / f"{stem_of(references[0])}.tgz"
    aside = archive.rename(folder / "aside")
    assert guest.extract(folder).returncode == 1
    aside.rename(archive)
    done = guest.extract(folder)
    assert told(done) == dict.fromkeys(references[1:], "skipped: present") | {references[0]: "extracted"}
    assert_complete(guest, references)


@needs_store
def test_without_sums_as_another_tool_leaves_it_archives_are_checked_by_what_they_hold(staged, guest):
    folder, references = staged
    (folder / "SHA256SUMS").unlink()
    damage_blob(folder / f"{stem_of(references[2])}.tgz")
    (folder / f"{stem_of(references[5])}.tgz").write_bytes(b"no archive")
    done = guest.extract(folder)
    failed = {reference: said for reference, said in told(done).items() if said != "extracted"}
    assert (done.returncode, set(failed)) == (1, {references[2], references[5]})
    assert "not in gzip format" in failed[references[5]]


@needs_store
def test_after_a_power_cut_no_layer_without_a_marker_is_used_again(staged, guest):
    """Images that look complete, layers that no image names: whatever is not vouched for has lost its content."""
    folder, references = staged
    assert guest.extract(folder).returncode == 0
    vouched = references[0]
    marks = (guest.state / "finished").read_text().splitlines()
    kept = [mark for mark in marks if mark.startswith(vouched)]
    (guest.state / "finished").write_text("\n".join(kept) + f"\n{marks[-1][:90]}")  # and one that was torn
    (guest.state / "begun").write_text("".join(f"{reference} .\n" for reference in references))
    guest.forget_image(references[3])
    guest.forget_image(references[5])
    guest.empty_layers_without(vouched)
    assert guest.problems() != []
    done = guest.extract(folder)
    assert told(done) == dict.fromkeys(references[1:], "extracted") | {vouched: "skipped: present"}
    assert_complete(guest, references)


@needs_store
def test_images_of_the_operating_system_are_its_own_affair(staged, guest, pristine):
    """Those that the list names too are kept, whether their archives are no good or hold another image, and tagged."""
    folder, references = staged
    layout = pristine[0].with_name("folder-layout")
    guest.copy(layout, "localhost/image:1", references[1])
    guest.copy(layout, "localhost/image:3", references[2])
    guest.copy(layout, "localhost/image:0", "quay.io/somebody/else:1")
    before = guest.names()
    (folder / f"{stem_of(references[1])}.tgz").unlink()
    done = guest.extract(folder)
    kept = {reference: said for reference, said in told(done).items() if said != "extracted"}
    assert (done.returncode, kept) == (0, dict.fromkeys(references[1:3], "skipped: present before the first run"))
    assert set(guest.names()) == expected_names(references) | {"quay.io/somebody/else:1"}
    assert before.items() <= guest.names().items()
    again = guest.extract(folder)
    assert (again.returncode, set(guest.names())) == (0, expected_names(references) | {"quay.io/somebody/else:1"})


@needs_store
def test_an_image_without_marker_is_replaced_unless_its_archive_is_no_good(staged, guest, tmp_path):
    folder, references = staged
    replaced, kept = references[2], references[5]
    listed = (folder / "ai-images.txt").read_text()
    (folder / "ai-images.txt").write_text(f"{references[0]}\n")
    assert guest.extract(folder).returncode == 0
    (folder / "ai-images.txt").write_text(listed)
    write_layout(tmp_path / "other", [other_image()], EPOCH)
    for name in (replaced, kept):
        guest.copy(tmp_path / "other", "localhost/other:1", name)
        guest.run("podman", "untag", name) if name is None else None
    stranger = guest.names()[kept]
    (folder / f"{stem_of(kept)}.tgz").unlink()
    done = guest.extract(folder)
    assert (done.returncode, told(done)[replaced]) == (1, "extracted")
    assert guest.names()[kept] == stranger
    assert guest.names()[replaced] != stranger
    assert guest.problems() == []


def other_image():
    return Image("localhost/other:1", ((LayerFile("etc/other", content=b"other"),),))


@needs_store
def test_an_image_that_a_container_uses_stays(staged, guest):
    folder, references = staged
    (folder / "ai-images.txt").write_text(f"{references[0]}\n")
    assert guest.extract(folder).returncode == 0
    created = guest.run("podman", "--cgroup-manager", "cgroupfs", "create", references[0], "true")
    assert created.returncode == 0, created.stderr
    (guest.state / "finished").write_text("")
    done = guest.extract(folder)
    assert (done.returncode, told(done)[references[0]][:22]) == (0, "skipped: present: kept")


@needs_store
def test_a_tag_whose_archive_has_changed_is_extracted_again(staged, guest, pristine):
    folder, references = staged
    assert guest.extract(folder).returncode == 0
    first = guest.names()
    changed, source = (folder / f"{stem_of(references[number])}.tgz" for number in (2, 5))
    unpack(source).rename(changed.with_suffix(""))
    pack(changed.with_suffix(""))
    list_sums(folder)
    done = guest.extract(folder)
    assert (done.returncode, told(done)) == (
        0,
        dict.fromkeys(references, "skipped: present") | {references[2]: "extracted"},
    )
    assert guest.names() == first | {references[2]: first[references[5]]}


@needs_store
def test_lines_that_cannot_be_an_image_fail_and_say_why(staged, guest):
    folder, references = staged
    twin = references[2].replace("/edge/", "/other/")
    wrong = ["ocp-v4.0-art-dev@sha256_00.tgz", "quay.io/me/image", twin]
    (folder / "ai-images.txt").write_text("\r\n".join([references[2], references[2], *wrong]))
    done = guest.extract(folder)
    causes = {name: said.partition(".tgz: ")[2] for name, said in told(done).items() if said != "extracted"}
    assert (done.returncode, causes) == (
        1,
        dict.fromkeys(wrong[:2], "the line is no pull spec with a tag or a digest")
        | {twin: f"{references[2]} has an archive of the same name"},
    )
    assert set(guest.names()) == {references[2]}


@needs_store
@pytest.mark.parametrize(
    "options, folder, listed, what",
    [
        ((), "nowhere", "ai-images.txt", "the folder {}/nowhere is missing"),
        ((), "folder", "ocp-images.txt", "the list {}/folder/ocp-images.txt is missing"),
        (("--label", "no such"), "folder", "ai-images.txt", "no partition is labelled no such"),
        (("--jobs", "many"), "folder", "ai-images.txt", "--jobs takes a number"),
        (("--loud", "yes"), "folder", "ai-images.txt", "unknown option --loud"),
    ],
)
def test_what_it_cannot_work_with_ends_it_in_words(staged, guest, tmp_path, options, folder, listed, what):
    done = guest.extract(tmp_path / folder, *options, listed=listed)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"extract-images: {what.format(tmp_path)}")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_is_content():
    done = subprocess.run(["shellcheck", SCRIPT_FILE], check=False, capture_output=True, text=True)
    assert done.stdout == ""
