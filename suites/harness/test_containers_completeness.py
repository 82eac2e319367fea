"""A store against a list of references: what is missing, damaged, under another name, too much, or of no use."""

import json
import shutil
import subprocess
import tempfile
from dataclasses import replace

import pytest

from harness.containers.completeness import State, completeness
from harness.containers.images import LAYERED_NAME, STATIC_NAME
from harness.tools import known_tools
from suites.harness.stored_images import needs_store, small_store

pytestmark = needs_store
LAYERED = LAYERED_NAME.rpartition(":")[0]
ABSENT = "sha256:" + "0" * 64
BOTH = (STATIC_NAME, LAYERED_NAME)


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("pristine"))


@pytest.fixture
def store(pristine, tmp_path):
    subprocess.run(["cp", "-a", pristine.root, tmp_path / "storage"], check=True)
    return replace(pristine, root=tmp_path / "storage")


def named(store, names):
    """Give the layered image these names."""
    store.edit(
        "overlay-images/images.json",
        lambda images: [{**image, "names": names} if image["id"] == store.image else image for image in images],
    )


def states(found):
    return {each.reference: each.state.value for each in found.sought}


def test_a_whole_store_is_complete_and_has_nothing_else(pristine):
    found = completeness(pristine.verified(), BOTH)
    assert found.is_complete
    assert list(found.lines()) == ["2 of 2 images complete"]
    assert (found.extra, found.problems, found.leftovers) == ((), (), ())


def test_an_image_that_the_list_lacks_is_extra(pristine):
    found = completeness(pristine.verified(), [STATIC_NAME])
    assert [image.names for image in found.extra] == [(LAYERED_NAME,)]
    assert found.is_complete
    assert found.summary == "1 of 1 images complete, 1 extra"


def test_an_image_that_the_store_lacks_is_missing(pristine):
    wanted = ["quay.io/a/b:1", f"{LAYERED}:2", f"quay.io/a/b@{ABSENT}"]
    found = completeness(pristine.verified(), wanted)
    assert [(each.state, each.causes) for each in found.sought] == [
        (State.MISSING, ("the store has no such image",)),
        (State.MISSING, (f"the store has {LAYERED_NAME}",)),
        (State.MISSING, ("the store has no such image",)),
    ]
    assert not found.is_complete


def test_a_digest_is_found_under_any_name_of_its_repository_and_no_other(pristine):
    wanted = [f"{LAYERED}@{pristine.digest}", f"{LAYERED}:9@{pristine.digest}", f"quay.io/other@{pristine.digest}"]
    found = completeness(pristine.verified(), wanted)
    assert list(states(found).values()) == ["complete", "complete", "other"]
    assert found.sought[2].causes == (f"the image is there, but as {LAYERED_NAME}: by this reference it is not found",)
    assert [image.names for image in found.extra] == [(STATIC_NAME,)]


def test_a_name_that_stands_for_another_image_is_told(store):
    named(store, [f"{LAYERED}@{ABSENT}", "localhost/tagged:1"])
    found = completeness(
        store.verified(), [f"{LAYERED}@{ABSENT}", "localhost/tagged:1"], {"localhost/tagged:1": ABSENT}
    )
    assert [(each.state, each.causes) for each in found.sought] == [
        (State.OTHER, (f"the name stands for {store.digest}, not {ABSENT}",))
    ] * 2


def test_a_tag_that_stands_for_the_digest_of_the_list_is_complete(pristine):
    assert completeness(pristine.verified(), [LAYERED_NAME], {LAYERED_NAME: pristine.digest}).is_complete


@pytest.mark.parametrize("names", [None, [], ["localhost/else:1"]], ids=str)
def test_a_lost_name_is_missing_and_its_image_extra(store, names):
    named(store, names)
    found = completeness(store.verified(), BOTH)
    assert states(found) == {STATIC_NAME: "complete", LAYERED_NAME: "missing"}
    assert [image.id for image in found.extra] == [store.image]
    assert (found.problems, found.leftovers) == ((), ())


def test_damage_is_told_of_each_image_that_it_concerns_with_layer_path_and_cause(store):
    store.diff(store.base, "bin/busybox").chmod(0o700)
    store.diff(store.top, "srv/speak").unlink()
    found = completeness(store.verified(), BOTH)
    base = f"layer {store.base[:12]}: overlay/{store.base}/diff/bin/busybox has mode 0700 instead of 0755"
    top = f"layer {store.top[:12]}: overlay/{store.top}/diff/srv/speak is missing: the layer's tar has it"
    assert [(each.state, each.causes) for each in found.sought] == [
        (State.DAMAGED, (base,)),
        (State.DAMAGED, (base, top)),
    ]
    assert found.problems == ()


def test_damage_of_an_image_that_nobody_asked_for_hinders_nobody(store):
    store.diff(store.top, "srv/speak").unlink()
    found = completeness(store.verified(), [STATIC_NAME])
    assert found.is_complete
    assert [problem.layer for problem in found.problems] == [store.top]


