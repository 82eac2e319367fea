"""Boot loader entries: reading the text, and which one boots by default."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.images.system.bls import BootEntries, parse_entry, split_arguments

TEXT = """# made by ostree
title Fedora CoreOS 41 (ostree:0)
version 1
options rw $ignition_firstboot ostree=/ostree/boot.1/fcos/abc/0
options\tconsole=tty0 console=ttyS0,115200n8
linux /ostree/vmlinuz-6.1
initrd /ostree/initramfs.img
grub_users ""
"""


def test_an_entry_is_read_with_repeated_keys_joined():
    entry = parse_entry("/loader/entries/a.conf", TEXT)
    assert (entry.title, entry.version) == ("Fedora CoreOS 41 (ostree:0)", "1")
    assert (entry.linux, entry.initrd) == ("/ostree/vmlinuz-6.1", "/ostree/initramfs.img")
    assert entry.options[:2] == ("rw", "$ignition_firstboot")
    assert entry.karg("console") == ["tty0", "ttyS0,115200n8"]


@pytest.mark.parametrize("name,values", [("rw", [""]), ("ro", []), ("ostree", ["/ostree/boot.1/fcos/abc/0"])])
def test_a_kernel_argument_gives_all_its_values(name, values):
    assert parse_entry("x", TEXT).karg(name) == values


def test_the_default_is_the_last_file_by_name():
    entries = BootEntries(tuple(parse_entry(f"/loader/entries/ostree-{n}.conf", "") for n in (1, 2)))
    assert entries.default.path == "/loader/entries/ostree-2.conf"


@given(st.text(max_size=200))
def test_any_text_is_read_without_an_accident(text):
    parse_entry("x", text)


@given(st.lists(st.text(alphabet="abc=/$.,", min_size=1, max_size=8)))
def test_splitting_undoes_joining(words):
    assert split_arguments("  ".join(words)) == tuple(words)
