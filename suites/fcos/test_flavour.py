"""A flavour, from the layer and the overlay to the running system (facts B3; the examples are the seed's own)."""

import os
import subprocess

import pytest

from harness.build.reference import build_reference
from harness.deadline import Deadline
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image
from harness.images.system.tree import open_system
from harness.machine.boot import Boot
from harness.machine.hardware.spec import MachineSpec
from harness.places import REFERENCE

ALIAS = "guest"
REBOOT_TIME = 400.0  # seconds
REPLACED = ("IdentityFile", "ControlMaster", "ControlPath", "ControlPersist")


@pytest.fixture(scope="module")
def flavoured_disk(flavoured, live_iso, store):
    """The disk image with the same deployment."""
    if live_iso.built is None:
        pytest.skip("what a foreign ISO was built from is not known")
    return build_reference(store, definition=REFERENCE, flavour=flavoured.flavour)


@pytest.fixture(scope="module")
def disk_files(flavoured_disk):
    with open_image(flavoured_disk.path) as image:
        yield open_system(read_layout(image.block))


@pytest.fixture
def only_built(live_iso):
    """For checks of what this flavour brings."""
    if live_iso.built is None:
        pytest.skip("what a foreign ISO was built from is not known")


def test_disk_and_iso_have_the_commit_of_the_build(flavoured, flavoured_disk, live_iso):
    found = (flavoured_disk.ostree_commit, live_iso.built.reference.ostree_commit)
    assert found == (flavoured.flavour.commit,) * 2
    assert flavoured.flavour.commit != flavoured.base


def test_disk_has_what_overlays_brought(disk_files, flavoured):
    assert {path: disk_files.read(path) for path in flavoured.overlay} == flavoured.overlay


def test_disk_has_what_the_layer_brought(disk_files, flavoured):
    assert {path: disk_files.read(path) for path in flavoured.layer} == flavoured.layer


def test_live_system_has_what_the_layer_brought(only_built, live_machine, flavoured):
    guest = live_machine.guest_by_channel
    assert {path: guest.file(path).content for path in flavoured.layer} == flavoured.layer


def test_live_system_has_what_overlays_brought(only_built, live_machine, flavoured):
    guest = live_machine.guest_by_channel
    assert {path: guest.file(path).content for path in flavoured.overlay} == flavoured.overlay


def test_key_of_the_butane_config_opens_ssh(live_machine, flavour_keys, tmp_path):
    own = [f'  IdentityFile "{flavour_keys.private}"', "  ControlMaster no", "  ControlPath none"]
    lines = [
        line for line in live_machine.shell.config.read_text().splitlines() if not line.strip().startswith(REPLACED)
    ]
    (tmp_path / "config").write_text("\n".join([*lines, *own, ""]))
    said = subprocess.run(
        ["ssh", "-F", tmp_path / "config", ALIAS, "id -un"], capture_output=True, check=False, timeout=120,
        env={**os.environ, "SSH_AUTH_SOCK": ""},
    )  # fmt: skip
    assert (said.returncode, said.stdout.decode().strip()) == (0, "core"), said.stderr.decode()


@pytest.mark.nightly
@pytest.mark.boot
def test_disk_boots_and_var_is_its_own_from_then_on(flavoured_disk, flavoured, live_boot, live_config, cold_boots):
    """/usr of the commit cannot be changed, /etc is a merge of it, and what it has in /var is there once."""
    by_cd = live_boot("bios", live_config)
    boot = Boot(flavoured_disk.path, live_config, MachineSpec(memory=by_cd.spec.memory), by_cd.accel)
    with cold_boots(boot, "flavoured-disk") as machine:
        guest = machine.guest_by_channel
        assert {path: guest.file(path).content for path in flavoured.layer | flavoured.overlay} == (
            flavoured.layer | flavoured.overlay
        )
        (readme,) = flavoured.overlay
        assert "Read-only file system" in guest.run("touch %s", readme).stderr
        assert guest.check_output("ostree admin status").split()[1:3] == ["reference", f"{flavoured.flavour.commit}.0"]
        guest.check_output("rm %s && echo kept > /etc/kept && sync", *flavoured.layer)
        machine.reboot(Deadline(REBOOT_TIME))
        assert [guest.file(path).exists for path in flavoured.layer] == [False]
        assert guest.file("/etc/kept").content == b"kept\n"
