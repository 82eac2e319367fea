"""Families from the command line: dehydrated to a folder, made again to files, streams and devices."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import random
import shutil
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from backports import zstd

from harness.delta.errors import DamagedRecipe, WrongBase
from harness.delta.family.dehydrate import dehydrate
from harness.delta.family.delivery import ToFolder
from harness.delta.family.known import SETTLED, remembering
from harness.delta.family.listing import INDEX, read_index
from harness.delta.family.rehydrate import Wish, check_family, rehydrate
from harness.delta.identity import identity_of
from harness.errors import BadInput
from harness.store import Store
from suites.delta.small_family import CONTAINERS, command, digests, refused

NAMES = list(CONTAINERS)
MIB = 2**20


def test_every_image_comes_back(family, images, tmp_path):
    said = command("rehydrate", family, "--all", "-o", tmp_path / "out").stdout
    assert digests(tmp_path / "out") == digests(images[0].parent)
    assert sorted(line.split("  ")[1] for line in said.splitlines()) == sorted(NAMES)


def test_one_image_is_stored_and_the_others_are_small(family):
    listed = {image.name: image for image in read_index(family).images}
    whole = [image for image in listed.values() if not image.is_recipe]
    assert len(whole) == 1
    assert all(image.stored < 3000 for image in listed.values() if image.is_recipe)
    assert {path.name for path in family.iterdir()} == {INDEX, *(image.file for image in listed.values())}


def test_the_same_images_give_the_same_bytes(family, images, tmp_path):
    dehydrate(images, tmp_path / "again", effort="fast", verify=False)
    assert digests(tmp_path / "again") == digests(family)


@pytest.mark.parametrize("name", NAMES)
def test_one_image_comes_alone_and_leaves_nothing_else(family, images, tmp_path, name):
    command("rehydrate", family, name, "-o", tmp_path)
    assert digests(tmp_path) == {name: digests(images[0].parent)[name]}


def test_standard_output_gets_one_image(family, images):
    done = command("rehydrate", family, "aws.vmdk", "-o", "-")
    assert done.stdout_bytes == images[NAMES.index("aws.vmdk")].read_bytes()


def test_standard_output_gets_an_archive_of_several_in_the_order_asked_for(family, images):
    done = command("rehydrate", family, "metal.raw", "qemu.qcow2", "-o", "-")
    with tarfile.open(fileobj=io.BytesIO(done.stdout_bytes)) as archive:
        found = {entry.name: archive.extractfile(entry).read() for entry in archive.getmembers()}
    assert list(found) == ["metal.raw", "qemu.qcow2"]
    assert all(data == (images[0].parent / name).read_bytes() for name, data in found.items())


@pytest.mark.parametrize("kind, program", [("gz", ["gzip", "-dc"]), ("zst", ["zstd", "-dcq"])])
def test_images_are_packed_for_the_way(family, images, tmp_path, kind, program):
    command("rehydrate", family, "qemu.qcow2", "--compress", kind, "-o", tmp_path)
    packed = tmp_path / f"qemu.qcow2.{kind}"
    assert list(tmp_path.iterdir()) == [packed]
    assert subprocess.run([*program, packed], capture_output=True, check=True).stdout == images[0].read_bytes()


def test_packed_images_on_standard_output_are_members_of_the_archive(family, images):
    done = command("rehydrate", family, "--all", "--compress", "gz", "-o", "-")
    with tarfile.open(fileobj=io.BytesIO(done.stdout_bytes)) as archive:
        found = {entry.name: gzip.decompress(archive.extractfile(entry).read()) for entry in archive.getmembers()}
    assert found == {f"{path.name}.gz": path.read_bytes() for path in images}


def test_a_packed_image_is_listed_as_what_is_inside(images, tmp_path):
    packed = tmp_path / "qemu.qcow2.xz"
    packed.write_bytes(lzma.compress(images[0].read_bytes()))
    dehydrate([packed, images[1]], tmp_path / "set", effort="fast")
    assert [image.name for image in read_index(tmp_path / "set").images] == ["qemu.qcow2", "openstack.qcow2"]
    command("rehydrate", tmp_path / "set", "qemu.qcow2", "-o", tmp_path / "out")
    assert (tmp_path / "out/qemu.qcow2").read_bytes() == images[0].read_bytes()


def test_a_compressed_file_comes_back_as_it_was_where_its_name_promises_nothing_else(images, tmp_path):
    """An initramfs."""
    initramfs = tmp_path / "initramfs.img"
    initramfs.write_bytes(zstd.compress(images[0].read_bytes()[:300_000] + b"an archive"))
    given = tmp_path / "live.iso"
    given.write_bytes(bytes(2048) + initramfs.read_bytes() + images[0].read_bytes()[:5000])
    dehydrate([initramfs], tmp_path / "set", given=[given], effort="fast")
    command("rehydrate", tmp_path / "set", "initramfs.img", "--base", given, "-o", tmp_path / "out")
    assert (tmp_path / "out/initramfs.img").read_bytes() == initramfs.read_bytes()
    assert read_index(tmp_path / "set").image("initramfs.img").stored < 1000


def test_a_packed_base_may_have_any_name(images, tmp_path):
    dehydrate(images[1:2], tmp_path / "update", given=images[:1], effort="fast")
    packed = tmp_path / "last month's"
    packed.write_bytes(gzip.compress(images[0].read_bytes()))
    command("rehydrate", tmp_path / "update", "openstack.qcow2", "--base", packed, "-o", tmp_path / "out")
    assert (tmp_path / "out/openstack.qcow2").read_bytes() == images[1].read_bytes()


def test_a_base_that_everybody_has_is_not_stored(images, tmp_path):
    dehydrate(images[1:2], tmp_path / "update", given=images[:1], effort="fast")
    listed = read_index(tmp_path / "update").images
    assert [(image.name, image.bases) for image in listed] == [("qemu.qcow2", ()), ("openstack.qcow2", ("qemu.qcow2",))]
    assert sum(image.stored for image in listed) < 1024
    command("rehydrate", tmp_path / "update", "openstack.qcow2", "--base", images[0], "-o", tmp_path / "out")
    assert (tmp_path / "out/openstack.qcow2").read_bytes() == images[1].read_bytes()


def test_a_missing_base_is_asked_for_by_name_and_digest(images, tmp_path):
    dehydrate(images[1:2], tmp_path / "update", given=images[:1], effort="fast")
    said = refused("rehydrate", tmp_path / "update", "openstack.qcow2", "-o", tmp_path / "out")
    assert f"qemu.qcow2: is not in this folder: expected SHA-256 {digests(images[0].parent)['qemu.qcow2']}" in said
    assert not list((tmp_path / "out").iterdir())


def test_a_wrong_base_is_refused_with_both_digests(images, tmp_path):
    dehydrate(images[1:2], tmp_path / "update", given=images[:1], effort="fast")
    known = digests(images[0].parent)
    with pytest.raises(WrongBase) as refusal:
        check_family(tmp_path / "update", Wish(given=(images[2],)))
    assert known["metal.raw"] in str(refusal.value)
    assert known["qemu.qcow2"] in str(refusal.value)


def test_a_file_that_is_there_stays_unless_it_may_go(family, images, tmp_path):
    old = tmp_path / "qemu.qcow2"
    old.write_bytes(b"old")
    assert "is there already" in refused("rehydrate", family, "qemu.qcow2", "-o", tmp_path)
    assert old.read_bytes() == b"old"
    command("rehydrate", family, "qemu.qcow2", "-o", tmp_path, "--force")
    assert old.read_bytes() == images[0].read_bytes()


@pytest.mark.parametrize("which", ["stored", "recipe"])
def test_a_damaged_file_of_the_family_leaves_what_was_there(own, tmp_path, which):
    listed = read_index(own).images
    image = next(image for image in listed if image.is_recipe == (which == "recipe"))
    with (own / image.file).open("r+b") as file:
        file.seek(image.stored // 2)
        byte = file.read(1)[0]
        file.seek(image.stored // 2)
        file.write(bytes([byte ^ 1]))
    (tmp_path / "out").mkdir()
    old = tmp_path / "out" / image.name
    old.write_bytes(b"old")
    assert image.file in refused("rehydrate", own, image.name, "-o", tmp_path / "out", "--force")
    assert (list(old.parent.iterdir()), old.read_bytes()) == ([old], b"old")


@pytest.mark.parametrize(
    "arguments, says",
    [
        (("qcow",), "there is no image 'qcow' in this family (there are: "),
        ((), "no image is named"),
        (("--all", "qemu.qcow2"), "either names or --all"),
    ],
)
def test_what_cannot_be_asked_for_is_said(family, arguments, says):
    assert says in refused("rehydrate", family, *arguments)


def test_a_folder_without_index_is_said_to_be_none(tmp_path):
    assert "is no folder of recipes" in refused("rehydrate", tmp_path, "--all")


def test_two_images_of_one_name_are_refused(images, tmp_path):
    other = tmp_path / "qemu.qcow2"
    other.write_bytes(b"x")
    with pytest.raises(BadInput, match="are both called qemu"):
        dehydrate([images[0], other], tmp_path / "set")
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize("name", ["a.recipe", "a.zst", INDEX, "-x", ".hidden", "x" * 201, "a:b"])
def test_an_image_of_a_name_that_would_mislead_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"x" * 5000)
    with pytest.raises(BadInput, match="is no name for an image"):
        dehydrate([tmp_path / name], tmp_path / "set")


def test_a_base_may_be_called_like_its_image(images, tmp_path):
    (tmp_path / "old").mkdir()
    old = Path(shutil.copy(images[1], tmp_path / "old" / images[0].name))
    dehydrate(images[:1], tmp_path / "set", given=[old], effort="fast")
    assert [image.name for image in read_index(tmp_path / "set").images] == ["base-qemu.qcow2", "qemu.qcow2"]
    command("rehydrate", tmp_path / "set", "qemu.qcow2", "--base", old, "-o", tmp_path / "out")
    assert (tmp_path / "out/qemu.qcow2").read_bytes() == images[0].read_bytes()


def test_a_packed_base_serves_as_what_is_inside(images, tmp_path):
    packed = tmp_path / "qemu.qcow2.gz"
    packed.write_bytes(gzip.compress(images[0].read_bytes()))
    dehydrate(images[1:2], tmp_path / "update", given=[packed], effort="fast")
    command("rehydrate", tmp_path / "update", "openstack.qcow2", "--base", packed, "-o", tmp_path / "out")
    assert (tmp_path / "out/openstack.qcow2").read_bytes() == images[1].read_bytes()


def test_an_image_and_a_base_may_be_the_same(images, tmp_path):
    same = Path(shutil.copy(images[0], tmp_path / "same.qcow2"))
    dehydrate([same], tmp_path / "set", given=images[:1], effort="fast")
    command("rehydrate", tmp_path / "set", "same.qcow2", "--base", images[0], "-o", tmp_path / "out")
    assert (tmp_path / "out/same.qcow2").read_bytes() == images[0].read_bytes()


def test_files_that_the_user_gave_stay_as_they_are(images, tmp_path):
    """Packed for the way, a base that is asked for goes through a scratch file, not beside the user's own."""
    mine = tmp_path / "mine"
    mine.mkdir()
    shutil.copy(images[0], mine / "old.qcow2")
    (mine / "old.qcow2.zst").write_bytes(b"precious")
    dehydrate(images[1:2], tmp_path / "set", given=images[:1], effort="fast")
    before = digests(mine) | digests(tmp_path / "set")
    names = ("qemu.qcow2", "openstack.qcow2")
    done = command("rehydrate", tmp_path / "set", *names, "--base", mine / "old.qcow2", "--compress", "zst", "-o", "-")
    assert digests(mine) | digests(tmp_path / "set") == before
    with tarfile.open(fileobj=io.BytesIO(done.stdout_bytes)) as archive:
        assert archive.getnames() == [f"{name}.zst" for name in names]


