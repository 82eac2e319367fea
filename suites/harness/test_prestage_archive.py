"""Archives of images: written the same every time, and called whole only when they are."""

import gzip
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.containers.folder import FolderFiles
from harness.errors import DamagedArtifact
from harness.prestage.archives.archive import write_archive
from harness.prestage.archives.archive_check import archive_findings, check_archive
from harness.prestage.lists.reference import Reference
from suites.harness.small_prestage import (
    CONFIG,
    LAYERS,
    NAME,
    digest_of,
    image,
    image_list,
    member,
    members_of,
    packed,
    reference_of,
    written,
)

FILES = image()
REFERENCE = reference_of(FILES)
STEM = REFERENCE.archive
FIRST, SECOND = (hashlib.sha256(each).hexdigest() for each in LAYERS)
BY_TAG = Reference.parse("quay.io/me/tool:1")


def archive(folder, reference, path):
    with path.open("wb") as out:
        return write_archive(folder, reference.archive, out, digest=reference.digest)


def told(path, reference=REFERENCE, **more):
    """What is found, each as `member: cause`."""
    found = archive_findings(FolderFiles(path.parent), f"/{path.name}", reference, **more)
    assert {each.archive for each in found} <= {f"{reference.archive}.tgz"}
    return [f"{each.member}: {each.cause}" for each in found]


@pytest.fixture
def whole(tmp_path):
    """An archive that we wrote."""
    path = tmp_path / "whole.tgz"
    archive(written(tmp_path / "dir", FILES), REFERENCE, path)
    return path


def test_what_we_write_is_whole(whole):
    data = whole.read_bytes()
    check = check_archive(FolderFiles(whole.parent), f"/{whole.name}", REFERENCE)
    assert (check.findings, check.sha256, check.size) == ((), hashlib.sha256(data).hexdigest(), len(data))
    assert (check.digest, check.is_list) == (REFERENCE.digest, False)


def test_the_same_folder_gives_the_same_bytes(whole, tmp_path):
    other = written(tmp_path / "other", dict(reversed(FILES.items())))
    for number, path in enumerate(other.iterdir()):
        os.utime(path, (number, number))
        path.chmod(0o600)
    archive(other, REFERENCE, tmp_path / "second.tgz")
    assert (tmp_path / "second.tgz").read_bytes() == whole.read_bytes()


def test_tar_and_gzip_read_what_we_write(whole, tmp_path):
    subprocess.run(["gzip", "--test", whole], check=True)
    subprocess.run(["tar", "-xzf", whole, "-C", tmp_path], check=True)
    found = {path.name: path.read_bytes() for path in (tmp_path / STEM).iterdir()}
    assert found == FILES
    with tarfile.open(whole) as tar:
        facts = {(each.uid, each.gid, each.mtime, each.mode) for each in tar if each.isfile()}
        assert (facts, tar.getnames()[:3]) == ({(0, 0, 0, 0o644)}, [STEM, f"{STEM}/version", f"{STEM}/manifest.json"])


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT])
def test_what_tar_czf_writes_is_whole_in_any_order(tmp_path, tar_format):
    for number, files in enumerate((FILES, dict(reversed(FILES.items())))):
        assert told(packed(tmp_path / f"{number}.tgz", members_of(STEM, files), tar_format)) == []


def test_several_gzip_members_are_one_archive(whole):
    data = gzip.decompress(whole.read_bytes())
    whole.write_bytes(gzip.compress(data[:5000]) + gzip.compress(data[5000:]))
    assert told(whole) == []


def test_a_list_with_all_its_images_is_whole(tmp_path):
    files = image_list("amd64", "arm64", "s390x")
    path = tmp_path / "list.tgz"
    archive(written(tmp_path / "dir", files), reference_of(files), path)
    assert told(path, reference_of(files)) == []
    instance = next(name for name in files if name.endswith(".manifest.json"))
    less = {name: data for name, data in files.items() if name != instance}
    path = packed(tmp_path / "less.tgz", members_of(reference_of(files).archive, less))
    assert told(path, reference_of(files)) == [f"{instance}: is missing"]


