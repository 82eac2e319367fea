"""Digests in one pass, and the three dialects that they are published in."""

import copy
import gzip
import hashlib
import json
import lzma
import os
import random
import subprocess
import zipfile

import jsonschema
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import BadInput
from harness.images.extents import Extent
from harness.images.formats.raw import FileBlock
from harness.release import digests as module
from harness.release.checksums import (
    meta_entry,
    part_name,
    read_parts,
    sha256sum_line,
    write_meta,
    write_parts,
    write_sha256sum,
)
from harness.release.digests import PIECE, ZEROES, Digest, Sha512Parts, digest_file, pieces_of, sha512_parts

MIB = 2**20
EMPTY_SHA512 = hashlib.sha512().hexdigest()
CONTENT = random.Random(7).randbytes(MIB // 2) + bytes(MIB)
PACK = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstd.compress}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Holed:
    """A block of the given runs: (length, is data)."""

    name = "holed"

    def __init__(self, runs):
        self.runs = runs
        self.size = sum(length for length, _ in runs)
        self.content = b"".join(random.Random(n).randbytes(x) if d else bytes(x) for n, (x, d) in enumerate(runs))
        self.data_read = 0

    def read(self, offset, length):
        self.data_read += length
        return self.content[offset : offset + length]

    def extents(self):
        offset = 0
        for length, is_data in self.runs:
            yield Extent(offset, length, "data" if is_data else "hole")
            offset += length


@given(st.lists(st.tuples(st.integers(1, 3 * MIB), st.booleans()), max_size=6))
def test_pieces_are_the_disk_whatever_its_holes(runs):
    block = Holed(runs)
    pieces = list(pieces_of(block))
    assert b"".join(pieces) == block.content
    assert all(len(piece) == PIECE for piece in pieces[:-1])


def test_holes_are_not_read():
    block = Holed([(3 * MIB, False), (10, True), (5 * MIB, False)])
    assert [piece is ZEROES for piece in pieces_of(block)] == [True] * 3 + [False] + [True] * 4 + [False]
    assert block.data_read == MIB


@pytest.fixture
def small_gib(monkeypatch):
    """Parts of 4 MiB: the rule is the same, and a test need not hash gigabytes."""
    monkeypatch.setattr(module, "GIB", 4 * MIB)
    module._sha512_of_empty_gib.cache_clear()
    yield 4 * MIB
    module._sha512_of_empty_gib.cache_clear()


@pytest.mark.parametrize(
    "runs",
    [
        [],
        [(8 * MIB, False)],
        [(8 * MIB, True)],
        [(3 * MIB, False), (MIB, True), (4 * MIB, False)],
        [(MIB, True), (7 * MIB, False)],
        [(6 * MIB, False), (100, True)],
        [(5 * MIB, False)],
        [(4 * MIB, False), (MIB, False), (MIB, True), (2 * MIB, False), (MIB + 1, False)],
    ],
    ids=str,
)
def test_parts_are_those_of_each_gib_and_one_of_nothing(runs, small_gib):
    block = Holed(runs)
    slices = [block.content[at : at + small_gib] for at in range(0, block.size, small_gib)]
    assert sha512_parts(block) == (*(hashlib.sha512(one).hexdigest() for one in slices), EMPTY_SHA512)


def test_a_disk_of_10_gib_of_holes_has_eleven_parts():
    parts = Sha512Parts()
    for _ in range(10 * 1024):
        parts.update(ZEROES)
    found = parts.finish()
    assert (len(found), len(set(found)), found[-1][:12]) == (11, 2, "cf83e1357eef")


def test_zeroes_that_are_no_hole_have_the_same_digest(small_gib):
    assert sha512_parts(Holed([(4 * MIB, False)])) == sha512_parts(Written(bytes(4 * MIB)))


class Written(Holed):
    def __init__(self, content):
        super().__init__([(len(content), True)])
        self.content = content


@pytest.mark.parametrize("kind", PACK)
def test_a_packed_file_is_hashed_outside_and_inside_in_one_pass(tmp_path, kind):
    path = tmp_path / "file"
    path.write_bytes(PACK[kind](CONTENT))
    seen = []
    found = digest_file(path, progress=seen.append)
    assert found.file == Digest(path.stat().st_size, sha256(path.read_bytes()))
    assert found.inside == Digest(len(CONTENT), sha256(CONTENT))
    assert sum(seen) == path.stat().st_size


