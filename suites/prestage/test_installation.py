"""An image installed onto the pre-staged disk: its data partition stays, and the host needs no network."""

import json

import pytest

from harness.images.difference.differing import Changes
from harness.images.filesystems.files import open_files
from harness.images.partitions.layout import part_of, read_layout
from harness.images.source import open_image
from harness.prestage.guest.stage_units import SERVICES
from harness.prestage.lists.stages import Stage

SERVICE = SERVICES[Stage.INSTALL]
BOOT_CODE = 440  # bytes at the start of the disk; behind it the MBR's own entries


@pytest.fixture(scope="module")
def disk(installed_disk):
    with open_image(installed_disk) as image:
        yield image


@pytest.fixture(scope="module")
def written(disk):
    return read_layout(disk.block)


def facts_of(partition):
    return {
        "start": partition.start,
        "size": partition.size,
        "type": str(partition.type_guid),
        "GUID": str(partition.part_guid),
        "attributes": partition.attributes,
    }


def sums_of(files):
    return {name: files.sha256(f"/{name}") for name in files.listdir("/") if files.stat(f"/{name}").kind == "file"}


def test_data_partition_follows_those_of_the_image(written, layout, prestaged):
    labels = [partition.label for partition in layout.partitions]
    assert [partition.label for partition in written.partitions] == [*labels, prestaged.partition.label]
    assert written.partitions[-1].number == max(partition.number for partition in layout.partitions) + 1


def test_data_partition_keeps_place_type_and_guid(written, prestaged, data_label):
    assert facts_of(written.partition(data_label)) == facts_of(prestaged.partition)


def test_data_partition_keeps_its_files(disk, written, prestaged, data_label):
    files = open_files(part_of(disk.block, written.partition(data_label)))
    assert sums_of(files) == sums_of(prestaged.files)


def test_partitions_of_the_image_are_what_they_were(written, layout, data_label):
    found = {partition.label: facts_of(partition) for partition in written.partitions if partition.label != data_label}
    assert found == {partition.label: facts_of(partition) for partition in layout.partitions}


def test_partitions_of_the_image_hold_what_they_held(disk, image, written, layout):
    """Byte for byte: whatever the installed system finds wrong is then the image's own."""
    told = {}
    for partition in layout.partitions:
        changes = Changes(part_of(image.block, partition), part_of(disk.block, written.partition(partition.label)))
        told[partition.label] = changes.told(changes.left())
    assert {label: words for label, words in told.items() if words} == {}


def test_boot_code_is_that_of_the_image(disk, image):
    assert disk.block.read(0, BOOT_CODE).hex() == image.block.read(0, BOOT_CODE).hex()


def test_partition_table_is_sound(written):
    table = written.gpt
    assert (table.primary.problem, table.backup.problem, table.backup_is_at_end) == ("", "", True)


def test_there_is_no_network(installed):
    assert installed.guest.check_output("ls /sys/class/net") == "lo"


def test_no_unit_has_failed(installed):
    assert installed.guest.check_output("systemctl --failed --no-legend --plain") == ""


def test_extraction_is_enabled_and_done(installed):
    told = installed.guest.check_output(f"systemctl show -p UnitFileState -p ActiveState -p SubState {SERVICE}")
    found = dict(line.split("=") for line in told.splitlines())
    assert found == {"UnitFileState": "enabled", "ActiveState": "active", "SubState": "exited"}


def test_every_image_of_the_stage_is_in_storage(installed_images, prestaged):
    assert sorted(set(prestaged.references(Stage.INSTALL)) - installed_images.keys()) == []


def test_root_grew_up_to_the_data_partition_and_no_further(installed, prestaged, data_label):
    told = installed.guest.check_output("sfdisk --json $(lsblk -ndpo PKNAME $(findmnt -no SOURCE /sysroot))")
    table = json.loads(told)["partitiontable"]
    partitions = table["partitions"]
    ends = {each["name"]: each["start"] + each["size"] for each in partitions}
    starts = {each["name"]: each["start"] for each in partitions}
    assert starts[data_label] == prestaged.partition.start // table["sectorsize"]
    assert 0 <= starts[data_label] - ends["root"] < 4096


def test_a_container_of_each_image_runs(installed, prestaged):
    wanted = prestaged.sentences_of(Stage.INSTALL)
    if not wanted:
        pytest.skip("nobody knows what the images of this disk print")
    found = {each: installed.guest.check_output("podman run --rm --network=none %s", each) for each in wanted}
    assert found == wanted
