"""Export: the bytes that others' programs unpack, the same every time, on any number of cores."""

import gzip
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import BadInput, StoreError
from harness.release import digests, packing
from harness.release import export as export_module
from harness.release.digests import PIECE, ZEROES
from harness.release.export import Wish, export
from harness.release.packing import Setting, packer
from suites.harness.small_disk import small_disk

MIB = 2**20
SMALL_GIB = 64 * MIB
PROGRAMS = {"gz": "gunzip", "xz": "unxz", "zst": "unzstd"}
SETTINGS = [("gz", Setting(9)), ("xz", Setting(1)), ("zst", Setting(3))]
WORDS = random.Random(3).randbytes(4096)
CONTENT = b"".join(random.Random(n).choice([WORDS * 300, bytes(MIB), WORDS[n:] * 200]) for n in range(20))[: 18 * MIB]


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def packed(content, kind, setting, threads=0):
    work = packer(kind, setting, len(content), threads)
    pieces = [content[at : at + PIECE] for at in range(0, len(content), PIECE)]
    out = [work.pack(ZEROES if piece == ZEROES else piece) for piece in pieces] + [work.finish()]
    work.close()
    return b"".join(out)


def unpacked(data, kind):
    return subprocess.run([PROGRAMS[kind], "-c"], input=data, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A raw disk of what `small_gib` calls a GiB, with partitions and files."""
    image = small_disk(tmp_path_factory.mktemp("disk"))
    os.truncate(image, SMALL_GIB)
    return image


@pytest.fixture
def small_gib(monkeypatch):
    """fast-vm's rules with a GiB of 64 MiB, which packs in no time."""
    for module in (digests, export_module):
        monkeypatch.setattr(module, "GIB", SMALL_GIB)


@pytest.fixture(scope="module")
def qcow2(disk):
    path = disk.with_name("small-9.20-qemu.x86_64.qcow2")
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", disk, path], check=True)
    return path


@pytest.mark.parametrize("kind,setting", SETTINGS, ids=str)
def test_every_program_unpacks_it_and_the_number_of_cores_does_not_show(kind, setting):
    one = packed(CONTENT, kind, setting, threads=1)
    assert one == packed(CONTENT, kind, setting, threads=3)
    assert unpacked(one, kind) == CONTENT
    assert len(one) < len(CONTENT) / 10


@pytest.mark.parametrize("kind,setting", SETTINGS, ids=str)
@pytest.mark.parametrize(
    "content", [b"", b"x", bytes(MIB), bytes(2 * MIB) + b"x"], ids=["empty", "x", "MiB", "MiBs and x"]
)
def test_the_smallest_files_are_packed_too(kind, setting, content):
    assert unpacked(packed(content, kind, setting), kind) == content


@settings(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from("rzw"), st.integers(1, MIB + 5)), max_size=5), st.sampled_from(["gz", "zst"]))
def test_whatever_was_packed_comes_out(runs, kind):
    parts = {"r": random.Random(0).randbytes(MIB + 5), "z": bytes(MIB + 5), "w": WORDS * 300}
    content = b"".join(parts[what][:size] for what, size in runs)
    assert unpacked(packed(content, kind, Setting(1)), kind) == content


def test_zeroes_in_a_hole_and_written_zeroes_are_packed_the_same():
    content = bytes(3 * MIB)
    work = packer("gz", Setting(9), len(content))
    written = b"".join(work.pack(bytes(MIB)) for _ in range(3)) + work.finish()
    work.close()
    assert written == packed(content, "gz", Setting(9))


def test_xz_in_blocks_is_what_xz_itself_writes():
    """fast-vm-image export: xz --best --block-size=16777216 -T0."""
    command = ["xz", "--best", "--block-size=16777216", "-T2", "-c"]
    theirs = subprocess.run(command, input=CONTENT, capture_output=True, check=True).stdout
    for threads in (1, 3):
        assert sha256(packed(CONTENT, "xz", Setting(9, in_blocks=True), threads)) == sha256(theirs)


def test_xz_in_one_block_is_what_xz_itself_writes():
    theirs = subprocess.run(["xz", "-1", "-T1", "-c"], input=CONTENT, capture_output=True, check=True).stdout
    assert sha256(packed(CONTENT, "xz", Setting(1))) == sha256(theirs)


def test_gzip_has_neither_name_nor_time():
    theirs = subprocess.run(["gzip", "-9n"], input=CONTENT, capture_output=True, check=True).stdout
    ours = packed(CONTENT, "gz", Setting(9))
    assert ours[:10] == theirs[:10]
    assert len(ours) < 1.02 * len(theirs)


