"""Locks, what is fetched, and an archive that no longer has what was locked: real apt, a local archive, no network."""

import dataclasses
import shutil
import socket
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.build import packages as module
from harness.build.packages import Mirror, Package, StaleLock, fetch, host_mirrors, read_lock, resolve, write_lock
from harness.build.reference import DEFINITION, LOCK, build_reference, usable_packages
from harness.errors import BuildFailed
from harness.store import Store
from suites.harness.small_archive import Archive

ROW = f"tool 1.0 all Debian 800 {'a' * 64} pool/main/tool_1.0_all.deb"


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    archive = Archive(tmp_path_factory.mktemp("key"), tmp_path_factory.mktemp("gpg") / "home")
    archive.make_key()
    yield archive.home
    archive.close()


@pytest.fixture
def archive(tmp_path, key, monkeypatch):
    made = Archive(tmp_path / "a mirror", key)
    monkeypatch.setattr(module, "KEYRING", str(made.keyring))
    return made


@pytest.fixture
def empty_store(tmp_path):
    return Store(tmp_path / "store")


def mirrors_of(archive):
    return host_mirrors(archive.url)


@pytest.mark.parametrize(
    "row",
    [
        "tool 1.0 all Debian 800",
        ROW.replace("800", "-1"),
        ROW.replace("800", "9" * 40),
        ROW.replace("aa", "AZ"),
        ROW + " more",
        ROW.replace("pool/", "/pool/"),
        ROW.replace("main/", "../../etc/"),
        "<html>",
    ],
)
def test_a_wrong_row_is_named_by_its_line(tmp_path, row):
    lock = tmp_path / "packages.lock"
    lock.write_text(f"# comment\n{ROW}\n\n{row}\n")
    with pytest.raises(BuildFailed, match=r"packages\.lock:4: is not a package row"):
        read_lock(lock)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\0bad"], ids=["missing", "binary"])
def test_an_unreadable_lock_is_one_error(tmp_path, content):
    lock = tmp_path / "packages.lock"
    if content:
        lock.write_bytes(content)
    with pytest.raises(BuildFailed, match="cannot be read"):
        read_lock(lock)


words = st.text("abcxyz019.+-~:", min_size=1, max_size=12)
packages = st.builds(
    Package,
    words,
    words,
    st.sampled_from(["all", "amd64"]),
    st.sampled_from(["Debian", "Debian-Security"]),
    st.integers(0, 10**11),
    st.text("0123456789abcdef", min_size=64, max_size=64),
    words.map(lambda word: f"pool/main/{word}.deb"),
)


@settings(deadline=None, max_examples=25)  # every example is flushed to the disk
@given(st.lists(packages, max_size=8))
def test_a_lock_written_is_the_lock_read(tmp_path_factory, found):
    lock = tmp_path_factory.mktemp("lock") / "packages.lock"
    write_lock(lock, found)
    assert read_lock(lock) == tuple(sorted(found))
    assert "://" not in lock.read_text(), "a lock names no host"


def test_the_committed_lock_is_sorted_and_names_no_host():
    text = (DEFINITION / LOCK).read_text()
    assert "://" not in text
    rows = [line for line in text.splitlines() if not line.startswith("#")]
    assert rows == sorted(rows)
    assert len(read_lock(DEFINITION / LOCK)) == len(rows)


def test_packages_of_a_local_mirror_are_copied_not_linked(archive, empty_store):
    locked = archive.publish("1.0")
    found = fetch(tuple(locked.values()), mirrors_of(archive), empty_store)
    shutil.rmtree(archive.folder)
    assert {package.name: path.stat().st_size for package, path in found.items()} == {
        name: package.size for name, package in locked.items()
    }


def test_what_is_in_the_store_needs_no_mirror(archive, empty_store):
    locked = tuple(archive.publish("1.0").values())
    fetch(locked, mirrors_of(archive), empty_store)
    assert set(fetch(locked, (), empty_store)) == set(locked)


def test_a_package_the_archive_dropped_is_named_and_the_others_are_kept(archive, empty_store):
    locked = archive.publish("1.0")
    archive.withdraw(locked["library"])
    with pytest.raises(StaleLock, match=r"no longer has library 1\.0 .*--unlocked") as stale:
        fetch(tuple(locked.values()), mirrors_of(archive), empty_store)
    assert stale.value.gone == (locked["library"],)
    assert empty_store.find("deb", locked["tool"].sha256)


