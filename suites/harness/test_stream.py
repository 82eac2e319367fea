"""Streams and published metadata: every dialect, what is odd about real ones, and hostile ones as one error."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import BadInput, DownloadFailed
from harness.release.download import Patience
from harness.release.fetch import order
from harness.release.metadata import LARGEST, parse_metadata, read_metadata
from harness.release.oddities import oddities
from harness.release.streams import StreamImage, is_stream_image, parse_stream_image, stream_url
from harness.store import Store
from suites.harness.small_server import small_server

A, B = "a" * 64, "b" * 64
QUICK = Patience(tries=2, pause=0.01, seconds=20.0)
FCOS_PLATFORMS = {"x86_64": 21, "aarch64": 10, "ppc64le": 4, "s390x": 5}


def disk(location, **more):
    return {"disk": {"location": location, "sha256": A, **more}}


def stream_of(platforms, **top):
    artifacts = {name: {"release": "44.1", "formats": formats} for name, formats in platforms.items()}
    document = {"stream": "stable", "metadata": {}, "architectures": {"x86_64": {"artifacts": artifacts}}, **top}
    return parse_metadata(json.dumps(document), "stable.json")


def build_of(**images):
    return parse_metadata(json.dumps({"buildid": "1.2", "images": images}), "meta.json")


@pytest.mark.parametrize(
    "stream,url",
    [
        ("fcos-stable", "https://builds.coreos.fedoraproject.org/streams/stable.json"),
        ("fcos-next", "https://builds.coreos.fedoraproject.org/streams/next.json"),
        ("rhcos-4.8", "/openshift/installer/release-4.8/data/data/coreos/rhcos.json"),
        ("rhcos-4.20", "/openshift/installer/release-4.20/data/data/coreos/rhcos.json"),
        ("rhcos-4.2", "/openshift/installer/release-4.2/data/data/rhcos.json"),
        ("rhcos-4.6", "/openshift/installer/release-4.6/data/data/rhcos-amd64.json"),
    ],
)
def test_a_stream_has_its_address(stream, url):
    assert stream_url(stream).startswith("https://")
    assert stream_url(stream).endswith(url)


@pytest.mark.parametrize(
    "stream",
    [
        "",
        "fcos",
        "moo",
        "rhcos",
        "fcos-",
        "-fcos",
        "fcos-blah",
        "fcos-blah-whee",
        "rhcos-5",
        "rhcos-4.08",
        "fcos-stable\n",
    ],
)
def test_what_is_no_stream_is_refused(stream):
    """The first eight are those of the rehydrator's own test."""
    with pytest.raises(BadInput, match="stream"):
        stream_url(stream)


@pytest.mark.parametrize(
    "text,image",
    [
        ("fcos-stable:qemu", StreamImage("fcos-stable", "qemu")),
        ("rhcos-4.8:metal:4k.raw.gz", StreamImage("rhcos-4.8", "metal", "4k.raw.gz")),
    ],
)
def test_an_image_in_a_stream_has_a_name(text, image):
    assert (parse_stream_image(text), str(image), is_stream_image(text)) == (image, text, True)


@pytest.mark.parametrize(
    "text", ["fcos-stable", "fcos-stable:", "fcos-stable:QEMU", "fcos-stable:a:b:c", "fcos-stable:a:"]
)
def test_half_a_name_is_refused(text):
    with pytest.raises(BadInput, match="does not name an image in a stream"):
        parse_stream_image(text)


@pytest.mark.parametrize("text", ["disk.qcow2", "./fcos-stable/a:b", "C:disk", "fcos-stable", "fcos-dir/x:y", "/a:b"])
def test_a_path_is_no_stream(text):
    assert not is_stream_image(text)


def test_the_disk_of_a_platform_is_found_by_format_with_or_without_compression():
    stream = stream_of({"metal": {"raw.xz": disk("h/raw.xz"), "4k.raw.xz": disk("h/4k"), "iso": disk("h/iso")}})
    assert stream.find("metal").format == "raw.xz"
    assert stream.find("metal", format="raw").format == "raw.xz"
    assert stream.find("metal", format="4k.raw").format == "4k.raw.xz"
    assert stream.find("metal", format="iso").format == "iso"


