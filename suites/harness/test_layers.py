"""Adding layers to images: the delta is one layer and nothing else, whoever adds it, wherever and in whatever order."""

import gzip
import json
import os
import shutil
import subprocess
import sys

import pytest
from click.testing import CliRunner

from harness.commands.layer import layer
from harness.compose.delta import layered
from harness.compose.layering import add_layer
from harness.compose.ociarchive import copied_layout, opened_layout, pack, unpack
from harness.compose.ociimage import blob_path, open_image
from harness.compose.overlay import in_name_order, overlays_of, read_overlays
from harness.compose.umoci import add_layer_by_umoci
from harness.containers.folder import FolderFiles
from harness.containers.imagefolder import verify_folder
from harness.errors import BadInput, HarnessError, UnsupportedImage
from harness.tools import known_tools, run
from suites.harness.small_image import EPOCH, documents, overlay, small_archive, small_layout

LATER = EPOCH + 86400
needs_umoci = pytest.mark.skipif(known_tools()["umoci"].find() is None or bool(os.geteuid()), reason="no umoci as root")
BY = ["harness", pytest.param("umoci", marks=needs_umoci)]
SEED = {"var/ybettan.txt": b"ybettan was here\n"}


def added(layout, scratch, files, *, by="harness", **options):
    """The layout with a layer more of the files."""
    folder = overlay(scratch / "overlay", files)
    chosen = read_overlays([folder], **options)
    new = copied_layout(layout, scratch / "new")
    if by == "umoci":
        return new, add_layer_by_umoci(new, chosen, LATER, scratch)
    return new, add_layer(new, chosen, LATER)


@pytest.mark.parametrize("by", BY)
def test_one_file_more_is_the_delta_of_the_facts_and_nothing_else(tmp_path, by):
    """Facts B3, value by value."""
    base = small_layout(tmp_path / "base")
    new, done = added(base, tmp_path, SEED, by=by)
    index, manifest, config = documents(base)
    top = manifest["layers"][-1]
    packed = blob_path(new, done.layer).read_bytes()
    entry = {"mediaType": top["mediaType"], "digest": done.layer, "size": len(packed)}
    described = {**manifest["config"], "digest": done.config, "size": blob_path(new, done.config).stat().st_size}
    expected_manifest = {**manifest, "config": described, "layers": [*manifest["layers"], entry]}
    by_whom = "umoci repack" if by == "umoci" else "harness layer add"
    step = {"created": "2023-11-15T22:13:20Z", "created_by": by_whom}
    diff_ids = [*config["rootfs"]["diff_ids"], done.diff_id]
    expected_config = {
        **config,
        "rootfs": {**config["rootfs"], "diff_ids": diff_ids},
        "history": [*config["history"], step],
    }
    named = {**index["manifests"][0], "digest": done.manifest, "size": blob_path(new, done.manifest).stat().st_size}
    assert documents(new) == ({**index, "manifests": [named]}, expected_manifest, expected_config)
    assert _sha256(gzip.decompress(packed)) == done.diff_id


def _sha256(data):
    import hashlib

    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.parametrize("by", BY)
def test_the_check_finds_one_layer_more_and_its_one_file(tmp_path, by):
    new, done = added(small_layout(tmp_path / "base"), tmp_path, SEED, by=by)
    delta = layered(tmp_path / "base", new)
    members = {
        path: (each.kind, each.mode, each.uid, each.gid, each.mtime, each.size) for path, each in delta.members.items()
    }
    assert members == {"var/ybettan.txt": ("file", 0o644, 0, 0, LATER, 17)}
    assert (delta.layer, delta.diff_id, delta.size) == (done.layer, done.diff_id, done.size)
    assert delta.differences == ()


@pytest.mark.parametrize("by", BY)
def test_the_layout_is_whole_and_nothing_is_left_over(tmp_path, by):
    new, _ = added(small_layout(tmp_path / "base"), tmp_path, SEED, by=by)
    report = verify_folder(FolderFiles(new.parent), f"/{new.name}")
    assert (report.problems, len(list((new / "blobs/sha256").iterdir()))) == ((), 5)


