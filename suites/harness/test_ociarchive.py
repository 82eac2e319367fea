"""Hostile and broken ociarchives: each is refused in words that say what and where, and nothing lands outside."""

import gzip
import hashlib
import io
import json
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from harness.compose.layering import add_layer
from harness.compose.ociarchive import unpack
from harness.compose.ociimage import blob_path, open_image
from harness.compose.overlay import read_overlays
from harness.compose.tarstream import TarStream
from harness.containers.layout import stored_gzip
from harness.errors import BadInput, DamagedArtifact, HarnessError
from suites.harness.small_image import EPOCH, overlay, small_archive, small_layout

SOME_DIGEST = "blobs/sha256/" + "0" * 64


def member(name, kind=tarfile.REGTYPE, target="", data=b"", size=None):
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, target, len(data) if size is None else size
    return found, data


def archive(tmp_path, *extra):
    """A sound archive with members more."""
    base = small_archive(tmp_path)
    hostile = tmp_path / "hostile.ociarchive"
    with tarfile.open(base) as old, tarfile.open(hostile, "w") as new:
        for each in old:
            new.addfile(each, old.extractfile(each) if each.isfile() else None)
        for info, data in extra:
            new.addfile(info, io.BytesIO(data))
    return hostile


def refusal(path, tmp_path):
    with pytest.raises(DamagedArtifact) as raised:
        unpack(path, tmp_path / "out")
    assert raised.value.where == str(path)
    return raised.value.what


HOSTILE = {
    "up": (member("../x", data=b"x"), "'../x' leads out of the archive"),
    "up inside": (member("blobs/../../x", data=b"x"), "'blobs/../../x' leads out of the archive"),
    "absolute": (member("/etc/x", data=b"x"), "'/etc/x' leads out of the archive"),
    "symlink": (member(SOME_DIGEST, tarfile.SYMTYPE, "/etc/passwd"), f"'{SOME_DIGEST}' is a symlink, not a file"),
    "symlinked folder": (member("blobs/sha256", tarfile.SYMTYPE, "/tmp"), "'blobs/sha256' is a symlink, not a file"),
    "hard link": (member(SOME_DIGEST, tarfile.LNKTYPE, "index.json"), f"'{SOME_DIGEST}' is a hardlink, not a file"),
    "device": (member(SOME_DIGEST, tarfile.CHRTYPE), f"'{SOME_DIGEST}' is a character, not a file"),
    "fifo": (member("index.json", tarfile.FIFOTYPE), "'index.json' is a fifo, not a file"),
    "sparse": (member(SOME_DIGEST, tarfile.GNUTYPE_SPARSE), f"'{SOME_DIGEST}' is a sparse, not a file"),
    "twice": (member("index.json", data=b"{}"), "holds 'index.json' twice"),
    "another folder": (member("etc", tarfile.DIRTYPE), "holds the folder 'etc/', which no OCI layout has"),
    "another file": (member("blobs/x", data=b"x"), "holds 'blobs/x', which no OCI layout has"),
    "wrong digest": (
        member(SOME_DIGEST, data=b"x"),
        f"the blob {'0' * 64} has the digest {hashlib.sha256(b'x').hexdigest()}",
    ),
}


