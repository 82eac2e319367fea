"""Downloads: whole and verified, or not there at all, whatever the server does."""

import gzip
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from harness.errors import BadInput, DownloadFailed, StoreError
from harness.release.download import Patience, Wanted, download
from harness.release.fetch import fetch_to_folder, fetch_to_store, order
from harness.release.published import Published, read_published
from harness.release.transport import _next_hop, file_name, shown
from harness.store import Store
from suites.harness.small_server import Manners, small_server

QUICK = Patience(tries=3, pause=0.01, seconds=20.0)
CONTENT = random.Random(1).randbytes(3 * 2**20)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PLAIN = CONTENT[: 2**20] + bytes(2**20)
PACKED = gzip.compress(PLAIN, mtime=0)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def running_server():
    with small_server() as served:
        yield served


@pytest.fixture
def server(running_server):
    running_server.files = {"/disk.raw": CONTENT, "/disk.qcow2.gz": PACKED}
    running_server.etag = '"one"'
    running_server.script.clear()
    running_server.asked.clear()
    return running_server


@pytest.fixture
def empty_store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def target(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "disk.raw"


def get(server, target, path="/disk.raw", **known):
    return download(Wanted(server.url + path, **known), target, patience=QUICK)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_whole_with_its_digest_and_leaves_nothing_beside_it(server, target):
    done = get(server, target, sha256=SHA256)
    assert (done.sha256, done.size, target.read_bytes()) == (SHA256, len(CONTENT), CONTENT)
    assert names(target.parent) == ["disk.raw"]
    assert server.asked[0][1]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256}], ids=["unknown", "known checksum"])
@pytest.mark.parametrize("etag", ['"one"', "", 'W/"weak"'])
def test_a_cut_connection_is_taken_up_where_it_broke(server, target, known, etag):
    server.etag = etag
    server.script += [Manners(cut_after=2**20), Manners(cut_after=2**20)]
    get(server, target, **known)
    assert target.read_bytes() == CONTENT
    can_go_on = etag == '"one"' or known
    assert server.ranges == (["", "bytes=1048576-", "bytes=2097152-"] if can_go_on else ["", "", ""])
    assert server.asked[1][1].get("If-Range", "") == ('"one"' if etag == '"one"' else "")