@pytest.fixture
def server(archive):
    """The archive by HTTP from this host."""
    handler = partial(Quiet, directory=str(archive.folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        thread = threading.Thread(target=served.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{served.server_port}/"
        served.shutdown()
        thread.join()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def test_404_by_http_is_a_stale_lock(archive, empty_store, server):
    locked = archive.publish("1.0")
    archive.withdraw(locked["tool"])
    with pytest.raises(StaleLock) as stale:
        fetch(tuple(locked.values()), [Mirror("Debian", "bookworm", server)], empty_store)
    assert stale.value.gone == (locked["tool"],)


def test_a_mirror_that_cannot_be_reached_is_not_a_stale_lock(archive, empty_store):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        with pytest.raises(BuildFailed, match=r"3 of 3 packages could not be fetched: .*onnect") as refused:
            fetch(tuple(archive.publish("1.0").values()), [Mirror("Debian", "bookworm", url)], empty_store)
    assert not isinstance(refused.value, StaleLock)


def test_a_mirror_folder_that_is_not_there_is_not_a_stale_lock(archive, empty_store):
    locked = tuple(archive.publish("1.0").values())
    with pytest.raises(BuildFailed, match="there is no such folder") as refused:
        fetch(locked, host_mirrors("file:///nowhere/at/all"), empty_store)
    assert not isinstance(refused.value, StaleLock)


def test_another_file_under_the_locked_name_is_refused(archive, empty_store):
    locked = archive.publish("1.0")
    wrong = dataclasses.replace(locked["tool"], sha256="0" * 64)
    with pytest.raises(BuildFailed, match="1 of 2 packages could not be fetched: Hash Sum mismatch"):
        fetch((wrong, locked["base"]), mirrors_of(archive), empty_store)
    assert empty_store.find("deb", wrong.sha256) is None


def test_an_archive_without_a_mirror_is_named(archive, empty_store):
    other = dataclasses.replace(archive.publish("1.0")["tool"], archive="Elsewhere")
    with pytest.raises(BuildFailed, match="no mirror is known for the archive Elsewhere"):
        fetch((other,), mirrors_of(archive), empty_store)


def test_resolving_takes_essential_packages_and_dependencies(archive, tmp_path):
    locked = archive.publish("1:2.0~rc1+b1")
    assert resolve(["tool"], mirrors_of(archive), tmp_path / "scratch") == tuple(sorted(locked.values()))


def test_a_package_nobody_has_is_named(archive, tmp_path):
    archive.publish("1.0")
    with pytest.raises(Exception, match="no-such-package"):
        resolve(["no-such-package"], mirrors_of(archive), tmp_path / "scratch")


def test_an_archive_signed_by_somebody_else_is_refused(archive, tmp_path, monkeypatch):
    archive.publish("1.0")
    monkeypatch.undo()
    with pytest.raises(Exception, match=r"(?i)signature|signed|NO_PUBKEY"):
        resolve(["tool"], mirrors_of(archive), tmp_path / "scratch")


@pytest.fixture
def stale(archive, tmp_path):
    """A definition whose lock the archive has moved on from."""
    definition = tmp_path / "definition"
    shutil.copytree(DEFINITION, definition)
    write_lock(definition / LOCK, archive.publish("1.0").values())
    archive.publish("2.0")
    return definition


def test_a_stale_lock_is_resolved_anew_only_when_allowed(stale, archive, empty_store):
    wants, url = {"packages": ["tool"]}, archive.url
    with pytest.raises(StaleLock, match=r"base 1\.0, library 1\.0, tool 1\.0"):
        usable_packages(wants, stale, empty_store, url, unlocked=False)
    before = (stale / LOCK).read_bytes()
    found, is_unlocked = usable_packages(wants, stale, empty_store, url, unlocked=True)
    assert is_unlocked
    assert {package.version for package in found} == {"2.0"}
    assert (stale / LOCK).read_bytes() == before, "the committed lock is the committer's"
    (new,) = empty_store.root.glob("unlocked/*/packages.lock")
    assert set(read_lock(new)) == set(found)
    again, _ = usable_packages(wants, stale, empty_store, url, unlocked=True)
    assert set(again) == set(found)


def test_a_lock_that_still_works_stays_locked(stale, archive, empty_store):
    write_lock(stale / LOCK, archive.publish("3.0").values())
    found, is_unlocked = usable_packages({"packages": []}, stale, empty_store, archive.url, unlocked=True)
    assert not is_unlocked
    assert {package.version for package in found} == {"3.0"}


def test_a_build_with_a_stale_lock_stops_before_it_builds(stale, archive, empty_store):
    told = []
    with pytest.raises(StaleLock):
        build_reference(empty_store, definition=stale, mirror=archive.url, progress=lambda *said: told.append(said))
    assert told == [("packages", None)]


@pytest.mark.parametrize("content", ["", "packages = [", "[disk]\n"], ids=["empty", "not TOML", "no platform"])
def test_a_wrong_definition_is_named(tmp_path, empty_store, content):
    definition = tmp_path / "definition"
    shutil.copytree(DEFINITION, definition)
    (definition / "reference.toml").write_text(content)
    with pytest.raises(BuildFailed, match=r"reference\.toml: is not a reference definition"):
        build_reference(empty_store, definition=definition)