@pytest.mark.parametrize("extra, what", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_no_layout_has_is_refused(tmp_path, extra, what):
    assert refusal(archive(tmp_path, extra), tmp_path) == what


def test_an_index_of_gigabytes_is_not_read(tmp_path):
    path = tmp_path / "large.ociarchive"
    info, _ = member("index.json", size=2**33)
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    assert refusal(path, tmp_path) == "index.json has 8,589,934,592 bytes"


def test_a_header_about_a_member_is_bounded(tmp_path):
    path = tmp_path / "large.ociarchive"
    info, _ = member("x", tarfile.XHDTYPE, size=2**32)
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    assert refusal(path, tmp_path) == "a tar header about another member has 4,294,967,296 bytes"


@pytest.mark.parametrize("keep", [100, 512, 3000, -1500])
def test_a_truncated_archive_is_refused(tmp_path, keep):
    base = small_archive(tmp_path)
    data = base.read_bytes()
    base.write_bytes(data[:keep])
    assert refusal(base, tmp_path) == "a tar is truncated"


def test_what_is_no_archive_is_bad_input(tmp_path):
    (tmp_path / "packed.gz").write_bytes(gzip.compress(b"x" * 100))
    (tmp_path / "folder").mkdir()
    words = {}
    for name in ("nothing", "packed.gz", "folder"):
        with pytest.raises(BadInput) as raised:
            unpack(tmp_path / name, tmp_path / f"{name}-out")
        words[name] = raised.value.what
    assert words == {
        "nothing": "cannot be read: No such file or directory",
        "packed.gz": "is compressed (gz); an ociarchive is not",
        "folder": "is not a file",
    }


@settings(max_examples=150, deadline=None)
@given(
    damage=some.lists(some.tuples(some.floats(0, 1, exclude_max=True), some.integers(0, 255)), min_size=1, max_size=8)
)
def test_any_damage_is_a_typed_error_or_harmless(tmp_path_factory, damage):
    folder = tmp_path_factory.mktemp("damaged")
    base = small_archive(folder)
    data = bytearray(base.read_bytes())
    for place, value in damage:
        data[int(place * len(data))] = value
    base.write_bytes(data)
    chosen = read_overlays([overlay(folder / "overlay", {"etc/x": b"x"})])
    try:
        unpack(base, folder / "out")
        add_layer(folder / "out", chosen, EPOCH)
    except HarnessError as cause:
        said = str(cause)
    else:
        said = ""
    assert "\n" not in said


def replaced_layer(layout, number, data):
    """The layout's image with other bytes for a layer, and all that names it told so."""
    image = open_image(layout)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blob_path(layout, digest).write_bytes(data)
    layers = [dict(each) for each in image.manifest["layers"]]
    layers[number] |= {"digest": digest, "size": len(data)}
    rewritten(layout, {**image.manifest, "layers": layers})


def rewritten(layout, manifest):
    data = json.dumps(manifest).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blob_path(layout, digest).write_bytes(data)
    index = json.loads((layout / "index.json").read_text())
    index["manifests"][0] |= {"digest": digest, "size": len(data)}
    (layout / "index.json").write_text(json.dumps(index))


def tar_of(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def bomb(size):
    deflate = __import__("zlib").compressobj(9, 8, 31)
    piece = bytes(2**20)
    return b"".join([*(deflate.compress(piece) for _ in range(size // 2**20)), deflate.flush()])


def words_of(layout, tmp_path):
    chosen = read_overlays([overlay(tmp_path / "overlay", {"etc/x": b"x"})])
    with pytest.raises(DamagedArtifact) as raised:
        add_layer(layout, chosen, EPOCH, where="base")
    assert raised.value.where == "base"
    return raised.value.what


def test_a_layer_that_is_not_what_its_config_says_is_refused(tmp_path):
    layout = small_layout(tmp_path / "layout")
    tar = tar_of(member("etc/other", data=b"x"))
    replaced_layer(layout, 1, stored_gzip(tar))
    diff_id = open_image(layout).diff_ids[1]
    said = f"layer 2 unpacks to sha256:{hashlib.sha256(tar).hexdigest()}, its diff_id is {diff_id}"
    assert words_of(layout, tmp_path) == said


def test_a_layer_that_leads_out_of_the_image_is_refused(tmp_path):
    layout = small_layout(tmp_path / "layout")
    replaced_layer(layout, 1, stored_gzip(tar_of(member("../etc/shadow", data=b"x"))))
    assert words_of(layout, tmp_path) == "layer 2 holds '../etc/shadow', which leads out of the image"


def test_a_bomb_is_given_up_in_bounded_memory(tmp_path, monkeypatch):
    """256 MiB of zeroes, with a header that makes them one file's content, where 64 may be packed at will."""
    monkeypatch.setattr("harness.compose.ociimage.FREE", 2**26)
    layout = small_layout(tmp_path / "layout")
    replaced_layer(layout, 1, bomb(2**28))
    tracemalloc.start()
    said = words_of(layout, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert said.startswith("layer 2 unpacks to more than ")
    assert peak < 32 * 2**20


def test_a_layer_called_what_it_is_not_is_refused(tmp_path):
    layout = small_layout(tmp_path / "layout")
    replaced_layer(layout, 1, tar_of(member("etc/x", data=b"x")))
    said = "layer 2 is not packed, but called application/vnd.oci.image.layer.v1.tar+gzip"
    assert words_of(layout, tmp_path) == said


def broken_config(layout):
    image = open_image(layout)
    data = json.dumps({**image.config, "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    blob_path(layout, digest).write_bytes(data)
    rewritten(layout, {**image.manifest, "config": {**image.manifest["config"], "digest": digest, "size": len(data)}})


DOCUMENTS = {
    "config lists too few": (broken_config, "its config lists 0 layers, its manifest 2"),
    "no index": (
        lambda layout: (layout / "index.json").unlink(),
        "index.json cannot be read: No such file or directory",
    ),
    "index a list": (lambda layout: (layout / "index.json").write_text("[]"), "is not what it should be: "),
    "index deep": (lambda layout: (layout / "index.json").write_text("[" * 10**5), "is not what it should be: "),
    "other layout": (
        lambda layout: (layout / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}'),
        "its oci-layout says {'imageLayoutVersion': '2.0.0'}",
    ),
    "blob lost": (lambda layout: blob_path(layout, open_image(layout).layers[0].digest).unlink(), "cannot be read"),
}


@pytest.mark.parametrize("damage, what", DOCUMENTS.values(), ids=DOCUMENTS.keys())
def test_documents_that_contradict_themselves_are_refused(tmp_path, damage, what):
    layout = small_layout(tmp_path / "layout")
    damage(layout)
    assert what in words_of(layout, tmp_path)


@settings(max_examples=200, deadline=None)
@given(data=some.binary(max_size=2000))
def test_noise_is_no_tar(data):
    try:
        for _ in TarStream([data[:700], data[700:]]).members():
            pass
    except DamagedArtifact:
        pass
