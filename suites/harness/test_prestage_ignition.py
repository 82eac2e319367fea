"""The Ignition configs of the two stages, and the patches that carry configs to assisted-service."""

import json
import re
import shutil
import string
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from harness.cli import harness
from harness.errors import BadInput, InvalidIgnition
from harness.ignition.config import read_config
from harness.ignition.units import option_sections
from harness.ignition.validate import validate
from harness.prestage.archives.folder import SCRIPT_FILE
from harness.prestage.guest.overrides import KEYS, decode, encode
from harness.prestage.guest.stage_units import (
    MOUNT_UNIT,
    SCRIPT_PATH,
    SERVICES,
    mount_unit,
    service_unit,
    spec_of,
    stage_config,
)
from harness.prestage.lists.lists import Stage

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl someone"
STAGES = list(Stage)


def options(unit):
    """(section, option) -> the values that a unit gives it."""
    found, section = {}, ""
    for line in unit.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line:
            name, _, value = line.partition("=")
            found.setdefault((section, name), []).append(value)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_config_is_valid_without_a_warning(stage):
    report = validate(stage_config(stage, "4.10", ssh_keys=[KEY]))
    assert (report.errors, report.warnings) == ((), ())


@pytest.mark.skipif(shutil.which("ignition-validate") is None, reason="ignition-validate is not installed")
@pytest.mark.parametrize("stage", STAGES)
def test_ignition_itself_is_content(stage, tmp_path):
    (tmp_path / "config.ign").write_bytes(stage_config(stage, "4.10", ssh_keys=[KEY]).raw)
    done = subprocess.run(["ignition-validate", tmp_path / "config.ign"], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("stage", STAGES)
def test_systemd_is_content_with_the_units(stage, tmp_path):
    assert analyze(tmp_path, {MOUNT_UNIT: mount_unit(stage), SERVICES[stage]: service_unit(stage)}) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_objects_to_a_mount_of_another_name(tmp_path):
    assert analyze(tmp_path, {"var-mnt.mount": mount_unit(Stage.INSTALL)})[0] != 0


def analyze(folder, units):
    for name, text in units.items():
        (folder / name).write_text(text.replace(SCRIPT_PATH, "/bin/true"))
    paths = [folder / name for name in units]
    done = subprocess.run(["systemd-analyze", "verify", *paths], check=False, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("stage", STAGES)
def test_config_brings_the_script_and_two_units(stage):
    config = stage_config(stage, "4.10")
    (script,) = config.files()
    assert (script.path, script.mode, script.content) == (SCRIPT_PATH, 493, SCRIPT_FILE.read_bytes())
    assert [(unit.name, unit.enabled) for unit in config.units()] == [(MOUNT_UNIT, None), (SERVICES[stage], True)]
    assert config.users() == ()


@pytest.mark.parametrize(
    "stage, before",
    [
        (Stage.DISCOVERY, "agent.service"),
        (Stage.INSTALL, "machine-config-daemon-pull.service nodeip-configuration.service"),
    ],
)
def test_service_runs_once_before_whatever_pulls_images_and_is_required_by_nobody(stage, before):
    unit = options(service_unit(stage))
    assert unit["Unit", "Before"] == [before]
    assert unit["Install", "WantedBy"] == ["multi-user.target"]
    assert not {"Requires", "BindsTo", "Requisite", "PartOf", "RequiredBy"} & {name for _, name in unit}
    assert unit["Service", "Type"] + unit["Service", "RemainAfterExit"] == ["oneshot", "yes"]
    (stamp,) = unit["Unit", "ConditionPathExists"]
    assert f"--stamp {stamp.removeprefix('!')} " in unit["Service", "ExecStart"][0]


@pytest.mark.parametrize("stage", STAGES)
def test_mount_is_ordered_before_its_own_stage_and_waits_for_seconds_only(stage):
    unit = options(mount_unit(stage, "my-data"))
    assert unit["Unit", "Before"] == [f"{SERVICES[stage]} umount.target"]
    assert unit["Unit", "JobTimeoutSec"] + unit["Mount", "TimeoutSec"] == ["90", "90"]
    assert unit["Mount", "What"] == ["/dev/disk/by-partlabel/my-data"]
    assert unit["Mount", "Options"][0].split(",")[0] == "ro"


@pytest.mark.parametrize("stage", STAGES)
def test_partition_is_unmounted_whatever_comes_of_it(stage):
    """coreos-installer refuses a disk with a mounted partition."""
    unit = options(service_unit(stage))
    stop = [f"-/usr/bin/systemctl stop {MOUNT_UNIT}"]
    assert (unit["Service", "ExecStartPost"], unit["Service", "ExecStopPost"]) == (stop, stop)


@pytest.mark.parametrize("stage", STAGES)
def test_units_can_be_read_as_ignition_reads_them(stage):
    assert set(option_sections(mount_unit(stage))) == {"Unit", "Mount"}
    assert set(option_sections(service_unit(stage))) == {"Unit", "Service", "Install"}


@pytest.mark.parametrize(
    "stage, release, spec",
    [
        (Stage.DISCOVERY, "4.6", (3, 1)),
        (Stage.DISCOVERY, "4.16.3", (3, 1)),
        (Stage.INSTALL, "4.6.8", (3, 1)),
        (Stage.INSTALL, "4.7", (3, 2)),
        (Stage.INSTALL, "4.10.3", (3, 2)),
        (Stage.INSTALL, "4.11.0-rc.1", (3, 2)),
        (Stage.INSTALL, "4.18", (3, 2)),
    ],
)
def test_spec_follows_stage_and_release(stage, release, spec):
    assert spec_of(stage, release) == spec
    assert stage_config(stage, release).version == spec


@pytest.mark.parametrize("release", ["", "4", "4.5", "4.5.41", "3.11", "5.0", "latest", "4.10 ", "v4.10"])
def test_release_that_cannot_be_is_refused(release):
    with pytest.raises(BadInput, match=r"is no OpenShift release|is older than 4\.6"):
        stage_config(Stage.INSTALL, release)


@pytest.mark.parametrize("label", ["", "a b", "d%i", "-x", "a/b", "x" * 37, "data\nExecStart=/bin/sh"])
def test_label_that_a_unit_cannot_hold_is_refused(label):
    with pytest.raises(BadInput, match="cannot be a partition's label here"):
        stage_config(Stage.INSTALL, "4.10", label=label)


@pytest.mark.parametrize("key", ["", "ssh-rsa ssh-rsa AAAAB3NzaC1yc2E= me", "AAAA", KEY + "\nssh-rsa AAAA"])
def test_key_that_is_none_is_refused(key):
    """The prototype's pointer patch lets nobody in: its key begins twice."""
    with pytest.raises(BadInput, match="is not an OpenSSH public key"):
        stage_config(Stage.INSTALL, "4.10", ssh_keys=[key])


def test_keys_let_core_in():
    (user,) = stage_config(Stage.INSTALL, "4.10", ssh_keys=[KEY, f" {KEY}2\n"]).users()
    assert (user.name, user.ssh_keys) == ("core", (KEY, f"{KEY}2"))


def test_equal_input_gives_equal_bytes():
    assert stage_config(Stage.INSTALL, "4.10").raw == stage_config(Stage.INSTALL, "4.10.3").raw


text = st.text(st.characters(codec="utf-8"), max_size=40)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=12,
)


@given(stage=st.sampled_from(STAGES), extra=st.dictionaries(text.filter(lambda key: key != "ignition"), values))
def test_patch_decodes_to_the_config_that_it_was_made_of(stage, extra):
    document = {"ignition": {"version": "3.2.0"}} | extra
    patch = encode(stage, read_config(json.dumps(document).encode()))
    found = decode(patch)
    assert (found.stage, found.config.document, found.config.version) == (stage, document, (3, 2))
    assert patch.isascii()
    assert patch.count(b"\n") == 1
    assert json.loads(json.loads(patch)[KEYS[stage]]) == document
    assert encode(found.stage, found.config) == patch


@given(st.binary(max_size=60) | st.text(string.printable, max_size=60).map(str.encode))
def test_whatever_bytes_are_no_patch_are_refused_in_words(raw):
    with pytest.raises((BadInput, InvalidIgnition)):
        decode(raw)


@pytest.mark.parametrize(
    "raw, what",
    [
        ("{}", "the patch: is not an object with one key"),
        ("[1]", "the patch: is not an object with one key"),
        ('{"config":"{}","ignition_config_override":"{}"}', "the patch: is not an object with one key"),
        ('{"ignition":{"version":"3.1.0"}}', r"the patch: \$\.ignition: is a config, not a patch that carries one"),
        ('{"configs":"{}"}', r"the patch: \$\.configs: is not a key of these patches"),
        ('{"config":{"ignition":{}}}', r"the patch: \$\.config: must be a string that holds the config"),
        ('{"config":"{"}', r"the patch: \$\.config: is not JSON"),
        ('{"config":"\\ud800"}', r"the patch: \$\.config: holds text that is no Unicode"),
        ('{"config":"{}"}', r"the patch: \$\.config: \$\.ignition\.version: is missing"),
        ("[" * 100_000, "the patch: is not JSON"),
    ],
)
def test_wrong_patch_is_refused_with_its_place(raw, what):
    with pytest.raises((BadInput, InvalidIgnition), match=what) as caught:
        decode(raw.encode())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, stage", [("discovery.patch", Stage.DISCOVERY), ("pointer.patch", Stage.INSTALL)])
def test_real_patches_decode(corpus, name, stage):
    found = decode(corpus / "prestage" / name)
    assert (found.stage, found.config.version) == (stage, (3, 1))
    assert found.config.units()[0].name == "var-mnt.mount"
    assert json.loads(encode(found.stage, found.config)) == json.loads((corpus / "prestage" / name).read_bytes())


def invoke(*arguments):
    return CliRunner().invoke(harness, ["prestage", "ignition", *map(str, arguments)])


def test_command_writes_the_config(tmp_path):
    done = invoke("--stage", "install", "--release", "4.10", "--label", "prestage", "-o", tmp_path / "boot.ign")
    assert done.exit_code == 0, done.output
    expected = stage_config(Stage.INSTALL, "4.10", label="prestage").raw
    assert (tmp_path / "boot.ign").read_bytes() == expected


def test_command_writes_the_patch_to_standard_output_with_keys_from_a_file(tmp_path):
    (tmp_path / "id.pub").write_text(f"# mine\n{KEY}\n\n")
    done = invoke("--stage", "discovery", "--release", "4.10", "--patch", "--ssh-key", f"@{tmp_path / 'id.pub'}")
    found = decode(done.stdout.encode())
    assert (found.stage, found.config.document) == (
        Stage.DISCOVERY,
        stage_config(Stage.DISCOVERY, "4.10", ssh_keys=[KEY]).document,
    )


def test_command_says_where_a_patch_is_sent(tmp_path):
    done = invoke("--stage", "install", "--release", "4.10", "--patch", "-o", tmp_path / "pointer.patch")
    assert re.search(r"PATCH to /api/assisted-install/v2/infra-envs/ID/hosts/ID/ignition$", done.stderr.strip())


def test_command_refuses_a_key_file_that_is_not_there():
    done = invoke("--stage", "install", "--release", "4.10", "--ssh-key", "@/no/such.pub")
    assert (done.exit_code, Path("/no/such.pub").name in done.output) == (2, True)