def test_a_plain_file_has_no_inside(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert (digest_file(path).file.sha256, digest_file(path).inside) == (sha256(CONTENT), None)


@pytest.mark.parametrize("kind", PACK)
def test_a_damaged_packed_file_still_has_its_own_digest(tmp_path, kind):
    path = tmp_path / "file"
    path.write_bytes(PACK[kind](CONTENT)[:-200_000] + bytes(1000))
    found = digest_file(path)
    assert found.file == Digest(path.stat().st_size, sha256(path.read_bytes()))
    assert found.inside is None
    assert found.fault


def test_a_bomb_is_a_fault(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(bytes(8 * MIB)))
    assert "unpacks to more than" in digest_file(path, limit=MIB).fault


@pytest.mark.parametrize("members,fault", [(1, ""), (2, "holds 2 files"), (0, "")])
def test_a_zip_is_looked_into_if_it_holds_one_file(tmp_path, members, fault):
    path = tmp_path / "file"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(members):
            archive.writestr(f"disk{number}.vhdx", CONTENT)
    found = digest_file(path)
    assert found.file.sha256 == sha256(path.read_bytes())
    assert (found.inside is not None, found.fault[:13]) == (members == 1, fault)


def test_sha256sum_accepts_our_file_also_with_ugly_names(tmp_path):
    names = ["a.img", "with space.img", "back\\slash", "new\nline", " leading", "tab\t", "ümlaut"]
    for name in names:
        (tmp_path / name).write_text(name)
    write_sha256sum(tmp_path, {name: sha256(name.encode()) for name in names})
    done = subprocess.run(
        ["sha256sum", "-c", "--strict", "sha256sum.txt"], cwd=tmp_path, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout.count(b"OK")) == (0, len(names)), done.stderr
    theirs = subprocess.run(["sha256sum", "--", *names], cwd=tmp_path, capture_output=True, check=True).stdout.decode()
    assert sorted(theirs.splitlines()) == sorted((tmp_path / "sha256sum.txt").read_text().splitlines())


def test_the_sha256sum_file_keeps_what_it_says_of_others(tmp_path):
    (tmp_path / "sha256sum.txt").write_text(f"{'1' * 64}  other.iso\n{'2' * 64} *disk.gz\n{'3' * 64}  my-disk.gz")
    path = write_sha256sum(tmp_path, {"disk.gz": "4" * 64})
    assert path.read_text() == f"{'4' * 64}  disk.gz\n{'3' * 64}  my-disk.gz\n{'1' * 64}  other.iso\n"


def test_names_are_escaped_as_coreutils_does():
    assert sha256sum_line("a\nb", "ab") == "\\ab  a\\nb\n"


def test_meta_keeps_all_else(tmp_path):
    (tmp_path / "meta.json").write_text(json.dumps({"buildid": "1", "images": {"aws": {"path": "x"}}}))
    write_meta(tmp_path, "qemu", meta_entry("a.gz", Digest(5, "1" * 64), Digest(9, "2" * 64)))
    assert json.loads((tmp_path / "meta.json").read_text()) == {
        "buildid": "1",
        "images": {
            "aws": {"path": "x"},
            "qemu": {
                "path": "a.gz",
                "sha256": "1" * 64,
                "size": 5,
                "uncompressed-sha256": "2" * 64,
                "uncompressed-size": 9,
            },
        },
    }


@pytest.mark.parametrize("text", ["[]", '{"images": 7}', "{", "[" * 100_000])
def test_a_meta_that_is_none_is_not_overwritten(tmp_path, text):
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(BadInput, match=r"meta\.json: is"):
        write_meta(tmp_path, "qemu", meta_entry("a", Digest(5, "1" * 64), None))
    assert (tmp_path / "meta.json").read_text() == text


@pytest.mark.parametrize("name", ["meta-fcos-31.json", "meta-rhcos-44devel.json"])
def test_our_entry_is_valid_by_cosas_schema(corpus, tmp_path, name):
    schema = json.loads((corpus / "cosa" / "meta-schema-v1.json").read_text())
    (tmp_path / "meta.json").write_text((corpus / "cosa" / name).read_text())
    jsonschema.validate(json.loads((tmp_path / "meta.json").read_text()), schema)
    write_meta(tmp_path, "qemu", meta_entry("a.gz", Digest(5, "1" * 64), Digest(9, "2" * 64)))
    ours = json.loads((tmp_path / "meta.json").read_text())
    jsonschema.validate(ours, schema)
    wrong = copy.deepcopy(ours)
    wrong["images"]["qemu"]["size"] = "5"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)


@pytest.mark.parametrize("gib,first,last", [(6, "00", "06"), (10, "00", "10"), (16, "00", "16"), (100, "000", "100")])
def test_parts_are_numbered_as_seq_does(tmp_path, gib, first, last):
    expected = subprocess.run(["seq", "-w", "00", str(gib)], capture_output=True, text=True, check=True).stdout.split()
    paths = write_parts(tmp_path, "rhcos-4.4.3", [f"{n:0128x}" for n in range(gib + 1)])
    assert [path.name for path in paths] == [f"rhcos-4.4.3.part_{number}.sha512.txt" for number in expected]
    assert (expected[0], expected[-1], len(paths)) == (first, last, gib + 1)
    assert paths[3].read_text() == f"{3:0128x}\n"
    assert read_parts(tmp_path, "rhcos-4.4.3") == {n: f"{n:0128x}" for n in range(gib + 1)}
    assert read_parts(tmp_path, "rhcos-4.4") == {}


def test_part_names_are_two_digits_wide_at_least():
    assert part_name("i", 0, 0) == "i.part_00.sha512.txt"


def test_a_sparse_file_costs_only_its_data(tmp_path):
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.write(b"x")
    os.truncate(path, 64 * MIB)
    with FileBlock(path) as file:
        pieces = list(pieces_of(file))
    assert sum(piece is not ZEROES for piece in pieces) <= 1
