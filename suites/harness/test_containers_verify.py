"""A preloaded containers-storage is whole, and every way we know to damage it is found where it is."""

import gzip
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from harness.containers.folder import FolderFiles
from harness.containers.images import LAYERED_NAME, STATIC_NAME
from harness.containers.records import big_data_path, list_images
from harness.containers.verify import verify_storage
from harness.images.filesystems.files import open_files
from harness.images.formats.raw import FileBlock
from harness.tools import run
from suites.harness.stored_images import Store, needs_store, small_store

BOTH = f"{LAYERED_NAME}, {STATIC_NAME}"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def store(pristine, tmp_path):
    subprocess.run(["cp", "-a", pristine.root, tmp_path / "storage"], check=True)
    return replace(pristine, root=tmp_path / "storage")


@needs_store
def test_a_whole_store_has_no_problems_and_is_told_in_full(pristine):
    report = verify_storage(FolderFiles(pristine.root), "/")
    assert report.problems == ()
    assert report.images == list_images(FolderFiles(pristine.root), "")
    held = {image.names: [layer.id for layer in image.layers] for image in report.images}
    assert held == {
        (STATIC_NAME,): [pristine.base],
        (LAYERED_NAME,): [pristine.base, pristine.added, pristine.hidden, pristine.top],
    }


@dataclass
class Damage:
    """One way to break a store, and the one problem that must come of it."""

    name: str
    do: Callable[[Store], object]
    image: str
    layer: str  # field of Store, or nothing
    path: str  # relative to the store; {layer}, {image}, {link} are filled in
    what: str  # part of the sentence

    def __str__(self):
        return self.name.replace(" ", "-")


