"""What goes wrong in factories: the power is cut, the partition is missing, an archive is damaged."""

import pytest

from harness.deadline import Deadline
from harness.prestage.archives.folder import archive_name
from harness.prestage.guest.stage_units import SERVICES
from harness.prestage.lists.stages import Stage
from suites.prestage.conftest import images_of

SERVICE = SERVICES[Stage.DISCOVERY]
BOOT_TIME = 600.0
STARTING = f"systemctl start --no-block {SERVICE}; until [ -s /var/lib/prestage/finished ]; do sleep 0.1; done"


@pytest.fixture
def emptied(restores, discovery, prestaged, request):
    """A machine after discovery whose storage has none of the listed images, as if nothing had been extracted yet."""
    with restores(discovery, f"emptied-{request.node.name}") as machine:
        references = " ".join(prestaged.references(Stage.DISCOVERY))
        machine.guest.check_output(
            f"systemctl stop {SERVICE}; podman rmi --force {references}; rm -rf /var/lib/prestage"
        )
        yield machine


def journal_of(machine):
    return machine.guest.check_output(f"journalctl -o cat -b -u {SERVICE}")


@pytest.mark.nightly  # two boots and two extractions
def test_after_a_power_cut_in_the_middle_the_next_boot_completes(emptied, prestaged):
    wanted = set(prestaged.references(Stage.DISCOVERY))
    emptied.run(STARTING, Deadline(300))
    emptied.cut_power(Deadline(BOOT_TIME))
    emptied.run(f"systemctl start {SERVICE}", Deadline(300))
    told = journal_of(emptied)
    assert "skipped" in told, told
    assert "extracted" in told, told
    assert sorted(wanted - images_of(emptied.guest).keys()) == []
    for reference in wanted & prestaged.sentences.keys():
        run = emptied.guest.check_output("podman run --rm --network=none %s", reference)
        assert run == prestaged.sentences[reference]


def test_a_missing_partition_fails_the_unit_within_its_time_and_is_named(emptied, prestaged, data_label):
    number = prestaged.partition.number
    emptied.guest.check_output(f"sgdisk --change-name={number}:other /dev/disk/by-id/virtio-prestaged; udevadm settle")
    started = emptied.guest.run(f"SECONDS=0; systemctl restart {SERVICE}; echo $SECONDS")
    assert int(started.stdout) < 150  # 90 are given to the mount
    assert f"no partition is labelled {data_label}" in journal_of(emptied)
    assert SERVICE in emptied.guest.check_output("systemctl --failed --no-legend --plain")


def test_a_damaged_archive_is_named_and_the_others_are_extracted(emptied, prestaged, data_label):
    damaged, *others = prestaged.folder.images.of(Stage.DISCOVERY)
    archive = archive_name(damaged.reference)
    emptied.guest.check_output(
        f"mount /dev/disk/by-partlabel/{data_label} /mnt; "
        f"printf damaged | dd of='/mnt/{archive}' bs=1 seek=2000 conv=notrunc status=none; umount /mnt"
    )
    assert emptied.guest.run(f"systemctl restart {SERVICE}").rc != 0
    told = journal_of(emptied)
    assert f"FAILED {damaged.reference}: archive {archive}: its SHA-256 is " in told, told
    assert SERVICE in emptied.guest.check_output("systemctl --failed --no-legend --plain")
    found = images_of(emptied.guest)
    assert {str(each.reference): str(each.reference) in found for each in (damaged, *others)} == {
        str(damaged.reference): False,
        **{str(each.reference): True for each in others},
    }
