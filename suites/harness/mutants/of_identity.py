"""Mutants of what the image says it is, and of its preloaded container storage."""

import json
from uuid import UUID

from harness.containers.records import DEFAULT_ROOT, big_data_path, list_images
from harness.images.system.bls import read_entries
from suites.harness.mutants.copies import Disk
from suites.harness.mutants.mutant import mutant

FILE = "test_identity.py"
OS_VALUES = f"{FILE}::test_os_release_values_are_those_of_the_profile"
OS_KEYS = f"{FILE}::test_os_release_keys_are_those_of_the_profile_in_order"
OS_VERSION = f"{FILE}::test_os_release_names_the_ostree_version"
ALEPH_STORY = f"{FILE}::test_aleph_tells_the_version_and_commit_that_boot"
ALEPH_LINK = f"{FILE}::test_older_aleph_name_leads_to_the_newer_file"
ALEPH_FORMAT = f"{FILE}::test_aleph_has_the_format_of_its_era"
REPOSITORY = f"{FILE}::test_ostree_repository_is_configured_as_promised"
NO_IDENTITY = f"{FILE}::test_image_carries_no_identity_of_its_own"
DEPLOYMENTS = f"{FILE}::test_boot_entry_boots_the_only_deployment"
SAME_KERNEL = f"{FILE}::test_kernel_of_the_boot_filesystem_is_that_of_the_deployment"
PRELOADED = "test_container_storage.py::test_every_promised_image_is_preloaded"
DIGESTS = "test_container_storage.py::test_every_layer_and_blob_is_what_its_digest_says"
LEFTOVERS = "test_container_storage.py::test_nothing_is_left_over_from_filling_the_storage"
ALEPH = "/.aleph-version.json"
REPO_CONFIG = "/ostree/repo/config"


def deployed(disk: Disk, path: str) -> str:
    """Where a file of the deployment lies on the physical root."""
    return f"{disk.system.deployment.path}{path}"


def stored(disk: Disk, path: str) -> str:
    """Where a file of the container storage lies on the physical root."""
    return f"/ostree/deploy/{disk.system.deployment.stateroot}{DEFAULT_ROOT}/{path}"


def layered(disk: Disk):
    """The preloaded image with several layers."""
    return max(list_images(disk.system), key=lambda image: len(image.layers))


def os_release(disk: Disk, old: str, new: str) -> None:
    disk.root.edit(deployed(disk, "/usr/lib/os-release"), {old: new})


@mutant(OS_VALUES, cause=r"\['VARIANT_ID'\]: expected 'coreos', found 'server'")
def variant_is_another(disk: Disk) -> None:
    """os-release says VARIANT_ID=server."""
    os_release(disk, "VARIANT_ID=coreos", "VARIANT_ID=server")


@mutant(OS_KEYS, cause="expected 'ID', found 'ID_LIKE'")
def os_release_is_reordered(disk: Disk) -> None:
    """Two lines of os-release changed places."""
    text = disk.system.text("/usr/lib/os-release").splitlines()
    text[1], text[2] = text[2], text[1]
    disk.root.replace(deployed(disk, "/usr/lib/os-release"), ("\n".join(text) + "\n").encode())


@mutant(OS_KEYS, OS_VERSION, ALEPH_STORY, cause="os-release has no OSTREE_VERSION")
def ostree_version_is_missing(disk: Disk) -> None:
    """os-release does not say OSTREE_VERSION."""
    lines = disk.system.text("/usr/lib/os-release").splitlines(keepends=True)
    kept = "".join(line for line in lines if not line.startswith("OSTREE_VERSION"))
    disk.root.replace(deployed(disk, "/usr/lib/os-release"), kept.encode())


@mutant(OS_VERSION, ALEPH_STORY, cause=r"'1\.0'")
def ostree_version_is_another(disk: Disk) -> None:
    """OSTREE_VERSION and VERSION tell two stories."""
    lines = disk.system.text("/usr/lib/os-release").splitlines(keepends=True)
    told = "".join("OSTREE_VERSION='1.0'\n" if line.startswith("OSTREE_VERSION") else line for line in lines)
    disk.root.replace(deployed(disk, "/usr/lib/os-release"), told.encode())


@mutant(f"{FILE}::test_etc_os_release_points_into_usr", cause="/etc/os-release is a file, not a symlink")
def os_release_is_a_copy(disk: Disk) -> None:
    """/etc/os-release is a file of its own, which an update will not change."""
    path = deployed(disk, "/etc/os-release")
    disk.root.remove(path)
    disk.root.add(path, disk.system.read("/usr/lib/os-release"))


