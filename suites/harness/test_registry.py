"""Artifacts in a real registry: pushed, pulled, sent once only, and refused when they are not what they were."""

import hashlib
import json
import secrets
import shutil
import socket
import subprocess
import sys

import pytest

from fixtures.registry import serving
from harness.containers import registry as transfer
from harness.containers.artifact import TYPE_OF_SET, pack, read_artifact
from harness.containers.registry import checked_reference, pull, push
from harness.deadline import Deadline
from harness.errors import BadInput, DamagedArtifact, RegistryFailed, StoreError
from harness.tools import run
from suites.harness.small_set import FILES, content, written

HEX = "0" * 64


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path / "set", FILES)


@pytest.fixture
def remote(registry):
    """A repository that no other test uses."""
    return f"{registry.address}/sets/{secrets.token_hex(4)}:1"


def test_what_is_pulled_is_what_was_pushed(folder, remote, tmp_path):
    pushed = push(folder, remote, tls_verify=False)
    pulled = pull(remote, tmp_path / "pulled", tls_verify=False)
    assert content(tmp_path / "pulled") == content(folder) == FILES
    assert pulled == pushed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pulled", "set"]


def test_registry_shows_the_artifact_type_and_keeps_the_digest(folder, remote):
    pushed = push(folder, remote, tls_verify=False)
    raw = run(["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{remote}"])
    assert json.loads(raw)["artifactType"] == TYPE_OF_SET
    assert f"sha256:{hashlib.sha256(raw).hexdigest()}" == pushed.digest


def test_layout_is_pushed_as_it_is(folder, remote, tmp_path):
    layout = tmp_path / "layout"
    pack(folder, layout, artifact_type=TYPE_OF_SET)
    assert push(layout, remote, tls_verify=False) == read_artifact(layout)
    pull(remote, tmp_path / "pulled", tls_verify=False)
    assert content(tmp_path / "pulled") == FILES


def test_set_of_the_same_base_sends_only_what_is_new(folder, registry, remote):
    push(folder, remote, tls_verify=False)
    before = len(registry.requests("PUT"))
    push(folder, remote, tls_verify=False)
    assert uploads(registry, before) == []
    (folder / "aws.vmdk.recipe").write_bytes(b"a recipe more")
    push(folder, f"{remote}0", tls_verify=False)
    assert len(uploads(registry, before)) == 1


def uploads(registry, since):
    """Blobs that were sent to the registry: every one ends with a PUT to uploads/."""
    return [path for path in registry.requests("PUT")[since:] if "/blobs/uploads/" in path]


def test_digest_pins_what_a_tag_does_not(folder, remote, tmp_path):
    first = push(folder, remote, tls_verify=False)
    (folder / "more").write_bytes(b"more")
    push(folder, remote, tls_verify=False)
    assert pull(f"{remote}@{first.digest}", tmp_path / "first", tls_verify=False) == first
    assert content(tmp_path / "first") == FILES


@pytest.mark.parametrize(
    "files",
    [
        {"a": b"", "b": b""},
        {"a.json": b"{}"},
        {"a": b"same", "b": b"same"},
        {f"{number:03}.recipe": bytes([number]) for number in range(12)},
        {"packed.gz": bytes.fromhex("1f8b0800000000000003030000000000"), "packed.tar": bytes(10240)},
        {"ä b.recipe": b"x"},
    ],
    ids=["empty files", "empty config", "twins", "a dozen", "compressed and not", "odd name"],
)
def test_odd_sets_travel_unchanged(tmp_path, remote, files):
    push(written(tmp_path / "odd", files), remote, tls_verify=False)
    pull(remote, tmp_path / "pulled", tls_verify=False)
    assert content(tmp_path / "pulled") == files