def test_damage_beyond_what_is_told_is_damage_all_the_same(store, monkeypatch):
    monkeypatch.setattr("harness.containers.verify.MOST_PROBLEMS", 0)
    for layer in (store.base, store.added, store.hidden, store.top):
        for number in range(3):
            store.diff(layer, f"file-{number}").touch()
    assert set(states(completeness(store.verified(), BOTH)).values()) == {"damaged"}


def test_a_store_that_cannot_be_read_holds_nothing(store):
    (store.root / "overlay-images/images.json").write_text("[")
    found = completeness(store.verified(), BOTH)
    assert set(states(found).values()) == {"missing"}
    assert [problem.path for problem in found.problems] == ["overlay-images/images.json"]


def forget(store):
    """Remove the layered image from the lists, as podman does it, but leave its layers."""
    store.edit("overlay-images/images.json", lambda images: [each for each in images if each["id"] != store.image])
    shutil.rmtree(store.root / "overlay-images" / store.image)


def test_layers_of_no_image_are_leftovers(store):
    forget(store)
    found = completeness(store.verified(), [STATIC_NAME])
    assert found.is_complete
    assert {(problem.layer, problem.path) for problem in found.leftovers} == {
        (layer, "overlay-layers/layers.json") for layer in (store.added, store.hidden, store.top)
    }
    assert found.summary == "1 of 1 images complete, 3 leftovers"


def test_an_incomplete_layer_of_no_image_is_a_leftover_whatever_is_in_it(store):
    forget(store)
    flags = {"flags": {"incomplete": True}}
    store.edit("overlay-layers/layers.json", lambda layers: [each | flags if each["id"] == store.top else each
                                                             for each in layers])  # fmt: skip
    shutil.rmtree(store.diff(store.top, ""))
    (store.root / "overlay" / store.top / "lower").unlink()
    report = store.verified()
    assert report.problems == ()
    (top,) = [problem for problem in report.leftovers if problem.layer == store.top]
    assert top.what.startswith("flags this layer as incomplete")


def test_a_layer_that_a_container_writes_to_is_neither_damage_nor_leftover(store):
    layer = "c" * 64
    record = {"id": layer, "parent": store.top, "created": "2023-11-14T22:13:20Z"}
    store.edit("overlay-layers/layers.json", lambda layers: [*layers, record])
    (store.root / "overlay-containers/containers.json").write_text(json.dumps([{"id": "d" * 64, "layer": layer}]))
    place = store.root / "overlay" / layer
    (place / "diff/etc").mkdir(parents=True)
    (place / "link").write_text("C" * 26)
    (store.root / "overlay/l" / ("C" * 26)).symlink_to(f"../{layer}/diff")
    below = (store.top, store.hidden, store.added, store.base)
    links = [(store.root / "overlay" / each / "link").read_text() for each in below]
    (place / "lower").write_text(":".join(f"l/{link}" for link in links))
    report = store.verified()
    assert (report.problems, report.leftovers) == ((), ())


@pytest.fixture
def asked_for(store):
    """A store with more names, and references with what we say of them."""
    named(store, [LAYERED_NAME, "localhost/tagged:1", "localhost/latest:latest"])
    wanted = [
        STATIC_NAME,
        LAYERED_NAME,
        f"{LAYERED}@{store.digest}",
        f"{LAYERED}@{ABSENT}",
        f"localhost/reference/static@{store.digest}",
        f"quay.io/other@{store.digest}",
        f"{LAYERED}:2",
        "localhost/tagged:1",
        "localhost/tagged",
        "localhost/latest",
        f"localhost/latest@{ABSENT}",
    ]
    return store, states(completeness(store.verified(), wanted))


def test_skopeo_finds_what_is_said_to_be_found(asked_for, tmp_path):
    store, said = asked_for
    place = f"containers-storage:[overlay@{store.root}+{tmp_path}/run]"
    found = {each: can("skopeo", "inspect", "--raw", place + each) for each in said}
    assert found == {each: state == "complete" for each, state in said.items()}


@pytest.mark.skipif(known_tools()["podman"].find() is None, reason="podman is not installed")
def test_podman_finds_what_is_said_to_be_found(asked_for):
    store, said = asked_for
    with tempfile.TemporaryDirectory() as run:  # podman wants this path short
        options = ["--root", store.root, "--runroot", run, "--storage-driver", "overlay", "--events-backend", "none"]
        sure = {each: state for each, state in said.items() if state != "other"}
        found = {each: can("podman", *options, "image", "exists", each) for each in sure}
    assert found == {each: state == "complete" for each, state in sure.items()}


def can(*command):
    """Whether a program succeeds, in a mount namespace of its own."""
    return subprocess.run(["unshare", "--mount", *command], capture_output=True, check=False).returncode == 0
