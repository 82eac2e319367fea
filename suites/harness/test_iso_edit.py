"""Live ISOs of every generation customised: the room changes, nothing else does, and all of it can be taken back."""

from __future__ import annotations

import io
import json
import lzma
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BadInput, DamagedImage, UnsupportedImage
from harness.images.formats.raw import FileBlock
from harness.images.system.live_archives import Member, read_archives
from harness.iso import edit
from harness.iso.edit import (
    change,
    embed_config,
    embed_network,
    modify_kargs,
    remove_config,
    remove_network,
    reset,
    reset_kargs,
)
from harness.iso.facts import describe
from harness.iso.initrd import embedded, pack
from harness.iso.opened import open_live_iso
from suites.harness.edited import sha256
from suites.harness.iso_generations import GENERATIONS, WITH_KARGS, by_genisoimage, iso_of
from suites.harness.small_live_iso import AREA, EMBED, KARGS, cpio
from suites.harness.test_cli import run_harness

CONFIG = b'{"ignition": {"version": "3.3.0"}}'
KEYFILE = b"[connection]\nid=lab\ntype=ethernet\n"
REAL = "coreos-installer-fixtures/iso"
REAL_NAMES = ("2020-09", "2021-01", "2021-12", "2022-02", "2023-03.s390x", "2023-03.x86_64", "2023-07.x86_64")
EXTRA = "console=ttyS0,115200n8"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """A pristine ISO of each generation; nobody changes these."""
    return {name: iso_of(tmp_path_factory.mktemp(name), name) for name in GENERATIONS}


@pytest.fixture
def pristine(made, request) -> Path:
    return made[getattr(request, "param", "2023-07")]


@pytest.fixture
def iso(pristine, tmp_path) -> Path:
    """A copy to be changed."""
    copy = tmp_path / "copy.iso"
    copy.write_bytes(pristine.read_bytes())
    return copy


def rooms(iso: Path) -> list[tuple[int, int]]:
    """Offset and length of every place that may be written."""
    facts = describe(iso)
    kargs = [each.room for each in facts.kargs.rooms] if facts.kargs else []
    return [(room.offset, room.length) for room in [facts.ignition.room, *kargs]]


def outside(iso: Path) -> bytes:
    """All bytes of an ISO but those of its rooms."""
    raw = bytearray(iso.read_bytes())
    for offset, length in rooms(iso):
        raw[offset : offset + length] = bytes(length)
    return bytes(raw)


def config_of(iso: Path) -> bytes:
    with open_live_iso(iso) as opened:
        return next(each.content for each in embedded(opened.embed) if each.name == "config.ign")


every_generation = pytest.mark.parametrize("pristine", GENERATIONS, indirect=True)
every_generation_with_kargs = pytest.mark.parametrize("pristine", WITH_KARGS, indirect=True)


@every_generation
def test_an_embedded_config_taken_out_again_leaves_the_same_iso(pristine, iso):
    assert change(iso, embed_config(CONFIG)) > 0
    assert (config_of(iso), sha256(iso) == sha256(pristine)) == (CONFIG, False)
    change(iso, remove_config)
    assert sha256(iso) == sha256(pristine)


@every_generation_with_kargs
def test_changed_kernel_arguments_reset_leave_the_same_iso(pristine, iso):
    change(
        iso, modify_kargs(append=[EXTRA], delete=["ignition.firstboot"], replace=["ignition.platform.id=metal=qemu"])
    )
    line = KARGS.replace(" ignition.firstboot", "").replace("=metal", "=qemu") + f" {EXTRA}"
    assert {each.kargs for each in describe(iso).kargs.rooms} == {line}
    change(iso, reset_kargs)
    assert sha256(iso) == sha256(pristine)


@every_generation
def test_no_byte_outside_the_rooms_changes(pristine, iso):
    change(iso, embed_config(CONFIG))
    if describe(iso).kargs:
        change(iso, modify_kargs(append=[EXTRA]))
    assert rooms(iso) == rooms(pristine)
    assert outside(iso) == outside(pristine)


@pytest.mark.parametrize("name", ["2020-09", "2021-12", "2023-07"])
def test_isos_of_another_program_are_changed_too(name, tmp_path):
    iso = by_genisoimage(tmp_path, name)
    before = sha256(iso)
    change(iso, embed_config(CONFIG))
    assert config_of(iso) == CONFIG
    change(iso, reset)
    assert sha256(iso) == before


@every_generation
def test_in_place_a_new_file_and_standard_output_have_the_same_bytes(iso, tmp_path, monkeypatch):
    new, out = tmp_path / "new" / "lab.iso", io.BytesIO()
    change(iso, embed_config(CONFIG), new)
    monkeypatch.setattr(edit, "sys", type("sys", (), {"stdout": type("stdout", (), {"buffer": out})}))
    change(iso, embed_config(CONFIG), Path("-"))
    change(iso, embed_config(CONFIG))
    assert new.read_bytes() == iso.read_bytes() == out.getvalue()