def test_a_base_that_changed_after_it_was_looked_at_is_not_delivered(images, tmp_path):
    dehydrate(images[1:2], tmp_path / "set", given=images[:1], effort="fast")
    base = Path(shutil.copy(images[0], tmp_path / "base"))

    def looked_at(path):
        found = identity_of(path)
        with path.open("r+b") as file:
            file.seek(MIB)
            file.write(b"changed")
        return found

    with pytest.raises(DamagedRecipe, match="holds"):
        rehydrate(tmp_path / "set", Wish(("qemu.qcow2",), (base,)), ToFolder(tmp_path / "out"), identify=looked_at)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_archive_that_could_not_be_ended_has_no_end(own, images):
    last = read_index(own).images[-1]
    with (own / last.file).open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    first = read_index(own).images[0].name
    done = command("rehydrate", own, first, last.name, "-o", "-", code=2)
    assert not done.stdout_bytes.endswith(bytes(1024))


@pytest.mark.parametrize("kind", ["pipe", "link", "folder"])
def test_only_plain_files_are_taken_from_a_folder(own, kind):
    recipe = own / next(image.file for image in read_index(own).images if image.is_recipe)
    for path in (recipe, own / INDEX):
        path.unlink()
        {"pipe": os.mkfifo, "link": lambda at: at.symlink_to("/etc/passwd"), "folder": Path.mkdir}[kind](path)
        assert "is no plain file" in refused("rehydrate", own, "--all", "--check")


