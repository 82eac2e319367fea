"""Whatever is written: a config that our validator accepts, or one typed error in one line."""

import json
import string

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InvalidIgnition
from harness.ignition.butane.dialect import DIALECTS
from harness.ignition.butane.grammar import LABELS, fields_of
from harness.ignition.butane.translate import Options, translate
from harness.ignition.config import read_config
from harness.ignition.validate import validate

WORDS = {
    "path": ["/a", "/etc/b", "/var/c", "a", "/a//b", ""],
    "device": ["/dev/vda", "/dev/mapper/root", "/dev/dasda", "x", ""],
    "format": ["ext4", "xfs", "swap", "none", "btrfs", "x"],
    "source": ["data:,x", "https://h", "x:", ""],
    "inline": ["x", "a\n" * 99, ""],
    "local": ["file", "..", "", "folder"],
    "name": ["core", "a.service", "x.conf", "root", ""],
    "contents": ["[Unit]\n", "[X", ""],
    "layout": ["x86_64", "aarch64", "s390x-eckd", "s390x-virt", "z"],
    "devices": ["/dev/a", "/dev/b", "c"],
    "hash": ["sha512-" + "0" * 128, "x"],
    "url": ["http://t", "x"],
    "kernel_type": ["realtime", "x"],
    "label": ["a", "root-1", "esp-1", "boot", "x" * 50],
}
ODD = st.sampled_from([None, 7, -1, "x", "0644", True, [], {}, [[]], {"a": 1}, 1.5, "é\x85\u2028"])
ROLE = {"machineconfiguration.openshift.io/role": "worker"}


@st.composite
def objects(draw, dialect, kind="config", depth=0):
    made = {}
    if kind == "config":
        made = {"variant": dialect.variant, "version": f"{dialect.version[0]}.{dialect.version[1]}.0"}
        if dialect.is_openshift:
            made["metadata"] = {"name": "x", "labels": ROLE}
    fields = fields_of(dialect)[kind]
    chance = 35 if kind != "config" else 25
    for field in fields.values():
        if field.name not in made and draw(st.integers(0, 99)) < (
            90 if field.name in {"name", "path", "device"} else chance
        ):
            made[field.name] = draw(values(dialect, field, depth))
    if draw(st.integers(0, 199)) == 137:  # not 0, which hypothesis likes too much
        made[draw(st.sampled_from(["x", "<<", "wipeTable", "grub", "é"]))] = draw(ODD)
    return made


def values(dialect, field, depth):
    if field.kind == "str":
        value = st.sampled_from(WORDS.get(field.name, ["x", "y z", "", "--cipher", "a" * 99]))
    elif field.kind == "int":
        value = st.sampled_from([0, 1, 2, 420, 755, 4095, 4096, -1])
    elif field.kind == "bool":
        value = st.booleans()
    elif field.kind == LABELS:
        value = st.just(ROLE)
    else:
        value = objects(dialect, field.kind, depth + 1)
    value = st.lists(value, min_size=1, max_size=3) if field.is_list else value
    return st.integers(0, 79).flatmap(lambda roll: ODD if roll == 53 else value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("files")
    (root / "file").write_text("x\n")
    (root / "folder").mkdir()
    (root / "folder/link").symlink_to("../file")
    return root


def outcome(raw, folder):
    """Translate; on success prove that the result is what it says, otherwise that the error is one line."""
    try:
        made = translate(raw, "fuzz.bu", Options(folder))
    except InvalidIgnition as refused:
        message = str(refused)
    else:
        return prove(made, raw)
    assert message.startswith("fuzz.bu:")
    assert len(message.splitlines()) == 1
    return False


def prove(made, raw):
    assert validate(made.config).errors == ()
    body = yaml.safe_load(made.output)["spec"]["config"] if made.dialect.is_openshift else json.loads(made.output)
    assert body == made.config.document
    assert validate(read_config(json.dumps(body).encode())).errors == ()
    lines = raw.count(b"\n") + 1
    assert all(1 <= mark.line <= lines and mark.column >= 1 for mark in made.places.values())
    return True


@given(st.sampled_from(DIALECTS).flatmap(objects))
@settings(max_examples=150, deadline=None)
def test_any_config_of_the_grammar_is_translated_or_refused(folder, document):
    outcome(yaml.safe_dump(document, allow_unicode=True).encode(), folder)


@given(st.binary(max_size=60) | st.text(alphabet=string.printable + "é\x00\ud800\u2028", max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_is_refused_in_words(folder, text):
    outcome(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"), folder)


@given(
    st.integers(0, 10_000),
    st.sampled_from(
        [b"", b"[", b"}", b": ", b"- ", b"&a ", b"*a", b"!!x ", b"\n", b"\t", b"'", b"|", b"---\n", b"\xff", b"<<"]
    ),
    st.integers(0, 12),
)
@settings(max_examples=200, deadline=None)
def test_a_config_damaged_anywhere_is_translated_or_refused(folder, place, damage, length):
    place %= len(SOUND)
    outcome(SOUND[:place] + damage + SOUND[place + length :], folder)


SOUND = b"""variant: fcos
version: 1.5.0
passwd:
  users:
    - &user
      name: core
      ssh_authorized_keys: [ssh-rsa AAAA]
storage:
  trees:
    - local: folder
      path: /var/tree
  files:
    - path: /etc/hostname
      mode: 0644
      contents:
        inline: |
          a
    - path: /etc/b
      contents: {local: file}
  filesystems:
    - {device: /dev/vdb, format: xfs, path: /var/b, with_mount_unit: true}
boot_device:
  luks: {tpm2: true}
systemd:
  units:
    - name: a.service
      mask: true
"""


def test_the_sound_config_is_translated(folder):
    assert outcome(SOUND, folder)


@pytest.mark.nightly
@given(st.sampled_from(DIALECTS).flatmap(objects))
@settings(max_examples=10_000, deadline=None)
def test_any_config_of_the_grammar_many_times(folder, document):
    outcome(yaml.safe_dump(document, allow_unicode=True).encode(), folder)
