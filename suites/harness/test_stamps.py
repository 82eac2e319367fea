"""os-release, aleph, the first-boot stamp and the console settings, in all the forms they were ever written."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DamagedImage, HarnessError, MissingFile
from harness.images.filesystems.files import open_files
from harness.images.formats.raw import FileBlock
from harness.images.system.stamps import (
    IgnitionState,
    parse_os_release,
    read_aleph,
    read_console,
    read_ignition_state,
    read_platforms,
)
from harness.tools import run


@pytest.fixture
def filesystem(tmp_path):
    """A function that makes an ext4 filesystem of files (text) and symlinks (`-> target`)."""

    def make(content: dict[str, str]):
        for path, text in content.items():
            target = tmp_path / "tree" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if text.startswith("-> "):
                target.symlink_to(text[3:])
            else:
                target.write_text(text)
        (tmp_path / "tree").mkdir(exist_ok=True)
        run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", str(tmp_path / "tree"), str(tmp_path / "fs.img"), "4M"])
        return open_files(FileBlock(tmp_path / "fs.img"))

    return make


def test_os_release_keeps_order_and_unquotes():
    text = '# comment\nNAME="A \\"B\\""\nID=\'a b\'\nEMPTY=\nVERSION_ID=4.19\n'
    assert list(parse_os_release(text, "x").items()) == [
        ("NAME", 'A "B"'),
        ("ID", "a b"),
        ("EMPTY", ""),
        ("VERSION_ID", "4.19"),
    ]


@pytest.mark.parametrize("line", ["NAME=two words", "no assignment", 'OPEN="'])
def test_a_line_that_is_no_assignment_is_named(line):
    with pytest.raises(DamagedImage, match="line 2 is not an assignment"):
        parse_os_release(f"ID=x\n{line}\n", "os-release")


@given(st.text(max_size=200))
def test_any_os_release_is_read_or_refused_in_words(text):
    try:
        parse_os_release(text, "x")
    except HarnessError as error:
        assert "not an assignment" in error.what  # noqa: PT017 - most texts are refused, some are read


FIELDS = json.dumps({"build": "1"})
LINKS = {".aleph-version.json": "-> .bootc-aleph.json", ".coreos-aleph-version.json": "-> .bootc-aleph.json"}


@pytest.mark.parametrize(
    "content,form,links",
    [
        ({".coreos-aleph-version.json": FIELDS}, "cosa", 0),
        ({".aleph-version.json": FIELDS, ".coreos-aleph-version.json": "-> .aleph-version.json"}, "osbuild", 1),
        ({".bootc-aleph.json": FIELDS, **LINKS}, "bootc", 2),
    ],
)
def test_each_era_of_the_aleph_is_recognised(filesystem, content, form, links):
    aleph = read_aleph(filesystem(content))
    assert (aleph.format, aleph.fields, len(aleph.links)) == (form, {"build": "1"}, links)


@pytest.mark.parametrize(
    "content,error,words",
    [
        ({}, MissingFile, "no aleph file"),
        ({".aleph-version.json": "{"}, DamagedImage, "is not JSON"),
        ({".aleph-version.json": '{"a": "\\ud800"}'}, DamagedImage, "is not JSON"),
        ({".aleph-version.json": "[]"}, DamagedImage, "not an object"),
        ({".aleph-version.json": "[" * 50_000}, DamagedImage, "is not JSON"),
        ({".aleph-version.json": "-> .aleph-version.json"}, MissingFile, "no aleph file"),
    ],
)
def test_a_bad_aleph_is_told_in_words(filesystem, content, error, words):
    with pytest.raises(error, match=words):
        read_aleph(filesystem(content))


@pytest.mark.parametrize(
    "content,state",
    [
        ({}, IgnitionState("absent", "", None)),
        ({"ignition.firstboot": ""}, IgnitionState("empty", "", None)),
        (
            {"ignition.firstboot": "set ignition_network_kcmdline='ip=dhcp rd.neednet=1'\n"},
            IgnitionState("network", "ip=dhcp rd.neednet=1", None),
        ),
        ({"ignition.firstboot": "hello"}, IgnitionState("other", "hello", None)),
    ],
)
def test_the_first_boot_stamp_is_read_in_all_its_states(filesystem, content, state):
    assert read_ignition_state(filesystem(content)) == state


def test_console_settings_may_lie_in_either_file(filesystem):
    text = "set a\n# CONSOLE-SETTINGS-START\nserial --unit=0\n# CONSOLE-SETTINGS-END\nrest\n"
    console = read_console(filesystem({"grub2/grub.cfg": text}))
    assert (console.path, console.commands) == ("/grub2/grub.cfg", ("serial --unit=0",))


@pytest.mark.parametrize("text", ['{"qemu": []}', '{"qemu": {"grub_commands": "x"}}', '{"q": {"grub_commands": [1]}}'])
def test_platforms_that_are_not_lists_of_words_are_refused(filesystem, text):
    with pytest.raises(DamagedImage, match="not two lists of words"):
        read_platforms(filesystem({"coreos/platforms.json": text}))