def test_a_disk_that_is_full_is_said(family):
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "harness.cli", "rehydrate", family, "aws.vmdk", "-o", "-"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, b"Traceback" in done.stderr, b"standard output" in done.stderr) == (2, False, True)


def test_a_folder_that_cannot_be_written_is_said(family, tmp_path):
    (tmp_path / "file").write_text("a file")
    assert "cannot be written" in refused("rehydrate", family, "aws.vmdk", "-o", tmp_path / "file/out")


def test_what_a_base_is_can_go_unremembered(images, tmp_path, monkeypatch):
    monkeypatch.setenv("IMAGE_HARNESS_STORE", "/proc/nowhere")
    dehydrate(images[1:2], tmp_path / "set", given=images[:1], effort="fast")
    command("rehydrate", tmp_path / "set", "openstack.qcow2", "--base", images[0], "-o", tmp_path / "out")
    assert (tmp_path / "out/openstack.qcow2").read_bytes() == images[1].read_bytes()


def test_a_folder_in_use_is_not_written_into(images, tmp_path):
    (tmp_path / "mine").write_text("mine")
    assert "is there already" in refused("dehydrate", images[0], "-o", tmp_path, "--effort", "fast")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize("content", [b"", b"x", b"no image at all\n" * 1000], ids=["empty", "byte", "text"])
