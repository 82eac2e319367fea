"""Live ISOs that announce what must not be written, and edits in place that are cut: nothing else is ever touched."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import BadInput, DamagedImage, HarnessError
from harness.images.filesystems.files import open_files
from harness.images.formats.raw import FileBlock
from harness.images.system.live_places import EMBED_RECORD_AT, KARGS_RECORD_AT, place_of
from harness.iso import undo
from harness.iso.edit import change, embed_config, modify_kargs, reset
from harness.iso.facts import describe
from harness.iso.undo import is_cut, locked, undo_path
from suites.harness.edited import sha256
from suites.harness.iso_generations import GRUB, IGNINFO, IGNITION, KARGS_JSON, files_of, iso_of
from suites.harness.small_live_iso import AREA, EMBED, KARGS
from suites.harness.test_cli import run_harness

CONFIG = b'{"ignition": {"version": "3.3.0"}}'
KARGS_AT = files_of("2023-07")[GRUB].index(KARGS.encode())


@pytest.fixture(scope="module")
def pristine(tmp_path_factory) -> Path:
    return iso_of(tmp_path_factory.mktemp("pristine"), "2023-07")


@pytest.fixture(scope="module")
def of_2021(tmp_path_factory) -> Path:
    return iso_of(tmp_path_factory.mktemp("2021"), "2021-12")


@pytest.fixture
def iso(pristine, tmp_path) -> Path:
    return copied(pristine, tmp_path / "copy.iso")


def copied(iso: Path, target: Path) -> Path:
    target.write_bytes(iso.read_bytes())
    return target


def offset_of(iso: Path, path: str) -> int:
    with FileBlock(iso) as block:
        return place_of(block, open_files(block), f"/{path}").start


def is_refused(iso: Path, words: str) -> None:
    """Every edit fails with these words, and leaves the ISO as it is."""
    before = sha256(iso)
    for plan in (embed_config(CONFIG), modify_kargs(append=["a"]), reset):
        with pytest.raises(HarnessError, match=words):
            change(iso, plan)
    assert sha256(iso) == before
    assert not is_cut(iso)


def kargs_json(**changed) -> bytes:
    return json.dumps(json.loads(files_of("2023-07")[KARGS_JSON]) | changed).encode()


def one_place(path: str, offset: int, **more) -> list[dict]:
    return [{"path": path, "offset": offset, **more}]


FORGED = {
    "kargs beyond their file": (KARGS_JSON, kargs_json(files=one_place(GRUB, 10**6)), "names byte 1,000,000"),
    "kargs at 2^60": (KARGS_JSON, kargs_json(files=one_place(GRUB, 2**60)), "names byte 1,152,921,504"),
    "kargs before their file": (KARGS_JSON, kargs_json(files=one_place(GRUB, -4)), "names byte -4"),
    "kargs of 2^60 bytes": (KARGS_JSON, kargs_json(size=2**60), "says areas of 1152921504606846976 bytes"),
    "kargs of 10^400 bytes": (KARGS_JSON, kargs_json(size=10**400), "says areas of|is not JSON"),
    "kargs twice in one place": (KARGS_JSON, kargs_json(files=one_place(GRUB, 30) * 2), "overlap"),
    "kargs that overlap": (
        KARGS_JSON, kargs_json(files=one_place(GRUB, 30) + one_place(GRUB, 31)), "overlap|announced wrongly"),
    "kargs one byte early": (
        KARGS_JSON,
        kargs_json(files=one_place(GRUB, KARGS_AT - 1)),
        "announced wrongly",
    ),
    "kargs one byte late": (
        KARGS_JSON,
        kargs_json(files=one_place(GRUB, KARGS_AT + 1)),
        "begins within a word",
    ),
    "kargs in the kernel": (
        KARGS_JSON, kargs_json(size=4, files=one_place("images/pxeboot/vmlinuz", 0)), "never written"),
    "kargs in kargs.json": (KARGS_JSON, kargs_json(size=16, files=one_place(KARGS_JSON, 0)), "never written"),
    "kargs over the config's room": (KARGS_JSON, kargs_json(files=one_place(IGNITION, 0)), "overlap"),
    "kargs in the boot catalog": (
        KARGS_JSON, kargs_json(files=one_place("isolinux/boot.cat", 0)), "lies over the boot catalog"),
    "igninfo of the boot catalog": (
        IGNINFO, b'{"file": "isolinux/boot.cat"}', "lies over the boot catalog"),
    "igninfo of a folder": (IGNINFO, b'{"file": "images"}', "is a directory"),
    "igninfo of nothing": (IGNINFO, b"{}", "names no file"),
    "igninfo outside": (IGNINFO, b'{"file": "../../../etc/passwd"}', "no /../../../etc/passwd"),
    "igninfo at 2^60": (IGNINFO, b'{"file": "images/ignition.img", "offset": 1152921504606846976}', "names bytes"),
    "igninfo of 2^60": (IGNINFO, b'{"file": "images/ignition.img", "length": 1152921504606846976}', "names bytes"),
    "igninfo before": (IGNINFO, b'{"file": "images/ignition.img", "offset": -1, "length": 4}', "names bytes"),
    "igninfo in words": (IGNINFO, b'{"file": "images/ignition.img", "offset": "all"}', "names byte 'all'"),
    "igninfo is no JSON": (IGNINFO, b"[" * 10_000, "is not JSON"),
    "igninfo of the root filesystem": (IGNINFO, b'{"file": "images/pxeboot/rootfs.img"}', "never written"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_announcement_is_refused_before_anything_is_written(what, tmp_path):
    path, content, words = FORGED[what]
    made = iso_of(tmp_path, "2023-07", {path: content})
    started = time.process_time()
    is_refused(made, words)
    facts = describe(made)
    assert (facts.writable, bool(facts.notes)) == (False, True)
    assert time.process_time() - started < 5


UNWRITABLE = {
    "a default of two lines": (kargs_json(default="a\nb"), "is no line of kernel arguments"),
    "padding that is no byte": (kargs_json(files=one_place(GRUB, KARGS_AT, pad="\u20ac")), "no single bytes"),
    "half a character": (kargs_json(files=one_place(GRUB, KARGS_AT, pad="\ud800")), "is not JSON|names an area"),
}


@pytest.mark.parametrize("what", UNWRITABLE)
def test_kernel_arguments_that_cannot_be_written_stop_a_reset(what, tmp_path):
    content, words = UNWRITABLE[what]
    made = iso_of(tmp_path, "2023-07", {KARGS_JSON: content})
    before = sha256(made)
    with pytest.raises(DamagedImage, match=words):
        change(made, reset)
    assert sha256(made) == before
    describe(made)


RECORDS = {
    "coreiso+ beyond the ISO": (EMBED_RECORD_AT + 8, (2**60, EMBED), "coreiso. names bytes 1,152"),
    "coreiso+ that wraps around": (EMBED_RECORD_AT + 8, (2**64 - 4, EMBED), "coreiso. names bytes"),
    "coreiso+ of 2^60 bytes": (EMBED_RECORD_AT + 8, (0, 2**60), "coreiso. names bytes 0"),
    "coreiso+ over the system area": (EMBED_RECORD_AT + 8, (0, EMBED), "lies in no file"),
    "coreiso+ over the descriptors": (EMBED_RECORD_AT + 8, (32768, 2048), "lies in no file"),
    "coreKarg beyond the ISO": (KARGS_RECORD_AT + 24, (2**60,), "coreKarg names bytes 1,152"),
    "coreKarg of 2^60 bytes": (KARGS_RECORD_AT + 8, (2**60,), "coreKarg names bytes"),
    "coreKarg's default beyond": (KARGS_RECORD_AT + 16, (2**60,), "coreKarg names bytes 1,152"),
    "coreKarg elsewhere than kargs.json": (KARGS_RECORD_AT + 24, (40960,), "names other places than"),
    "coreKarg of another size": (KARGS_RECORD_AT + 8, (AREA - 1,), "names other places than|garbled"),
}


@pytest.mark.parametrize("what", RECORDS)
def test_a_forged_record_is_refused_before_anything_is_written(what, of_2021, tmp_path):
    at, numbers, words = RECORDS[what]
    iso = copied(of_2021, tmp_path / "forged.iso")
    patch(iso, at, struct.pack(f"<{len(numbers)}Q", *numbers))
    is_refused(iso, words)


@pytest.mark.parametrize("victim", ["a directory", "a path table", "a volume descriptor", "/images/pxeboot/vmlinuz"])
def test_a_room_that_lies_over_something_else_is_refused(victim, pristine, tmp_path):
    """The directory record of ignition.img is forged: by its place the room is then another's."""
    iso = copied(pristine, tmp_path / "forged.iso")
    raw = iso.read_bytes()
    root = struct.unpack_from("<I", raw, 16 * 2048 + 158)[0]
    table = struct.unpack_from("<I", raw, 16 * 2048 + 140)[0]
    kernel = offset_of(iso, "images/pxeboot/vmlinuz") // 2048
    place = {"a directory": root, "a path table": table, "a volume descriptor": 17}.get(victim, kernel)
    was = offset_of(iso, IGNITION) // 2048
    for found in re.finditer(re.escape(struct.pack("<I", was) + struct.pack(">I", was)), raw):
        both = struct.pack("<I", place) + struct.pack(">I", place)
        patch(iso, found.start(), both + struct.pack("<I", 1024) + struct.pack(">I", 1024))
    assert offset_of(iso, IGNITION) == place * 2048
    is_refused(iso, f"lies over {victim}")