def test_an_image_by_tag_is_what_it_was_when_it_was_pulled(tmp_path):
    path = packed(tmp_path / "tool.tgz", members_of(BY_TAG.archive, FILES))
    assert told(path, BY_TAG) == []
    assert told(path, BY_TAG, digest=REFERENCE.digest) == []
    assert told(path, BY_TAG, digest=digest_of(b"other")) == [
        f"manifest.json: has the digest {REFERENCE.digest} instead of {digest_of(b'other')}"
    ]


def without(name):
    return members_of(STEM, {each: data for each, data in FILES.items() if each != name})


def instead(name, data):
    return members_of(STEM, {**FILES, name: data})


def beside(*more):
    return [*members_of(STEM, FILES), *more]


OTHER = image((b"other",))
STRANGER = hashlib.sha256(b"other").hexdigest()
DEFECTS = {
    "layer missing": (without(FIRST), [f"{FIRST}: is missing"]),
    "config missing": (without(hashlib.sha256(CONFIG).hexdigest()), None),
    "manifest missing": (without("manifest.json"), ["manifest.json: is missing"]),
    "version missing": (without("version"), ["version: is missing"]),
    "version wrong": (
        instead("version", b"Directory Transport Version: 1.0\n"),
        [
            r"version: says b'Directory Transport Version: 1.0\n' instead of b'Directory Transport Version: 1.1\n'",
        ],
    ),
    "other bytes": (
        instead(FIRST, b"X" + LAYERS[0][1:]),
        [f"{FIRST}: has the digest {digest_of(b'X' + LAYERS[0][1:])} instead of its name's"],
    ),
    "other size": (instead(FIRST, LAYERS[0][:-1]), [f"{FIRST}: has 31,999 bytes instead of 32,000"]),
    "empty": (instead(FIRST, b""), [f"{FIRST}: has 0 bytes instead of 32,000"]),
    "other manifest": (
        instead("manifest.json", OTHER["manifest.json"]),
        [f"manifest.json: has the digest {digest_of(OTHER['manifest.json'])} instead of {REFERENCE.digest}"],
    ),
    "stranger": (beside(member(f"{STEM}/{STRANGER}", b"other")), [f"{STRANGER}: is in no manifest"]),
    "odd file": (beside(member(f"{STEM}/notes", b"x")), ["notes: belongs to no image"]),
    "folder": (beside(member(f"{STEM}/more", kind=tarfile.DIRTYPE)), ["more: is a folder within the top folder"]),
    "other top": (members_of("other", FILES), None),
    "no top": ([member(name, data) for name, data in FILES.items()], None),
    "outside": (beside(member("/etc/passwd", b"x")), ["/etc/passwd: leads out of the archive"]),
    "above": (beside(member(f"{STEM}/../x", b"x")), [f"{STEM}/../x: leads out of the archive"]),
    "symlink": (beside(member(f"{STEM}/l", kind=tarfile.SYMTYPE, target="/etc")), ["l: is a symlink"]),
    "symlink instead": (
        [*without("version"), member(f"{STEM}/version", kind=tarfile.SYMTYPE, target="/etc/hostname")],
        ["version: is a symlink", "version: is missing"],
    ),
    "hard link": (beside(member(f"{STEM}/l", kind=tarfile.LNKTYPE, target=STEM)), ["l: is a hard link"]),
    "device": (beside(member(f"{STEM}/d", kind=tarfile.CHRTYPE)), ["d: is a device"]),
    "fifo": (beside(member(f"{STEM}/p", kind=tarfile.FIFOTYPE)), ["p: is a fifo"]),
    "twice": (beside(member(f"{STEM}/version", FILES["version"])), ["version: is there twice"]),
    "escapes": (beside(member(f"{STEM}/\x1b[2J", b"x")), ["\\x1b[2J: belongs to no image"]),
    "nothing": ([], ["version: is missing", "manifest.json: is missing"]),
}