@pytest.mark.parametrize(
    "wanted,words",
    [
        ({"platform": "azure"}, "has no platform azure; it knows pxe, two"),
        ({"platform": "two"}, "two comes as qcow2.gz, raw.gz .*two:FORMAT"),
        ({"platform": "two", "format": "vmdk"}, "has no format vmdk; it knows qcow2.gz, raw.gz"),
        ({"platform": "two", "architecture": "s390x"}, "has no architecture s390x; it knows x86_64"),
        ({"platform": "pxe"}, "no disk, only parts of one"),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(wanted, words):
    kernel = {"pxe": {"kernel": {"location": "h/k", "sha256": A}}}
    stream = stream_of({"two": {"qcow2.gz": disk("h/q"), "raw.gz": disk("h/r")}, "pxe": kernel})
    with pytest.raises(BadInput, match=words):
        stream.find(**wanted)


@pytest.mark.parametrize(
    "metadata,words",
    [
        (stream_of({"qemu": {"qcow2.xz": disk("h/a-qemu.qcow2.xz")}}), "no uncompressed SHA-256 is published"),
        (build_of(qemu={"path": "a.qcow2", "sha256": A, "uncompressed-sha256": B}), "its name does not say so"),
        (
            build_of(
                qemu={"path": "fedora-coreos-31.qcow2.gz", "sha256": A},
                aws={"path": "rhcos-1.vmdk.gz", "sha256": A},
                azure={"path": "rhcos-1.vhd.gz", "sha256": A},
            ),
            "fedora-coreos-31.qcow2.gz is fedora-coreos among images of rhcos",
        ),
        (
            stream_of({"qemu": {"qcow2": disk("https://h/fedora-coreos/rhcos-1-qemu.qcow2")}}),
            "lies where Fedora CoreOS is published",
        ),
        (stream_of({"a": {"qcow2": disk("h/1", signature="s")}, "b": {"qcow2": disk("h/2")}}), "has no signature"),
    ],
)
def test_what_is_odd_is_said(metadata, words):
    assert any(words in sentence for sentence in oddities(metadata))


def test_metadata_as_it_should_be_is_not_odd():
    formats = {"qcow2.xz": disk("h/q.xz", **{"uncompressed-sha256": B})}
    assert oddities(stream_of({"qemu": formats, "gcp": {"tar.gz": disk("h/g.tar.gz")}})) == ()


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 100_000,
        '{"images": {"qemu": {"path": "a", "sha256": "' + A + '", "size": ' + "9" * 5000 + "}}}",
        '{"images": {"qemu": {"path": "a", "sha256": "' + A + '", "size": -1}}}',
        '{"images": {"qemu": {"path": "a", "sha256": "' + A + '", "size": true}}}',
        '{"images": {"qemu": {"path": "a", "sha256": "' + A + '", "size": 1e400}}}',
        '{"images": {"qemu": {"path": "\\ud800", "sha256": "' + A + '"}}}',
        '{"images": {"qemu": {"path": "a\\u001b[31m", "sha256": "' + A + '"}}}',
        '{"images": {"qemu": {"path": "' + "a" * 5000 + '", "sha256": "' + A + '"}}}',
        '{"architectures": {"x86_64": []}, "x": 1}',
        '{"architectures": {"x86_64": {"artifacts": {"qemu": {"formats": {"q": {"disk": {"sha256": "' + A + '"}}}}}}}}',
        '{"architectures": {"x86_64": {"artifacts": {"qemu": {"formats": {"q": {"disk": 7}}}}}}}',
        '{"releases": []}',
        "null",
        "",
    ],
    ids=range(16),
)
def test_hostile_metadata_is_one_error(text):
    with pytest.raises(BadInput, match=r"^here: \S"):
        parse_metadata(text, "here")


def test_more_files_than_anybody_publishes_are_refused():
    entries = ",".join(f'"p{n}": {{"path": "a", "sha256": "{A}"}}' for n in range(5001))
    with pytest.raises(BadInput, match="more than 5,000 files"):
        parse_metadata(f'{{"images": {{{entries}}}}}', "here")


def test_endless_metadata_is_refused_unread(tmp_path):
    path = tmp_path / "stream.json"
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(BadInput, match="is larger than"):
        read_metadata(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(A),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["architectures", "artifacts", "media", "formats", "images", "qemu", "disk", "location", "path",
                         "sha256", "size", "stream", "uncompressed-sha256", "metadata", "release", "baseURI"]),
        inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_any_json_is_metadata_or_one_error(document):
    try:
        found = parse_metadata(json.dumps(document), "here")
    except BadInput:
        return
    assert all(re.fullmatch("[0-9a-f]{64}", artifact.sha256) for artifact in found.artifacts)
    oddities(found)


@pytest.fixture
def stream_server():
    with small_server() as served:
        yield served


def test_the_metadata_comes_from_where_the_user_says(stream_server, tmp_path):
    qemu = {"release": "44.1", "formats": {"qcow2.xz": disk("https://h/q.qcow2.xz", **{"uncompressed-sha256": B})}}
    document = {"stream": "stable", "metadata": {}, "architectures": {"x86_64": {"artifacts": {"qemu": qemu}}}}
    stream_server.files["/stable.json"] = json.dumps(document).encode()
    (tmp_path / "stable.json").write_text(json.dumps(document))
    store = Store(tmp_path / "store")
    for source in (f"{stream_server.url}/stable.json", str(tmp_path / "stable.json")):
        found, odd = order("fcos-stable:qemu", store, stream_source=source, architecture="x86_64", patience=QUICK)
        assert (found.url, found.release, found.published.uncompressed_sha256) == ("https://h/q.qcow2.xz", "44.1", B)
        assert odd == ()
    _, odd = order("fcos-next:qemu", store, stream_source=source, architecture="x86_64")
    assert odd == ("fcos-next was asked for, and the metadata is of stable",)


