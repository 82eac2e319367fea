"""Files for PXE, and minimal ISOs, out of live ISOs: bit for bit what they were made from."""

from __future__ import annotations

import io
import json
import lzma
import subprocess

import pytest

from harness.errors import BadInput, DamagedImage, HarnessError, MissingFile, UnsupportedImage
from harness.images.block import Memory
from harness.images.formats.raw import FileBlock
from harness.images.system.live import MINIMAL_ISO
from harness.iso.edit import change, embed_config, embed_network, modify_kargs, reset
from harness.iso.extract import extract_minimal, extract_pxe
from harness.iso.facts import describe
from harness.iso.miniso import read_recipe, unpack
from harness.iso.opened import open_live_iso
from suites.harness.edited import sha256
from suites.harness.iso_generations import iso_of, recipe, with_minimal
from suites.harness.small_live_iso import KARGS, rootfs
from suites.harness.test_cli import run_harness

CONFIG = b'{"ignition": {"version": "3.3.0"}}'
WITHOUT = " ".join(word for word in KARGS.split() if not word.startswith("coreos.liveiso="))
REAL = "coreos-installer-fixtures/iso"


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return iso_of(tmp_path_factory.mktemp("pristine"), "2023-07")


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A full ISO with its recipe, and the minimal one that the recipe is of."""
    return with_minimal(tmp_path_factory.mktemp("pair"))


def unpacked(full) -> bytes:
    out = io.BytesIO()
    with open_live_iso(full) as iso:
        unpack(read_recipe(iso.places.place(MINIMAL_ISO)), iso.block, out)
    return out.getvalue()


def test_the_files_for_pxe_are_those_of_the_iso(pristine, tmp_path):
    done = extract_pxe(pristine, tmp_path / "pxe")
    assert (sorted(path.name for path in done.files), done.kargs) == (
        ["live-initrd.img", "live-rootfs.img", "live-vmlinuz"],
        WITHOUT,
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "pxe").iterdir()} == {
        "live-initrd.img": b"initrd",
        "live-rootfs.img": rootfs(),
        "live-vmlinuz": b"kernel",
    }


def test_what_is_embedded_becomes_one_more_initrd(pristine, tmp_path):
    iso = tmp_path / "lab.iso"
    change(pristine, embed_config(CONFIG), iso)
    change(iso, modify_kargs(append=["a=b"]))
    done = extract_pxe(iso, tmp_path / "pxe")
    assert done.kargs == f"{WITHOUT} a=b"
    packed = (tmp_path / "pxe/lab-ignition.img").read_bytes()
    inside = subprocess.run(
        ["cpio", "-i", "--to-stdout", "--quiet"], input=lzma.decompress(packed), capture_output=True, check=True
    )
    assert inside.stdout == CONFIG


def test_files_that_are_there_stay_unless_asked(pristine, tmp_path):
    (tmp_path / "live-vmlinuz").write_text("mine")
    with pytest.raises(BadInput, match=r"live-vmlinuz: is there already"):
        extract_pxe(pristine, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["live-vmlinuz"]
    extract_pxe(pristine, tmp_path, force=True)
    assert (tmp_path / "live-vmlinuz").read_bytes() == b"kernel"


def test_the_minimal_iso_is_the_one_that_the_recipe_was_made_of(pair):
    full, minimal = pair
    assert unpacked(full) == minimal.read_bytes()
    facts = describe(full).minimal_iso
    assert (facts.app_version, facts.sha256) == ("0.17.0", sha256(minimal))
    assert facts.shared_bytes > 300_000 > facts.packed_bytes


def test_a_minimal_iso_fetches_its_root(pair, tmp_path):
    full, _ = pair
    made = tmp_path / "small.iso"
    extract_minimal(full, made, rootfs_url="http://192.0.2.1/rootfs.img")
    facts = describe(made)
    assert (facts.kargs.default, facts.kargs.current) == (
        WITHOUT,
        f"{WITHOUT} coreos.live.rootfs_url=http://192.0.2.1/rootfs.img",
    )
    assert (facts.pxe, facts.root, facts.notes) == ({"initrd.img": 6, "vmlinuz": 6}, None, [])
    extract_minimal(full, tmp_path / "plain.iso")
    change(made, reset)
    assert sha256(made) == sha256(tmp_path / "plain.iso")


@pytest.mark.parametrize("url", ["http://x/y z", "http://x/\n"])
def test_a_url_is_one_word(url, pair, tmp_path):
    full, _ = pair
    with pytest.raises(BadInput, match="is no kernel argument"):
        extract_minimal(full, tmp_path / "small.iso", rootfs_url=url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("plan", [embed_config(CONFIG), modify_kargs(append=["a"]), embed_network([("a", b"")])])
def test_a_customised_iso_gives_no_minimal_one(plan, pair, tmp_path):
    full, _ = pair
    change(full, plan, tmp_path / "lab.iso")
    with pytest.raises(BadInput, match=r"is customised .harness iso reset"):
        extract_minimal(tmp_path / "lab.iso", tmp_path / "small.iso")
    assert not (tmp_path / "small.iso").exists()


@pytest.mark.parametrize("generation", ["2020-09", "2023-03.s390x"])
def test_an_iso_without_recipe_or_room_says_so(generation, tmp_path):
    with pytest.raises((MissingFile, UnsupportedImage), match="has no r"):
        extract_minimal(iso_of(tmp_path, generation), tmp_path / "small.iso")


WRONG = {
    "beyond the ISO": lambda fields: fields["shared"].__setitem__(0, (fields["shared"][0][0], 2**40, 100)),
    "larger than the ISO": lambda fields: fields["shared"].append((2**42, 0, 2**31)),
    "from 2^60 on": lambda fields: fields["shared"].append((2**60, 0, 1)),
    "of another file": lambda fields: fields["shared"].__setitem__(
        -1, (fields["shared"][-1][0], fields["shared"][0][1], fields["shared"][-1][2])
    ),
    "overlapping": lambda fields: fields["shared"].append(fields["shared"][0]),
    "nothing": lambda fields: fields["shared"].clear(),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_recipe_leaves_no_minimal_iso(what, tmp_path):
    full, _ = with_minimal(tmp_path / "made", WRONG[what])
    with pytest.raises(DamagedImage):
        extract_minimal(full, tmp_path / "small.iso")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_recipes_cut_or_damaged_anywhere_raise_our_errors(pair):
    full, _ = pair
    with open_live_iso(full) as iso:
        place = iso.places.place(MINIMAL_ISO)
        raw = place.read(0, place.size).rstrip(b"\0")
    refused = 0
    for at in range(0, len(raw), max(1, len(raw) // 200)):
        for damaged in (raw[:at], raw[:at] + bytes([raw[at] ^ 0xFF]) + raw[at + 1 :]):
            try:
                with FileBlock(full) as block:
                    unpack(read_recipe(Memory(damaged, "miniso.dat")), block, io.BytesIO())
            except HarnessError:
                refused += 1
    assert refused > 350


def test_a_bomb_is_stopped_by_the_size_of_the_iso(pristine):
    bomb = recipe([(0, 0, 0)], bytes(2**26))
    out = io.BytesIO()
    with FileBlock(pristine) as block, pytest.raises(DamagedImage, match="larger than the full one"):
        unpack(read_recipe(Memory(bomb, "miniso.dat")), block, out)
    assert len(out.getvalue()) < 2 * pristine.stat().st_size


def test_both_by_command(pair, tmp_path):
    full, minimal = pair
    done = run_harness("iso", "extract", "pxe", str(full), "-o", str(tmp_path / "pxe"))
    assert done.stdout.splitlines() == [
        f"{tmp_path}/pxe/live-{name}" for name in ("initrd.img", "rootfs.img", "vmlinuz")
    ]
    assert done.stderr == f"kernel arguments: {WITHOUT}\n"
    small = tmp_path / "small.iso"
    done = run_harness("iso", "extract", "minimal-iso", str(full), "-o", str(small))
    assert (done.returncode, done.stderr) == (0, f"{small}: {minimal.stat().st_size:,} bytes\n")
    again = run_harness("iso", "extract", "minimal-iso", str(full), "-o", str(small))
    assert "is there already" in again.stderr


@pytest.mark.parametrize("name", ["2021-12", "2022-02", "2023-03.s390x", "2023-03.x86_64", "2023-07.x86_64"])
def test_minimal_isos_of_real_ones_have_the_digest_that_coreos_installer_wrote(name, corpus, tmp_path):
    iso = tmp_path / "real.iso"
    iso.write_bytes(lzma.decompress((corpus / REAL / f"embed-areas-{name}.iso.xz").read_bytes()))
    made = unpacked(iso)  # raises where the digest is another
    assert made[32769:32774] == b"CD001"
    if name != "2023-03.s390x":
        extract_minimal(iso, tmp_path / "small.iso")
        facts = describe(tmp_path / "small.iso")
        assert ("coreos.liveiso=" in facts.kargs.default, "rootfs.img" in facts.pxe) == (False, False)
        assert json.loads(run_harness("iso", "show", tmp_path / "small.iso", "--json").stdout)["writable"]