@pytest.mark.parametrize("defect", DEFECTS)
@pytest.mark.parametrize("is_reversed", [False, True], ids=["in order", "reversed"])
def test_each_defect_is_found_where_it_is(tmp_path, defect, is_reversed):
    members, expected = DEFECTS[defect]
    ordered = [*members[:1], *members[:0:-1]] if is_reversed else members
    found = told(packed(tmp_path / "a.tgz", ordered))
    if defect in {"other size", "empty"} and is_reversed:  # its hash is known before its size is
        expected = [f"{FIRST}: has the digest {digest_of(dict(FILES)[FIRST][:-1] if defect == 'other size' else b'')}"]
        found = [each.split(" instead")[0] for each in found]
    assert found
    assert expected is None or found == expected


def test_members_in_another_top_folder_are_each_told(tmp_path):
    found = told(packed(tmp_path / "a.tgz", members_of("other", FILES)))
    assert found[:2] == [f"other: is not in the top folder {STEM}", f"other/version: is not in the top folder {STEM}"]


def test_damaged_compression_and_tar_are_told(whole):
    data = whole.read_bytes()
    raw = gzip.decompress(data)
    defects = {
        b"": ": is empty",
        data[:-1]: ": ends before its compression does",
        data[:2000]: ": ends before its compression does",
        data[:9]: ": ends before its compression does",
        b"not gzip" * 100: ": is not compressed by gzip",
        data[:-8] + b"\0" * 8: ": its compression is corrupt: Error -3 while decompressing data: incorrect data check",
        data + b"more": ": something follows the compressed archive",
        data + b"\0" * 512: ": something follows the compressed archive",
        gzip.compress(raw[:9000]): ": ends in the middle of a member",
        gzip.compress(raw[:-1024]): ": ends in the middle of a header",
        gzip.compress(raw[:-512]): ": has no end",
        gzip.compress(raw + b"x"): ": something follows its end",
        gzip.compress(raw + bytes(3 * 2**20)): ": nothing but zeroes follows its end, without an end",
        gzip.compress(b"x" * 512 + raw): ": the checksum of a tar header is wrong",
    }
    found = {}
    for damaged in defects:
        whole.write_bytes(damaged)
        found[damaged] = told(whole)
    assert found == {damaged: [cause] for damaged, cause in defects.items()}


def test_a_missing_file_and_a_folder_are_findings(tmp_path):
    (tmp_path / "a.tgz").mkdir()
    assert ["cannot be read" in each for each in (*told(tmp_path / "a.tgz"), *told(tmp_path / "b.tgz"))] == [True] * 2