@pytest.mark.parametrize("by", BY)
def test_what_is_removed_is_hidden_by_a_whiteout(tmp_path, by):
    new, _ = added(small_layout(tmp_path / "base"), tmp_path, SEED, by=by, removed=["/var/old", "etc/motd"])
    members = layered(tmp_path / "base", new).members
    assert sorted((path, each.size) for path, each in members.items()) == [
        ("etc/.wh.motd", 0),
        ("var/.wh.old", 0),
        ("var/ybettan.txt", 17),
    ]


def test_other_images_of_the_layout_stay_as_they_are(tmp_path):
    base = small_layout(tmp_path / "base", "one", "two")
    new = copied_layout(base, tmp_path / "new")
    files = read_overlays([overlay(tmp_path / "overlay", SEED)])
    add_layer(new, files, LATER, tag="two")
    assert layered(base, new, tag="two").differences == ()
    assert open_image(new, "one").manifest == open_image(base, "one").manifest


def test_a_zstd_layer_stays_as_it_is(tmp_path):
    base = small_layout(tmp_path / "base")
    image = open_image(base)
    run(["skopeo", "copy", "--dest-decompress", f"oci:{base}:latest", f"dir:{tmp_path}/plain"])
    run(["skopeo", "copy", "--dest-compress-format=zstd", f"dir:{tmp_path}/plain", f"oci:{tmp_path}/zstd:latest"])
    packed = open_image(tmp_path / "zstd")
    assert {layer.media_type for layer in packed.layers} == {"application/vnd.oci.image.layer.v1.tar+zstd"}
    assert packed.diff_ids == image.diff_ids
    new, _ = added(tmp_path / "zstd", tmp_path, SEED)
    assert (layered(tmp_path / "zstd", new).differences, open_image(new).layers[:-1]) == ((), packed.layers)


ADD = """
import os, sys
os.umask(int(sys.argv[1], 8))
from pathlib import Path
from harness.cli import main
for name in sys.argv[4].split(","):
    place = Path(sys.argv[2]) / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(name)
main(["layer", "add", sys.argv[3], "--files", sys.argv[2], "-o", sys.argv[2] + ".ociarchive"])
"""


@pytest.mark.parametrize("epoch", ["", "1700000000"])
def test_the_archive_is_the_same_bytes_wherever_it_is_made(tmp_path, epoch):
    base, made = small_archive(tmp_path), []
    names = ["etc/a", "etc/b", "etc/Z", "etc/é", "usr/lib/x/y/z", "usr/lib-x"]
    for number, (umask, zone, locale) in enumerate([("022", "UTC", "C.UTF-8"), ("077", "Asia/Tokyo", "POSIX")]):
        order = ",".join(names if number else reversed(names))
        environment = {**os.environ, "TZ": zone, "LC_ALL": locale, "PYTHONUTF8": "1", "SOURCE_DATE_EPOCH": epoch or "0"}
        environment["IMAGE_HARNESS_STORE"] = str(tmp_path / "store")
        folder = tmp_path / f"overlay{number}"
        command = [sys.executable, "-c", ADD, umask, folder, base, order]
        subprocess.run(command, env=environment, check=True, capture_output=True)
        made.append((tmp_path / f"overlay{number}.ociarchive").read_bytes())
    assert made[0] == made[1]


def test_packing_again_what_was_unpacked_gives_the_same_bytes(tmp_path):
    base = small_archive(tmp_path)
    unpack(base, tmp_path / "again")
    pack(tmp_path / "again", tmp_path / "again.ociarchive", EPOCH)
    assert (tmp_path / "again.ociarchive").read_bytes() == base.read_bytes()


def test_an_archive_is_as_the_seed_packs_one(tmp_path):
    """`tar -cf X *` in the layout: names without a leading ./ (facts B3)."""
    listed = run(["tar", "-tf", small_archive(tmp_path)]).decode().split()
    assert (listed[:2], listed[-2:]) == (["blobs/", "blobs/sha256/"], ["index.json", "oci-layout"])
    assert {name.rpartition("/")[0] for name in listed[2:-2]} == {"blobs/sha256"}


