"""Pulling a release's images from a real registry: each once, each verified, and on from where it stopped."""

import contextlib
import http.client
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from fixtures.release import DISCOVERY_TAGS, mirrored
from harness.containers.folder import FolderFiles
from harness.containers.skopeo import Access, complaint, may_pass
from harness.errors import BadInput, DamagedArtifact, RegistryFailed, StoreError, ToolFailed
from harness.prestage import pull as pulling
from harness.prestage.archive_check import check_archive
from harness.prestage.folder import archive_name, read_folder
from harness.prestage.lists import ImageList, Listed, Stage
from harness.prestage.pull import Options, Watch, pull
from harness.prestage.reference import Reference
from harness.prestage.verify import verify
from harness.prestage.wanted import Retries

QUICK = Retries(times=3, first=0.05)
SOON = 120  # seconds


@dataclass
class Heard(Watch):
    """All that was said during a pull."""

    lines: list = field(default_factory=list)
    archives: list = field(default_factory=list)
    bytes: int = 0
    expected: int = 0

    def begun(self, *, total, kept, size):  # noqa: ARG002 - Watch's signature
        self.expected = size

    def moved(self, size):
        self.bytes += size

    def done(self, number, total, reference, size):  # noqa: ARG002
        self.archives.append((number, total))

    def said(self, reference, what):  # noqa: ARG002
        self.lines.append(what)


def listed(*references):
    both = frozenset(Stage)
    return ImageList(tuple(Listed(Reference.parse(str(each)), both) for each in references))