@every_generation_with_kargs
def test_padding_follows_what_the_iso_says(pristine, iso):
    change(iso, modify_kargs(append=[EXTRA]))
    end, pad = (b"\0", b"\0") if "cdboot" in str(describe(iso).kargs.rooms[0].room.file) else (b"\n", b"#")
    raw = iso.read_bytes()
    wanted = (f"{KARGS} {EXTRA}".encode() + end).ljust(AREA, pad)
    assert [raw[offset : offset + length] for offset, length in rooms(iso)[1:]] == [wanted] * len(rooms(iso)[1:])


def test_the_embedded_archive_is_what_cpio_and_the_kernel_read(iso, tmp_path):
    change(iso, embed_config(CONFIG))
    at, length = rooms(iso)[0]
    area = iso.read_bytes()[at : at + length]
    packed = area.rstrip(b"\0") + bytes(-len(area.rstrip(b"\0")) % 4)
    assert packed[:8] == b"\xfd7zXZ\0\0\1"  # stream flags: CRC32, which Linux' decoder wants
    listed = subprocess.run(["cpio", "-itv", "--quiet"], input=lzma.decompress(packed), capture_output=True, check=True)
    assert listed.stdout.split()[0] == b"-rw-r--r--"
    assert listed.stdout.split()[-1] == b"config.ign"
    inside = subprocess.run(
        ["cpio", "-i", "--to-stdout", "--quiet"], input=lzma.decompress(packed), capture_output=True, check=True
    )
    assert inside.stdout == CONFIG


def test_folders_come_before_what_is_in_them():
    members = read_archives(pack([Member("etc/a/b", 0o100644, b"x")]), "area")
    assert [(each.name, oct(each.mode)) for each in members] == [
        ("etc", "0o40755"), ("etc/a", "0o40755"), ("etc/a/b", "0o100644"),
    ]  # fmt: skip


@pytest.mark.parametrize("compression", ["xz", "gzip"])
def test_the_same_config_gives_the_same_bytes(compression, made, tmp_path):
    for name in ("one.iso", "two.iso"):
        change(made["2023-07"], embed_config(CONFIG, compression=compression), tmp_path / name)
    assert sha256(tmp_path / "one.iso") == sha256(tmp_path / "two.iso")
    assert config_of(tmp_path / "one.iso") == CONFIG


def test_a_second_config_needs_to_be_asked_for(iso):
    change(iso, embed_config(CONFIG))
    with pytest.raises(BadInput, match=r"has an Ignition config already.*--replace"):
        change(iso, embed_config(CONFIG + b"\n"))
    change(iso, embed_config(CONFIG + b"\n", replace=True))
    assert config_of(iso) == CONFIG + b"\n"


def test_a_config_and_network_settings_do_not_touch_each_other(pristine, iso):
    change(iso, embed_network([("lab.nmconnection", KEYFILE)]))
    only_network = sha256(iso)
    change(iso, embed_config(CONFIG))
    facts = describe(iso).ignition
    assert (facts.state, facts.network) == ("config", ["lab.nmconnection"])
    change(iso, remove_config)
    assert sha256(iso) == only_network
    change(iso, embed_config(CONFIG))
    change(iso, remove_network)
    assert (describe(iso).ignition.network, config_of(iso)) == ([], CONFIG)
    change(iso, remove_config)
    assert sha256(iso) == sha256(pristine)


@pytest.mark.parametrize("pristine", ["2021-01"], indirect=True)
def test_a_system_that_reads_no_network_settings_gets_none(pristine, iso):
    with pytest.raises(BadInput, match="reads no embedded network settings"):
        change(iso, embed_network([("lab.nmconnection", KEYFILE)]))
    assert sha256(iso) == sha256(pristine)


@pytest.mark.parametrize("between", [b"", bytes(512)])
def test_what_others_embedded_in_several_archives_is_kept(between, iso):
    at, _ = rooms(iso)[0]
    content = cpio({"etc/one": b"1", "config.ign": b"old"}) + between + lzma.compress(cpio({"config.ign": CONFIG}))
    with iso.open("r+b") as file:
        file.seek(at)
        file.write(content)
    assert config_of(iso) == CONFIG
    change(iso, remove_config)
    with open_live_iso(iso) as opened:
        assert [(each.name, each.content) for each in embedded(opened.embed) if each.content] == [("etc/one", b"1")]