def flip(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def link_of(store, layer):
    return (store.root / "overlay" / layer / "link").read_text()


def replace_symlink(path, target):
    path.unlink()
    path.symlink_to(target)


def config_path(store):
    return big_data_path(store.image, f"sha256:{store.image}")


def without(layer):
    return lambda layers: [entry for entry in layers if entry["id"] != layer]


def with_lower_in_order(store):
    lower = store.root / "overlay" / store.top / "lower"
    lower.write_text(":".join(reversed(lower.read_text().split(":"))))


def set_in(entry_id, key, value):
    return lambda entries: [{**entry, **({key: value} if entry["id"] == entry_id else {})} for entry in entries]


DAMAGES = [
    Damage("one bit of a program", lambda s: s.rewrite(f"overlay/{s.base}/diff/bin/busybox", flip),
           BOTH, "base", "overlay/{layer}/diff/bin/busybox", "bytes were changed"),
    Damage("one bit of a script", lambda s: s.rewrite(f"overlay/{s.top}/diff/srv/speak", flip),
           LAYERED_NAME, "top", "overlay/{layer}/diff/srv/speak", "bytes were changed"),
    Damage("a file cut short", lambda s: os.truncate(s.diff(s.base, "bin/busybox"), 1000),
           BOTH, "base", "overlay/{layer}/diff/bin/busybox", "has 1,000 bytes instead of 102,405"),
    Damage("a file deleted", lambda s: s.diff(s.added, "home/core/notes").unlink(),
           LAYERED_NAME, "added", "overlay/{layer}/diff/home/core/notes", "is missing: the layer's tar has it"),
    Damage("a folder deleted", lambda s: shutil.rmtree(s.diff(s.added, "home")),
           LAYERED_NAME, "added", "overlay/{layer}/diff/home", "is missing"),
    Damage("a symlink bent", lambda s: replace_symlink(s.diff(s.base, "bin/sh"), "/etc/shadow"),
           BOTH, "base", "overlay/{layer}/diff/bin/sh", "points to '/etc/shadow', not to 'busybox'"),
    Damage("chmod", lambda s: s.diff(s.added, "srv/speak").chmod(0o4755),
           LAYERED_NAME, "added", "overlay/{layer}/diff/srv/speak", "has mode 4755 instead of 0755"),
    Damage("chown", lambda s: os.chown(s.diff(s.added, "home/core"), 0, 0),
           LAYERED_NAME, "added", "overlay/{layer}/diff/home/core", "belongs to 0:0 instead of 1000:1000"),
    Damage("chmod of a layer's root", lambda s: s.diff(s.base, "").chmod(0o777),
           BOTH, "base", "overlay/{layer}/diff", "has mode 0777: others than its owner may write"),
    Damage("a file replaced by a symlink", lambda s: replace_symlink(s.diff(s.added, "srv/hidden"), "speak"),
           LAYERED_NAME, "added", "overlay/{layer}/diff/srv/hidden", "is a symlink, not a file"),
    Damage("a file too many", lambda s: s.diff(s.top, "srv/backdoor").write_text("x"),
           LAYERED_NAME, "top", "overlay/{layer}/diff/srv/backdoor", "is not part of the layer"),
    Damage("a folder too many", lambda s: s.diff(s.top, "root/.ssh").mkdir(parents=True),
           LAYERED_NAME, "top", "overlay/{layer}/diff/root", "is not part of the layer"),
    Damage("a whiteout lost", lambda s: s.diff(s.hidden, "srv/hidden").unlink(),
           LAYERED_NAME, "hidden", "overlay/{layer}/diff/srv/hidden", "the whiteout is lost"),
    Damage("a whiteout become a file", lambda s: (s.diff(s.hidden, "srv/hidden").unlink(),
                                                  s.diff(s.hidden, "srv/hidden").write_text("")),
           LAYERED_NAME, "hidden", "overlay/{layer}/diff/srv/hidden", "is a file, not the whiteout"),
    Damage("an opaque mark lost", lambda s: os.removexattr(s.diff(s.hidden, "srv/emptied"), "trusted.overlay.opaque"),
           LAYERED_NAME, "hidden", "overlay/{layer}/diff/srv/emptied", "has lost its mark trusted.overlay.opaque"),
    Damage("an opaque mark for users only",
           lambda s: (os.removexattr(s.diff(s.hidden, "srv/emptied"), "trusted.overlay.opaque"),
                      os.setxattr(s.diff(s.hidden, "srv/emptied"), "user.overlay.opaque", b"y")),
           LAYERED_NAME, "hidden", "overlay/{layer}/diff/srv/emptied", "user.overlay.opaque counts in user namespaces"),
    Damage("a whiteout as a file of aufs",
           lambda s: (s.diff(s.hidden, "srv/hidden").unlink(), s.diff(s.hidden, "srv/.wh.hidden").touch()),
           LAYERED_NAME, "hidden", "overlay/{layer}/diff/srv/hidden", "a file .wh.* is none for overlayfs"),
    Damage("an opaque mark too many", lambda s: os.setxattr(s.diff(s.top, "srv"), "trusted.overlay.opaque", b"y"),
           LAYERED_NAME, "top", "overlay/{layer}/diff/srv", "is marked trusted.overlay.opaque without need"),
    Damage("a layer's content gone", lambda s: shutil.rmtree(s.diff(s.hidden, "")),
           LAYERED_NAME, "hidden", "overlay/{layer}/diff", "is missing: the layer has no content"),
    Damage("a link file removed", lambda s: (s.root / "overlay" / s.added / "link").unlink(),
           LAYERED_NAME, "added", "overlay/{layer}/link", "is missing"),
    Damage("a link file of nonsense", lambda s: (s.root / "overlay" / s.added / "link").write_text("../../etc"),
           LAYERED_NAME, "added", "overlay/{layer}/link", "holds '../../etc', not the 26 characters"),
    Damage("a short link removed", lambda s: (s.root / "overlay/l" / link_of(s, s.base)).unlink(),
           BOTH, "base", "overlay/l/{link}", "is missing: it should point to"),
    Damage("a short link bent", lambda s: replace_symlink(s.root / "overlay/l" / link_of(s, s.base), "../elsewhere"),
           BOTH, "base", "overlay/l/{link}", "points to '../elsewhere', not to"),
    Damage("a short link too many", lambda s: (s.root / "overlay/l/AAAA").symlink_to("../gone/diff"),
           "", "", "overlay/l/AAAA", "is no layer of this store"),
    Damage("lower in the wrong order", with_lower_in_order,
           LAYERED_NAME, "top", "overlay/{layer}/lower", "not the layers below"),
    Damage("lower removed", lambda s: (s.root / "overlay" / s.top / "lower").unlink(),
           LAYERED_NAME, "top", "overlay/{layer}/lower", "is missing"),
    Damage("tar-split cut short", lambda s: s.rewrite(f"overlay-layers/{s.added}.tar-split.gz", lambda d: d[:-20]),
           LAYERED_NAME, "added", "overlay-layers/{layer}.tar-split.gz", "is truncated"),
    Damage("tar-split removed", lambda s: (s.root / f"overlay-layers/{s.added}.tar-split.gz").unlink(),
           LAYERED_NAME, "added", "overlay-layers/{layer}.tar-split.gz", "is missing"),
    Damage("tar-split of another layer",
           lambda s: s.rewrite(f"overlay-layers/{s.top}.tar-split.gz",
                               lambda d: gzip.compress(gzip.decompress(d).replace(b'"position":0', b'"position":1')
                                                       + b'{"type":2,"payload":"AAAA"}\n')),
           LAYERED_NAME, "top", "overlay-layers/{layer}.tar-split.gz", "not the expected sha256:"),
    Damage("tar-split of the layer below",
           lambda s: shutil.copy(s.root / f"overlay-layers/{s.added}.tar-split.gz",
                                 s.root / f"overlay-layers/{s.top}.tar-split.gz"),
           LAYERED_NAME, "top", "overlay-layers/{layer}.tar-split.gz", "is that of layer "),
    Damage("a layer flagged incomplete",
           lambda s: s.edit("overlay-layers/layers.json", set_in(s.top, "flags", {"incomplete": True})),
           LAYERED_NAME, "top", "overlay-layers/layers.json", "flags this layer as incomplete"),
    Damage("the top layer unlisted", lambda s: s.edit("overlay-layers/layers.json", without(s.top)),
           LAYERED_NAME, "top", "overlay-layers/layers.json", "does not list this layer"),
    Damage("the base layer unlisted", lambda s: s.edit("overlay-layers/layers.json", without(s.base)),
           BOTH, "base", "overlay-layers/layers.json", "does not list this layer"),
    Damage("a wrong parent", lambda s: s.edit("overlay-layers/layers.json", set_in(s.top, "parent", s.base)),
           LAYERED_NAME, "top", "overlay-layers/layers.json", "says the parent is"),
    Damage("a wrong diff digest",
           lambda s: s.edit("overlay-layers/layers.json", set_in(s.top, "diff-digest", "sha256:" + "0" * 64)),
           LAYERED_NAME, "top", "overlay-layers/layers.json", "says the diff digest is sha256:0000"),
    Damage("a config changed", lambda s: s.rewrite(config_path(s), lambda d: d.replace(b"/bin/sh", b"/bin/su")),
           LAYERED_NAME, "", "{config}", "has the digest"),
    Damage("a config removed", lambda s: (s.root / config_path(s)).unlink(),
           LAYERED_NAME, "", "{config}", "is missing"),
    Damage("a manifest changed", lambda s: s.rewrite(f"overlay-images/{s.image}/manifest", flip),
           LAYERED_NAME, "", "overlay-images/{image}/manifest", "has the digest"),
    Damage("a manifest removed", lambda s: (s.root / f"overlay-images/{s.image}/manifest").unlink(),
           LAYERED_NAME, "", "overlay-images/{image}/manifest", "is missing"),
    Damage("a wrong digest", lambda s: s.edit("overlay-images/images.json", set_in(s.image, "digest", "sha256:1")),
           LAYERED_NAME, "", "overlay-images/images.json", "says the manifest is sha256:1"),
    Damage("a wrong topmost layer", lambda s: s.edit("overlay-images/images.json", set_in(s.image, "layer", s.added)),
           LAYERED_NAME, "", "overlay-images/images.json", "says the topmost layer is"),
    Damage("images.json cut short", lambda s: s.rewrite("overlay-images/images.json", lambda d: d[:-9]),
           "", "", "overlay-images/images.json", "is not the list it should be"),
    Damage("images.json removed", lambda s: (s.root / "overlay-images/images.json").unlink(),
           "", "", "overlay-images/images.json", "is missing"),
    Damage("layers.json removed", lambda s: (s.root / "overlay-layers/layers.json").unlink(),
           "", "", "overlay-layers/layers.json", "is missing"),
    Damage("a lock removed", lambda s: (s.root / "overlay-layers/layers.lock").unlink(),
           "", "", "overlay-layers/layers.lock", "cannot open a read-only store without it"),
    Damage("a scratch folder left", lambda s: (s.root / "tmp/storage1234").mkdir(),
           "", "", "tmp/storage1234", "was left by a run that was cut off"),
    Damage("a half-written list left", lambda s: (s.root / "overlay-images/.tmp-images.json99").touch(),
           "", "", "overlay-images/.tmp-images.json99", "is of no image"),
    Damage("a folder of a forgotten image left", lambda s: (s.root / "overlay-images" / ("1" * 64)).mkdir(),
           "", "", "overlay-images/" + "1" * 64, "is of no image"),
    Damage("a tar-split of a forgotten layer left",
           lambda s: (s.root / "overlay-layers" / ("1" * 64 + ".tar-split.gz")).touch(),
           "", "1" * 64, "overlay-layers/" + "1" * 64 + ".tar-split.gz", "is of no layer"),
    Damage("a half-written layer left", lambda s: (s.root / "overlay" / ("0" * 64)).mkdir(),
           "", "0" * 64, "overlay/" + "0" * 64, "layers.json does not list"),
]  # fmt: skip


@needs_store
@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_damage_gives_one_problem_that_names_image_layer_and_path(store, damage):
    layer = getattr(store, damage.layer, damage.layer)
    link = link_of(store, layer) if len(layer) == 64 and (store.root / "overlay" / layer).exists() else ""
    places = {"layer": layer, "image": store.image, "link": link, "config": config_path(store)}
    damage.do(store)
    found = store.problems()
    assert [problem[:3] for problem in found] == [(damage.image, layer, damage.path.format(**places))]
    assert damage.what in found[0][3]


@pytest.fixture
def verify_in_ext4(tmp_path):
    """Verifies a store from inside an ext4 image, as the suites do."""

    def verify(store):
        staged, image = tmp_path / "staged", tmp_path / "root.img"
        (staged / "var/lib/containers").mkdir(parents=True)
        subprocess.run(["cp", "-a", store.root, staged / "var/lib/containers/storage"], check=True)
        with image.open("wb") as file:
            file.truncate(32 * 2**20)
        run(["mke2fs", "-q", "-t", "ext4", "-d", staged, image])
        with FileBlock(image) as block:
            return verify_storage(open_files(block))

    return verify


@needs_store
def test_a_store_inside_an_ext4_image_is_whole(pristine, verify_in_ext4):
    report = verify_in_ext4(pristine)
    assert [str(problem) for problem in report.problems] == []
    assert report == verify_storage(FolderFiles(pristine.root), "")


@needs_store
@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage.layer], ids=str)
def test_damage_inside_an_ext4_image_is_told_in_the_same_words(store, verify_in_ext4, damage):
    damage.do(store)
    assert verify_in_ext4(store).problems == verify_storage(FolderFiles(store.root), "").problems


