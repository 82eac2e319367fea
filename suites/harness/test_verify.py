"""Verifying: every dialect, one line a file, and the summary in fast-vm's words."""

import gzip
import hashlib
import io
import json
import os
import random
import subprocess
import sys
import zipfile

import pytest

from harness.errors import BadInput
from harness.images.formats.raw import FileBlock
from harness.release import digests
from harness.release.checksums import write_parts
from harness.release.digests import sha512_parts
from harness.release.verify import Finding, summary, verify

MIB = 2**20
PLAIN = random.Random(5).randbytes(300_000) + bytes(MIB)
PACKED = gzip.compress(PLAIN, mtime=0)
NAME = "rhcos-9.20-qemu.x86_64.qcow2"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def entry(**more):
    return {"path": f"{NAME}.gz", "sha256": sha256(PACKED), "size": len(PACKED), "uncompressed-sha256": sha256(PLAIN),
            "uncompressed-size": len(PLAIN), **more}  # fmt: skip


def meta(**more):
    return json.dumps({"images": {"qemu": {k: v for k, v in entry(**more).items() if v is not None}}})


def stream(**more):
    disk = {"location": f"https://h/{NAME}.gz", "sha256": sha256(PACKED), "uncompressed-sha256": sha256(PLAIN), **more}
    artifacts = {"qemu": {"release": "1", "formats": {"qcow2.gz": {"disk": disk}}}}
    return json.dumps({"stream": "x", "metadata": {}, "architectures": {"x86_64": {"artifacts": artifacts}}})


def release():
    media = {"qemu": {"artifacts": {"qcow2.gz": {"disk": {"location": f"h/{NAME}.gz", "sha256": sha256(PACKED)}}}}}
    return json.dumps({"stream": "x", "release": "1", "architectures": {"x86_64": {"media": media}}})


LEGACY = meta(path=NAME, size=str(len(PACKED)), **{"uncompressed-size": str(len(PLAIN))})
DIALECTS = {
    "sha256sum": f"{sha256(PACKED)}  {NAME}.gz\n",
    "meta.json": meta(),
    "stream": stream(),
    "release": release(),
}


@pytest.fixture
def folder(tmp_path):
    """A packed image and its plain form."""
    (tmp_path / f"{NAME}.gz").write_bytes(PACKED)
    (tmp_path / NAME).write_bytes(PLAIN)
    return tmp_path


def say(folder, text):
    path = folder / "published"
    path.write_text(text)
    return path


def check(folder, text, name=f"{NAME}.gz"):
    (finding,) = verify([folder / name], say(folder, text))
    return finding


@pytest.mark.parametrize("text", DIALECTS.values(), ids=DIALECTS)
def test_the_packed_file_is_right_in_every_dialect(folder, text):
    assert check(folder, text) == Finding("OK", str(folder / f"{NAME}.gz"))


@pytest.mark.parametrize("dialect", ["meta.json", "stream"])
def test_the_unpacked_file_is_held_against_the_uncompressed_digest(folder, dialect):
    assert check(folder, DIALECTS[dialect], NAME).state == "OK"
    (folder / NAME).write_bytes(PLAIN[:-1] + b"?")
    assert check(folder, DIALECTS[dialect], NAME).detail.startswith("uncompressed SHA-256: expected")


def test_the_unpacked_file_of_what_publishes_only_the_packed_one_cannot_be_right(folder):
    assert "no uncompressed SHA-256 is published" in check(folder, DIALECTS["release"], NAME).detail