def test_rooms_that_disagree_are_a_note_and_stop_a_change_but_not_a_reset(pristine, iso):
    at = offset_of(iso, GRUB) + files_of("2023-07")[GRUB].index(b"auto")
    patch(iso, at, b"AUTO")
    assert "the places do not agree on the kernel arguments: harness iso kargs reset" in describe(iso).notes
    with pytest.raises(DamagedImage, match="do not agree"):
        change(iso, modify_kargs(append=["a"]))
    change(iso, reset)
    assert sha256(iso) == sha256(pristine)


def test_a_volume_id_that_the_live_system_looks_for_in_vain_is_a_note(iso):
    patch(iso, 16 * 2048 + 40, b"other-coreos-1.2.3")
    assert "coreos.liveiso=small-coreos-1.2.3 is not the volume id other-coreos-1.2.3" in describe(iso).notes


def patch(iso: Path, at: int, content: bytes) -> None:
    with iso.open("r+b") as file:
        file.seek(at)
        file.write(content)


def test_mutants_are_refused_or_changed_within_their_rooms(pristine, of_2021, tmp_path):
    """Whatever bytes an ISO has: only our errors, soon, and a reset touches no metadata."""
    dice, refused, done = random.Random(20261121), 0, 0
    started = time.process_time()
    for round_ in range(150):
        source = (pristine, of_2021)[round_ % 2]
        raw = bytearray(source.read_bytes())
        hot = [16 * 2048 + 40, 16 * 2048 + 128, 32672, 32744, 18 * 2048, 20 * 2048, raw.index(b'{"default"'), 512,
               raw.index(b'{"file"') if round_ % 2 == 0 else 32744, raw.index(b"MINISO")]  # fmt: skip
        for _ in range(dice.randint(1, 8)):
            raw[dice.choice(hot) + dice.randint(0, 200)] = dice.choice([0, 0xFF, dice.randint(0, 255)])
        iso = tmp_path / "mutant.iso"
        iso.write_bytes(raw)
        for plan in (embed_config(CONFIG), reset):
            try:
                change(iso, plan)
                done += 1
            except HarnessError:
                refused += 1
        now = iso.read_bytes()
        assert now[:32768] == raw[:32768]
        changed = {at for at in range(0, len(raw), 2048) if now[at : at + 2048] != raw[at : at + 2048]}
        kept = {offset_of(source, path) for path in ("images/pxeboot/vmlinuz", "images/pxeboot/rootfs.img", KARGS_JSON)}
        assert not changed & kept
        try:
            describe(iso)
        except HarnessError:
            refused += 1
    assert refused > 20
    assert done > 20
    assert time.process_time() - started < 60


