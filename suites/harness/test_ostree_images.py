"""ostree commits as container images and back: the same commit, whatever is in it, and nothing that is not proven."""

import contextlib
import json
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from harness.compose.base import opened_repo
from harness.compose.delta import layered
from harness.compose.encapsulate import encapsulate
from harness.compose.gvariant import decode
from harness.compose.imagetree import read_tree
from harness.compose.layering import add_layer
from harness.compose.ociarchive import copied_layout, pack, unpack
from harness.compose.ociimage import blob_path, open_image
from harness.compose.ostreerepo import COMMIT, DIRMETA, DIRTREE, OstreeRepo
from harness.compose.overlay import read_overlays
from harness.compose.tarwriter import GzipSink
from harness.compose.unencapsulate import unencapsulate
from harness.containers.folder import FolderFiles
from harness.containers.imagefolder import verify_folder
from harness.errors import BadInput, DamagedArtifact
from harness.tools import known_tools, run
from suites.harness.small_image import overlay, small_layout
from suites.harness.test_ociarchive import rewritten

pytestmark = pytest.mark.skipif(known_tools()["ostree"].find() is None, reason="ostree is not installed")
REF = "reference/x86_64/coreos"
FILES = {
    "usr/bin/tool": b"tool\n" * 3000,
    "usr/bin/again": b"tool\n" * 3000,
    "usr/bin/empty": b"",
    "usr/bin/link": "tool",
    "usr/etc/motd": b"hello\n",
    "usr/lib/" + "long-" * 20 + "/" + "name-" * 30: b"long\n",
    "usr/share/" + "é" * 30: b"not ascii\n",
    "usr/lib/modules/6.1/vmlinuz": b"kernel",
    "usr/lib/modules/6.1/initramfs.img": b"initramfs",
    "sysroot": None,
    "var": None,
    "boot": None,
    "ostree": "sysroot/ostree",
}


def committed(folder, mode, files=FILES):
    """A repository with one commit of the files; its owners, modes and extended attributes are not all the same."""
    tree = overlay(folder / "tree", files)
    if os.geteuid() == 0:
        os.chown(tree / "usr/etc/motd", 12, 34)
        os.setxattr(tree / "usr/bin/tool", "user.one", b"1" * 300)
        os.setxattr(tree / "usr/bin/tool", "user.two", b"\x00\xff")
        os.setxattr(tree / "usr/etc", "user.folder", b"f")
    (tree / "usr/bin/tool").chmod(0o4755)
    repo = folder / mode
    run(["ostree", "init", f"--repo={repo}", f"--mode={mode}"])
    commit = run([
        "ostree", "commit", f"--repo={repo}", f"--branch={REF}", f"--tree=dir={tree}", "--subject=Small", "--bootable",
        "--timestamp=@1700000000", "--add-metadata-string=version=12.1",
    ])  # fmt: skip
    return repo, commit.decode().strip()


def repo_of(folder):
    return OstreeRepo(FolderFiles(folder.parent), f"/{folder.name}")


@pytest.fixture(scope="module", params=["archive", "bare"])
def made(request, tmp_path_factory):
    """A repository of each mode, its commit, and the layout it became."""
    if request.param == "bare" and os.geteuid():
        pytest.skip("only root can write a bare repository")
    folder = tmp_path_factory.mktemp("made")
    repo, commit = committed(folder, request.param)
    (folder / "layout").mkdir()
    return repo, commit, folder / "layout", encapsulate(repo_of(repo), REF, folder / "layout")


def test_the_image_says_what_is_in_it(made):
    _, commit, layout, done = made
    image = open_image(layout)
    labels = {
        "containers.bootc": "1",
        "org.opencontainers.image.version": "12.1",
        "ostree.bootable": "true",
        "ostree.commit": commit,
        "ostree.final-diffid": done.diff_id,
        "ostree.linux": "6.1",
        "version": "12.1",
    }
    assert (image.config["config"]["Labels"], image.manifest["annotations"]) == (labels, labels)
    assert image.config["history"] == [{"created": "2023-11-14T22:13:20Z", "created_by": "Small"}]
    assert (image.tag, done.commit) == ("latest", commit)
    assert verify_folder(FolderFiles(layout.parent), f"/{layout.name}").problems == ()