@pytest.mark.parametrize(
    "wrong,words",
    [
        ({"sha256": "0" * 64}, f"SHA-256: expected {'0' * 64}, found {sha256(PACKED)}"),
        ({"size": 7}, f"size: expected 7, found {len(PACKED)}"),
        ({"uncompressed-sha256": "0" * 64}, f"uncompressed SHA-256: expected {'0' * 64}, found {sha256(PLAIN)}"),
        ({"uncompressed-size": 7}, f"uncompressed size: expected 7, found {len(PLAIN)}"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_each_claim_is_checked_and_the_difference_said(folder, wrong, words):
    finding = check(folder, meta(**wrong))
    assert (finding.state, finding.detail) == ("FAIL", words)


@pytest.mark.parametrize("packed", [True, False], ids=["gz inside", "unpacked by the web client"])
@pytest.mark.parametrize("name", [NAME, f"{NAME}.gz"])
def test_rhcos_41_is_right_packed_or_not_under_a_name_that_never_told(folder, packed, name):
    (folder / name).write_bytes(PACKED if packed else PLAIN)
    if name.endswith(".gz") and not packed:
        assert check(folder, LEGACY, name).state == "FAIL"
    else:
        assert check(folder, LEGACY, name).state == "OK"


def test_a_damaged_stream_says_so_beside_the_difference(folder):
    (folder / f"{NAME}.gz").write_bytes(PACKED[:-5000] + bytes(5000))
    assert "the gz stream" in check(folder, DIALECTS["stream"]).detail


def test_what_is_inside_a_zip_is_checked(folder):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("disk.vhdx", PLAIN)
    (folder / "disk.vhdx.zip").write_bytes(out.getvalue())
    known = {"path": "disk.vhdx.zip", "sha256": sha256(out.getvalue()), "size": None, "uncompressed-size": None}
    assert check(folder, meta(**known), "disk.vhdx.zip").state == "OK"
    wrong = check(folder, meta(**known, **{"uncompressed-sha256": "1" * 64}), "disk.vhdx.zip")
    assert wrong.detail.startswith("uncompressed SHA-256")


def test_without_files_all_that_is_named_is_looked_for(folder):
    text = f"{sha256(PACKED)}  {NAME}.gz\n{'0' * 64}  ../../etc/gone\n{'0' * 64}  {NAME}\n"
    findings = list(verify([], say(folder, text)))
    assert [finding.state for finding in findings] == ["OK", "MISSING", "FAIL"]
    assert findings[1].name == str(folder / "gone")
    assert summary(findings) == "CHECK SUMMARY: OK: 1 FAIL: 1 MISSING: 1"


def test_a_name_cannot_command_the_terminal():
    assert str(Finding("MISSING", "a\x1b[2J\nb")) == "MISSING 'a\\x1b[2J\\nb'"


@pytest.mark.parametrize("name", ["meta.json", "stream.json", f"{NAME}.gz.sha256", "sha256sum.txt", "SHA256SUMS"])
def test_what_lies_beside_a_file_is_found(folder, name):
    (folder / name).write_text(DIALECTS["meta.json" if name.endswith("json") else "sha256sum"])
    assert [finding.state for finding in verify([folder / f"{NAME}.gz"])] == ["OK"]


def test_a_file_nobody_speaks_of_is_one_error(folder):
    with pytest.raises(BadInput, match="nothing beside it says what it should be"):
        list(verify([folder / NAME]))
    with pytest.raises(BadInput, match="says nothing about other"):
        list(verify([folder / "other"], say(folder, DIALECTS["meta.json"])))
    with pytest.raises(BadInput, match="nothing to verify"):
        list(verify([]))


GIB = 4 * MIB


@pytest.fixture
def fast_vm(tmp_path, monkeypatch):
    """A disk of three of fast-vm's GiB (of 4 MiB each here) and its checksums."""
    monkeypatch.setattr(digests, "GIB", GIB)
    digests._sha512_of_empty_gib.cache_clear()
    disk = tmp_path / "3g__small-1.img"
    with disk.open("wb") as file:
        file.write(b"data")
        file.seek(2 * GIB)
        file.write(b"more")
    os.truncate(disk, 3 * GIB)
    with FileBlock(disk) as block:
        write_parts(tmp_path, "small-1", sha512_parts(block))
    yield disk
    digests._sha512_of_empty_gib.cache_clear()


def states(findings):
    return [finding.state for finding in findings]


def part(disk, number):
    return disk.with_name(f"small-1.part_{number:02}.sha512.txt")


def test_fast_vm_has_a_finding_for_each_gib_and_one_more(fast_vm):
    findings = list(verify([fast_vm]))
    assert summary(findings) == "CHECK SUMMARY: OK: 4 FAIL: 0 MISSING: 0"
    assert findings[3].name == "small-1.part_03.sha512.txt"
    assert list(verify([fast_vm], part(fast_vm, 0))) == findings
    assert list(verify([fast_vm], fast_vm.parent)) == findings


def test_fast_vm_finds_the_packed_export_too(fast_vm):
    packed = fast_vm.with_name("3g__small-1.img.gz")
    packed.write_bytes(gzip.compress(fast_vm.read_bytes(), 1))
    assert states(verify([packed])) == ["OK"] * 4


def test_fast_vm_says_which_gib_is_wrong(fast_vm):
    with fast_vm.open("r+b") as file:
        file.seek(GIB + 5)
        file.write(b"!")
    findings = list(verify([fast_vm]))
    assert states(findings) == ["OK", "FAIL", "OK", "OK"]
    assert findings[1].detail.startswith(f"expected {hashlib.sha512(bytes(GIB)).hexdigest()}, found ")


def test_fast_vm_misses_parts(fast_vm):
    part(fast_vm, 3).unlink()
    part(fast_vm, 0).unlink()
    assert states(verify([fast_vm], fast_vm.parent)) == ["MISSING", "OK", "OK", "MISSING"]


def test_fast_vm_fails_a_disk_that_ends_too_early_or_too_late(fast_vm):
    os.truncate(fast_vm, 2 * GIB)
    assert states(verify([fast_vm])) == ["OK", "OK", "FAIL", "FAIL"]
    os.truncate(fast_vm, 4 * GIB)
    assert states(verify([fast_vm])) == ["OK", "OK", "FAIL", "FAIL", "MISSING"]


@pytest.mark.parametrize("text", ["", "gibberish\n", "x" * 10_000, "\0\xff"])
def test_a_part_that_holds_no_digest_fails(fast_vm, text):
    part(fast_vm, 1).write_text(text)
    findings = list(verify([fast_vm]))
    assert states(findings) == ["OK", "FAIL", "OK", "OK"]
    assert len(findings[1].detail) < 300


def test_fast_vm_asks_which_image_is_meant(fast_vm):
    write_parts(fast_vm.parent, "small-2", ["0" * 128])
    other = fast_vm.with_name("other.raw")
    fast_vm.rename(other)
    with pytest.raises(BadInput, match="has fast-vm's checksums of small-1, small-2, not of other"):
        list(verify([other], other.parent))


def run(*arguments):
    command = [sys.executable, "-m", "harness.cli", "verify", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_says_ok_fail_missing_and_exits_by_it(folder):
    published = say(folder, f"{sha256(PACKED)}  {NAME}.gz\n{'0' * 64}  {NAME}\n{'0' * 64}  gone\n")
    good = run(folder / f"{NAME}.gz", "--against", published)
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout == f"OK      {folder / NAME}.gz\nCHECK SUMMARY: OK: 1 FAIL: 0 MISSING: 0\n"
    bad = run("--against", published)
    lines = bad.stdout.splitlines()
    assert bad.returncode == 1
    assert [line.split()[0] for line in lines] == ["OK", "FAIL", "MISSING", "CHECK"]
    assert lines[1] == f"FAIL    {folder / NAME}: SHA-256: expected {'0' * 64}, found {sha256(PLAIN)}"


def test_the_command_says_what_is_odd_about_metadata(folder):
    done = run(folder / NAME, "--against", say(folder, LEGACY))
    assert done.returncode == 0
    assert "odd: published: " in done.stderr
    hostile = run(folder / NAME, "--against", say(folder, "[" * 100_000))
    assert (hostile.returncode, hostile.stderr.count("\n")) == (2, 1)