def test_a_config_too_large_for_its_room_is_refused_with_sizes(pristine, iso):
    noise = json.dumps({"ignition": {"version": "3.3.0"}, "x": os.urandom(EMBED).hex()}).encode()
    with pytest.raises(BadInput, match=r"has 2\d\d,\d{3} bytes when packed, the area 262,144"):
        change(iso, embed_config(noise))
    assert sha256(iso) == sha256(pristine)


def test_kernel_arguments_too_long_for_their_room_are_refused_with_sizes(pristine, iso):
    room = AREA - len(KARGS) - 2  # a space, the end mark
    with pytest.raises(BadInput, match="have 513 bytes with their end mark, a place 512"):
        change(iso, modify_kargs(append=["x" * (room + 1)]))
    assert sha256(iso) == sha256(pristine)
    change(iso, modify_kargs(append=["x" * room]))
    assert describe(iso).kargs.current == f"{KARGS} {'x' * room}"


@pytest.mark.parametrize("pristine", ["2020-09", "2023-03.s390x"], indirect=True)
def test_an_iso_without_room_for_kernel_arguments_says_so(pristine, iso):
    with pytest.raises(UnsupportedImage, match="has no room for kernel arguments"):
        change(iso, modify_kargs(append=[EXTRA]))
    change(iso, reset)
    assert sha256(iso) == sha256(pristine)


def test_what_changes_nothing_writes_nothing(iso):
    before = iso.stat().st_mtime_ns
    assert [change(iso, plan) for plan in (remove_config, remove_network, reset_kargs, reset)] == [0, 0, 0, 0]
    assert iso.stat().st_mtime_ns == before


def test_reset_heals_rooms_that_something_else_has_filled(pristine, iso):
    with iso.open("r+b") as file:
        for offset, length in rooms(iso):
            file.seek(offset)
            file.write(b"\x80" * length)
    with pytest.raises(DamagedImage, match=r"something that is no initramfs.*harness iso reset"):
        change(iso, embed_config(CONFIG))
    with pytest.raises(DamagedImage, match="do not agree on the kernel arguments: garbled"):
        change(iso, modify_kargs(append=[EXTRA]))
    change(iso, reset)
    assert sha256(iso) == sha256(pristine)


def test_an_iso_is_not_written_over_itself(pristine, iso, tmp_path):
    (tmp_path / "link.iso").symlink_to(iso)
    for output in (iso, tmp_path / "link.iso"):
        with pytest.raises(BadInput, match="is the image itself"):
            change(iso, embed_config(CONFIG), output)
    assert sha256(iso) == sha256(pristine)


@settings(max_examples=25)
@given(config=st.binary(max_size=20_000))
def test_any_config_comes_out_as_it_went_in(made, tmp_path_factory, config):
    pristine = made["2023-07"]
    iso = tmp_path_factory.mktemp("any") / "any.iso"
    change(pristine, embed_config(config), iso)
    assert config_of(iso) == config
    assert outside(iso) == outside(pristine)
    change(iso, remove_config)
    assert sha256(iso) == sha256(pristine)


words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=60)


@settings(max_examples=30)
@given(name=st.sampled_from(WITH_KARGS), extra=st.lists(words, max_size=5))
def test_any_kernel_arguments_come_out_as_they_went_in(made, tmp_path_factory, name, extra):
    pristine = made[name]
    iso = tmp_path_factory.mktemp("any") / "any.iso"
    line = " ".join([KARGS, *extra])
    change(pristine, modify_kargs(append=extra), iso)
    assert describe(iso).kargs.current == line
    assert outside(iso) == outside(pristine)
    change(iso, reset_kargs)
    assert sha256(iso) == sha256(pristine)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"append": ["a b"]}, "'a b' is no kernel argument"),
        ({"append": [""]}, "'' is no kernel argument"),
        ({"append": ["a\nb"]}, "is no kernel argument"),
        ({"append": ["gr\u00fcn"]}, "is no kernel argument"),
        ({"delete": ["quiet"]}, "quiet is not among the kernel arguments.*there are: mitigations=auto,nosmt"),
        ({"delete": ["ignition.firstboot"] * 2}, "is not among"),
        ({"replace": ["a=b"]}, "a=b is no replacement .say KEY=OLD=NEW"),
        ({"replace": ["mitigations=off=on"]}, "mitigations=off is not among"),
        ({"append": ["a", "a"], "delete": ["a"]}, "a is not among"),
    ],
)
def test_words_that_cannot_be_are_refused(options, words, pristine, iso):
    with pytest.raises(BadInput, match=words):
        change(iso, modify_kargs(**options))
    assert sha256(iso) == sha256(pristine)


def test_a_word_that_stands_there_twice_is_not_guessed_at(iso):
    change(iso, modify_kargs(append=["a=1", "a=1"]))
    with pytest.raises(BadInput, match="a=1 stands there more than once"):
        change(iso, modify_kargs(delete=["a=1"]))