def test_all_formats_come_from_one_pass_with_their_checksums(qcow2, tmp_path):
    seen = []
    wish = Wish(("gz", "zst"), ("sha256sum",))
    done = export(qcow2, tmp_path, wish, progress=lambda done, total: seen.append((done, total)))
    content = qcow2.read_bytes()
    assert (done.plain.sha256, done.plain.size) == (sha256(content), len(content))
    assert [file.path.name for file in done.files] == [f"{qcow2.name}.gz", f"{qcow2.name}.zst"]
    for file in done.files:
        data = file.path.read_bytes()
        assert (file.packed.sha256, file.packed.size) == (sha256(data), len(data))
        assert sha256(unpacked(data, file.path.suffix[1:])) == done.plain.sha256
    subprocess.run(["sha256sum", "-c", "--strict", "--quiet", "sha256sum.txt"], cwd=tmp_path, check=True)
    assert seen[-1] == (len(content), len(content))
    assert len(seen) == -(-len(content) // PIECE)


def test_the_same_image_gives_the_same_bytes(qcow2, tmp_path):
    for folder in ("one", "two"):
        export(qcow2, tmp_path / folder, Wish(("gz", "zst"), ("sha256sum",), threads=1 if folder == "one" else 3))
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert len(names) == 3
    assert {(tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes() for name in names} == {
        True
    }


@pytest.mark.parametrize("options,platform", [({}, "qemu"), ({"platform": "openstack"}, "openstack")])
def test_meta_names_the_platform_and_both_digests(qcow2, tmp_path, options, platform):
    done = export(qcow2, tmp_path, Wish(("zst",), ("meta",), **options))
    assert json.loads((tmp_path / "meta.json").read_text())["images"] == {
        platform: {
            "path": f"{qcow2.name}.zst",
            "sha256": done.files[0].packed.sha256,
            "size": done.files[0].packed.size,
            "uncompressed-sha256": sha256(qcow2.read_bytes()),
            "uncompressed-size": qcow2.stat().st_size,
        }
    }


def test_a_packed_image_is_packed_anew(qcow2, tmp_path):
    packed_before = tmp_path / f"{qcow2.name}.gz"
    packed_before.write_bytes(gzip.compress(qcow2.read_bytes(), 1))
    done = export(packed_before, tmp_path / "out", Wish(("zst",)))
    assert (done.files[0].path.name, done.plain.sha256) == (f"{qcow2.name}.zst", sha256(qcow2.read_bytes()))


def test_fast_vm_gets_the_raw_disk_with_a_part_for_each_gib_and_one_more(qcow2, disk, tmp_path, small_gib):
    done = export(qcow2, tmp_path, Wish(("zst",), ("fast-vm",), fast_vm="small-9.20"))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["1g__small-9.20.img.zst", "small-9.20.part_00.sha512.txt", "small-9.20.part_01.sha512.txt"]
    raw = disk.read_bytes()
    assert (done.plain.size, done.plain.sha256) == (SMALL_GIB, sha256(raw))
    parts = [(tmp_path / name).read_text() for name in names[1:]]
    assert parts == [f"{hashlib.sha512(raw).hexdigest()}\n", f"{hashlib.sha512().hexdigest()}\n"]
    assert sha256(unpacked((tmp_path / names[0]).read_bytes(), "zst")) == sha256(raw)


@pytest.mark.parametrize(
    "wish,words",
    [
        (Wish(()), "no format"),
        (Wish(("gz", "xz"), ("meta",)), "one file for a platform"),
        (Wish(("gz",), ("fast-vm",)), "--fast-vm"),
        (Wish(("gz",), (), fast_vm="../x"), "is no name"),
        (Wish(("gz",), (), fast_vm="-x"), "is no name"),
    ],
)
def test_wishes_that_contradict_themselves_are_refused(qcow2, tmp_path, wish, words):
    with pytest.raises(BadInput, match=words):
        export(qcow2, tmp_path, wish)
    assert list(tmp_path.iterdir()) == []


def test_fast_vm_refuses_a_disk_of_no_whole_gib(disk, tmp_path, small_gib):
    odd = tmp_path / "odd.img"
    subprocess.run(["cp", "--sparse=always", disk, odd], check=True)
    os.truncate(odd, SMALL_GIB + 512)
    with pytest.raises(BadInput, match="whole GiB"):
        export(odd, tmp_path / "out", Wish(("zst",), fast_vm="odd"))


def test_the_image_itself_is_never_overwritten(qcow2, tmp_path):
    image = tmp_path / f"{qcow2.name}.gz"
    image.write_bytes(gzip.compress(qcow2.read_bytes(), 1))
    before = image.read_bytes()
    with pytest.raises(BadInput, match="overwrite the image itself"):
        export(image, tmp_path, Wish(("gz",)))
    assert image.read_bytes() == before


def test_nothing_is_left_where_it_fails(qcow2, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(packing.ZstdPacker, "finish", fail)
    with pytest.raises(StoreError, match="No space left"):
        export(qcow2, tmp_path, Wish(("gz", "zst")))
    assert list(tmp_path.iterdir()) == []


def harness(*arguments, **more):
    command = [sys.executable, "-m", "harness.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)


def test_the_command_exports_and_verifies(qcow2, tmp_path):
    done = harness("export", qcow2, "-o", tmp_path / "out", "--format", "zst", "--checksums", "sha256sum,meta")
    assert (done.returncode, done.stderr) == (0, "")
    digest, _, path = done.stdout.splitlines()[0].partition("  ")
    assert sha256((tmp_path / "out" / f"{qcow2.name}.zst").read_bytes()) == digest
    checked = harness("verify", path)
    assert (checked.returncode, checked.stdout.splitlines()[-1]) == (0, "CHECK SUMMARY: OK: 1 FAIL: 0 MISSING: 0")
    shutil.copy(qcow2, tmp_path / "out")
    assert harness("verify", tmp_path / "out" / qcow2.name, "--against", tmp_path / "out" / "meta.json").returncode == 0


def test_the_command_refuses_in_one_line(qcow2, tmp_path):
    done = harness("export", qcow2, "-o", tmp_path / "out", "--checksums", "md5")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "known: sha256sum, meta, fast-vm" in done.stderr
