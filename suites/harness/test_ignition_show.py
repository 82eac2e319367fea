"""`harness ignition show`: what a config does, as a person reads it."""

import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.commands.ignition import ignition
from harness.errors import HarnessError
from harness.ignition.config import read_config
from harness.ignition.show import lines_of

HERE = Path(__file__).with_name("butane")


def shown(version="3.4.0", **sections):
    document = {"ignition": {"version": version} | sections.pop("ignition", {}), **sections}
    return list(lines_of(read_config(json.dumps(document).encode(), "x.ign")))


def test_a_config_is_told_section_by_section():
    done = CliRunner().invoke(ignition, ["show", "-d", str(HERE / "files"), str(HERE / "host.bu")])
    assert done.output.splitlines() == [
        f"{HERE / 'host.bu'} (fcos 1.5.0): Ignition 3.4.0",
        "kernel arguments:",
        "  must have: mitigations=auto",
        "disks:",
        "  LUKS root on /dev/disk/by-partlabel/root, unlocked by TPM 2",
        "  xfs on /dev/mapper/root (wiped)",
        "  xfs on /dev/disk/by-partlabel/data at /var/data",
        "users and groups:",
        "  user core: 1 SSH key",
        "files:",
        "  0644 root:root /etc/motd  38 bytes, sha256 "
        + hashlib.sha256(b"Nobody <nobody@example.com> & friends\n").hexdigest()[:16],
        "  0644 root:root /etc/made-of-a-tree  2 bytes, sha256 87428fc522803d31",
        "units:",
        "  var-data.mount: enabled, 250 bytes",
        "  hello.service: enabled, 63 bytes",
    ]


def test_a_config_that_does_nothing_says_so():
    assert shown() == ["x.ign: Ignition 3.4.0", "does nothing"]


def test_sources_are_told_with_whether_they_are_verified():
    digest = "sha512-" + "a" * 128
    config = {
        "merge": [{"source": "https://h/a"}, {"source": "https://h/b", "verification": {"hash": digest}}],
        "replace": {"source": "data:,{}"},
    }
    more = {"security": {"tls": {"certificateAuthorities": [{"source": "https://c"}]}}, "proxy": {"noProxy": ["x"]}}
    assert shown(ignition={"config": config, **more}) == [
        "x.ign: Ignition 3.4.0",
        "configs from elsewhere:",
        "  merge: https://h/a (not verified)",
        f"  merge: https://h/b ({digest[:24]}...)",
        "  replaced by: embedded, 8 characters",
        "  certificate authority: https://c (not verified)",
        "  noProxy: ['x']",
    ]


def test_disks_are_told_with_their_partitions():
    partitions = [
        {"number": 4, "label": "root", "sizeMiB": 9},
        {"label": "data"},
        {"number": 7, "shouldExist": False},
    ]
    storage = {
        "disks": [{"device": "/dev/vda", "wipeTable": True, "partitions": partitions}],
        "raid": [{"name": "md", "level": "raid1", "devices": ["/dev/a", "/dev/b"]}],
        "luks": [
            {"name": "x", "device": "/dev/x", "clevis": {"tang": [{"url": "http://t"}], "tpm2": True, "threshold": 2}},
            {"name": "y", "device": "/dev/y"},
        ],
    }
    assert shown(storage=storage)[2:] == [
        "  /dev/vda (partition table wiped)",
        '    partition 4 "root", 9 MiB',
        '    partition next free "data", all that is left',
        "    partition 7, all that is left, must not exist",
        "  raid1 md of /dev/a, /dev/b",
        "  LUKS x on /dev/x, unlocked by Tang http://t, TPM 2 (2 of them needed)",
        "  LUKS y on /dev/y, unlocked by a key that is thrown away",
    ]


def test_nodes_and_units_are_told():
    storage = {
        "files": [{"path": "/a", "contents": {"source": "https://h"}, "user": {"id": 7}, "group": {"name": "g"}}],
        "directories": [{"path": "/d", "mode": 0o700}],
        "links": [{"path": "/l", "target": "/t", "hard": True}],
    }
    units = [
        {"name": "a.service", "enabled": False, "mask": True, "dropins": [{"name": "x.conf"}]},
        {"name": "b.timer"},
    ]
    assert shown(storage=storage, systemd={"units": units})[1:] == [
        "files:",
        "  default 7:g /a  from https://h",
        "directories:",
        "  0700 root:root /d",
        "links:",
        "  root:root /l -> /t (hard)",
        "units:",
        "  a.service: disabled, masked, drop-in x.conf",
        "  b.timer: as it is",
    ]


def test_nothing_of_a_config_reaches_the_terminal_raw():
    lines = shown(passwd={"users": [{"name": "\x1b[2J\n" + "x" * 500, "groups": ["\x07"]}]})
    assert (len(lines), all(line.isprintable() and len(line) < 200 for line in lines)) == (3, True)


@pytest.mark.parametrize("section", ["storage", "systemd", "passwd", "ignition", "kernelArguments"])
@pytest.mark.parametrize("odd", [None, 7, "x", [], [7], {"files": [7, {}], "users": 7, "units": [{}], "disks": [{}]}])
def test_odd_documents_are_told_or_refused_in_words(section, odd):
    document = {"ignition": {"version": "3.4.0"}} | {section: odd}
    if section == "ignition" and isinstance(odd, dict):
        document["ignition"] = odd | {"version": "3.4.0"}
    try:
        list(lines_of(read_config(json.dumps(document).encode())))
    except HarnessError as refused:
        message = str(refused)
        assert "\n" not in message


def test_configs_of_the_corpus_can_all_be_told(corpus):
    told = [
        len(list(lines_of(read_config(path))))
        for path in sorted(corpus.rglob("*.ign"))
        if b"version" in path.read_bytes()
    ]
    assert min(told) >= 2
