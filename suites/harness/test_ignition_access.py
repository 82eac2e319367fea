"""The harness's own config: it carries the user's untouched, and Ignition accepts the sum."""

import base64
import json
import subprocess

import pytest

from harness.errors import BadInput, MissingTool
from harness.ignition.access import CHANNEL_SCRIPT, CHANNEL_UNIT, with_access
from harness.ignition.config import read_config
from harness.ignition.delivery import FW_CFG_NAME, INJECTION_PATH
from harness.ignition.spec import KNOWN, text_of
from harness.ignition.validate import validate
from harness.tools import find_tool

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHqPzN7eX7n8sJ3kE9Y0nKqz1xYFv4Qe3cQm5o7T2rQw harness"


def user_config(version):
    raw = b'{ "ignition" : {"version": "%s"},\n\t"passwd": {"users": [{"name": "core"}]}}\n' % text_of(version).encode()
    return read_config(raw, "user.ign")


@pytest.mark.parametrize("channel", [True, False])
@pytest.mark.parametrize("version", KNOWN, ids=text_of)
def test_the_users_bytes_are_carried_exactly(version, channel):
    user = user_config(version)
    document = json.loads(with_access(user, ssh_public_key=KEY, channel=channel))
    how = "append" if version == (2, 2) else "merge"
    (reference,) = document["ignition"]["config"][how]
    assert base64.b64decode(reference["source"].removeprefix("data:;base64,")) == user.raw


@pytest.mark.parametrize(
    "version", [*KNOWN, None], ids=lambda version: text_of(version) if version else "no user config"
)
def test_the_result_is_a_valid_config_of_the_users_spec(version):
    result = read_config(with_access(user_config(version) if version else None, ssh_public_key=KEY))
    judged = validate(result)
    assert (judged.errors, judged.warnings) == ((), ())
    assert result.version == (version or (3, 0))
    assert [(user.name, user.ssh_keys) for user in result.users()] == [("core", (KEY,))]
    assert [(unit.name, unit.enabled) for unit in result.units()] == [(CHANNEL_UNIT, True)]
    assert [(file.path, file.mode) for file in result.files()] == [(CHANNEL_SCRIPT, 0o644)]
    assert result.files()[0].content.startswith(b"# The guest's end")


@pytest.mark.parametrize("version", [(3, 0), (3, 1), (3, 2), (3, 3)], ids=text_of)
def test_ignition_validate_accepts_the_result(version):
    try:
        tool = find_tool("ignition-validate")
    except MissingTool as missing:
        pytest.skip(str(missing))
    raw = with_access(user_config(version), ssh_public_key=KEY)
    done = subprocess.run([tool, "-"], input=raw, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_without_a_channel_only_the_key_is_added():
    assert json.loads(with_access(None, ssh_public_key=KEY, channel=False, spec=(3, 3))) == {
        "ignition": {"version": "3.3.0"},
        "passwd": {"users": [{"name": "core", "sshAuthorizedKeys": [KEY]}]},
    }


def test_equal_input_gives_equal_bytes():
    assert with_access(user_config((3, 2)), ssh_public_key=KEY) == with_access(
        user_config((3, 2)), ssh_public_key=f"{KEY}\n"
    )


@pytest.mark.parametrize("key", ["", "not a key", "ssh-rsa", f"{KEY}\nssh-rsa AAAA second", "ssh-rsa AAAA\n\x00"])
def test_what_is_no_public_key_is_refused(key):
    with pytest.raises(BadInput, match="is not an OpenSSH public key"):
        with_access(None, ssh_public_key=key)


def test_a_spec_that_the_users_config_does_not_share_is_refused():
    with pytest.raises(BadInput, match=r"user\.ign: declares spec 3\.2\.0, not 3\.3\.0"):
        with_access(user_config((3, 2)), ssh_public_key=KEY, spec=(3, 3))


def test_guests_look_where_coreos_looks():
    assert (FW_CFG_NAME, INJECTION_PATH) == ("opt/com.coreos/config", "/ignition/config.ign")
