"""Registries that are moody, guarded, slow or dishonest: what is tried again, what is told, and what never comes in."""

import json
import socket
import ssl
import subprocess

import pytest

from fixtures.release import DISCOVERY_TAGS, mirrored
from harness.containers.skopeo import Access, Skopeo, Stopped, complaint, may_pass
from harness.errors import BadInput, DamagedArtifact, RegistryFailed, ToolFailed
from harness.prestage.archives.pull import Options, pull
from harness.prestage.archives.verify import verify
from harness.prestage.lists.reference import Reference
from harness.tools import run
from suites.harness.small_pull import QUICK, Heard, listed, names, options, some, standing_before, through


@pytest.fixture
def proxy(release_registry):
    with standing_before(release_registry) as made:
        yield made


def test_certificates_are_those_of_the_folder_given_or_looked_at_not_at_all(release_registry, tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "ca.crt"
    subject = ["-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1"]
    run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, *subject])
    key.rename(tmp_path / "secret")  # a .key beside ca.crt would be a client's
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, tmp_path / "secret")
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    certificate.rename(certificates / "ca.crt")
    with standing_before(release_registry, tls) as proxy:
        images = listed(f"{proxy.address}/{DISCOVERY_TAGS[0]}")
        with pytest.raises(RegistryFailed, match="has a certificate that this host does not trust"):
            pull(images, tmp_path / "images", Options(retries=QUICK))
        trusting = (Access(cert_dir=certificates), Access(tls_verify=False))
        done = [pull(images, tmp_path / f"{n}", Options(each)).pulled for n, each in enumerate(trusting)]
    assert done == [1, 1]


def test_a_registry_that_says_nothing_more_is_given_up_and_may_be_asked_again():
    with socket.create_server(("127.0.0.1", 0)) as mute:
        skopeo = Skopeo(Access(tls_verify=False), patience=1)
        with pytest.raises(ToolFailed, match="no byte came for 1 s") as caught:
            skopeo.manifest(f"127.0.0.1:{mute.getsockname()[1]}/x/y:1")
    assert may_pass(caught.value)


def test_what_was_stopped_lets_nothing_begin():
    skopeo = Skopeo(Access())
    skopeo.stop()
    with pytest.raises(Stopped):
        skopeo.manifest("127.0.0.1:1/x/y:1")


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


def test_mirrors_are_asked_first(release_registry):
    assert mirrored("quay.io", "127.0.0.1:1").count("127.0.0.1:1") == 2
