"""What `harness iso show` says of live ISOs of every generation, pristine and customised; real ones as in facts B4."""

from __future__ import annotations

import hashlib
import json
import lzma

import pytest

from harness.images.manifest import OsmetFacts
from harness.iso.edit import change, embed_config, embed_network, modify_kargs
from harness.iso.facts import Boot, Ignition, Kargs, KargsRoom, Room, Root, describe
from harness.iso.text import render
from suites.harness.iso_generations import FEATURES, GENERATIONS, GRUB, ISOLINUX, RECORDS, iso_of
from suites.harness.small_live_iso import AREA, EMBED, KARGS, VOLUME, osmet, rootfs
from suites.harness.test_cli import run_harness

CONFIG = b'{"ignition": {"version": "3.3.0"}}'
REAL = "coreos-installer-fixtures/iso"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return {name: iso_of(tmp_path_factory.mktemp(name), name) for name in GENERATIONS}


@pytest.mark.parametrize("name", GENERATIONS)
def test_every_generation_is_told_by_what_announces_its_rooms(name, made):
    facts = describe(made[name])
    records = RECORDS.get(name, ())
    is_s390x = name.endswith("s390x")
    recent = "/coreos/igninfo.json" if name >= "2023" else "images/ignition.img"
    by_json = None if name in {"2020-09", "2023-03.s390x"} else "/coreos/kargs.json"
    assert {
        "volume": facts.volume_id,
        "ignition": (facts.ignition.announced_by, facts.ignition.room.file, facts.ignition.room.length),
        "kargs": facts.kargs and (facts.kargs.announced_by, facts.kargs.default, facts.kargs.current),
        "rooms": [(each.room.file, each.room.length, each.pad, each.end) for each in facts.kargs.rooms]
        if facts.kargs
        else [],
        "features": facts.features is not None,
        "minimal": facts.minimal_iso is not None,
        "writable": facts.writable,
    } == {
        "volume": VOLUME,
        "ignition": (
            "coreiso+" if records else recent,
            "images/cdboot.img" if is_s390x else "images/ignition.img",
            EMBED,
        ),
        "kargs": by_json and ("coreKarg" if name == "2021-01" else by_json, KARGS, KARGS),
        "rooms": []
        if by_json is None
        else [("images/cdboot.img", AREA, "\0", "\0")]
        if is_s390x
        else [(GRUB, AREA, "#", "\n"), (ISOLINUX, AREA, "#", "\n")],
        "features": name > "2021-10",
        "minimal": False,
        "writable": True,
    }


def test_a_customised_iso_is_described_whole(made, tmp_path):
    iso = tmp_path / "lab.iso"
    change(made["2023-07"], embed_config(CONFIG), iso)
    change(iso, embed_network([("lab.nmconnection", b"[connection]\n")]))
    change(iso, modify_kargs(append=["a=b"]))
    facts = describe(iso)
    used = facts.ignition.room.used
    bios, uefi = facts.boot
    assert (bios, uefi) == (Boot("x86 BIOS", True, bios.offset, 2048), Boot("UEFI", True, uefi.offset, 65536))
    assert facts.ignition == Ignition(
        "/coreos/igninfo.json",
        Room("images/ignition.img", facts.ignition.room.offset, EMBED, used),
        "config",
        hashlib.sha256(CONFIG).hexdigest(),
        ["lab.nmconnection"],
        ["config.ign", "etc", "etc/coreos-firstboot-network", "etc/coreos-firstboot-network/lab.nmconnection"],
    )
    assert 200 < used < 400
    line = f"{KARGS} a=b"
    first, second = (each.room.offset for each in facts.kargs.rooms)
    assert facts.kargs == Kargs(
        "/coreos/kargs.json",
        KARGS,
        line,
        [
            KargsRoom(Room(GRUB, first, AREA, len(line) + 1), line, "#", "\n"),
            KargsRoom(Room(ISOLINUX, second, AREA, len(line) + 1), line, "#", "\n"),
        ],
    )
    sizes = len(osmet(512))
    assert facts.root == Root(
        "squashfs",
        124,
        "1.2.3",
        [
            OsmetFacts("small-metal.raw.osmet", sizes, 1, "0.17.0", 512, "Small OS 1.2.3", "x86_64"),
            OsmetFacts("small-metal4k.raw.osmet", sizes, 1, "0.17.0", 4096, "Small OS 1.2.3", "x86_64"),
        ],
    )
    assert facts.pxe == {"initrd.img": 6, "rootfs.img": len(rootfs()), "vmlinuz": 6}
    assert facts.features == {"installer-config": True, "live-initrd-network": True}


