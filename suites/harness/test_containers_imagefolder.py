"""skopeo's `dir:` folders and OCI layouts: whole as skopeo writes them, and every damage told once, where it is."""

import gzip
import hashlib
import io
import json
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.containers.folder import FolderFiles
from harness.containers.imagefolder import verify_folder, verify_members
from harness.containers.images import LAYERED_NAME, STATIC_NAME, busybox_images
from harness.containers.layout import write_layout
from harness.errors import BadInput
from harness.images.filesystems.files import open_files
from harness.images.formats.raw import FileBlock
from harness.tools import known_tools, run
from suites.harness.stored_images import EPOCH, PROGRAM

needs_skopeo = pytest.mark.skipif(known_tools()["skopeo"].find() is None, reason="skopeo is not installed")


def sha256(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A layout of both images, and what was written there."""
    folder = tmp_path_factory.mktemp("written") / "layout"
    return folder, write_layout(folder, busybox_images(PROGRAM), EPOCH)


def report_of(folder, digest=""):
    return verify_folder(FolderFiles(folder.parent), f"/{folder.name}", digest)


def told(report):
    return [(problem.path, problem.what) for problem in report.problems]


def test_a_layout_is_whole_and_its_images_are_told(written):
    folder, images = written
    report = report_of(folder)
    assert told(report) == []
    found = [(image.name, image.digest, [layer.diff_id for layer in image.layers]) for image in report.images]
    assert found == [(image.name, image.manifest, list(image.diff_ids)) for image in images]
    assert report.size == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def copied(written, tmp_path_factory):
    """The layered image as a folder that skopeo writes, by its options."""

    def copy(kind, *options):
        folder = tmp_path_factory.mktemp("copied") / "image"
        source = f"oci:{written[0]}:{LAYERED_NAME}"
        run(["skopeo", "--insecure-policy", "copy", "--quiet", *options, source, f"{kind}:{folder}"], timeout=60)
        return folder

    return copy


@needs_skopeo
@pytest.mark.parametrize("kind", ["dir", "oci"])
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--format", "v2s2"),
        ("--dest-compress-format", "zstd"),
        ("--dest-decompress",),
    ],
    ids=lambda options: "-".join(options) or "as-it-is",
)
def test_what_skopeo_writes_is_whole(written, copied, kind, options):
    if kind == "oci" and "v2s2" in options:
        pytest.skip("a layout holds OCI manifests")
    force = ("--dest-compress", *options) if "--dest-compress-format" in options and kind == "dir" else options
    if options == ("--dest-decompress",) and kind == "oci":
        pytest.skip("skopeo 1.9.3 unpacks for dir: only")
    folder = copied(kind, *force)
    report = report_of(folder)
    assert told(report) == []
    (layered,) = [image for image in written[1] if image.name == LAYERED_NAME]
    assert [[layer.diff_id for layer in image.layers] for image in report.images] == [list(layered.diff_ids)]


@needs_skopeo
def test_layers_that_lack_the_end_of_their_tar_are_told(copied):
    """So skopeo 1.9.3 writes zstd:chunked; newer ones do not. What zstd(1) says decides."""
    folder = copied("dir", "--dest-compress", "--dest-compress-format", "zstd:chunked")
    diff_ids = json.loads(config_path(folder).read_bytes())["rootfs"]["diff_ids"]
    layers = [layer_path(folder, number) for number in range(len(diff_ids))]
    found = [sha256(run(["zstd", "-dc", layer])) for layer in layers]
    assert told(report_of(folder)) == [
        (layer.name, f"unpacks to {inner}, but the config's diff_id is {diff_id}")
        for layer, inner, diff_id in zip(layers, found, diff_ids, strict=True)
        if inner != diff_id
    ]


@pytest.fixture
def folder(copied, tmp_path):
    """A fresh `dir:` folder to damage."""
    return Path(shutil.copytree(copied("dir"), tmp_path / "image"))


@pytest.fixture
def layout(written, tmp_path):
    """A fresh layout to damage."""
    return Path(shutil.copytree(written[0], tmp_path / "layout"))


@needs_skopeo
def test_a_digest_that_was_asked_for_is_compared(folder):
    digest = sha256((folder / "manifest.json").read_bytes())
    assert told(report_of(folder, digest)) == []
    assert report_of(folder).digest == digest
    other = "sha256:" + "0" * 64
    assert told(report_of(folder, other)) == [("manifest.json", f"has the digest {digest}, not {other}")]


@pytest.mark.parametrize("missing", ["linux/arm64", ""])
def test_a_list_for_several_machines_needs_all_of_them(written, tmp_path, missing):
    """The two images, as if they were one for two machines, in the form that `skopeo copy --all` gives a folder."""
    source, images = written
    target = tmp_path / "image"
    target.mkdir()
    entries = []
    for machine, image in zip(("amd64", "arm64"), images, strict=True):
        name = image.manifest.removeprefix("sha256:")
        data = (source / "blobs/sha256" / name).read_bytes()
        platform = {"os": "linux", "architecture": machine}
        kind = "application/vnd.oci.image.manifest.v1+json"
        entries.append({"mediaType": kind, "digest": image.manifest, "size": len(data), "platform": platform})
        if f"linux/{machine}" == missing:
            continue
        (target / f"{name}.manifest.json").write_bytes(data)
        for digest in (image.config, *image.layers):
            shutil.copy(source / "blobs/sha256" / digest.removeprefix("sha256:"), target)
    kind = "application/vnd.oci.image.index.v1+json"
    (target / "manifest.json").write_text(json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": entries}))
    (target / "version").write_text("Directory Transport Version: 1.1\n")
    report = report_of(target)
    gone = images[1].manifest.removeprefix("sha256:")
    assert told(report) == ([(f"{gone}.manifest.json", "is missing")] if missing else [])
    assert [image.machine for image in report.images] == ["linux/amd64"] + ([] if missing else ["linux/arm64"])


@dataclass
class Damage:
    """One way to break a folder, and the one problem that must come of it."""

    name: str
    do: Callable[[Path], object]
    path: str
    what: str

    def __str__(self):
        return self.name.replace(" ", "-")


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_bytes())


def layer_path(folder, number=0):
    return folder / manifest_of(folder)["layers"][number]["digest"].removeprefix("sha256:")


def config_path(folder):
    return folder / manifest_of(folder)["config"]["digest"].removeprefix("sha256:")


def change(path, old, new):
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(folder, touch):
    content = manifest_of(folder)
    touch(content)
    (folder / "manifest.json").write_text(json.dumps(content))


def with_layer(folder, data, number=3, **more):
    """Put another blob in the place of a layer, with a manifest that knows it."""
    layer_path(folder, number).unlink()
    (folder / sha256(data).removeprefix("sha256:")).write_bytes(data)
    edit(folder, lambda m: m["layers"][number].update({"digest": sha256(data), "size": len(data)}, **more))


def swap_layers(manifest):
    manifest["layers"][1:3] = manifest["layers"][2:0:-1]


EMPTY_TAR = bytes(10240)
ZEROES = gzip.compress(bytes(2**16), 9, mtime=0)
DAMAGES = [
    Damage("one bit of a layer", lambda f: flip(layer_path(f)), "LAYER", "has the digest"),
    Damage("a layer cut short", lambda f: layer_path(f).write_bytes(layer_path(f).read_bytes()[:-9]),
           "LAYER", "has the digest"),
    Damage("a layer missing", lambda f: layer_path(f).unlink(), "LAYER", "is missing"),
    Damage("a layer that is a symlink", lambda f: (layer_path(f).rename(f.parent / "away"),
                                                   (f / layer_path(f).name).symlink_to(f.parent / "away")),
           "LAYER", "is a symlink, not a file"),
    Damage("a config altered", lambda f: change(config_path(f), b"/bin/sh", b"/bin/su"), "CONFIG", "has the digest"),
    Damage("a config missing", lambda f: config_path(f).unlink(), "CONFIG", "is missing"),
    Damage("a manifest of garbage", lambda f: (f / "manifest.json").write_bytes(b"{" * 9),
           "manifest.json", "is not what it should be"),
    Damage("a manifest that is no object", lambda f: (f / "manifest.json").write_bytes(b"[]" + b" " * 9999),
           "manifest.json", "is no manifest"),
    Damage("a manifest of schema 1", lambda f: (f / "manifest.json").write_text('{"schemaVersion": 1}'),
           "manifest.json", "is a manifest of schema 1"),
    Damage("a wrong size in the manifest", lambda f: edit(f, lambda m: m["layers"][0].update(size=7)),
           "LAYER", "but a manifest says 7"),
    Damage("a digest of another kind", lambda f: edit(f, lambda m: m["layers"][0].update(digest="sha512:1")),
           "manifest.json", "'sha512:1' is not a SHA-256 digest"),
    Damage("a layer less in the manifest", lambda f: (layer_path(f, 3).unlink(), edit(f, lambda m: m["layers"].pop())),
           "CONFIG", "lists 4 layers, the manifest 3"),
    Damage("a wrong media type",
           lambda f: edit(f, lambda m: m["layers"][0].update(mediaType="application/vnd.oci.image.layer.v1.tar+zstd")),
           "LAYER", "is gz, but the manifest calls it"),
    Damage("another layer than the config has", lambda f: with_layer(f, gzip.compress(EMPTY_TAR, mtime=0)),
           "LAYER3", "but the config's diff_id is"),
    Damage("a layer that cannot be unpacked", lambda f: with_layer(f, ZEROES[:-1]), "LAYER3", "ends in the middle"),
    Damage("a layer with more behind its end", lambda f: with_layer(f, ZEROES + b"more than that"),
           "LAYER3", "is followed by something else"),
    Damage("a file too many", lambda f: (f / ("0" * 64)).write_text("x"), "0" * 64, "belongs to no image here"),
    Damage("a folder too many", lambda f: (f / "a/b/c/d").mkdir(parents=True), "a/b/c/d", "is a directory, not a file"),
    Damage("a version missing", lambda f: (f / "version").unlink(), "version", "is missing"),
    Damage("another version", lambda f: (f / "version").write_text("Directory Transport Version: 2.0\n"),
           "version", "another kind of folder, or version"),
]  # fmt: skip


@needs_skopeo
@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_damage_of_a_folder_gives_one_problem_where_it_is(folder, damage):
    first, config = layer_path(folder).name, config_path(folder).name
    damage.do(folder)
    last = layer_path(folder, 3).name if damage.path == "LAYER3" else ""
    path = {"LAYER": first, "CONFIG": config, "LAYER3": last}.get(damage.path, damage.path)
    found = told(report_of(folder))
    assert [problem[0] for problem in found] == [path]
    assert damage.what in found[0][1]


@needs_skopeo
def test_layers_in_another_order_than_the_config_has_are_told_each(folder):
    edit(folder, swap_layers)
    found = told(report_of(folder))
    assert [problem[0] for problem in found] == [layer_path(folder, 1).name, layer_path(folder, 2).name]


@needs_skopeo
def test_a_signature_and_a_foreign_layer_that_is_elsewhere_are_no_problem(folder):
    (folder / "signature-1").write_bytes(b"x")
    kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    edit(folder, lambda m: m["layers"][0].update(mediaType=kind, urls=["https://example.com/layer"]))
    layer_path(folder).unlink()
    assert told(report_of(folder)) == []


LAYOUT_DAMAGES = [
    Damage("oci-layout missing", lambda f: (f / "oci-layout").unlink(), "oci-layout", "is missing"),
    Damage("another version of layouts", lambda f: (f / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}'),
           "oci-layout", "another kind of folder, or version"),
    Damage("a manifest altered", lambda f: flip(named_blob(f, 0)), "MANIFEST", "has the digest"),
    Damage("a manifest missing", lambda f: named_blob(f, 0).unlink(), "MANIFEST", "is missing"),
    Damage("a blob too many", lambda f: (f / "blobs/sha256" / ("0" * 64)).write_text("x"),
           "blobs/sha256/" + "0" * 64, "belongs to no image here"),
]  # fmt: skip


def named_blob(folder, number):
    index = json.loads((folder / "index.json").read_bytes())
    return folder / "blobs/sha256" / index["manifests"][number]["digest"].removeprefix("sha256:")


@pytest.mark.parametrize("damage", LAYOUT_DAMAGES, ids=str)
def test_damage_of_a_layout_gives_one_problem_where_it_is(layout, damage):
    manifest = str(named_blob(layout, 0).relative_to(layout))
    damage.do(layout)
    found = told(report_of(layout))
    assert [problem[0] for problem in found] == [manifest if damage.path == "MANIFEST" else damage.path]
    assert damage.what in found[0][1]


def test_a_folder_that_is_neither_is_refused(layout):
    (layout / "index.json").unlink()
    with pytest.raises(BadInput, match="neither a folder of skopeo's"):
        report_of(layout)


def test_a_blob_that_two_images_share_is_told_once(layout):
    shared = manifest_layers(layout, 0)[0]
    flip(layout / "blobs/sha256" / shared)
    assert [problem[0] for problem in told(report_of(layout))] == [f"blobs/sha256/{shared}"]


def manifest_layers(folder, number):
    manifest = json.loads(named_blob(folder, number).read_bytes())
    return [layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]


def test_lists_in_lists_end(layout):
    """An index that names one that names one, five deep, and each of them a thousand times."""
    data = (layout / "index.json").read_bytes()
    for _ in range(6):
        (layout / "blobs/sha256" / sha256(data).removeprefix("sha256:")).write_bytes(data)
        kind = "application/vnd.oci.image.index.v1+json"
        entries = [{"mediaType": kind, "digest": sha256(data), "size": len(data)}] * 1000
        data = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    (layout / "index.json").write_bytes(data)
    (problem,) = told(report_of(layout))
    assert problem[1] == "is a list within 4 lists"


def test_a_layout_inside_an_image_is_read_there(written, tmp_path):
    staged, image = tmp_path / "staged", tmp_path / "root.img"
    shutil.copytree(written[0], staged / "srv/images")
    with image.open("wb") as file:
        file.truncate(16 * 2**20)
    run(["mke2fs", "-q", "-t", "ext4", "-d", staged, image])
    with FileBlock(image) as block:
        assert verify_folder(open_files(block), "/srv/images") == report_of(written[0])


@needs_skopeo
def test_an_archive_is_checked_as_it_comes_by(folder):
    done = subprocess.run(["tar", "-C", folder, "-czf", "-", "."], check=True, capture_output=True)

    def members(tar):
        for member in tar:
            if file := tar.extractfile(member):
                yield member.name.removeprefix("./"), iter(lambda file=file: file.read(65536), b"")

    with tarfile.open(fileobj=io.BytesIO(done.stdout), mode="r|gz") as tar:
        assert verify_members(members(tar)) == report_of(folder)


def test_two_names_of_one_image_are_both_told(layout):
    index = json.loads((layout / "index.json").read_bytes())
    again = {**index["manifests"][0], "annotations": {"org.opencontainers.image.ref.name": "again"}}
    index["manifests"].append(again)
    (layout / "index.json").write_text(json.dumps(index))
    report = report_of(layout)
    assert told(report) == []
    assert [image.name for image in report.images] == [STATIC_NAME, LAYERED_NAME, "again"]


def test_a_damaged_layout_never_raises(written):
    """1,000 random injuries to the JSON of a layout, one at a time, mostly with every digest above it mended."""
    files = {str(path.relative_to(written[0])): path.read_bytes() for path in written[0].rglob("*") if path.is_file()}
    documents = [path for path, data in files.items() if data[:1] == b"{"]
    chance = random.Random(1)
    whole = 0
    for _ in range(1000):
        path = chance.choice(documents)
        data, at = files[path], chance.randrange(len(files[path]))
        things = [b"null", b"[]", b"{}", b"-1", b"1e999", b"9" * 30, b"[" * 3000, b"\xff\0", b'"', b""]
        injured = data[:at] + chance.choice(things) + data[at + chance.randrange(9) :]
        broken = {each: content for each, content in files.items() if each != path}
        place, index = path, files["index.json"]
        if path.startswith("blobs"):
            old, new = path.rpartition("/")[2], hashlib.sha256(injured).hexdigest()
            place = f"blobs/sha256/{new}" if chance.random() < 0.9 else path
            index = index.replace(old.encode(), new.encode()).replace(
                b'"size":%d' % len(data), b'"size":%d' % len(injured)
            )
            broken["index.json"] = index
        broken[place] = injured
        whole += not verify_members((name, [content]) for name, content in sorted(broken.items())).problems
    assert whole < 1000
