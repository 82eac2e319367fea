"""Further stores of a system: found by storage.conf, checked with the first, and images that lie on two of them."""

import shutil
import subprocess

import pytest

from harness.containers.completeness import completeness
from harness.containers.folder import FolderFiles
from harness.containers.images import LAYERED_NAME, STATIC_NAME, busybox_images
from harness.containers.layout import write_layout
from harness.containers.records import layer_ids
from harness.containers.storage import store_images
from harness.containers.stores import StorageSettings, read_settings
from harness.containers.verify import verify_storage
from harness.errors import DamagedImage, UnsupportedImage
from harness.tools import run
from suites.harness.stored_images import EPOCH, PROGRAM, needs_store

MAIN, SHARED = "/var/lib/containers/storage", "/usr/lib/containers/storage"


@pytest.fixture
def settings(tmp_path):
    """Reads storage.conf files, given by path."""

    def read(files):
        for path, content in files.items():
            place = tmp_path / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_settings(FolderFiles(tmp_path))

    return read


def test_a_system_without_storage_conf_has_one_store(settings):
    assert settings({}) == StorageSettings(MAIN, "overlay", ())


def test_storage_conf_of_etc_takes_the_place_of_that_in_usr(settings):
    usr = '[storage]\ngraphroot="/var/a"\n[storage.options]\nadditionalimagestores=["/usr/lib/containers/storage"]'
    assert settings({"usr/share/containers/storage.conf": usr}) == StorageSettings("/var/a", "overlay", (SHARED,))
    etc = '[storage]\ndriver="overlay"\nrunroot="/run/b"'
    assert settings({"etc/containers/storage.conf": etc}) == StorageSettings(MAIN, "overlay", ())


def test_drop_ins_are_laid_over_in_the_order_of_their_names(settings):
    found = settings(
        {
            "etc/containers/storage.conf": '[storage]\ngraphroot="/var/a"',
            "usr/share/containers/storage.conf.d/10-a.conf": '[storage]\ngraphroot="/var/hidden"',
            "etc/containers/storage.conf.d/10-a.conf": '[storage.options]\nadditionalimagestores=["/x/","/y/../z"]',
            "usr/share/containers/storage.conf.d/20-b.conf": '[storage]\ngraphroot="/var/c"\nimagestore="/i"',
            "etc/containers/storage.conf.d/30.txt": "no TOML, and nobody reads it",
        }
    )
    assert found == StorageSettings("/var/c", "overlay", ("/i", "/x", "/z"))


@pytest.mark.parametrize(
    "content, kind, what",
    [
        ("[storage", DamagedImage, "is not TOML"),
        (b"\xff", DamagedImage, "is not TOML"),
        ("storage=1", DamagedImage, "are not tables"),
        ("[storage]\noptions=1", DamagedImage, "are not tables"),
        ('[storage]\ngraphroot="here"', DamagedImage, "graphroot is 'here', not an absolute path"),
        ("[storage.options]\nadditionalimagestores=1", DamagedImage, "is no list"),
        ("[storage.options]\nadditionalimagestores=[1]", DamagedImage, "not an absolute path"),
        ('[storage]\ndriver="vfs"', UnsupportedImage, "by the driver 'vfs'"),
        ("x=" + "[" * 5000, DamagedImage, "is not TOML"),
        ("[storage]\ndriver=[1]", UnsupportedImage, "by the driver"),
    ],
)
def test_a_storage_conf_that_podman_would_not_take_is_an_error(settings, content, kind, what):
    with pytest.raises(kind, match=what):
        settings({"etc/containers/storage.conf": content})