def test_metadata_that_cannot_be_had_is_one_error(stream_server, tmp_path):
    store = Store(tmp_path / "store")
    with pytest.raises(DownloadFailed, match="404"):
        order("fcos-stable:qemu", store, stream_source=f"{stream_server.url}/none.json", patience=QUICK)
    stream_server.files["/big.json"] = b" " * (LARGEST + 1)
    with pytest.raises(DownloadFailed, match="are allowed"):
        order("fcos-stable:qemu", store, stream_source=f"{stream_server.url}/big.json", patience=QUICK)
    stream_server.files["/bad.json"] = b"{}"
    with pytest.raises(BadInput, match=r"/bad\.json: publishes no images"):
        order("fcos-stable:qemu", store, stream_source=f"{stream_server.url}/bad.json", patience=QUICK)


@pytest.fixture
def published_stream(corpus):
    return lambda name: read_metadata(corpus / "stream-metadata" / name)


def test_the_stable_stream_of_july_2026_is_as_recorded(published_stream):
    stream = published_stream("fcos-stable-20260721.json")
    platforms = {a: len({x.platform for x in stream.artifacts if x.architecture == a}) for a in FCOS_PLATFORMS}
    qemu = stream.find("qemu")
    assert (stream.kind, stream.stream, platforms) == ("stream", "stable", FCOS_PLATFORMS)
    assert (qemu.release, qemu.sha256[:8], qemu.uncompressed_sha256[:8]) == ("44.20260707.3.1", "35eb8e1f", "231a7402")
    assert qemu.signature == f"{qemu.location}.sig"


@pytest.mark.parametrize(
    "name",
    ["fcos-stable-20260721.json", "fcos-next-20260721.json", "fcos-stream-20220823.json", "rhcos-stream-20221004.json"],
)
def test_packed_formats_publish_what_is_inside_and_others_do_not(published_stream, name):
    for artifact in published_stream(name).artifacts:
        packed = artifact.format.endswith((".xz", ".gz", ".zip"))
        if artifact.format != "tar.gz":
            assert (artifact.uncompressed_sha256 is not None) == packed, artifact
        assert (artifact.signature is not None) == name.startswith("fcos")
        assert artifact.size is None


def test_gcp_publishes_what_is_inside_for_rhcos_only(published_stream):
    assert published_stream("rhcos-stream-20221004.json").find("gcp").uncompressed_sha256
    assert published_stream("fcos-stable-20260721.json").find("gcp").uncompressed_sha256 is None


def test_the_installer_of_october_2022_has_releases_of_another_stream(published_stream):
    odd = oddities(published_stream("rhcos-stream-20221004.json"))
    assert "the stream is rhcos-4.11, but release 412.86.202209302317-0 is of 4.12" in odd


@pytest.mark.parametrize("name,size", [("rhcos-4.1-legacy.json", 721096885), ("rhcos-4.2-legacy.json", 687505016)])
def test_legacy_metadata_has_sizes_and_paths_without_gz(published_stream, name, size):
    legacy = published_stream(name)
    qemu = legacy.find("qemu")
    assert (qemu.size, qemu.format, qemu.location.startswith("https://releases-")) == (size, "qcow2", True)
    assert qemu.uncompressed_size > 2 * size
    assert f"{qemu.name} is packed, but its name does not say so" in oddities(legacy)
    assert {"metal-bios", "metal-uefi"} <= {artifact.platform for artifact in legacy.artifacts}


def test_release_metadata_is_read_and_their_index_refused(published_stream):
    release = published_stream("fcos-release.json")
    assert (release.kind, release.find("qemu").release) == ("release", "33.20201201.3.0")
    with pytest.raises(BadInput, match="index of releases"):
        published_stream("fcos-releases.json")


@pytest.mark.parametrize("name", ["meta-fcos-31.json", "meta-rhcos-44devel.json"])
def test_builds_are_read_and_paths_and_sizes_are_consistent(corpus, name):
    build = read_metadata(corpus / "cosa" / name)
    assert build.kind == "build"
    for artifact in build.artifacts:
        assert artifact.architecture == "x86_64"
        assert artifact.name.startswith(("fedora-coreos-31", "rhcos-44devel"))
        if artifact.platform in {"qemu", "openstack"}:
            assert artifact.uncompressed_size % 65536 == 0
        if artifact.platform == "metal":
            assert artifact.uncompressed_size % 2**20 == 0