def test_a_bomb_is_given_up_early_and_costs_no_memory(tmp_path):
    """A gigabyte of zeroes in a megabyte, as a blob before any manifest has said how large it is."""
    path = tmp_path / "bomb.tgz"
    head = tarfile.TarInfo(f"{STEM}/{FIRST}")
    head.size = 2**30
    with gzip.open(path, "wb", 9) as out:
        out.write(head.tobuf(tarfile.GNU_FORMAT))
        for _ in range(2**10):
            out.write(bytes(2**20))
    tracemalloc.start()
    found = told(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 1
    assert "unpack to more than" in found[0]
    assert peak < 16 * 2**20


def test_what_the_manifest_vouches_for_may_be_dense(tmp_path):
    """A layer of zeroes compresses a thousandfold: no bomb, if a manifest that we trust names its size."""
    files = image((bytes(160 * 2**20),))
    assert told(packed(tmp_path / "a.tgz", members_of(reference_of(files).archive, files)), reference_of(files)) == []


def test_a_member_may_not_claim_more_than_the_manifest(tmp_path):
    path = tmp_path / "a.tgz"
    raw = gzip.decompress(packed(path, without(FIRST)).read_bytes()).rstrip(b"\0")
    raw += bytes(-len(raw) % 512)
    head = tarfile.TarInfo(f"{STEM}/{FIRST}")
    head.size = 2**40
    path.write_bytes(gzip.compress(raw + head.tobuf(tarfile.GNU_FORMAT) + bytes(10_000)))
    assert told(path) == [f"{FIRST}: has {2**40:,} bytes instead of 32,000", ": ends in the middle of a member"]


def test_thousands_of_members_are_not_all_told(tmp_path):
    found = told(packed(tmp_path / "a.tgz", beside(*(member(f"{STEM}/x{n}") for n in range(60_000)))))
    assert (len(found), found[-1]) == (51, ": has more defects than are told here")


def test_a_folder_that_is_not_whole_becomes_no_archive(tmp_path):
    good = written(tmp_path / "dir", FILES)
    for number, (name, data, words) in enumerate(
        [
            (FIRST, b"damaged", f"{FIRST} has 7 bytes of sha256:"),
            (FIRST, None, f"{FIRST} is missing"),
            ("manifest.json", None, "manifest.json is missing"),
            ("manifest.json", OTHER["manifest.json"], "the manifest is sha256:"),
            ("manifest.json", b"{", "is no manifest of an image"),
            ("version", b"1", "version has 1 bytes"),
            ("notes", b"", "'notes' belongs to no image"),
        ]
    ):
        folder = shutil.copytree(good, tmp_path / str(number))
        (folder / name).unlink(missing_ok=True)
        if data is not None:
            (folder / name).write_bytes(data)
        with pytest.raises(DamagedArtifact, match=words):
            write_archive(folder, STEM, io.BytesIO(), digest="" if data == b"{" else REFERENCE.digest)


def test_a_manifest_that_could_be_two_things_is_refused(tmp_path):
    for number, manifest in enumerate(
        [
            b'{"schemaVersion":2,"manifests":[],"config":{"digest":"x","size":1},"layers":[]}',
            b'{"schemaVersion":1,"fsLayers":[]}',
            b'{"schemaVersion":2}',
            b'{"schemaVersion":2,"manifests":[]}',
            b'{"schemaVersion":2,"config":{"digest":"sha256:../../x","size":1},"layers":[]}',
            b'{"schemaVersion":2,"config":{"digest":"sha256:' + b"0" * 64 + b'","size":-1},"layers":[]}',
            b"[" * 100_000,
        ]
    ):
        path = packed(tmp_path / f"{number}.tgz", members_of("tool_1", {**FILES, "manifest.json": manifest}))
        assert [each for each in told(path, BY_TAG) if each.startswith("manifest.json: ")], manifest[:80]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_damaged_archive_is_called_whole(tmp_path_factory, data):
    """Whatever bytes are changed, cut or put in, below the compression or above it: findings, and nothing raised."""
    folder = tmp_path_factory.mktemp("damaged", numbered=True)
    raw = gzip.decompress(packed(folder / "a.tgz", members_of(STEM, FILES)).read_bytes())
    is_inside = data.draw(st.booleans())
    honest = raw if is_inside else gzip.compress(raw)
    damaged = bytearray(honest)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(len(damaged) - 1, 0)))
        kind = data.draw(st.sampled_from(["change", "cut", "insert", "zero"]))
        if kind == "change" and damaged:
            damaged[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del damaged[at : at + data.draw(st.integers(1, 2000))]
        elif kind == "insert":
            damaged[at:at] = data.draw(st.binary(min_size=1, max_size=600))
        else:
            damaged[at : at + 300] = bytes(len(damaged[at : at + 300]))
    path = folder / "a.tgz"
    path.write_bytes(gzip.compress(bytes(damaged)) if is_inside else bytes(damaged))
    found = told(path)
    shutil.rmtree(folder)
    if not found:  # only what tells nothing of the image was touched: owners, times, padding of the whole
        assert content(gzip.decompress(bytes(damaged)) if not is_inside else bytes(damaged)) == {
            f"{STEM}/{name}": value for name, value in FILES.items()
        }


def content(raw):
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar if each.isfile()}


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=3000), is_packed=st.booleans())
def test_random_bytes_are_no_archive(tmp_path_factory, data, is_packed):
    folder = tmp_path_factory.mktemp("random", numbered=True)
    path = folder / "a.tgz"
    path.write_bytes(gzip.compress(data) if is_packed else data)
    assert told(path)
    shutil.rmtree(folder)


def test_the_name_of_an_archive_is_the_name_of_its_top_folder():
    digest = "sha256:" + "0" * 64
    assert Reference.parse(f"{NAME}@{digest}").archive == f"ocp-v4.0-art-dev@sha256_{'0' * 64}"