SPLIT = """
to="overlay@$1/main+$1/run:overlay.imagestore=$1/shared"
mkdir -p $1/main $1/shared
mount --bind "$2" $1/main
mount --bind "$3" $1/shared
skopeo --insecure-policy copy --quiet "oci:$4:$5" "containers-storage:[$to]$5"
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory):
    """A system with the static image in a shared store, and the layered one, which lies on it, in its own."""
    folder = tmp_path_factory.mktemp("system")
    _, layered = write_layout(folder / "layout", busybox_images(PROGRAM), EPOCH)
    root = folder / "root"
    store_images(folder / "layout", [STATIC_NAME], root / SHARED[1:], EPOCH)
    (root / MAIN[1:]).mkdir(parents=True)
    point = folder / "p"
    words = ["sh", "-eu", "-c", SPLIT, "sh", point, root / MAIN[1:], root / SHARED[1:], folder / "layout", LAYERED_NAME]
    run(["unshare", "--mount", *words], timeout=60)
    return root, layer_ids(layered.diff_ids)


@pytest.fixture
def copied(system, tmp_path):
    """A copy of the system to damage."""
    subprocess.run(["cp", "-a", system[0], tmp_path / "root"], check=True)
    return tmp_path / "root", system[1]


def told(root):
    report = verify_storage(FolderFiles(root), MAIN, [SHARED])
    return [
        (problem.store, problem.image, problem.layer, problem.path, problem.what)
        for problem in (*report.problems, *report.leftovers)
    ]


@needs_store
def test_an_image_may_lie_on_layers_of_another_store(system):
    root, ids = system
    assert not (root / MAIN[1:] / "overlay" / ids[0]).exists()
    report = verify_storage(FolderFiles(root), MAIN, [SHARED])
    assert (report.problems, report.leftovers) == ((), ())
    assert [(image.names, image.store) for image in report.images] == [
        ((LAYERED_NAME,), MAIN),
        ((STATIC_NAME,), SHARED),
    ]
    assert [layer.id for layer in report.images[0].layers] == list(ids)
    assert completeness(report, [STATIC_NAME, LAYERED_NAME]).is_complete


@needs_store
def test_without_its_other_store_such_an_image_is_damaged(system):
    root, ids = system
    report = verify_storage(FolderFiles(root), MAIN)
    assert {(problem.layer, problem.path.split("/")[0]) for problem in report.problems} == {
        (ids[0], "overlay-layers"),
        (ids[0], "overlay"),
    }


@needs_store
def test_damage_in_the_other_store_is_told_of_both_images(copied):
    root, ids = copied
    (root / SHARED[1:] / "overlay" / ids[0] / "diff/bin/busybox").chmod(0o700)
    path = f"overlay/{ids[0]}/diff/bin/busybox"
    both = f"{LAYERED_NAME}, {STATIC_NAME}"
    assert told(root) == [(SHARED, both, ids[0], path, "has mode 0700 instead of 0755")]
    found = completeness(verify_storage(FolderFiles(root), MAIN, [SHARED]), [LAYERED_NAME])
    assert found.sought[0].causes == (f"layer {ids[0][:12]}: {SHARED}/{path} has mode 0700 instead of 0755",)


@needs_store
def test_lower_names_the_links_of_the_other_store(copied):
    root, ids = copied
    lower = root / MAIN[1:] / "overlay" / ids[1] / "lower"
    lower.write_text("l/" + "A" * 26)
    assert [problem[:4] for problem in told(root)] == [("", LAYERED_NAME, ids[1], f"overlay/{ids[1]}/lower")]


@needs_store
@pytest.mark.parametrize("lock", ["overlay-images/images.lock", "overlay-layers/layers.lock"])
def test_a_read_only_store_needs_its_locks(copied, lock):
    root, _ = copied
    (root / SHARED[1:] / lock).unlink()
    assert told(root) == [
        (SHARED, "", "", lock, "is missing: podman cannot open a read-only store without it"),
    ]


@needs_store
def test_an_additional_store_that_is_not_there_is_a_problem(copied):
    root, _ = copied
    shutil.rmtree(root / SHARED[1:])
    assert (SHARED, "", "", "", "is missing, but storage.conf names it: every podman command fails") in told(root)


@needs_store
def test_an_additional_store_may_be_empty(copied):
    root, _ = copied
    for folder, lock in (("overlay-images", "images.lock"), ("overlay-layers", "layers.lock")):
        (root / "opt/empty" / folder).mkdir(parents=True)
        (root / "opt/empty" / folder / lock).touch()
    report = verify_storage(FolderFiles(root), MAIN, [SHARED, "/opt/empty"])
    assert (report.problems, report.leftovers) == ((), ())