def test_a_server_without_ranges_is_asked_for_all_again(server, target):
    server.script += [Manners(cut_after=2**20), Manners(knows_ranges=False)]
    get(server, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("ignores", [False, True], ids=["If-Range honoured", "If-Range ignored"])
def test_a_file_that_changed_meanwhile_is_fetched_anew(server, target, ignores):
    server.script += [Manners(cut_after=2**20, etag='"old"'), Manners(ignores_if_range=ignores)]
    server.files["/disk.raw"] = CONTENT
    get(server, target)
    assert target.read_bytes() == CONTENT


def test_halves_of_two_files_are_noticed_by_the_checksum_and_fetched_anew(server, target):
    part = target.with_name("disk.raw.part")
    part.write_bytes(b"x" * 1000)
    part.with_name("disk.raw.part.json").write_text(json.dumps({"sha256": SHA256}))
    get(server, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.ranges == ["bytes=1000-", ""]


@pytest.mark.parametrize("note", [None, "{", "[]", '{"validator": 7, "address": []}', "[" * 10_000])
def test_a_part_nobody_vouches_for_is_not_believed(server, target, note):
    target.with_name("disk.raw.part").write_bytes(b"x" * 1000)
    if note is not None:
        target.with_name("disk.raw.part.json").write_text(note)
    get(server, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [""]


def test_a_part_that_is_complete_only_needs_its_name(server, target):
    target.with_name("disk.raw.part").write_bytes(CONTENT)
    target.with_name("disk.raw.part.json").write_text(json.dumps({"sha256": SHA256}))
    get(server, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT
    assert server.ranges == [f"bytes={len(CONTENT)}-"]


def test_a_part_that_is_a_link_is_not_followed(server, target, tmp_path):
    (tmp_path / "precious").write_text("kept")
    target.with_name("disk.raw.part").symlink_to(tmp_path / "precious")
    with pytest.raises(StoreError):
        get(server, target, sha256=SHA256)
    assert (tmp_path / "precious").read_text() == "kept"


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_a_busy_server_is_asked_again(server, target, status):
    server.script += [Manners(status=status, headers={"Retry-After": "0"})] * 2
    get(server, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_patience_ends(server, target):
    server.script += [Manners(status=500)] * 3
    with pytest.raises(DownloadFailed, match=r"the server said 500 .*, 3 times in a row"):
        get(server, target)
    assert len(server.asked) == 3
    assert names(target.parent) == []


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_what_is_not_there_is_said_at_once(server, target, status):
    server.script += [Manners(status=status)]
    with pytest.raises(DownloadFailed, match=f"the server said {status}"):
        get(server, target)
    assert len(server.asked) == 1
    assert names(target.parent) == []


def test_what_was_fetched_is_kept_for_the_next_try(server, target):
    server.script += [Manners(cut_after=2**20), *[Manners(status=500)] * 3]
    with pytest.raises(DownloadFailed, match="1,048,576 bytes are kept"):
        get(server, target)
    assert names(target.parent) == ["disk.raw.part", "disk.raw.part.json"]
    get(server, target)
    assert target.read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=1048576-"


@pytest.mark.parametrize("length", [len(CONTENT) + 1, 5 * len(CONTENT)])
def test_a_length_that_never_comes_is_no_whole_file(server, target, length):
    server.script += [Manners(length=length, knows_ranges=False)] * 3
    with pytest.raises(DownloadFailed):
        get(server, target)
    assert not target.exists()


def test_a_body_longer_than_promised_is_no_whole_file(server, target):
    server.script += [Manners(length=1000)]
    with pytest.raises(DownloadFailed, match="SHA-256: expected"):
        get(server, target, sha256=SHA256)
    assert names(target.parent) == []


def test_a_body_without_length_is_read_to_its_end(server, target):
    server.script += [Manners(says_length=False)]
    get(server, target, sha256=SHA256)
    assert target.read_bytes() == CONTENT


def test_another_file_than_published_is_refused_and_forgotten(server, target):
    server.files["/disk.raw"] = CONTENT[:-1] + b"?"
    with pytest.raises(DownloadFailed, match=f"SHA-256: expected {SHA256}, found"):
        get(server, target, sha256=SHA256)
    assert len(server.asked) == 1
    assert names(target.parent) == []


def test_another_size_than_published_is_refused_before_it_is_fetched(server, target):
    with pytest.raises(DownloadFailed, match=r"has 3,145,728 bytes; 7 were published"):
        get(server, target, size=7)
    assert names(target.parent) == []


@pytest.mark.parametrize("says_length", [True, False])
def test_more_than_the_limit_is_refused(server, target, says_length):
    server.script += [Manners(says_length=says_length)]
    with pytest.raises(DownloadFailed, match="where 100,000 are allowed"):
        get(server, target, limit=100_000)
    assert names(target.parent) == []


def test_more_time_than_allowed_is_refused_also_when_bytes_trickle(server, target):
    server.script += [Manners(pause=0.2)]
    with pytest.raises(DownloadFailed, match=r"took longer than"):
        download(Wanted(f"{server.url}/disk.raw"), target, patience=Patience(seconds=0.5))
    assert not target.exists()


def test_content_that_the_server_calls_encoded_is_kept_as_it_is(server, target):
    """RHCOS 4.1 was served so: the published digest is of the packed bytes."""
    server.script += [Manners(encoding="gzip")]
    get(server, target, "/disk.qcow2.gz", sha256=sha256(PACKED))
    assert target.read_bytes() == PACKED


def test_redirects_are_followed(server, target):
    server.script += [
        Manners(status=302, headers={"Location": "/elsewhere"}),
        Manners(status=307, headers={"Location": "disk.raw"}),
    ]
    get(server, target, sha256=SHA256)
    assert [path for path, _ in server.asked] == ["/disk.raw", "/elsewhere", "/disk.raw"]


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "ftp://127.0.0.1/x", "http:///x", "http://127.0.0.1:99999/"]
)
def test_redirects_to_what_is_no_web_server_are_refused(server, target, location):
    server.script += [Manners(status=302, headers={"Location": location})]
    with pytest.raises((DownloadFailed, BadInput)):
        get(server, target)


def test_redirects_end(server, target):
    server.script += [Manners(status=302, headers={"Location": "/disk.raw"})] * 20
    with pytest.raises(DownloadFailed, match="redirected more than 5 times"):
        get(server, target)


def test_a_redirect_never_leaves_https():
    with pytest.raises(DownloadFailed, match="not safe"):
        _next_hop("https://example.org/a", "http://example.org/a", ["https://example.org/a"])
    assert _next_hop("http://a.example/x", "https://b.example/y", ["x"]) == "https://b.example/y"


def test_a_server_that_is_not_there_is_said_in_words(target):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{closed.getsockname()[1]}/disk.raw?token=secret"
        with pytest.raises(DownloadFailed, match="cannot be reached") as failed:
            download(Wanted(url), target, patience=QUICK)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    "url", ["http:///x", "file:///etc/passwd", "https://a b/c", "http://[::1/x", "http://h:99999/x", "https://h/a\nb"]
)
def test_what_is_no_address_is_refused(url, target):
    with pytest.raises(BadInput, match="not an http or https address"):
        download(Wanted(url), target)


@pytest.mark.parametrize("url", ["https://h/", "https://h", "https://h/a/..", "https://h/%2e%2e", "https://h/a%2fb"])
def test_an_address_without_a_file_name_is_refused(url):
    with pytest.raises(BadInput, match="does not end in the name of a file"):
        file_name(url)


def test_an_address_is_shown_without_its_secrets():
    assert shown("https://u:p@h.example:8/a/b.gz?sig=1#x") == "https://h.example:8/a/b.gz"


def published(**more):
    return Published("disk.qcow2.gz", sha256(PACKED), **{"uncompressed_sha256": sha256(PLAIN), **more})


def order_of(server, **more):
    found, _ = order(f"{server.url}/disk.qcow2.gz#sha256={sha256(PACKED)}", None)
    return type(found)(found.url, published(**more), "qemu", "1.2")


def test_both_checksums_are_verified(server, tmp_path, empty_store):
    fetched = fetch_to_folder(order_of(server), tmp_path / "out", empty_store, patience=QUICK)
    assert fetched.path.read_bytes() == PACKED
    assert names(tmp_path / "out") == ["disk.qcow2.gz"]


@pytest.mark.parametrize("keep", ["folder", "store"])
def test_another_content_than_published_is_refused_even_if_the_packed_file_is_right(
    server, tmp_path, empty_store, keep
):
    wanted = order_of(server, uncompressed_sha256="0" * 64)
    fetch = partial(fetch_to_folder, folder=tmp_path / "out") if keep == "folder" else fetch_to_store
    with pytest.raises(DownloadFailed, match="uncompressed SHA-256: expected 0000"):
        fetch(wanted, store=empty_store, patience=QUICK)
    assert not list(tmp_path.glob("out/*"))
    assert not list((empty_store.root / "downloads").glob("[!.]*"))
    assert not [path for path in (empty_store.root / "partial").rglob("*") if path.is_file()]


def test_the_store_remembers_what_was_published(server, empty_store):
    fetched = fetch_to_store(order_of(server, size=len(PACKED)), empty_store, patience=QUICK)
    assert read_published(fetched.metadata, "disk.qcow2") == published(size=len(PACKED))
    assert fetch_to_store(order_of(server), empty_store).was_there
    assert len(server.asked) == 1


def test_the_store_takes_nothing_unverified(server, empty_store):
    wanted, _ = order(f"{server.url}/disk.raw", empty_store)
    with pytest.raises(BadInput, match="the store keeps only what was verified"):
        fetch_to_store(wanted, empty_store)


def test_http_without_a_checksum_is_refused(server, tmp_path, empty_store):
    wanted, _ = order(f"{server.url}/disk.raw", empty_store)
    with pytest.raises(BadInput, match="over http and nobody said its SHA-256"):
        fetch_to_folder(wanted, tmp_path, empty_store)
    assert server.asked == []


def test_a_file_that_lies_there_is_taken_or_left_alone_but_never_overwritten(server, tmp_path, empty_store):
    target = tmp_path / "disk.qcow2.gz"
    target.write_bytes(PACKED)
    assert fetch_to_folder(order_of(server), tmp_path, empty_store).was_there
    target.write_bytes(b"mine")
    with pytest.raises(BadInput, match="lies there already: SHA-256: expected"):
        fetch_to_folder(order_of(server), tmp_path, empty_store)
    assert (target.read_bytes(), server.asked) == (b"mine", [])


@pytest.mark.parametrize("keep", ["folder", "store"])
def test_who_wants_the_same_at_the_same_time_shares_one_transfer(server, tmp_path, empty_store, keep):
    server.script += [Manners(pause=0.01)]
    results = []

    def work():
        if keep == "folder":
            results.append(fetch_to_folder(order_of(server), tmp_path / "out", Store(empty_store.root)))
        else:
            results.append(fetch_to_store(order_of(server), Store(empty_store.root)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1
    assert {result.path for result in results} == {results[0].path}
    assert len(results) == 4


def test_a_fetch_that_was_killed_is_taken_up_by_the_next(server, empty_store):
    server.script += [Manners(pause=0.15)]
    wanted = f"{server.url}/disk.raw#sha256={SHA256}"
    environment = {**os.environ, "IMAGE_HARNESS_STORE": str(empty_store.root)}
    command = [sys.executable, "-m", "harness.cli", "fetch", wanted]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as killed:
        until = time.monotonic() + 20
        while not any(p.stat().st_size > 2**18 for p in empty_store.root.rglob("*.part")) and time.monotonic() < until:
            time.sleep(0.02)
        killed.send_signal(signal.SIGKILL)
    assert not list((empty_store.root / "downloads").glob("[!.]*"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    digest, _, path = done.stdout.strip().partition("  ")
    assert (digest, sha256(Path(path).read_bytes())) == (SHA256, SHA256)
    assert int(server.ranges[-1].removeprefix("bytes=").removesuffix("-")) > 2**18
    assert not list((empty_store.root / "partial").iterdir())
