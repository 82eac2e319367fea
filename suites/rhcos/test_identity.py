"""Who the image says it is: os-release, aleph and the ostree deployment must tell one story."""

import configparser

import pytest

from harness.images.filesystems.files import Files
from harness.images.system.stamps import read_aleph, read_os_release


@pytest.fixture(scope="module")
def aleph(system):
    return read_aleph(Files({"/": system.mount("/sysroot")}))


@pytest.fixture(scope="module")
def os_release(system):
    return read_os_release(system)


@pytest.mark.needs("identity.values")
def test_os_release_values_are_those_of_the_profile(os_release, profile):
    assert {key: os_release.get(key) for key in profile.identity.values} == profile.identity.values


@pytest.mark.needs("identity.os_release")
def test_os_release_keys_are_those_of_the_profile_in_order(os_release, profile):
    assert tuple(os_release) == profile.identity.os_release


@pytest.mark.needs("ostree")
def test_os_release_names_the_ostree_version(os_release):
    assert os_release.get("OSTREE_VERSION"), "os-release has no OSTREE_VERSION"
    assert os_release["OSTREE_VERSION"] == os_release.get("VERSION")


@pytest.mark.needs("ostree")
def test_etc_os_release_points_into_usr(system):
    assert system.readlink("/etc/os-release") == "../usr/lib/os-release"


@pytest.mark.needs("identity.aleph")
def test_aleph_has_the_format_of_its_era(aleph, profile):
    assert aleph.format == profile.identity.aleph


@pytest.mark.needs("identity.aleph")
def test_older_aleph_name_leads_to_the_newer_file(aleph):
    if aleph.format == "cosa":
        pytest.skip("the oldest format has no older name")
    older = "/.coreos-aleph-version.json"
    assert {older: aleph.links.get(older)} == {older: aleph.path.removeprefix("/")}


@pytest.mark.needs("identity.aleph", "ostree")
def test_aleph_tells_the_version_and_commit_that_boot(aleph, os_release, system):
    told = {key: aleph.fields.get(key) for key in ("version", "ostree-commit")}
    assert told == {"version": os_release.get("OSTREE_VERSION"), "ostree-commit": system.deployment.checksum}


@pytest.mark.needs("ostree")
def test_boot_entry_boots_the_only_deployment(system, profile):
    deployments = [
        name
        for name in system.listdir(f"/sysroot/ostree/deploy/{profile.ostree.stateroot}/deploy")
        if not name.endswith(".origin")
    ]
    assert deployments == [f"{system.deployment.checksum}.{system.deployment.serial}"]


@pytest.mark.needs("ostree")
def test_stateroot_is_that_of_the_profile(system, profile):
    assert system.deployment.stateroot == profile.ostree.stateroot


@pytest.mark.needs("ostree")
def test_ostree_repository_is_configured_as_promised(system, profile):
    config = configparser.ConfigParser()
    config.read_string(system.text("/sysroot/ostree/repo/config"))
    found = {key: config.get(*key.split(".", 1), fallback=None) for key in profile.ostree.config}
    assert found == profile.ostree.config


@pytest.mark.needs("ostree")
def test_kernel_of_the_boot_filesystem_is_that_of_the_deployment(system, boot_entries, boot_files):
    (version,) = system.listdir("/usr/lib/modules")
    path, deployed = boot_entries.default.linux, f"/usr/lib/modules/{version}/vmlinuz"
    is_same = boot_files.sha256(path.removeprefix("/boot")) == system.sha256(deployed)
    assert is_same, f"{path} of the boot filesystem is not the deployment's {deployed}"


@pytest.mark.needs("ostree")
def test_initramfs_of_the_boot_filesystem_is_that_of_the_deployment(system, boot_entries, boot_files):
    (version,) = system.listdir("/usr/lib/modules")
    path, deployed = boot_entries.default.initrd, f"/usr/lib/modules/{version}/initramfs.img"
    is_same = boot_files.sha256(path.removeprefix("/boot")) == system.sha256(deployed)
    assert is_same, f"{path} of the boot filesystem is not the deployment's {deployed}"


@pytest.mark.needs("ostree")
def test_image_carries_no_identity_of_its_own(system):
    """machine-id and ssh host keys are made by each machine for itself."""
    keys = [name for name in system.listdir("/etc/ssh") if name.startswith("ssh_host_")]
    machine_id = system.read("/etc/machine-id") if system.exists("/etc/machine-id") else b""
    assert {"ssh host keys": keys, "machine-id": machine_id} == {"ssh host keys": [], "machine-id": b""}