@needs_store
def test_every_changed_file_is_named(store):
    for path in ("srv/hidden", "srv/speak"):
        store.rewrite(f"overlay/{store.added}/diff/{path}", flip)
    assert [problem[2].partition("/diff/")[2] for problem in store.problems()] == ["srv/hidden", "srv/speak"]


@needs_store
def test_a_deleted_file_does_not_hide_a_changed_one(store):
    store.diff(store.added, "home/core/notes").unlink()
    store.rewrite(f"overlay/{store.added}/diff/srv/speak", flip)
    found = {problem[2].partition("/diff/")[2]: problem[3] for problem in store.problems()}
    assert found.keys() == {"home/core/notes", "srv/speak"}


@needs_store
def test_a_changed_file_too_large_to_be_named_is_told_all_the_same(store, monkeypatch):
    monkeypatch.setattr("harness.containers.layercheck.MOST_NAMED", 1000)
    store.rewrite(f"overlay/{store.base}/diff/bin/busybox", flip)
    assert [problem[2:] for problem in store.problems()] == [
        (
            f"overlay/{store.base}/diff",
            "1 of its largest files were not compared one by one: any of them may be changed",
        )
    ]


@needs_store
def test_a_problem_reads_as_a_sentence(store):
    store.diff(store.added, "srv/speak").chmod(0o644)
    (problem,) = verify_storage(FolderFiles(store.root), "").problems
    assert str(problem) == (
        f"image {LAYERED_NAME}, layer {store.added[:12]}: overlay/{store.added}/diff/srv/speak "
        "has mode 0644 instead of 0755"
    )