@pytest.mark.parametrize(
    "tamper",
    [
        lambda data: b"X" + data[1:],
        lambda data: data[:-1],
        lambda data: data + bytes(200 * 2**20),
        lambda _: None,
    ],
    ids=["other bytes", "cut", "endless", "gone"],
)
def test_tampered_file_is_refused(registry, remote, tmp_path, tamper):
    folder = written(tmp_path / "set", {"base": secrets.token_bytes(5000)})
    pushed = push(folder, remote, tls_verify=False)
    stored = registry.blob(pushed.files[0].digest)
    data = tamper(stored.read_bytes())
    if data is None:
        stored.unlink()
    else:
        stored.write_bytes(data)
    with pytest.raises((DamagedArtifact, RegistryFailed), match=r"a file is|not all there"):
        pull(remote, tmp_path / "pulled", tls_verify=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_tampered_manifest_is_refused(registry, remote, tmp_path):
    folder = written(tmp_path / "set", {"base": secrets.token_bytes(100), "good": b"good"})
    pushed = push(folder, remote, tls_verify=False)
    stored = registry.blob(pushed.digest)
    honest = stored.read_bytes()
    for name, words in ((b"../x", "not a name"), (b"base", "two files")):
        stored.write_bytes(honest.replace(b"good", name))
        with pytest.raises(DamagedArtifact, match=words):
            pull(remote, tmp_path / "pulled", tls_verify=False)
    stored.write_bytes(honest.replace(b"good", b"evil"))
    with pytest.raises(DamagedArtifact, match="the registry gave sha256:"):
        pull(f"{remote}@{pushed.digest}", tmp_path / "pulled", tls_verify=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"]


def test_other_type_is_refused_before_it_is_fetched(registry, remote, folder, tmp_path):
    pushed = push(folder, remote, artifact_type="application/vnd.example.other.v1", tls_verify=False)
    with pytest.raises(BadInput, match=r"is application/vnd\.example\.other\.v1, not application/vnd\.image-harness"):
        pull(remote, tmp_path / "pulled", tls_verify=False)
    asked = [path for path in registry.requests("GET") if remote.partition("/")[2].split(":")[0] in path]
    assert not [path for path in asked if pushed.files[0].digest in path]


def test_no_room_is_told_before_anything_is_fetched(remote, folder, tmp_path, monkeypatch):
    push(folder, remote, tls_verify=False)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(StoreError, match="do not fit, 1,000 are free"):
        pull(remote, tmp_path / "pulled", tls_verify=False)


def test_registry_with_accounts_wants_to_know_who_we_are(folder, guarded_registry, tmp_path):
    remote = f"{guarded_registry.address}/sets/guarded:1"
    nobody = tmp_path / "nobody.json"
    nobody.write_text("{}")
    with pytest.raises(RegistryFailed, match="does not know us"):
        push(folder, remote, authfile=nobody, tls_verify=False)
    wrong = guarded_registry.authfile(tmp_path / "wrong.json", "harness", password=secrets.token_hex())
    with pytest.raises(RegistryFailed, match="does not know us"):
        push(folder, remote, authfile=wrong, tls_verify=False)
    right = guarded_registry.authfile(tmp_path / "right.json", "harness")
    push(folder, remote, authfile=right, tls_verify=False)
    with pytest.raises(RegistryFailed, match="does not know us"):
        pull(remote, tmp_path / "pulled", authfile=nobody, tls_verify=False)
    pull(remote, tmp_path / "pulled", authfile=right, tls_verify=False)
    assert content(tmp_path / "pulled") == FILES


def test_no_password_is_in_any_message_or_log(folder, guarded_registry, tmp_path):
    authfile = guarded_registry.authfile(tmp_path / "auth.json", "harness")
    with pytest.raises(RegistryFailed, match="is not there") as caught:
        pull(f"{guarded_registry.address}/none:1", tmp_path / "new", authfile=authfile, tls_verify=False)
    password = guarded_registry.accounts["harness"]
    assert password not in "".join(guarded_registry.log) + str(caught.value) + str(caught.value.__cause__)


@pytest.fixture
def unheard():
    """An address on which nobody listens, nor will meanwhile."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.mark.parametrize(
    "reference, words",
    [
        ("{unheard}/sets/a:1", "nobody listens there"),
        ("nowhere.invalid/sets/a:1", "there is no such host"),
        ("{address}/sets/none:1", "is not there"),
    ],
)
def test_what_cannot_be_pulled_is_said_in_words(registry, unheard, tmp_path, reference, words):
    wanted = reference.format(unheard=unheard, address=registry.address)
    with pytest.raises(RegistryFailed) as caught:
        pull(wanted, tmp_path / "new", tls_verify=False)
    assert str(caught.value).startswith(f"{wanted}: {words} (")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("host, words", [("{unheard}", "nobody listens there"), ("nowhere.invalid", "no such host")])
def test_what_cannot_be_pushed_is_said_in_words(folder, unheard, monkeypatch, host, words):
    monkeypatch.setattr(transfer, "TRIES", 0)  # a second between two tries, then two
    with pytest.raises(RegistryFailed, match=words):
        push(folder, f"{host.format(unheard=unheard)}/sets/a:1", tls_verify=False)
    assert [path.name for path in folder.parent.iterdir()] == ["set"]


def test_plain_http_must_be_asked_for(folder, remote):
    with pytest.raises(RegistryFailed, match="speaks plain HTTP"):
        push(folder, remote)


def test_registry_that_never_answers_is_given_up(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        wanted = f"127.0.0.1:{silent.getsockname()[1]}/sets/a:1"
        with pytest.raises(RegistryFailed, match="does not answer in time"):
            pull(wanted, tmp_path / "new", tls_verify=False, deadline=Deadline(0.5))


def test_authfile_that_is_not_there_is_no_anonymous_push(folder, remote, tmp_path):
    with pytest.raises(BadInput, match="is not there"):
        push(folder, remote, authfile=tmp_path / "none.json", tls_verify=False)


@pytest.mark.parametrize(
    "reference, expected",
    [
        ("quay.io/me/images:4.21", ("quay.io/me/images:4.21", "quay.io/me/images")),
        ("docker://localhost:5000/a", ("localhost:5000/a", "localhost:5000/a")),
        ("localhost/a__b/c-d.e:x", ("localhost/a__b/c-d.e:x", "localhost/a__b/c-d.e")),
        ("[::1]:5000/a:1", ("[::1]:5000/a:1", "[::1]:5000/a")),
        (f"quay.io/a:1@sha256:{HEX}", (f"quay.io/a@sha256:{HEX}", "quay.io/a")),
    ],
)
def test_references(reference, expected):
    assert checked_reference(reference) == expected


@pytest.mark.parametrize(
    "reference",
    ["", "images:1", "me/images:1", "quay.io", "quay.io/Upper:1", "quay.io/a:", "quay.io/a b", "--help", "-x.y/a:1\n",
     "oci:/tmp/x:1", "quay.io/a@sha256:12", "quay.io/../a:1", "quay.io/" + "a/" * 300 + "a", "https://quay.io/a:1"],
)  # fmt: skip
def test_what_is_no_reference_is_refused(folder, reference):
    with pytest.raises(BadInput, match="is not a name in a registry"):
        push(folder, reference)


def test_registry_ends_with_its_block(tmp_path, registry):
    with serving(tmp_path) as running:
        host, _, port = running.address.partition(":")
        socket.create_connection((host, int(port)), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), timeout=5)
    assert running.address != registry.address


def test_commands_push_and_pull(folder, remote, tmp_path):
    harness = [sys.executable, "-m", "harness.cli", "artifact"]
    pushed = subprocess.run(
        [*harness, "push", folder, remote, "--insecure"], capture_output=True, text=True, check=True
    )
    pulled = subprocess.run(
        [*harness, "pull", remote, "-o", tmp_path / "pulled", "--insecure"], capture_output=True, text=True, check=True
    )
    assert content(tmp_path / "pulled") == FILES
    assert pushed.stdout == pulled.stdout
    assert "qemu.qcow2" in pushed.stdout
    failed = subprocess.run(
        [*harness, "pull", remote, "-o", tmp_path / "pulled"], capture_output=True, text=True, check=False
    )
    assert (failed.returncode, failed.stderr.count("\n")) == (2, 1)
