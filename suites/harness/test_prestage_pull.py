"""Pulling a release's images from a real registry: each once, each verified, and on from where it stopped."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fixtures.release import DISCOVERY_TAGS
from harness.containers.folder import FolderFiles
from harness.errors import BadInput, StoreError
from harness.prestage.archives import pull as pulling
from harness.prestage.archives.archive_check import check_archive
from harness.prestage.archives.folder import archive_name, read_folder
from harness.prestage.archives.pull import pull
from harness.prestage.archives.verify import verify
from harness.prestage.lists.lists import ImageList, Stage
from suites.harness.small_pull import SOON, Heard, listed, names, options, some


def hidden_and_scratch(folder):
    return [name for name in names(folder) if name.startswith(("scratch-", ".")) and name != ".pulled.jsonl"]


@pytest.fixture(scope="module")
def pulled(release_registry, tmp_path_factory):
    """The whole release, pulled once; whoever changes it takes a copy."""
    folder = tmp_path_factory.mktemp("pulled") / "images"
    heard = Heard()
    done = pull(release_registry.images, folder, options(release_registry), heard)
    return folder, done, heard


def test_a_whole_release_is_pulled_and_whole(pulled, release_registry):
    folder, done, heard = pulled
    images = release_registry.images.images
    assert len(images) == 168
    assert (done.kept, done.pulled, done.stale) == (0, 168, ())
    assert [each.findings for each in verify(folder)] == [()] * 168
    assert sorted(heard.archives) == [(number, 168) for number in range(1, 169)]
    assert heard.bytes == heard.expected
    assert 0 <= heard.expected - sum(each.stat().st_size for each in folder.glob("*.tgz")) < 0.05 * heard.expected
    assert hidden_and_scratch(folder) == []


def test_its_text_files_say_what_the_lists_said(pulled, release_registry):
    folder = pulled[0]
    content = read_folder(FolderFiles(folder))
    found = {(each.reference, each.stages) for each in content.images.images}
    assert found == {(each.reference, each.stages) for each in release_registry.images.images}
    assert (len(content.images.of(Stage.INSTALL)), len(content.images.of(Stage.DISCOVERY))) == (162, 20)
    assert {str(each) for each in content.digests} == set(DISCOVERY_TAGS)
    assert [name for name in content.members if name not in names(folder)] in ([], ["extract-images.sh"])
    subprocess.run(["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"], cwd=folder, check=True)


def test_a_second_run_pulls_and_asks_nothing(pulled, release_registry):
    folder = pulled[0]
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    asked = len(release_registry.registry.log)
    done = pull(release_registry.images, folder, options(release_registry))
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert (done.kept, done.pulled, len(release_registry.registry.log) - asked) == (168, 0, 0)
    assert {name for name in before if before[name] != after.get(name)} == {".pulled.jsonl"}


def test_a_folder_that_was_copied_is_read_instead_of_pulled(pulled, release_registry, tmp_path):
    """Without our journal, or with other times, an archive has to prove itself."""
    copy = shutil.copytree(pulled[0], tmp_path / "copy", copy_function=shutil.copyfile)
    (copy / ".pulled.jsonl").unlink()
    damaged, gone = sorted(copy.glob("ocp-v4*.tgz"))[:2]
    damaged.write_bytes(damaged.read_bytes()[:-100])
    gone.unlink()
    heard = Heard()
    done = pull(release_registry.images, copy, options(release_registry), heard)
    assert (done.kept, done.pulled) == (166, 2)
    assert len(heard.lines) == 1
    assert "is not whole and is pulled again" in heard.lines[0]
    assert {path.name: path.read_bytes() for path in copy.glob("*.tgz")} == {
        path.name: path.read_bytes() for path in pulled[0].glob("*.tgz")
    }


def test_a_damaged_archive_of_the_same_size_and_time_is_found_by_verify(pulled, tmp_path):
    copy = shutil.copytree(pulled[0], tmp_path / "copy")
    victim = next(copy.glob("ocp-v4*.tgz"))
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    assert [each.name for each in verify(copy) if not each.is_whole] == [victim.name]


def command(release, folder, *more):
    lists = [release.ocp_list, "--discovery", release.ai_list]
    argv = [sys.executable, "-m", "harness.cli", "prestage", "pull", *lists, "-o", folder]
    return [*map(str, argv), "--registries-conf", str(release.registries_conf), *more]


def until(condition):
    end = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM], ids=lambda stop: stop.name)
def test_a_run_that_is_stopped_leaves_no_half_archive_and_goes_on_later(release_registry, tmp_path, stop):
    folder = tmp_path / "images"
    with subprocess.Popen(command(release_registry, folder), stderr=subprocess.PIPE) as process:
        until(lambda: len(list(folder.glob("*.tgz"))) >= 20)
        process.send_signal(stop)
        _, words = process.communicate(timeout=SOON)
    codes = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}
    assert process.returncode == codes[stop], words.decode()
    until(lambda: not children_of(folder))
    survivors = sorted(folder.glob("*.tgz"))
    if stop is signal.SIGKILL:
        assert list(folder.glob("scratch-*"))
    else:
        assert hidden_and_scratch(folder) == []
    by_name = {archive_name(each.reference): each.reference for each in release_registry.images.images}
    for path in survivors:
        assert check_archive(FolderFiles(folder), f"/{path.name}", by_name[path.name]).findings == ()
    done = subprocess.run(command(release_registry, folder), capture_output=True, text=True, check=True)
    assert f"pulled {168 - len(survivors)} archives" in done.stdout
    assert done.stdout.endswith(f"{len(survivors)} were there already\n")
    lines = [
        line for line in done.stderr.splitlines() if re.match(r"\[\d+/168\] (quay\.io|registry\.redhat\.io)/", line)
    ]
    assert len(lines) == 168 - len(survivors)
    assert hidden_and_scratch(folder) == []
    assert all(each.is_whole for each in verify(folder))


def children_of(folder):
    """skopeos that still write there."""
    found = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if os.fsencode(folder) in place.read_bytes():
                found.append(place)
    return found


def test_of_a_list_by_tag_one_image_or_all_are_pulled(release_registry, tmp_path):
    images = listed(release_registry.multi)
    name = archive_name(release_registry.multi)
    digests, sizes = [], []
    for number, more in enumerate(({"architecture": "arm64"}, {"architecture": "s390x"}, {"with_all": True})):
        folder = tmp_path / str(number)
        pull(images, folder, options(release_registry, **more))
        check = check_archive(FolderFiles(folder), f"/{name}", release_registry.multi)
        assert (check.findings, check.is_list) == ((), "with_all" in more)
        assert read_folder(FolderFiles(folder)).digests == {release_registry.multi: check.digest}
        digests.append(check.digest)
        sizes.append(check.size)
    assert len(set(digests)) == 3
    assert sizes[2] > 2 * sizes[0]
    with pytest.raises(BadInput, match="has no image for riscv64, only for 'amd64, arm64, s390x'"):
        pull(images, tmp_path / "none", options(release_registry, architecture="riscv64"))


def test_a_list_by_digest_is_pulled_with_all_its_images_or_not_at_all(release_registry, tmp_path):
    multi = release_registry.multi
    pull(listed(multi), tmp_path / "by-tag", options(release_registry, with_all=True))
    digest = read_folder(FolderFiles(tmp_path / "by-tag")).digests[multi]
    images = listed(f"{multi.name}@{digest}")
    with pytest.raises(BadInput, match=r"is a list of 3 images.*pull with --all"):
        pull(images, tmp_path / "images", options(release_registry))
    pull(images, tmp_path / "images", options(release_registry, with_all=True))
    assert all(each.is_whole for each in verify(tmp_path / "images"))


def test_an_image_pulled_alone_is_pulled_again_when_all_are_wanted(release_registry, tmp_path):
    images = listed(release_registry.multi)
    done = [
        pull(images, tmp_path / "images", options(release_registry, with_all=with_all)).pulled
        for with_all in (False, True, True, False)
    ]
    assert done == [1, 1, 0, 0]


def test_archives_of_no_listed_image_are_told_and_removed_on_request(release_registry, tmp_path):
    folder = tmp_path / "images"
    pull(some(release_registry, 6), folder, options(release_registry))
    fewer, kept = some(release_registry, 3), {"notes.txt", "rootfs.img"}
    for name in kept:
        (folder / name).touch()
    stale = {archive_name(each.reference) for each in some(release_registry, 6).images}
    stale -= {archive_name(each.reference) for each in fewer.images}
    told = pull(fewer, folder, options(release_registry))
    assert (set(told.stale), stale <= set(names(folder))) == (stale, True)
    assert {each.name for each in verify(folder) if not each.is_whole} == stale
    gone = pull(fewer, folder, options(release_registry, removes_stale=True))
    assert (set(gone.stale), stale & set(names(folder)), kept <= set(names(folder))) == (stale, set(), True)
    assert all(each.is_whole for each in verify(folder))


def test_no_room_is_told_before_anything_is_pulled(release_registry, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(pulling.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StoreError, match=r"images: [\d,]+ bytes do not fit, 1,000 are free"):
        pull(some(release_registry, 3), tmp_path / "images", options(release_registry))
    assert list((tmp_path / "images").glob("*.tgz")) == []


def test_two_images_of_one_archive_and_no_images_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"tool_1\.tgz: quay\.io/a/tool:1 and quay\.io/b/tool:1 would have one archive"):
        pull(listed("quay.io/a/tool:1", "quay.io/b/tool:1"), tmp_path / "images")
    with pytest.raises(BadInput, match="no images are listed"):
        pull(ImageList(()), tmp_path / "images")
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="file: is no folder"):
        pull(listed("quay.io/a/tool:1"), tmp_path / "file")


def test_two_pulls_do_not_fill_one_folder_at_once(release_registry, tmp_path):
    with (
        pulling._opened(tmp_path / "images"),
        pytest.raises(BadInput, match="is being filled by another pull"),
    ):
        pull(some(release_registry, 1), tmp_path / "images", options(release_registry))


def test_plain_http_has_to_be_asked_for(release_registry, tmp_path):
    names_of = [f"{release_registry.registry.address}/{each}" for each in DISCOVERY_TAGS[:2]]
    one = tmp_path / "list.txt"
    one.write_text("".join(f"{each}\n" for each in names_of))
    argv = [
        sys.executable,
        "-m",
        "harness.cli",
        "prestage",
        "pull",
        "--discovery",
        one,
        one,
        "--mixed",
        "-o",
        tmp_path / "images",
    ]
    refused, done = (
        subprocess.run([*argv, f"--tls-verify={each}"], capture_output=True, text=True, check=False)
        for each in ("true", "false")
    )
    assert (refused.returncode, "speaks plain HTTP" in refused.stderr) == (2, True)
    assert (done.returncode, done.stdout[:17]) == (0, "pulled 2 archives")