@pytest.mark.parametrize("where", ["in place", "new file"])
def test_an_iso_of_a_gigabyte_takes_well_under_a_second(where, iso, tmp_path, monkeypatch):
    """It is never read as a whole, and neither are its holes copied."""
    size = 2**30
    os.truncate(iso, size)
    read = []
    whole = FileBlock.read
    monkeypatch.setattr(FileBlock, "read", lambda self, at, length: (read.append(length), whole(self, at, length))[1])
    started = time.monotonic()
    output = None if where == "in place" else tmp_path / "new.iso"
    change(iso, embed_config(CONFIG), output)
    assert time.monotonic() - started < 1
    assert sum(read) < 8 * 2**20
    made = output or iso
    assert (made.stat().st_size, made.stat().st_blocks * 512 < 2**23) == (size, True)


def test_the_whole_way_by_command(pristine, iso, tmp_path):
    (tmp_path / "config.ign").write_bytes(CONFIG)
    before = sha256(iso)
    lab = tmp_path / "lab.iso"
    steps = [
        ["ignition", "embed", iso, "-i", tmp_path / "config.ign", "-o", lab],
        ["ignition", "show", lab],
        ["kargs", "modify", lab, "--append", EXTRA],
        ["kargs", "show", lab],
        ["kargs", "show", lab, "--default"],
        ["kargs", "reset", lab],
        ["ignition", "remove", lab],
    ]
    done = [run_harness("iso", *map(str, step)) for step in steps]
    assert [(each.returncode, each.stdout) for each in done] == [
        (0, ""), (0, CONFIG.decode()), (0, ""), (0, f"{KARGS} {EXTRA}\n"), (0, f"{KARGS}\n"), (0, ""), (0, ""),
    ]  # fmt: skip
    assert (sha256(lab), sha256(iso)) == (before, before)


def test_a_config_that_is_none_is_refused_before_anything_is_written(iso, tmp_path):
    bad = tmp_path / "bad.ign"
    bad.write_text('{"ignition": {"version": "3.3.0"}, "storage": {"files": [{}]}}')
    before = sha256(iso)
    done = run_harness("iso", "ignition", "embed", str(iso), "-i", str(bad))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "$.storage.files[0]" in done.stderr
    assert sha256(iso) == before
    assert run_harness("iso", "ignition", "embed", str(iso), "-i", str(bad), "--no-validate").returncode == 0


def test_a_config_is_taken_from_standard_input_and_an_iso_given_to_standard_output(pristine, iso, tmp_path):
    command = [sys.executable, "-m", "harness.cli", "iso", "ignition", "embed", str(iso), "-o", "-"]
    done = subprocess.run(command, input=CONFIG, capture_output=True, check=True)
    (tmp_path / "out.iso").write_bytes(done.stdout)
    assert config_of(tmp_path / "out.iso") == CONFIG
    assert sha256(iso) == sha256(pristine)


def test_keyfiles_by_command(iso, tmp_path):
    keyfile = tmp_path / "lab.nmconnection"
    keyfile.write_bytes(KEYFILE)
    assert run_harness("iso", "network", "embed", str(iso), "-k", str(keyfile)).returncode == 0
    done = run_harness("iso", "network", "extract", str(iso), str(tmp_path / "keys"))
    assert done.stdout == f"{tmp_path}/keys/lab.nmconnection\n"
    assert (tmp_path / "keys/lab.nmconnection").read_bytes() == KEYFILE
    assert (tmp_path / "keys/lab.nmconnection").stat().st_mode & 0o777 == 0o600
    again = run_harness("iso", "network", "embed", str(iso), "-k", str(keyfile))
    assert "has network settings already (say --replace)" in again.stderr


def test_a_missing_config_is_said(iso):
    done = run_harness("iso", "ignition", "show", str(iso))
    assert (done.returncode, done.stdout) == (2, "")
    assert "has no Ignition config embedded" in done.stderr


@pytest.mark.parametrize(
    "name", ["2020-09", "2021-01", "2021-12", "2022-02", "2023-03.s390x", "2023-03.x86_64", "2023-07.x86_64"]
)
def test_real_isos_are_given_their_bytes_back(name, corpus, tmp_path):
    iso = tmp_path / "real.iso"
    iso.write_bytes(lzma.decompress((corpus / REAL / f"embed-areas-{name}.iso.xz").read_bytes()))
    before, apart = sha256(iso), outside(iso)
    change(iso, embed_config(CONFIG))
    assert config_of(iso) == CONFIG
    if name not in {"2020-09", "2023-03.s390x"}:
        change(iso, modify_kargs(append=[EXTRA], delete=["ignition.firstboot"]))
        assert EXTRA in describe(iso).kargs.current
    assert outside(iso) == apart
    change(iso, reset)
    assert sha256(iso) == before