def test_an_archive_packed_by_tar_is_taken_too(tmp_path):
    layout = small_layout(tmp_path / "layout")
    run(["tar", "--format=gnu", "-cf", tmp_path / "dot.ociarchive", "."], cwd=layout)
    with opened_layout(tmp_path / "dot.ociarchive", tmp_path) as found:
        assert documents(found) == documents(layout)


def test_later_overlays_lie_over_earlier_ones_in_the_order_of_their_names(tmp_path):
    for name in ("40late", "05early", "15middle"):
        overlay(tmp_path / "overlay.d" / name, {"etc/who": name.encode(), f"etc/{name}": b"x"})
    (tmp_path / "overlay.d/README.md").write_text("no overlay")
    folders = overlays_of(tmp_path / "overlay.d")
    found = read_overlays(folders)
    assert [folder.name for folder in folders] == ["05early", "15middle", "40late"]
    assert [entry.header.name for entry in found.entries] == ["etc/05early", "etc/15middle", "etc/40late", "etc/who"]
    assert b"".join(found.files["etc/who"].content()) == b"40late"
    assert in_name_order(list(reversed(folders))) == folders


def test_modes_are_those_that_git_knows_and_those_of_the_statoverride(tmp_path):
    files = {"etc/secret": b"s", "etc/plain": b"p", "usr/bin/su": b"x", "statoverride": b"# modes\n=384 /etc/secret\n"}
    folder = overlay(tmp_path / "overlay", {**files, "var/empty": None, "var/spool/x": b"x"})
    (folder / "statoverride").write_text("# decimal\n=384 /etc/secret\n+2048 /usr/bin/su\n=1023 /var/spool\n")
    (folder / "etc/plain").chmod(0o660)
    (folder / "usr/bin/su").chmod(0o770)
    found = [(each.header.name, oct(each.header.mode)) for each in read_overlays([folder]).entries]
    assert found == [
        ("etc/plain", "0o644"),
        ("etc/secret", "0o600"),
        ("usr/bin/su", "0o4755"),
        ("var/empty", "0o755"),
        ("var/spool", "0o1777"),
        ("var/spool/x", "0o644"),
    ]


REFUSED = {
    "nothing": ({}, {}, "there is nothing to add or remove"),
    "through a symlink": ({"bin/new": b""}, {}, "is a directory, but 'bin' is a symlink to 'usr/bin' in base"),
    "a file for a folder": ({"var": b""}, {}, "is a file, but 'var' is a directory in base"),
    "a folder for a file": ({"etc/motd/x": b""}, {}, "is a directory, but 'etc/motd' is a file in base"),
    "behind a symlink": (SEED, {"removed": ["bin/tool"]}, "'bin/tool' cannot be removed: it is not there"),
    "not there": (SEED, {"removed": ["nope"]}, "'nope' cannot be removed: it is not there"),
    "removed and added": (SEED, {"removed": ["var"]}, "shall be removed, but an overlay has it"),
    "out of the image": (SEED, {"removed": ["../etc"]}, "is not a path inside an image"),
    "fifo": (
        {"etc/x": b""},
        {"prepare": lambda folder: os.mkfifo(folder / "etc/pipe")},
        "is neither file, folder nor symlink",
    ),
    "whiteout": ({"etc/.wh.motd": b""}, {}, "has a name that hides files in layers"),
    "statoverride": ({"statoverride": b"=384 /etc/nothing\n"}, {}, "names 'etc/nothing', which is not in the overlay"),
}


@pytest.mark.parametrize("files, options, what", REFUSED.values(), ids=REFUSED.keys())
def test_what_would_not_do_what_it_says_is_refused(tmp_path, files, options, what):
    folder = overlay(tmp_path / "overlay", files)
    folder.mkdir(exist_ok=True)
    options.get("prepare", str)(folder)
    new = small_layout(tmp_path / "base")
    with pytest.raises(BadInput) as raised:
        add_layer(new, read_overlays([folder], removed=options.get("removed", ())), LATER, where="base")
    assert raised.value.what == what


