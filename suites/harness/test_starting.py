"""What config a guest gets from `harness boot` and `harness shell`: the user's, that of a live ISO's owner, or none."""

import base64
import json

import pytest

from harness.commands.starting import ready_to_boot
from harness.errors import HarnessError
from harness.iso.edit import change, embed_config
from harness.store import Store
from suites.harness.iso_generations import iso_of

OWNERS = b'{"ignition": {"version": "3.3.0"}, "storage": {"files": [{"path": "/etc/hostname"}]}}'
USERS = b'{"ignition": {"version": "3.1.0"}}'


@pytest.fixture
def iso(tmp_path):
    return iso_of(tmp_path, "2023-07")


@pytest.fixture
def boot_of(tmp_path):
    def boot(iso, ignition=None, **more):
        with ready_to_boot(iso, ignition, "", "tcg", Store(tmp_path / "store"), **more) as ready:
            return ready

    return boot


def carried(boot):
    """The config that is merged with the shell on the console; None where there is just that."""
    document = json.loads(boot.ignition)
    assert [unit["name"] for unit in document["systemd"]["units"]] == ["serial-getty@.service"]
    merged = document["ignition"].get("config", {}).get("merge", [])
    return base64.b64decode(merged[0]["source"].partition(",")[2]) if merged else None


def test_config_of_a_live_isos_owner_is_kept(boot_of, iso):
    assert carried(boot_of(iso)) is None
    change(iso, embed_config(OWNERS))
    ready = boot_of(iso)
    assert carried(ready) == OWNERS
    assert ready.embeds


def test_users_config_takes_the_place_of_the_owners(boot_of, iso, tmp_path):
    change(iso, embed_config(OWNERS))
    (tmp_path / "users.ign").write_bytes(USERS)
    assert carried(boot_of(iso, tmp_path / "users.ign")) == USERS


def test_untouched_is_untouched(boot_of, iso):
    change(iso, embed_config(OWNERS))
    ready = boot_of(iso, untouched=True)
    assert (ready.ignition, ready.embeds) == (None, False)


@pytest.mark.parametrize("embedded", [b"no JSON", b'{"ignition": {"version": "9.9.0"}}'])
def test_an_embedded_config_that_nobody_understands_is_named(boot_of, iso, embedded):
    change(iso, embed_config(embedded))
    with pytest.raises(HarnessError, match=f"the config embedded in {iso.name}"):
        boot_of(iso)
