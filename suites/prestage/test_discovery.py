"""A host that discovers, with the pre-staged disk and without any network: all its images are there, and run."""

import json

import pytest

from harness.containers.completeness import completeness
from harness.containers.stores import read_settings
from harness.containers.verify import verify_storage
from harness.deadline import Deadline
from harness.images.partitions.layout import read_layout
from harness.images.source import open_image
from harness.images.system.tree import open_system
from harness.machine.machine import DISK
from harness.machine.qemu.layers import layer_of
from harness.prestage.guest.stage_units import SERVICES, STAMPS
from harness.prestage.lists.stages import Stage
from harness.tools import run

POWER_OFF = 180.0  # seconds
SERVICE = SERVICES[Stage.DISCOVERY]


def test_there_is_no_network(discovered):
    assert discovered.guest.check_output("ls /sys/class/net") == "lo"


def test_no_unit_has_failed(discovered):
    assert discovered.guest.check_output("systemctl --failed --no-legend --plain") == ""


def test_extraction_is_enabled_and_done(discovered):
    told = discovered.guest.check_output(f"systemctl show -p UnitFileState -p ActiveState -p SubState {SERVICE}")
    found = dict(line.split("=") for line in told.splitlines())
    assert found == {"UnitFileState": "enabled", "ActiveState": "active", "SubState": "exited"}
    assert discovered.guest.file(STAMPS[Stage.DISCOVERY]).exists


def test_every_image_of_the_stage_is_in_storage(discovered_images, prestaged):
    assert sorted(set(prestaged.references(Stage.DISCOVERY)) - discovered_images.keys()) == []


def test_images_of_the_other_stage_are_left_where_they_are(discovered_images, prestaged):
    only_later = set(prestaged.references(Stage.INSTALL)) - set(prestaged.references(Stage.DISCOVERY))
    assert sorted(only_later & discovered_images.keys()) == []


def test_by_digest_images_have_their_digest(discovered, prestaged):
    by_digest = [each for each in prestaged.references(Stage.DISCOVERY) if "@" in each]
    if not by_digest:
        pytest.skip("no image of the list is named by its digest")
    found = {
        each: discovered.guest.check_output("podman image inspect --format '{{.Digest}}' %s", each)
        for each in by_digest
    }
    assert found == {each: each.partition("@")[2] for each in by_digest}


def test_a_container_of_each_image_runs(discovered, prestaged):
    wanted = {
        each: words for each, words in prestaged.sentences.items() if each in prestaged.references(Stage.DISCOVERY)
    }
    if not wanted:
        pytest.skip("nobody knows what the images of this disk print")
    found = {each: discovered.guest.check_output("podman run --rm --network=none %s", each) for each in wanted}
    assert found == wanted


def test_journal_tells_of_each_image_once(discovered, prestaged):
    told = discovered.guest.check_output(f"journalctl -o cat -u {SERVICE} | grep '^\\[.*extracted '").splitlines()
    assert sorted(line.split()[2] for line in told) == sorted(prestaged.references(Stage.DISCOVERY))


def test_data_partition_is_let_go(discovered, data_label):
    """coreos-installer refuses a disk of which something is mounted."""
    assert discovered.guest.run(f"findmnt -S PARTLABEL={data_label}").stdout == ""


def test_nothing_is_left_of_the_unpacking(discovered):
    assert discovered.guest.check_output("ls -A /var/lib/prestage | grep -c scratch || true") == "0"


def test_storage_is_whole_when_the_host_is_off(restores, discovery, prestaged, tmp_path):
    """Read from the disk without booting: every layer's every file, for each image of the list."""
    with restores(discovery, "switched-off") as machine:
        machine.run("systemctl poweroff --no-block")
        assert machine.process.wait(Deadline(POWER_OFF)) == 0
        layers = [machine.scratch / DISK, discovery.folder / DISK, discovery.boot.image]
        flattened(layers, tmp_path / "disk.raw")
    with open_image(tmp_path / "disk.raw") as image:
        system = open_system(read_layout(image.block))
        settings = read_settings(system)
        report = verify_storage(system, settings.root, settings.additional)
    found = completeness(report, prestaged.references(Stage.DISCOVERY))
    assert found.is_complete, "\n".join(found.lines())
    assert [str(leftover) for leftover in found.leftovers] == []


def flattened(layers, target):
    """What a stack of disk files, top first, is to a guest."""
    stack = {}
    for layer in map(layer_of, reversed(layers)):
        file = {"driver": "file", "filename": str(layer.path)}
        stack = {"driver": layer.format, "file": file} | ({"backing": stack} if stack else {})
    run(["qemu-img", "convert", "-O", "raw", f"json:{json.dumps(stack)}", target])