@mutant(ALEPH_STORY, cause="ostree-commit.*expected '[0-9a-f]{64}', found '0{64}'")
def aleph_is_of_another_build(disk: Disk) -> None:
    """The aleph file names the commit of yesterday's build."""
    told = json.loads(disk.root.files.text(ALEPH))
    disk.root.replace(ALEPH, json.dumps(told | {"ostree-commit": "0" * 64}).encode())


@mutant(ALEPH_LINK, cause="coreos-aleph-version.json.*expected '.aleph-version.json', found None")
def older_aleph_name_is_missing(disk: Disk) -> None:
    """Programs that know only the older name find nothing."""
    disk.root.remove("/.coreos-aleph-version.json")


@mutant(ALEPH_FORMAT, ALEPH_LINK, ALEPH_STORY, cause="no aleph file")
def aleph_is_missing(disk: Disk) -> None:
    """Nothing tells which build the disk was made from."""
    disk.root.debugfs(f"rm {ALEPH}", "rm /.coreos-aleph-version.json")


@mutant(ALEPH_FORMAT, cause="expected 'osbuild', found 'cosa'")
def aleph_is_of_the_oldest_format(disk: Disk) -> None:
    """The file lies under its oldest name, as coreos-assembler wrote it."""
    content = disk.root.files.read(ALEPH)
    disk.root.debugfs(f"rm {ALEPH}", "rm /.coreos-aleph-version.json")
    disk.root.add("/.coreos-aleph-version.json", content)


@mutant(REPOSITORY, cause=r"sysroot\.readonly.*expected 'true', found 'false'")
def sysroot_can_be_written(disk: Disk) -> None:
    """The ostree repository says sysroot.readonly=false."""
    disk.root.edit(REPO_CONFIG, {"readonly=true": "readonly=false"})


@mutant(REPOSITORY, cause=r"sysroot\.bootloader.*expected 'none', found None")
def ostree_knows_no_bootloader_setting(disk: Disk) -> None:
    """Without sysroot.bootloader=none ostree would look for a boot loader it knows."""
    disk.root.edit(REPO_CONFIG, {"bootloader=none\n": ""})


@mutant(DEPLOYMENTS, cause=r"'[0-9a-f]{64}\.1' is not expected")
def there_is_a_second_deployment(disk: Disk) -> None:
    """The folder of another deployment takes half of the disk."""
    disk.root.debugfs(f"mkdir {disk.system.deployment.path[:-1]}1")


@mutant(
    f"{FILE}::test_stateroot_is_that_of_the_profile", DEPLOYMENTS, cause="expected 'reference', found 'fedora-coreos'"
)
def stateroot_is_another(disk: Disk) -> None:
    """The deployment lies in another stateroot, and the boot entry leads there."""
    here, entry = disk.system.deployment, read_entries(disk.boot.files).default
    old, new = f"/ostree/deploy/{here.stateroot}", "/ostree/deploy/fedora-coreos"
    links = f"/ostree/boot.1.1/fedora-coreos/{here.boot_checksum}"
    disk.root.debugfs(
        f"ln {old} {new}",
        f"unlink {old}",
        "mkdir /ostree/boot.1.1/fedora-coreos",
        f"mkdir {links}",
        f"symlink {links}/{here.serial} ../../..{here.path.replace(old, new).removeprefix('/ostree')}",
    )
    path = disk.boot.files.canonical(entry.path)
    disk.boot.edit(path, {f"boot.1/{here.stateroot}/": "boot.1/fedora-coreos/"})


@mutant(SAME_KERNEL, cause="vmlinuz-.* of the boot filesystem is not the deployment's")
def deployment_has_another_kernel(disk: Disk) -> None:
    """One byte of the deployment's kernel differs from the one that boots."""
    (version,) = disk.system.listdir("/usr/lib/modules")
    disk.root.flip(deployed(disk, f"/usr/lib/modules/{version}/vmlinuz"), 2**20)


@mutant(NO_IDENTITY, cause="ssh host keys.*'ssh_host_ed25519_key' is not expected")
def ssh_host_key_is_shipped(disk: Disk) -> None:
    """Every machine would have the same host key."""
    disk.root.add(deployed(disk, "/etc/ssh/ssh_host_ed25519_key"), b"secret\n", 0o600)


@mutant(NO_IDENTITY, cause="machine-id.*found b'4aa4b9c8")
def machine_id_is_shipped(disk: Disk) -> None:
    """Every machine would have the same machine-id."""
    path = deployed(disk, "/etc/machine-id")
    disk.root.replace(path, f"{UUID('4aa4b9c8-0000-4000-8000-000000000001').hex}\n".encode())