UGLY = {
    "text": (lambda path: path.write_text("dear aunt\n" * 1000), "is not a disk image|is no ISO"),
    "empty": (lambda path: path.touch(), "is empty"),
    "a folder": (lambda path: path.mkdir(), "directory"),
    "missing": (lambda _: None, "No such file"),
    "a pipe": (os.mkfifo, "neither a file nor"),
    "a disk": (lambda path: path.write_bytes(bytes(510) + b"\x55\xaa" + bytes(2**16)), "is no ISO, but raw"),
    "gzip": (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(100)), "compressed.*unpack it first"),
}


@pytest.mark.parametrize("verb", ["show", "reset"])
@pytest.mark.parametrize("what", UGLY)
def test_what_is_no_live_iso_gets_one_line(what, verb, tmp_path):
    make, words = UGLY[what]
    path = tmp_path / "ugly.iso"
    make(path)
    done = run_harness("iso", verb, str(path))
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert re.search(words, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def test_a_truncated_iso_is_called_so(pristine, tmp_path):
    path = tmp_path / "cut.iso"
    path.write_bytes(pristine.read_bytes()[:300_000])
    with pytest.raises(DamagedImage, match="truncated"):
        change(path, reset)


def cut_after(iso: Path, writes: int, how: str) -> subprocess.CompletedProcess:
    """An edit in place of the config and the kernel arguments in a process of its own, ended at a write."""
    script = f"""
import os, signal
from pathlib import Path
from harness.iso import undo
from harness.iso.edit import change, embed_config, modify_kargs
write, count = undo._write, 0
def cut(descriptor, content, offset):
    global count
    count += 1
    if count == {writes}:
        write(descriptor, content[: len(content) // 3], offset)
        {how}
    write(descriptor, content, offset)
undo._write = cut
change(Path({str(iso)!r}), lambda iso: embed_config({CONFIG!r})(iso) + modify_kargs(append=["a=b"])(iso))
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)


@pytest.mark.parametrize("writes", [1, 2, 3])
def test_an_edit_killed_in_the_middle_is_taken_back_by_the_next(writes, pristine, iso):
    done = cut_after(iso, writes, "os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode == -signal.SIGKILL
    assert (is_cut(iso), sha256(iso) == sha256(pristine)) == (True, False)
    assert undo_path(iso).stat().st_mode & 0o777 == 0o600
    assert "an edit in place was cut short: harness iso recover takes it back" in describe(iso).notes
    with pytest.raises(BadInput, match=r"was cut short.*harness iso recover"):
        change(iso, reset, iso.with_name("new.iso"))
    change(iso, modify_kargs(append=["c=d"]))
    assert describe(iso).kargs.current == f"{KARGS} c=d"
    change(iso, reset)
    assert (sha256(iso), is_cut(iso)) == (sha256(pristine), False)


@pytest.mark.parametrize("how", ["raise KeyboardInterrupt", "raise OSError(28, 'No space left on device')"])
def test_an_edit_interrupted_in_the_middle_takes_itself_back(how, pristine, iso):
    assert cut_after(iso, 2, how).returncode != 0
    assert (sha256(iso), list(iso.parent.iterdir())) == (sha256(pristine), [iso])


def test_recover_by_command(pristine, iso):
    cut_after(iso, 2, "os.kill(os.getpid(), signal.SIGKILL)")
    done = run_harness("iso", "recover", str(iso))
    assert (done.returncode, sha256(iso)) == (0, sha256(pristine))
    assert "as before the edit again" in done.stderr
    assert "no edit was cut short" in run_harness("iso", "recover", str(iso)).stderr


def test_another_iso_of_the_name_is_not_touched(of_2021, iso):
    cut_after(iso, 2, "os.kill(os.getpid(), signal.SIGKILL)")
    copied(of_2021, iso)
    with pytest.raises(DamagedImage, match=r"undo: the ISO is another.*remove it"):
        change(iso, reset)
    assert sha256(iso) == sha256(of_2021)


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 9999, b'{"undo": 2, "patches": []}', b"\xff",
    b'{"undo": 1, "patches": [{"offset": -1, "old": "AA==", "new": "AA=="}]}',
    b'{"undo": 1, "patches": [{"offset": 1152921504606846976, "old": "AA==", "new": "AA=="}]}',
    b'{"undo": 1, "patches": [{"offset": 0, "old": "AA==", "new": ""}]}',
    b'{"undo": 1, "patches": [{"offset": 0, "old": "!", "new": "!"}]}',
])  # fmt: skip
def test_an_undo_file_that_is_none_stops_everything(content, pristine, iso):
    undo_path(iso).write_bytes(content)
    with pytest.raises(DamagedImage, match="undo"):
        change(iso, reset)
    assert sha256(iso) == sha256(pristine)


def test_two_edits_at_once_are_one_too_many(pristine, iso):
    with locked(iso), pytest.raises(BadInput, match="is being changed by another process"):
        change(iso, embed_config(CONFIG))
    assert sha256(iso) == sha256(pristine)


def test_an_iso_that_nobody_may_write_says_what_to_do(iso, monkeypatch):
    def forbidden(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(undo.os, "open", forbidden)
    with pytest.raises(BadInput, match=r"cannot be written: Permission denied .write a new ISO with -o FILE"):
        change(iso, embed_config(CONFIG))