def test_the_tree_in_it_is_that_of_a_container(made):
    """/usr/etc is /etc, files are hard links to their objects, and /var/tmp is there."""
    _, _, layout, _ = made
    tree = read_tree(open_image(layout))
    shown = {path: each.member.kind for path, each in tree.items() if not path.startswith("sysroot/ostree")}
    assert shown == {
        **dict.fromkeys(["boot", "etc", "sysroot", "usr", "usr/bin", "usr/lib", "usr/share", "var"], "directory"),
        "usr/lib/" + "long-" * 20: "directory",
        "usr/lib/modules": "directory",
        "usr/lib/modules/6.1": "directory",
        "usr/lib/modules/6.1/initramfs.img": "hardlink",
        "usr/lib/modules/6.1/vmlinuz": "hardlink",
        "var/tmp": "directory",
        "ostree": "hardlink",
        "etc/motd": "hardlink",
        "usr/bin/again": "hardlink",
        "usr/bin/empty": "file",
        "usr/bin/link": "hardlink",
        "usr/bin/tool": "hardlink",
        "usr/lib/" + "long-" * 20 + "/" + "name-" * 30: "hardlink",
        "usr/share/" + "é" * 30: "hardlink",
    }


def test_the_same_commit_comes_back_and_is_sound(made, tmp_path):
    _, commit, layout, _ = made
    done = unencapsulate(open_image(layout), tmp_path / "repo", ref=REF)
    assert (done.commit, done.version, done.layers_above) == (commit, "12.1", ())
    run(["ostree", "fsck", f"--repo={tmp_path}/repo"])
    assert run(["ostree", "rev-parse", f"--repo={tmp_path}/repo", REF]).decode().strip() == commit


def test_ostree_lists_the_same_files_as_before(made, tmp_path):
    repo, commit, layout, _ = made
    unencapsulate(open_image(layout), tmp_path / "repo", ref=REF)
    before, after = (
        run(["ostree", "ls", "-R", "-C", "-X", f"--repo={each}", commit]) for each in (repo, tmp_path / "repo")
    )
    assert after == before


def test_both_modes_give_the_same_bytes(tmp_path):
    if os.geteuid():
        pytest.skip("only root can write a bare repository")
    digests = []
    for mode in ("archive", "bare", "archive"):
        folder = tmp_path / f"{mode}{len(digests)}"
        folder.mkdir()
        repo, _ = committed(folder, mode)
        (folder / "layout").mkdir()
        digests.append(encapsulate(repo_of(repo), REF, folder / "layout").manifest)
    assert len(set(digests)) == 1


def test_a_layer_on_top_leaves_the_commit_as_it_is(made, tmp_path):
    _, commit, layout, _ = made
    pack(layout, tmp_path / "base.ociarchive", 0)
    unpack(tmp_path / "base.ociarchive", tmp_path / "new")
    added = add_layer(
        tmp_path / "new", read_overlays([overlay(tmp_path / "over", {"var/ybettan.txt": b"was here\n"})]), 0
    )
    assert layered(layout, tmp_path / "new").differences == ()
    done = unencapsulate(open_image(tmp_path / "new"), tmp_path / "repo")
    assert (done.commit, done.layers_above) == (commit, (added.diff_id,))


@pytest.mark.skipif(known_tools()["umoci"].find() is None or bool(os.geteuid()), reason="no umoci as root")
def test_ostree_takes_the_repository_that_umoci_unpacks_for_sound(made, tmp_path):
    """The layer's own repository, in mode bare-split-xattrs, by libostree that reads it."""
    _, commit, layout, _ = made
    run(["umoci", "unpack", "--image", f"{layout}:latest", tmp_path / "bundle"])
    inside = tmp_path / "bundle/rootfs/sysroot/ostree/repo"
    shown = run(["ostree", "show", f"--repo={inside}", commit]).decode()
    assert "Small" in shown
    listed = run(["ostree", "ls", "-R", f"--repo={inside}", commit, "/usr/etc"]).decode()
    assert "/usr/etc/motd" in listed


def retarred(layout, change):
    """The layout's only layer with changed members, and all that names it told so."""
    image = open_image(layout)
    import gzip
    import io

    data = gzip.decompress(blob_path(layout, image.layers[0].digest).read_bytes())
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(data)) as old,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in old:
            content = old.extractfile(member).read() if member.isfile() else b""
            for changed, bytes_ in change(member, content):
                changed.size = len(bytes_)
                new.addfile(changed, io.BytesIO(bytes_))
    aside = layout / "aside"
    with aside.open("wb") as packed:
        sink = GzipSink(packed)
        sink.write(out.getvalue())
        sink.close()
    aside.rename(blob_path(layout, sink.digest))
    labels = {**image.config["config"]["Labels"], "ostree.final-diffid": sink.diff_id}
    config = {**image.config, "config": {"Labels": labels}, "rootfs": {"type": "layers", "diff_ids": [sink.diff_id]}}
    import hashlib

    told = json.dumps(config).encode()
    digest = f"sha256:{hashlib.sha256(told).hexdigest()}"
    blob_path(layout, digest).write_bytes(told)
    layers = [{**image.manifest["layers"][0], "digest": sink.digest, "size": sink.size}]
    described = {**image.manifest["config"], "digest": digest, "size": len(told)}
    rewritten(layout, {**image.manifest, "config": described, "layers": layers})


