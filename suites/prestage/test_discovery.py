"""A host that discovers, with the pre-staged disk and without any network: all its images are there, and run."""

import json

import pytest

from harness.prestage.guest.overrides import decode, encode
from harness.prestage.guest.stage_units import SERVICES, STAMPS
from harness.prestage.lint.lint import lint
from harness.prestage.lint.rules import RULES
from harness.prestage.lint.subject import read_subjects
from harness.prestage.lists.stages import Stage

SERVICE = SERVICES[Stage.DISCOVERY]


def test_config_has_none_of_the_known_defects(discovery_config, tmp_path):
    (tmp_path / "discovery.ign").write_bytes(discovery_config.raw)
    findings = lint(read_subjects([tmp_path / "discovery.ign"]), RULES, (4, 10))
    assert [f"{found.where}: {found.what}" for found in findings] == []


def test_override_for_the_assisted_service_is_the_config(discovery_config):
    carried = decode(encode(Stage.DISCOVERY, discovery_config)).config.raw
    assert json.loads(carried) == json.loads(discovery_config.raw)


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
