"""Superblocks as the real mkfs programs write them, compared with what blkid reads."""

import hashlib
import json
import os
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.images.filesystems.superblock import identify
from harness.images.formats.raw import FileBlock
from harness.tools import Tool

MIB = 2**20
UUID = "96d15588-3596-4b3c-adca-a2ff7279ea63"
LUKS = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000")
EXT = ("mke2fs", "-q", "-L", "boot", "-U", UUID)
VFAT = ("mkfs.vfat", "-n", "EFI-SYSTEM", "-i", "7B7795E7")
RECIPES = {  # name: size of the blank file (0: the program makes it), command; {} is the file, {src} a folder
    "ext2": (8 * MIB, (*EXT, "-t", "ext2", "{}")),
    "ext3": (8 * MIB, (*EXT, "-t", "ext3", "{}")),
    "ext4": (8 * MIB, (*EXT, "-t", "ext4", "{}")),
    "ext4 with metadata_csum_seed": (8 * MIB, (*EXT, "-t", "ext4", "-O", "metadata_csum_seed", "{}")),
    "ext4 without journal": (8 * MIB, (*EXT, "-t", "ext4", "-O", "^has_journal", "{}")),
    "ext4 of 4 KiB blocks": (8 * MIB, (*EXT, "-t", "ext4", "-b", "4096", "{}")),
    "FAT12": (4 * MIB, (*VFAT, "-F", "12", "{}")),
    "FAT16": (32 * MIB, (*VFAT, "-F", "16", "{}")),
    "FAT32": (64 * MIB, (*VFAT, "-F", "32", "{}")),
    "FAT32 of 4096-byte sectors": (300 * MIB, (*VFAT, "-F", "32", "-S", "4096", "{}")),
    "FAT without label": (4 * MIB, ("mkfs.vfat", "{}")),
    "xfs": (400 * MIB, ("mkfs.xfs", "-q", "-L", "root", "-m", f"uuid={UUID}", "-d", "agcount=2", "{}")),
    "xfs without reflink": (400 * MIB, ("mkfs.xfs", "-q", "-m", "reflink=0", "{}")),
    "xfs without checksums": (400 * MIB, ("mkfs.xfs", "-q", "-m", "crc=0", "{}")),
    "swap": (4 * MIB, ("mkswap", "-L", "swap", "{}")),
    "squashfs": (0, ("mksquashfs", "{src}", "{}", "-quiet", "-no-progress")),
    "erofs": (0, ("mkfs.erofs", "-U", UUID, "{}", "{src}")),
    "btrfs": (200 * MIB, ("mkfs.btrfs", "-q", "-L", "tree", "-U", UUID, "{}")),
    "iso9660": (0, ("genisoimage", "-quiet", "-V", "LIVE", "-o", "{}", "{src}")),
    "LUKS1": (16 * MIB, ("cryptsetup", "luksFormat", "-q", "--type", "luks1", *LUKS, "{}", "{src}/key")),
    "LUKS2": (
        32 * MIB,
        ("cryptsetup", "luksFormat", "-q", "--type", "luks2", "--label", "crypt_rootfs", *LUKS, "{}", "{src}/key"),
    ),
}


def tool(name: str) -> str:
    found = Tool(name, "", "", "").find()
    if found is None:
        pytest.skip(f"{name} is not installed")
    return str(found)


@pytest.fixture(scope="session")
def make_filesystem(tmp_path_factory):
    """`make_filesystem(name)` is the file made by that recipe, once per session."""
    made: dict[str, Path] = {}
    folder = tmp_path_factory.mktemp("filesystems")
    source = folder / "src"
    source.mkdir()
    (source / "key").write_text("a passphrase")

    def make(name: str) -> Path:
        if name not in made:
            size, command = RECIPES[name]
            path = folder / name.replace(" ", "-")
            if size:
                path.touch()
                os.truncate(path, size)
            words = [word.format(path, src=source) for word in command[1:]]
            subprocess.run([tool(command[0]), *words], check=True, capture_output=True)
            made[name] = path
        return made[name]

    return make