def some(release, count):
    """The first images that both stages need, and as many by tag."""
    digests = [each.reference for each in release.images.images if each.reference.digest][:count]
    return listed(*digests, *DISCOVERY_TAGS[: max(1, count // 3)])


def options(release, **more):
    return Options(access=release.access, **{"retries": QUICK, **more})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


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


@dataclass
class Proxy:
    """Stands before a registry and answers some requests itself: `moods` are status codes, 0 for a cut connection."""

    address: str = ""
    moods: list = field(default_factory=list)
    only: str = ""  # a part of the paths that are answered so
    seen: Counter = field(default_factory=Counter)


@pytest.fixture
def proxy(release_registry):
    made = Proxy()
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            with lock:
                is_odd = made.moods and made.only in self.path and self.path != "/v2/"
                mood = made.moods.pop(0) if is_odd else None
                made.seen[mood] += 1
            if mood == 0:
                self.connection.close()
            elif mood:
                self.answer(mood, b"{}", {})
            else:
                self.pass_on()

        do_HEAD = do_GET  # noqa: N815 - http.server's name

        def pass_on(self):
            connection = http.client.HTTPConnection(release_registry.registry.address)
            headers = {name: value for name, value in self.headers.items() if name != "Host"}
            connection.request(self.command, self.path, headers=headers)
            reply = connection.getresponse()
            kept = {"Content-Type", "Docker-Content-Digest", "Docker-Distribution-Api-Version"}
            self.answer(reply.status, reply.read(), {name: value for name, value in reply.getheaders() if name in kept})
            connection.close()

        def answer(self, status, body, headers):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made.address = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield made
        server.shutdown()
        thread.join()


def through(proxy, folder):
    """Access by the proxy alone."""
    conf = folder / "proxy.conf"
    conf.write_text(f'[[registry]]\nprefix = "quay.io"\nlocation = "{proxy.address}/quay.io"\ninsecure = true\n')
    return Access(registries_conf=conf)


@pytest.mark.parametrize(
    "mood, part", [(503, "/manifests/"), (503, "/blobs/"), (500, "/blobs/"), (0, "/blobs/"), (0, "/manifests/")]
)
def test_a_registry_in_a_bad_mood_is_asked_again(proxy, release_registry, tmp_path, mood, part):
    proxy.moods, proxy.only = [mood, mood], part
    heard = Heard()
    images = listed(release_registry.images.images[1].reference)
    done = pull(images, tmp_path / "images", Options(through(proxy, tmp_path), retries=QUICK), heard)
    assert (done.pulled, proxy.seen[mood], heard.bytes) == (1, 2, heard.expected)
    assert heard.lines or mood == 0  # Go's client asks again by itself where a connection is cut at once
    assert all("again in 0 s" in line for line in heard.lines)


def test_patience_with_a_registry_has_an_end(proxy, release_registry, tmp_path):
    proxy.moods = [503] * 100
    heard = Heard()
    with pytest.raises(RegistryFailed, match="503"):
        pull(
            listed(release_registry.images.images[1].reference),
            tmp_path / "images",
            Options(through(proxy, tmp_path), retries=QUICK),
            heard,
        )
    assert len(heard.lines) == QUICK.times


@pytest.mark.parametrize("status, words", [(401, "does not know us"), (403, "quay.io/"), (404, "quay.io/")])
def test_what_will_not_pass_is_not_tried_again(proxy, release_registry, tmp_path, status, words):
    proxy.moods = [status] * 100
    heard = Heard()
    with pytest.raises(RegistryFailed, match=words):
        pull(
            listed(release_registry.images.images[1].reference),
            tmp_path / "images",
            Options(through(proxy, tmp_path), retries=QUICK),
            heard,
        )
    assert heard.lines == []
    assert names(tmp_path / "images") == [".pulled.jsonl"]


@pytest.mark.parametrize(
    "said, passes",
    [
        ("received unexpected HTTP status: 503 Service Unavailable", True),
        ("Invalid status code returned when fetching blob 502 (Bad Gateway)", True),
        ("dial tcp 127.0.0.1:1: connect: connection refused", True),
        ("read tcp 1.2.3.4:5: read: connection reset by peer", True),
        ("net/http: TLS handshake timeout", True),
        ("unexpected EOF", True),
        ("toomanyrequests: slow down", True),
        ("dial tcp: lookup quay.io: Temporary failure in name resolution", True),
        ("dial tcp: lookup nowhere: no such host", False),
        ("unauthorized: access to the requested resource is not authorized", False),
        ("requested access to the resource is denied", False),
        ("reading manifest 1: manifest unknown", False),
        ("Digest did not match, expected sha256:1, got sha256:2", False),
        ("x509: certificate signed by unknown authority", False),
        ("http: server gave HTTP response to HTTPS client", False),
        ("write /x: no space left on device", False),
        ("write /x: file too large", False),
        ("Digest did not match; unexpected EOF", False),
    ],
)
def test_what_may_pass_is_told_from_what_will_not(said, passes):
    assert may_pass(ToolFailed(said)) is passes
    assert said[:20] not in str(complaint(ToolFailed(said), "quay.io/x:1")) or passes


def test_an_image_that_is_not_there_is_told_before_anything_is_pulled(release_registry, tmp_path):
    images = some(release_registry, 3).images
    absent = f"quay.io/openshift-release-dev/ocp-v4.0-art-dev@sha256:{'0' * 64}"
    with pytest.raises(RegistryFailed, match=r"1 of 5 images failed: .*0000: is not there") as caught:
        pull(listed(*(each.reference for each in images), absent), tmp_path / "images", options(release_registry))
    assert "\n" not in str(caught.value)
    assert names(tmp_path / "images") == [".pulled.jsonl"]


def test_a_registry_with_accounts_gives_to_those_it_knows(guarded_registry, release_registry, tmp_path):
    reference = Reference.parse(DISCOVERY_TAGS[0])
    right = guarded_registry.authfile(tmp_path / "right.json", "harness")
    copy = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", "--dest-authfile", right]
    source = f"docker://{release_registry.registry.address}/{reference}"
    subprocess.run([*copy, source, f"docker://{guarded_registry.address}/{reference}"], check=True)
    wanted = listed(f"{guarded_registry.address}/{reference}")
    wrong = guarded_registry.authfile(tmp_path / "wrong.json", "harness", password="guessed")
    for authfile in (None, wrong):
        with pytest.raises(RegistryFailed, match="does not know us"):
            pull(wanted, tmp_path / "images", Options(Access(authfile, tls_verify=False), retries=QUICK))
    pull(wanted, tmp_path / "images", Options(Access(right, tls_verify=False), retries=QUICK))
    assert all(each.is_whole for each in verify(tmp_path / "images"))


def test_files_for_skopeo_that_are_not_there_are_told(release_registry, tmp_path):
    nowhere = tmp_path / "nowhere"
    for access in (Access(authfile=nowhere), Access(cert_dir=nowhere), Access(registries_conf=nowhere)):
        with pytest.raises(BadInput, match="nowhere: is"):
            pull(some(release_registry, 1), tmp_path / "images", Options(access))
    assert not (tmp_path / "images").exists()


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


@pytest.mark.parametrize(
    "tamper",
    [lambda data: b"X" + data[1:], lambda data: data[:-1], lambda data: data + bytes(100 * 2**20), None],
    ids=["other bytes", "cut", "endless", "gone"],
)
def test_a_blob_that_is_not_what_its_manifest_says_becomes_no_archive(release_registry, tmp_path, tamper):
    reference = next(each.reference for each in release_registry.images.images if each.reference.digest)
    manifest = json.loads(release_registry.registry.blob(reference.digest).read_bytes())
    stored = release_registry.registry.blob(manifest["layers"][-1]["digest"])
    honest = stored.read_bytes()
    try:
        if tamper:
            stored.write_bytes(tamper(honest))
        else:
            stored.unlink()
        with pytest.raises((DamagedArtifact, RegistryFailed)) as caught:
            pull(listed(reference), tmp_path / "images", options(release_registry))
    finally:
        stored.write_bytes(honest)
    assert str(reference) in str(caught.value)
    assert names(tmp_path / "images") == [".pulled.jsonl"]


def test_a_manifest_that_is_not_what_it_is_called_by_is_refused(release_registry, tmp_path):
    reference = next(each.reference for each in release_registry.images.images if each.reference.digest)
    stored = release_registry.registry.blob(reference.digest)
    honest = stored.read_bytes()
    try:
        stored.write_bytes(honest.replace(b"schemaVersion", b"schemaversion"))
        with pytest.raises((DamagedArtifact, RegistryFailed)):
            pull(listed(reference), tmp_path / "images", options(release_registry))
    finally:
        stored.write_bytes(honest)
    assert names(tmp_path / "images") == [".pulled.jsonl"]


def test_what_one_image_lacks_keeps_no_other_from_being_pulled(release_registry, tmp_path):
    images = some(release_registry, 6)
    bad = next(each.reference for each in images.images if each.reference.digest)
    manifest = json.loads(release_registry.registry.blob(bad.digest).read_bytes())
    stored = release_registry.registry.blob(manifest["layers"][-1]["digest"])
    honest = stored.read_bytes()
    try:
        stored.write_bytes(b"X" + honest[1:])
        with pytest.raises(DamagedArtifact, match="1 of 8 images failed"):
            pull(images, tmp_path / "images", options(release_registry))
    finally:
        stored.write_bytes(honest)
    assert len(list((tmp_path / "images").glob("*.tgz"))) == 7
    assert pull(images, tmp_path / "images", options(release_registry)).pulled == 1


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


def test_mirrors_are_asked_first(release_registry):
    assert mirrored("quay.io", "127.0.0.1:1").count("127.0.0.1:1") == 2
