"""The Ignition configs of the two stages, as assisted-service is given them. Without booting."""

import pytest

from harness.prestage.guest.overrides import decode, encode
from harness.prestage.lint.lint import lint
from harness.prestage.lint.rules import RULES
from harness.prestage.lint.subject import read_subjects
from harness.prestage.lists.stages import Stage


@pytest.fixture(params=Stage)
def stage(request):
    return request.param


@pytest.fixture
def config(stage, discovery_config, install_config):
    return {Stage.DISCOVERY: discovery_config, Stage.INSTALL: install_config}[stage]


def test_config_has_none_of_the_known_defects(stage, config, tmp_path):
    (tmp_path / f"{stage}.ign").write_bytes(config.raw)
    found = lint(read_subjects([tmp_path / f"{stage}.ign"]), RULES, (4, 10))
    wrong = [f"{each.rule} at {each.place.path}: {each.what}" for each in found]
    assert not wrong, "\n".join(wrong)


def test_config_mounts_the_data_partition(config, data_label):
    mounts = [unit["contents"] for unit in config.document["systemd"]["units"] if unit["name"].endswith(".mount")]
    assert [line for text in mounts for line in text.splitlines() if line.startswith("What=")] == [
        f"What=/dev/disk/by-partlabel/{data_label}"
    ]


def test_override_for_the_assisted_service_is_the_config(stage, config):
    carried = decode(encode(stage, config))
    assert {"stage": carried.stage.value, **carried.config.document} == {"stage": stage.value, **config.document}