def test_any_file_can_be_of_a_family(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    (tmp_path / "same").write_bytes(content)
    dehydrate([tmp_path / "file", tmp_path / "same"], tmp_path / "set")
    command("rehydrate", tmp_path / "set", "--all", "-o", tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {"file": content, "same": content}


def test_recipe_show_tells_all_as_json(family):
    listed = {image.name: image for image in read_index(family).images}
    vmdk = listed["aws.vmdk"]
    shown = json.loads(command("recipe", "show", "--json", family / vmdk.file).stdout)
    assert shown["wrapped"] == {"size": vmdk.size, "sha256": vmdk.sha256}
    assert [base["sha256"] for base in shown["bases"]] == [listed[name].sha256 for name in vmdk.bases]
    assert sum(origin["bytes"] for origin in shown["origins"]) == shown["target"]["size"]
    assert (shown["size"], shown["layers"]) == (vmdk.stored, ["vmdk"])
    assert any("zlib" in library for library in shown["relies_on"])


def test_zeroes_are_not_stored(tmp_path):
    """Bytes that do not pack beside many zeroes: the image as a whole does pack."""
    image = tmp_path / "image"
    image.write_bytes(random.Random(1).randbytes(MIB) + bytes(15 * MIB))
    assert dehydrate([image], tmp_path / "set").size < 1.1 * MIB


def test_recipe_show_reads_well(family):
    said = command("recipe", "show", family / "aws.vmdk.recipe").stdout
    assert "as        vmdk, around" in said
    assert "from base 0" in said


def test_recipe_show_refuses_what_is_none(family):
    assert "is no recipe" in refused("recipe", "show", family / INDEX)


def test_a_base_is_hashed_once_and_again_when_it_changed(images, tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr("harness.delta.family.known.identity_of", lambda path: hashed.append(path) or identity_of(path))
    identify = remembering(Store(tmp_path / "store"))
    base = Path(shutil.copy(images[0], tmp_path / "base"))
    time.sleep(SETTLED)
    first = identify(base)
    assert (first, len(hashed)) == (identity_of(base), 1)
    assert (identify(base), len(hashed)) == (first, 1)
    stamps = base.stat()
    with base.open("r+b") as file:
        file.write(b"other")
    os.utime(base, ns=(stamps.st_atime_ns, stamps.st_mtime_ns))
    assert identify(base) == identity_of(base) != first


def test_a_file_that_just_changed_is_not_remembered(images, tmp_path):
    base = Path(shutil.copy(images[0], tmp_path / "base"))
    remembering(Store(tmp_path / "store"))(base)
    assert not (tmp_path / "store/identity").exists()