@needs_store
def test_of_very_many_differences_only_the_first_are_told(store):
    for number in range(80):
        store.diff(store.top, f"file-{number}").touch()
    found = store.problems()
    assert len(found) == 51
    assert "only the first 50" in found[-1][3]


@needs_store
def test_a_damaged_store_never_raises(store):
    """200 random injuries to the records, one at a time: always a report."""
    chance = random.Random(1)
    records = [
        path.relative_to(store.root)
        for path in (*store.root.glob("overlay-*/**/*"), *store.root.glob("overlay/*/l*"), store.root / "overlay/l")
        if path.is_file() and path.stat().st_size and path.name not in {"images.lock", "layers.lock"}
    ]
    for _ in range(200):
        path = chance.choice(records)
        whole = (store.root / path).read_bytes()
        place = chance.randrange(len(whole))
        injured = chance.choice(
            [
                whole[:place],
                whole[:place] + bytes([chance.randrange(256)]) + whole[place + 1 :],
                whole[:place] + chance.choice([b"[" * 5000, b"9" * 5000, b"null", b"\xff\0"]) + whole[place:],
            ]
        )
        (store.root / path).write_bytes(injured)
        store.problems()
        (store.root / path).write_bytes(whole)
    assert store.problems() == []


@needs_store
@pytest.mark.parametrize("content", [b"", b"null", b"{}", b'[{"id": 1}]', b'[{"id": "../../etc"}]', b"[" * 100_000])
@pytest.mark.parametrize("path", ["overlay-images/images.json", "overlay-layers/layers.json"])
def test_lists_that_are_no_lists_give_one_problem(store, path, content):
    (store.root / path).write_bytes(content)
    assert [problem[2] for problem in store.problems()] == [path]


@needs_store
def test_layers_in_a_circle_end(store):
    store.edit("overlay-layers/layers.json", set_in(store.base, "parent", store.top))
    store.edit("overlay-images/images.json", lambda images: [{**image, "big-data-names": []} for image in images])
    (store.root / config_path(store)).unlink()
    assert (BOTH, store.base, "overlay-layers/layers.json") in [problem[:3] for problem in store.problems()]


def test_no_store_holds_no_images(tmp_path):
    assert list_images(FolderFiles(tmp_path)) == ()