def test_a_file_and_a_folder_of_two_overlays_do_not_go_together(tmp_path):
    folders = [overlay(tmp_path / "a", {"etc/x": b""}), overlay(tmp_path / "b", {"etc/x/y": b""})]
    with pytest.raises(BadInput, match="is a directory, but an overlay before it has a file there"):
        read_overlays(folders)


def test_which_image_has_to_be_said_where_there_are_several(tmp_path):
    layout = small_layout(tmp_path / "base", "one", "two")
    found = []
    for tag in ("", "three"):
        with pytest.raises(BadInput) as raised:
            open_image(layout, tag, where="base")
        found.append(str(raised.value))
    assert found == [
        "base: holds 2 images (choose one by its tag: one, two)",
        "base: has no tag 'three' (its tags: one, two (annotation org.opencontainers.image.ref.name))",
    ]


def test_a_list_of_architectures_is_not_an_image(tmp_path):
    layout = small_layout(tmp_path / "base")
    inner = (layout / "index.json").read_bytes()
    digest = _sha256(inner)
    blob_path(layout, digest).write_bytes(inner)
    entry = {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": len(inner)}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    with pytest.raises(UnsupportedImage, match="is a list for several architectures"):
        open_image(layout)


SCHEMAS = {"image-index-schema": 0, "image-manifest-schema": 1, "config-schema": 2}


@pytest.mark.parametrize("by", BY)
@pytest.mark.parametrize("schema, number", SCHEMAS.items(), ids=SCHEMAS.keys())
def test_the_documents_are_what_ocis_schemas_ask_for(tmp_path, oci_schemas, schema, number, by):
    new, _ = added(small_layout(tmp_path / "base"), tmp_path, SEED, by=by)
    document = documents(new)[number]
    assert [error.message for error in oci_schemas[schema].iter_errors(document)] == []
    broken = {**document, "manifests": 1, "layers": 1, "rootfs": 1}
    assert list(oci_schemas[schema].iter_errors(broken)) != []


@pytest.mark.parametrize("by", BY)
def test_the_command_goes_from_archive_to_archive_and_tells_the_difference(tmp_path, monkeypatch, by):
    monkeypatch.setenv("IMAGE_HARNESS_STORE", str(tmp_path / "store"))
    base, folder, new = small_archive(tmp_path), overlay(tmp_path / "overlay", SEED), tmp_path / "new.ociarchive"
    before = base.read_bytes()
    arguments = ["add", str(base), "-f", str(folder), "-o", str(new), "--by", by, "--epoch", str(LATER), "--json"]
    done = CliRunner().invoke(layer, arguments, catch_exceptions=False)
    told = json.loads(done.stdout)
    compared = CliRunner().invoke(
        layer, ["diff", str(base), str(new), "--json"], catch_exceptions=False, standalone_mode=False
    )
    delta = json.loads(compared.stdout)
    assert (told["layer"], told["diff_id"]) == (delta["layer"], delta["diff_id"])
    assert (delta["differences"], delta["paths"], base.read_bytes() == before) == ([], ["var/ybettan.txt"], True)
    assert list((tmp_path / "store/scratch").glob("*")) == []


def test_the_archive_may_be_replaced_by_the_new_one(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGE_HARNESS_STORE", str(tmp_path / "store"))
    base, folder = small_archive(tmp_path), overlay(tmp_path / "overlay", SEED)
    shutil.copyfile(base, tmp_path / "was.ociarchive")
    CliRunner().invoke(layer, ["add", str(base), "-f", str(folder), "-o", str(base)], catch_exceptions=False)
    with opened_layout(tmp_path / "was.ociarchive", tmp_path) as was, opened_layout(base, tmp_path) as now:
        assert layered(was, now).differences == ()


def test_a_failed_addition_leaves_the_target_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGE_HARNESS_STORE", str(tmp_path / "store"))
    base, folder = small_archive(tmp_path), overlay(tmp_path / "overlay", {"bin/x": b""})
    before = base.read_bytes()
    done = CliRunner().invoke(layer, ["add", str(base), "-f", str(folder), "-o", str(base)])
    assert isinstance(done.exception, HarnessError)
    assert (base.read_bytes(), sorted(path.name for path in tmp_path.glob(".*"))) == (before, [])