@mutant(DIGESTS, cause=r"image localhost/reference/\w+:1.*layer \w{12}: .*speak its bytes were changed")
def file_in_a_layer_is_flipped(disk: Disk) -> None:
    """One byte of a file in a preloaded layer is wrong."""
    top = layered(disk).layers[-1].id
    disk.root.flip(stored(disk, f"overlay/{top}/diff/srv/speak"))


@mutant(DIGESTS, cause=r"layer \w{12}: .*srv/speak .*mode")
def file_in_a_layer_is_open_to_all(disk: Disk) -> None:
    """A file in a preloaded layer was made writable for everybody."""
    top = layered(disk).layers[-1].id
    disk.root.debugfs(f"sif {stored(disk, f'overlay/{top}/diff/srv/speak')} mode 0100777")


@mutant(DIGESTS, cause=r"layer \w{12}: .*left-behind is not part of the layer")
def file_is_added_to_a_layer(disk: Disk) -> None:
    """A file that the layer's tar does not have."""
    top = layered(disk).layers[-1].id
    disk.root.add(stored(disk, f"overlay/{top}/diff/srv/left-behind"), b"")


@mutant(DIGESTS, cause=r"tar-split\.gz is missing: the layer cannot be put together again")
def record_of_a_layer_is_missing(disk: Disk) -> None:
    """A layer's tar-split file is missing: the image can run, but not be pushed."""
    top = layered(disk).layers[-1].id
    disk.root.remove(stored(disk, f"overlay-layers/{top}.tar-split.gz"))


@mutant(DIGESTS, cause=r"image localhost/reference/layered:1.*has the digest sha256:\w+ instead of")
def config_of_an_image_is_damaged(disk: Disk) -> None:
    """One byte of an image's config is wrong, so that it is not what the image's id says."""
    image = layered(disk).id
    disk.root.flip(stored(disk, big_data_path(image, f"sha256:{image}")), 20)


@mutant(LEFTOVERS, cause=r"tmp/storage123 was left by a run that was cut off")
def scratch_file_is_left(disk: Disk) -> None:
    """The store was copied while something was being pulled."""
    disk.root.add(stored(disk, "tmp/storage123"), b"")


@mutant(LEFTOVERS, cause=r"layers\.json lists this layer of [\d,]+ bytes, but no image lies on it")
def layer_is_orphaned(disk: Disk) -> None:
    """layers.json lists a layer that no image lies on."""
    path = "overlay-layers/layers.json"
    layers = json.loads(disk.system.text(f"{DEFAULT_ROOT}/{path}"))
    orphan = {"id": "0" * 64, "diff-size": 1024}
    disk.root.replace(stored(disk, path), json.dumps([*layers, orphan]).encode())


@mutant(DIGESTS, cause=r"flags this layer as incomplete: its writing was cut off, and podman will remove it")
def layer_is_flagged_incomplete(disk: Disk) -> None:
    """The power went while the topmost layer was written."""
    top = layered(disk).layers[-1].id
    path = "overlay-layers/layers.json"
    layers = json.loads(disk.system.text(f"{DEFAULT_ROOT}/{path}"))
    flagged = [row | {"flags": {"incomplete": True}} if row["id"] == top else row for row in layers]
    disk.root.replace(stored(disk, path), json.dumps(flagged).encode())


@mutant(DIGESTS, cause=r"layers\.json does not list this layer")
def layer_is_missing(disk: Disk) -> None:
    """layers.json does not list the topmost layer."""
    top = layered(disk).layers[-1].id
    path = "overlay-layers/layers.json"
    layers = [row for row in json.loads(disk.system.text(f"{DEFAULT_ROOT}/{path}")) if row["id"] != top]
    disk.root.replace(stored(disk, path), json.dumps(layers).encode())


@mutant(PRELOADED, cause="expected 'localhost/reference/static:1', found 'localhost/reference/stable:1'")
def image_is_not_preloaded(disk: Disk) -> None:
    """One of the promised images has another name."""
    disk.root.edit(stored(disk, "overlay-images/images.json"), {"reference/static:1": "reference/stable:1"})


@mutant(PRELOADED, DIGESTS, cause="overlay-images/images.json is not the list it should be")
def list_of_images_is_cut_off(disk: Disk) -> None:
    """images.json ends in the middle."""
    path = "overlay-images/images.json"
    content = disk.system.read(f"{DEFAULT_ROOT}/{path}")
    disk.root.replace(stored(disk, path), content[: len(content) // 2])
