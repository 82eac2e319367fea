"""Folders as OCI artifacts: packed to the same bytes, unpacked again, refused when hostile."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.containers import artifact as room
from harness.containers.artifact import TYPE_OF_SET, pack, read_artifact, unpack
from harness.containers.manifest import TITLE, is_file_name, read_manifest
from harness.errors import BadInput, DamagedArtifact, HarnessError, StoreError
from harness.store import new_folder
from suites.harness.small_set import FILES, blob, content, written

# Whoever changes how artifacts are packed makes registries hold every set twice: say so in the changelog.
DIGEST = "sha256:a404b5664bf8bc982f1603782f8ed5af61f538c215d8745f83ff3b1a823a1ac1"
HEX = "0" * 64
EMPTY_DIGEST = f"sha256:{hashlib.sha256(b'{}').hexdigest()}"


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path / "set", FILES)


@pytest.fixture
def layout(folder, tmp_path):
    pack(folder, tmp_path / "layout", artifact_type=TYPE_OF_SET)
    return tmp_path / "layout"


def rewritten(layout, change):
    """The layout with its manifest changed and properly addressed again, as somebody hostile would."""
    index = json.loads((layout / "index.json").read_bytes())
    descriptor = index["manifests"][0]
    manifest = json.loads(blob(layout, descriptor["digest"]).read_bytes())
    data = change(manifest)
    data = data if isinstance(data, bytes) else json.dumps(manifest).encode()
    descriptor["digest"], descriptor["size"] = f"sha256:{hashlib.sha256(data).hexdigest()}", len(data)
    blob(layout, descriptor["digest"]).write_bytes(data)
    (layout / "index.json").write_text(json.dumps(index))


def test_what_is_unpacked_is_what_was_packed(folder, layout, tmp_path):
    packed, unpacked = read_artifact(layout), unpack(layout, tmp_path / "new")
    assert content(tmp_path / "new") == FILES
    assert packed == unpacked
    assert packed.size == sum(map(len, FILES.values()))
    assert [(file.name, file.media_type.rpartition("/")[2]) for file in packed.files] == [
        ("index.json", "json"),
        ("live iso.recipe", "vnd.image-harness.recipe.v1"),
        ("openstack.qcow2.recipe", "vnd.image-harness.recipe.v1"),
        ("qemu.qcow2", "octet-stream"),
    ]


def test_digest_does_not_depend_on_this_host(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert pack(folder, tmp_path / "layout", artifact_type=TYPE_OF_SET).digest == DIGEST


def test_same_files_give_the_same_bytes_whatever_their_order_and_times(layout, tmp_path):
    other = written(tmp_path / "other", dict(reversed(FILES.items())))
    for path in other.iterdir():
        os.utime(path, (1, 1))
    pack(other, tmp_path / "second", artifact_type=TYPE_OF_SET)
    assert content(tmp_path / "second") == content(layout)


def test_time_is_that_of_source_date_epoch(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    by_environment = pack(folder, tmp_path / "a", artifact_type=TYPE_OF_SET)
    by_argument = pack(folder, tmp_path / "b", artifact_type=TYPE_OF_SET, epoch=1_700_000_000)
    manifest = json.loads(blob(tmp_path / "a", by_environment.digest).read_bytes())
    assert manifest["annotations"] == {"org.opencontainers.image.created": "2023-11-14T22:13:20Z"}
    assert by_environment == by_argument


@pytest.mark.parametrize("said", ["tomorrow", "-1", "9" * 5000, "1e3", ""])
def test_time_that_is_none_is_refused(folder, tmp_path, monkeypatch, said):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", said)
    with pytest.raises(BadInput, match="not a time"):
        pack(folder, tmp_path / "layout", artifact_type=TYPE_OF_SET)


def test_manifest_is_that_of_an_oci_artifact(layout):
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads(blob(layout, index["manifests"][0]["digest"]).read_bytes())
    empty = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": EMPTY_DIGEST, "size": 2}
    assert manifest["artifactType"] == index["manifests"][0]["artifactType"] == TYPE_OF_SET
    assert manifest["config"] == empty
    assert blob(layout, EMPTY_DIGEST).read_bytes() == b"{}"
    assert [layer["annotations"] for layer in manifest["layers"]] == [{TITLE: name} for name in sorted(FILES)]


def test_blobs_take_no_room_of_their_own(folder, layout):
    base = folder / "qemu.qcow2"
    packed = blob(layout, f"sha256:{hashlib.sha256(base.read_bytes()).hexdigest()}")
    if base.stat().st_nlink == 1:
        pytest.skip("this file system shares blocks instead of linking")
    assert packed.samefile(base)


def test_a_file_of_the_content_of_the_empty_config_is_left_alone(tmp_path):
    folder = written(tmp_path / "set", {"a.json": b"{}", "b.json": b"{}"})
    pack(folder, tmp_path / "layout", artifact_type=TYPE_OF_SET)
    unpack(tmp_path / "layout", tmp_path / "new", moving=True)
    assert content(tmp_path / "new") == content(folder) == {"a.json": b"{}", "b.json": b"{}"}


@pytest.mark.parametrize("moving", [False, True])
def test_unpacked_files_are_nobody_elses(layout, tmp_path, moving):
    """Whoever writes into one of two equal files must not find it in the other, nor in a layout that stays."""
    folder = written(tmp_path / "twins", {"a": b"same", "b": b"same"})
    pack(folder, tmp_path / "twins.oci", artifact_type=TYPE_OF_SET)
    unpack(tmp_path / "twins.oci", tmp_path / "new", moving=moving)
    with (tmp_path / "new/a").open("r+b") as file:
        file.write(b"SAME")
    assert (tmp_path / "new/b").read_bytes() == b"same"
    if not moving:
        read_artifact(tmp_path / "twins.oci")
        assert content(folder) == {"a": b"same", "b": b"same"}


def test_where_links_and_shared_blocks_are_impossible_it_copies(folder, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    monkeypatch.setattr(room.fcntl, "ioctl", refuse)
    pack(folder, tmp_path / "layout", artifact_type=TYPE_OF_SET)
    unpack(tmp_path / "layout", tmp_path / "new", moving=True)
    assert content(tmp_path / "new") == FILES
    assert {path.stat().st_nlink for path in folder.iterdir()} == {1}


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda folder: (folder / "sub").mkdir(), "sub: is a folder"),
        (lambda folder: (folder / "link").symlink_to("index.json"), "link: is a symlink"),
        (lambda folder: os.mkfifo(folder / "pipe"), "pipe: is not a plain file"),
        (lambda folder: (folder / ".hidden").touch(), "name that does not travel"),
        (lambda folder: (folder / "new\nline").touch(), "name that does not travel"),
        (lambda folder: Path(os.fsdecode(bytes(folder) + b"/\xff")).touch(), "name that does not travel"),
        (shutil.rmtree, "cannot be read: No such file"),
    ],
)
def test_folder_that_is_not_plain_files_is_refused(folder, tmp_path, spoil, words):
    spoil(folder)
    with pytest.raises(BadInput, match=words) as caught:
        pack(folder, tmp_path / "layout", artifact_type=TYPE_OF_SET)
    assert str(caught.value).isprintable()
    assert not (tmp_path / "layout").exists()


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(BadInput, match="is empty"):
        pack(written(tmp_path / "set", {}), tmp_path / "layout", artifact_type=TYPE_OF_SET)


@pytest.mark.parametrize("action", ["pack", "unpack"])
def test_what_is_there_already_stays(folder, layout, tmp_path, action):
    taken = written(tmp_path / "taken", {"mine": b"mine"})
    with pytest.raises(BadInput, match="is there already"):
        pack(folder, taken, artifact_type=TYPE_OF_SET) if action == "pack" else unpack(layout, taken)
    assert content(taken) == {"mine": b"mine"}


def test_empty_folder_may_be_filled(layout, tmp_path):
    (tmp_path / "new").mkdir()
    unpack(layout, tmp_path / "new")
    assert content(tmp_path / "new") == FILES


def test_folder_taken_meanwhile_stays(tmp_path):
    with pytest.raises(BadInput, match="is there already"), new_folder(tmp_path / "new"):
        written(tmp_path / "new", {"mine": b"mine"})
    assert content(tmp_path) == {"new/mine": b"mine"}


def test_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"), new_folder(tmp_path / "file/new"):
        pass


# --- hostile artifacts -----------------------------------------------------------------------------------------------


def titled(name):
    return lambda manifest: manifest["layers"][0]["annotations"].update({TITLE: name})


def layer(**fields):
    return lambda manifest: manifest["layers"][0].update(fields)


HOSTILE = {
    "absolute": titled("/etc/passwd"),
    "parent": titled("../escape"),
    "dots": titled(".."),
    "dot": titled("."),
    "nothing": titled(""),
    "hidden": titled(".bashrc"),
    "below": titled("sub/file"),
    "nul": titled("a\0b"),
    "escape": titled("a\x1b[2Jb"),
    "right to left": titled("a\u202eb"),
    "surrogate": titled("a\udc80b"),
    "long": titled("ä" * 128),
    "twice": titled("qemu.qcow2"),
    "no title": layer(annotations={}),
    "no annotations": layer(annotations=None),
    "title a number": titled(7),
    "2^60": layer(size=2**60),
    "negative": layer(size=-1),
    "beyond 64 bits": layer(size=2**200),
    "thousands of digits": lambda m: json.dumps(m).replace('"size": 23', '"size": ' + "9" * 6000).encode(),
    "other size": layer(size=5),
    "size a text": layer(size="23"),
    "digest a path": layer(digest="sha256:../../../../etc/passwd"),
    "digest of another kind": layer(digest="md5:" + "0" * 32),
    "digest in capitals": layer(digest="sha256:" + "A" * 64),
    "missing blob": layer(digest=f"sha256:{HEX}"),
    "media type": layer(mediaType="application/\x1b[2J"),
    "no layers": lambda m: m.pop("layers"),
    "layers an object": lambda m: m.update(layers={"0": 1}),
    "version": lambda m: m.update(schemaVersion=1),
    "kind": lambda m: m.update(mediaType="application/vnd.oci.image.manifest.v2+json"),
    "config": lambda m: m["config"].update(digest="sha256:x"),
    "artifact type": lambda m: m.update(artifactType="set\n"),
    "giant": lambda m: m["annotations"].update(x="x" * 2**22),
    "deep": lambda _: b"[" * 200_000,
    "deep inside": lambda m: json.dumps(m)[:-1].encode() + b', "x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "not utf-8": lambda _: b'{"mediaType": "\xff"}',
    "cut": lambda m: json.dumps(m).encode()[:-1],
    "empty": lambda _: b"",
    "null": lambda _: b"null",
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_manifest_is_refused_before_anything_is_written(layout, tmp_path, change):
    rewritten(layout, change)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DamagedArtifact) as caught:
        unpack(layout, tmp_path / "new")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000
    assert sorted(tmp_path.iterdir()) == before


def spoilt_index(**fields):
    def spoil(layout):
        index = json.loads((layout / "index.json").read_bytes())
        index["manifests"][0].update(fields)
        (layout / "index.json").write_text(json.dumps(index))

    return spoil


def smallest(layout):
    return next(blob(layout, file.digest) for file in read_artifact(layout).files if file.name == "index.json")


def replaced(layout, by):
    target = smallest(layout)
    target.unlink()
    by(target)


SPOILT = {
    "two manifests": lambda layout: (layout / "index.json").write_text(
        json.dumps({"manifests": json.loads((layout / "index.json").read_bytes())["manifests"] * 2})
    ),
    "no manifest": lambda layout: (layout / "index.json").write_text('{"manifests": []}'),
    "giant index": lambda layout: (layout / "index.json").write_bytes(b" " * (2**22 + 1)),
    "manifest digest": spoilt_index(digest=f"sha256:{HEX}"),
    "manifest size": spoilt_index(size=3),
    "manifest path": spoilt_index(digest="sha256:../../index.json"),
    "same size, other bytes": lambda layout: replaced(layout, lambda t: t.write_bytes(b"x" * len(FILES["index.json"]))),
    "cut blob": lambda layout: replaced(layout, lambda t: t.write_bytes(FILES["index.json"][:-1])),
    "longer blob": lambda layout: replaced(layout, lambda t: t.write_bytes(FILES["index.json"] + b"x")),
    "blob a pipe": lambda layout: replaced(layout, os.mkfifo),
    "blob a folder": lambda layout: replaced(layout, Path.mkdir),
    "blob a symlink": lambda layout: replaced(layout, lambda t: t.symlink_to("/etc/hostname")),
    "blobs a symlink": lambda layout: (
        (layout / "blobs").rename(layout / "elsewhere"),
        (layout / "blobs").symlink_to("elsewhere"),
    ),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_damaged_layout_leaves_nothing(layout, tmp_path, spoil):
    spoil(layout)
    with pytest.raises(DamagedArtifact):
        unpack(layout, tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["layout", "set"]


@given(st.binary(max_size=300) | st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.lists(inner)
       | st.dictionaries(st.sampled_from(["layers", "config", "digest", "size", "mediaType", "schemaVersion"]), inner))
       .map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_any_bytes_are_a_manifest_or_one_error(data):
    with pytest.raises(HarnessError):
        read_manifest(data, "any bytes")


@given(st.text(max_size=20))
def test_name_that_is_allowed_stays_in_its_folder(name):
    if is_file_name(name):
        assert Path("folder", name).parent == Path("folder")
        assert Path("folder", name).name == name


def test_container_image_is_not_one_of_ours(layout, tmp_path):
    rewritten(
        layout, lambda m: (m.pop("artifactType"), m["config"].update(mediaType="application/vnd.oci.image.config"))
    )
    with pytest.raises(BadInput, match=r"is application/vnd\.oci\.image\.config, not application/vnd\.image-harness"):
        unpack(layout, tmp_path / "new", artifact_type=TYPE_OF_SET)