def ending(*suffixes):
    return lambda member: member.name.endswith(suffixes)


def without(which):
    return lambda member, data: [] if which(member) else [(member, data)]


def twice(which):
    return lambda member, data: [(member, data)] * (2 if which(member) else 1)


def other(which, change):
    return lambda member, data: [(member, change(data))] if which(member) else [(member, data)]


def chowned(member, data):
    if member.name.endswith(".file"):
        member.uid += 1
    return [(member, data)]


DAMAGE = {
    "a byte": (
        other(lambda each: each.name.endswith(".file") and each.size > 9, lambda data: data[:-1] + b"?"),
        "is not the file",
    ),
    "an owner": (chowned, "is not the file"),
    "a file": (without(lambda each: each.name.endswith(".file") and each.size > 9), "is missing"),
    "a dirtree": (without(ending(".dirtree")), "the dirtree "),
    "a dirmeta": (without(ending(".dirmeta")), "the dirmeta "),
    "the commit": (without(ending(".commit")), "the commit "),
    "another commit": (other(ending(".commit"), lambda data: data + b"x"), "has the digest"),
    "xattrs": (without(ending(".file-xattrs")), "comes without its extended attributes"),
    "links of xattrs": (without(ending(".file-xattrs-link")), "comes without its extended attributes"),
    "other xattrs": (other(ending(".file-xattrs"), lambda data: data + b"x"), "have another digest"),
    "twice": (twice(ending(".dirtree")), "is there twice"),
}


@pytest.mark.parametrize("damage, what", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_encapsulation_is_refused_and_leaves_nothing(made, tmp_path, damage, what):
    layout = copied_layout(made[2], tmp_path / "layout")
    retarred(layout, damage)
    with pytest.raises(DamagedArtifact) as raised:
        unencapsulate(open_image(layout), tmp_path / "repo", where="X.ociarchive")
    assert what in raised.value.what
    assert (raised.value.where, sorted(path.name for path in tmp_path.iterdir())) == ("X.ociarchive", ["layout"])


def test_an_image_without_a_commit_is_bad_input(tmp_path):
    with pytest.raises(BadInput, match=r"encapsulates no ostree commit: it has no label ostree\.commit"):
        unencapsulate(open_image(small_layout(tmp_path / "layout")), tmp_path / "repo")


@pytest.mark.parametrize("byte", [8, 17, 30, -9], ids=["size", "owner", "device", "content"])
def test_a_damaged_repository_is_not_encapsulated(tmp_path, byte):
    repo, _ = committed(tmp_path, "archive")
    victim = max(repo.glob("objects/*/*.filez"), key=lambda path: path.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[byte] ^= 1
    victim.write_bytes(data)
    (tmp_path / "layout").mkdir()
    with pytest.raises(DamagedArtifact):
        encapsulate(repo_of(repo), REF, tmp_path / "layout")


def test_what_is_no_repository_or_ref_is_bad_input(tmp_path):
    repo, _ = committed(tmp_path, "archive")
    (tmp_path / "user").mkdir()
    (tmp_path / "user/config").write_text("[core]\nmode=bare-user\n")
    words = []
    for folder, rev in ((tmp_path / "tree", REF), (tmp_path / "user", REF), (repo, "nope"), (repo, "../config")):
        with pytest.raises(BadInput) as raised:
            repo_of(folder).resolve(rev)
        words.append(raised.value.what)
    assert words == [
        "is no ostree repository: it has no config",
        "is a repository in mode 'bare-user'; we read bare and archive",
        "has no ref 'nope'",
        "has no ref '../config'",
    ]


def test_a_folder_that_is_no_repository_is_named(tmp_path):
    with pytest.raises(BadInput, match=f"{tmp_path}: is a folder, but no ostree repository"), opened_repo(tmp_path):
        pass


@settings(max_examples=300, deadline=None)
@given(kind=some.sampled_from([COMMIT, DIRTREE, DIRMETA]), data=some.binary(max_size=300))
def test_noise_is_no_object(kind, data):
    with contextlib.suppress(DamagedArtifact):
        decode(kind, data)