def blkid(path: Path) -> dict[str, str]:
    argv = [tool("blkid"), "-p", "-o", "export", str(path)]
    lines = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()
    facts = dict(line.split("=", 1) for line in lines)
    return {key: value.replace("\\ ", " ") for key, value in facts.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_type_label_and_uuid_are_those_blkid_reads(name, make_filesystem):
    path = make_filesystem(name)
    expected = blkid(path)
    with FileBlock(path) as block:
        found = identify(block)
    assert found is not None
    assert (found.type, found.label, found.uuid) == (expected["TYPE"], expected.get("LABEL"), expected.get("UUID"))


@pytest.mark.parametrize(
    "name, details",
    [
        ("ext4", {"block_size": 1024, "state": "clean", "needs_recovery": False, "checksum_ok": True}),
        ("ext4 with metadata_csum_seed", {"metadata_csum_seed": True, "checksum_ok": True}),
        ("xfs", {"agcount": 2, "reflink": True, "version": 5, "checksum_ok": True}),
        ("xfs without reflink", {"reflink": False, "checksum_ok": True}),
        ("xfs without checksums", {"reflink": False, "version": 4}),
        ("FAT12", {"fat_type": "FAT12", "volume_id": "7B7795E7", "boot_label": "EFI-SYSTEM"}),
        ("FAT16", {"fat_type": "FAT16", "volume_id": "7B7795E7"}),
        ("FAT32", {"fat_type": "FAT32", "volume_id": "7B7795E7"}),
        ("FAT32 of 4096-byte sectors", {"fat_type": "FAT32", "sector_size": 4096}),
        ("FAT without label", {"boot_label": ""}),
        ("LUKS1", {"version": 1, "cipher": "aes-xts-plain64"}),
        ("LUKS2", {"version": 2, "cipher": "aes-xts-plain64", "checksum_ok": True}),
    ],
)
def test_details_are_those_asked_for_at_mkfs(name, details, make_filesystem):
    with FileBlock(make_filesystem(name)) as block:
        found = identify(block)
    assert found is not None
    assert {key: found.details[key] for key in details} == details


@pytest.mark.parametrize("name", ["ext2", "ext3", "ext4", "ext4 with metadata_csum_seed", "ext4 without journal"])
def test_ext_features_are_those_dumpe2fs_prints(name, make_filesystem):
    path = make_filesystem(name)
    printed = subprocess.run([tool("dumpe2fs"), "-h", path], check=True, capture_output=True, text=True).stdout
    line = next(line for line in printed.splitlines() if line.startswith("Filesystem features"))
    with FileBlock(path) as block:
        found = identify(block)
    assert set(found.details["features"]) == set(line.split(":")[1].split())


@pytest.mark.parametrize("name", ["ext2", "ext4", "FAT16", "FAT32", "xfs", "swap", "btrfs"])
def test_size_is_that_of_the_file(name, make_filesystem):
    path = make_filesystem(name)
    with FileBlock(path) as block:
        found = identify(block)
    page = 4096 if name == "swap" else 0
    assert found.size == path.stat().st_size - page


def test_a_label_in_the_root_directory_wins_over_the_boot_sector(make_filesystem, tmp_path):
    path = tmp_path / "fat"
    path.write_bytes(make_filesystem("FAT16").read_bytes())
    with path.open("r+b") as file:
        file.seek(43)
        file.write(b"OTHER      ")
    with FileBlock(path) as block:
        found = identify(block)
    assert (found.label, found.details["boot_label"]) == ("EFI-SYSTEM", "OTHER")


def luks2(metadata: bytes) -> bytes:
    """A LUKS2 header with this JSON: cryptsetup writes cipher_null only where device-mapper works."""
    header = bytearray(16384)
    struct.pack_into(">6sHQQ48s32s", header, 0, b"LUKS\xba\xbe", 2, 16384, 1, b"crypt_rootfs", b"sha256")
    header[168:204] = b"00000000-0000-4000-a000-000000000002"
    header[4096 : 4096 + len(metadata)] = metadata
    header[448:480] = hashlib.sha256(header).digest()
    return bytes(header)


def test_the_null_cipher_of_rhcos_4_4_is_told(tmp_path):
    metadata = {
        "segments": {"0": {"type": "crypt", "encryption": "cipher_null-ecb"}},
        "tokens": {"9": {"type": "coreos", "keyslots": ["0"]}},
    }
    path = tmp_path / "luks"
    path.write_bytes(luks2(json.dumps(metadata).encode()))
    with FileBlock(path) as block:
        found = identify(block)
    assert (found.type, found.label, found.uuid) == (
        "crypto_LUKS",
        "crypt_rootfs",
        "00000000-0000-4000-a000-000000000002",
    )
    assert found.details == {
        "version": 2,
        "subsystem": "",
        "cipher": "cipher_null-ecb",
        "token_types": ("coreos",),
        "checksum_ok": True,
    }


@pytest.mark.parametrize(
    "metadata", [b"", b"not JSON", b"[1]", b'{"segments": [], "tokens": 5}', b"[" * 9000, b'{"segments": {"0": 1}}']
)
def test_broken_luks2_metadata_is_only_not_explained(metadata, tmp_path):
    path = tmp_path / "luks"
    path.write_bytes(luks2(metadata))
    with FileBlock(path) as block:
        found = identify(block)
    assert (found.type, found.details["cipher"], found.details["checksum_ok"]) == ("crypto_LUKS", "", False)


@pytest.mark.parametrize("content", [b"", b"text\n" * 100, bytes(200_000), b"\x55\xaa" * 50_000], ids=len)
def test_nothing_is_recognised_in_what_is_no_filesystem(content, tmp_path):
    path = tmp_path / "part"
    path.write_bytes(content)
    with FileBlock(path) as block:
        assert identify(block) is None


@pytest.mark.parametrize("name", ["ext4", "FAT12", "FAT16", "FAT32", "xfs", "swap", "btrfs", "LUKS2", "erofs"])
@settings(max_examples=60, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_superblock_never_makes_it_fail(name, make_filesystem, data, tmp_path_factory):
    path = make_filesystem(name)
    with path.open("rb") as file:
        content = bytearray(file.read(80_000))
    start = {"ext4": 1024, "erofs": 1024, "swap": 1024, "btrfs": 65536}.get(name, 0)
    for _ in range(data.draw(st.integers(1, 8))):
        at = start + data.draw(st.integers(0, 255))
        content[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    mutant = tmp_path_factory.getbasetemp() / "mutant"
    mutant.write_bytes(content[: data.draw(st.sampled_from([600, 1500, 70_000, 80_000]))])
    with FileBlock(mutant) as block:
        identify(block)