def test_the_page_and_the_document_say_it(made, tmp_path):
    iso = tmp_path / "lab.iso"
    change(made["2023-07"], embed_config(CONFIG), iso)
    change(iso, modify_kargs(append=["a=b"]))
    page = run_harness("iso", "show", str(iso)).stdout
    assert page == render(describe(iso))
    wanted = (
        f"volume id        {VOLUME}",
        "boots by         UEFI, 65,536 bytes at ",
        "Ignition         embedded",
        f"  config         sha256 {hashlib.sha256(CONFIG).hexdigest()}",
        f"kernel args      {KARGS}",
        f"  changed to     {KARGS} a=b",
        "features         installer-config, live-initrd-network",
        "live root        squashfs at 124 of rootfs.img, build 1.2.3",
        "installs (osmet) Small OS 1.2.3 x86_64, sectors of 4,096, ",
    )
    assert [line for line in wanted if line not in page] == []
    document = json.loads(run_harness("iso", "show", str(iso), "--json").stdout)
    assert document["ignition"]["config_sha256"] == hashlib.sha256(CONFIG).hexdigest()
    assert document["kargs"]["current"] == f"{KARGS} a=b"


def test_names_of_others_cannot_steer_a_terminal(tmp_path):
    features = json.dumps({"\x1b[2Jgone": True}).encode()
    page = render(describe(iso_of(tmp_path, "2023-07", {FEATURES: features})))
    assert [char for char in page if not char.isprintable() and char != "\n"] == []
    assert r"\x1b[2Jgone" in page


TABLE = {  # facts B4: size, volume id, embed area, kargs (length, offsets), GPT; miniso's writer
    "2020-09": (669696, "rhcos-46.82.202112161843-0", 92160, None, False, None),
    "2021-01": (675840, "rhcos-47.84.202112162337-0", 96256, (1131, [94026, 365415]), False, None),
    "2021-12": (741376, "fedora-coreos-35.20211216.dev.0", 161792, (1139, [139086, 431050]), False, "0.11.0"),
    "2022-02": (1048576, "fedora-coreos-35.20220217.dev.0", 159744, (1139, [137038, 429002]), True, "0.13.1"),
    "2023-03.s390x": (946176, "fedora-coreos-37.20230307.dev.0", 203776, None, False, "0.16.1"),
    "2023-03.x86_64": (1048576, "fedora-coreos-37.20230306.dev.0", 157696, (1139, [427853, 431050]), True, "0.16.1"),
    "2023-07.x86_64": (1048576, "fedora-coreos-38.20230718.dev.0", 139264, (1139, [137037, 408522]), True, "0.17.0"),
}
ANNOUNCED = {
    "2020-09": ("coreiso+", None),
    "2021-01": ("coreiso+", "coreKarg"),
    "2021-12": ("coreiso+", "/coreos/kargs.json"),
    "2022-02": ("images/ignition.img", "/coreos/kargs.json"),
    "2023-03.s390x": ("/coreos/igninfo.json", None),
    "2023-03.x86_64": ("/coreos/igninfo.json", "/coreos/kargs.json"),
    "2023-07.x86_64": ("/coreos/igninfo.json", "/coreos/kargs.json"),
}


@pytest.mark.parametrize("name", TABLE)
def test_real_isos_are_those_of_the_table(name, corpus, tmp_path):
    size, volume, embed, kargs, gpt, miniso = TABLE[name]
    iso = tmp_path / "real.iso"
    iso.write_bytes(lzma.decompress((corpus / REAL / f"embed-areas-{name}.iso.xz").read_bytes()))
    facts = describe(iso)
    found = facts.kargs and (
        facts.kargs.rooms[0].room.length, sorted(each.room.offset for each in facts.kargs.rooms),
    )  # fmt: skip
    maker = facts.minimal_iso and facts.minimal_iso.app_version
    has_gpt = iso.read_bytes()[510:520] == b"\x55\xaaEFI PART"
    assert (facts.size, facts.volume_id, facts.ignition.room.offset, found, has_gpt, maker) == (
        size, volume, embed, kargs, gpt, miniso,
    )  # fmt: skip
    assert (facts.ignition.announced_by, facts.kargs and facts.kargs.announced_by) == ANNOUNCED[name]
    assert (facts.ignition.room.length, facts.ignition.state, facts.writable) == (EMBED, "empty", True)
    if facts.kargs:
        assert facts.kargs.current == facts.kargs.default
    (note,) = facts.notes  # these fixtures have text instead of a rootfs
    assert "rootfs.img: is not a cpio archive" in note
