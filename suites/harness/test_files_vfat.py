"""FAT as read without mounting, against what mcopy put there."""

from __future__ import annotations

import contextlib
import random
import time
from pathlib import Path

import pytest

from harness.errors import DamagedImage, HarnessError, MissingFile
from harness.images.filesystems.files import Files, Mount, open_files
from harness.images.filesystems.vfat import Vfat
from harness.images.formats.raw import FileBlock
from harness.tools import run

SHAPES = {"FAT12": (2, ["-F", "12"]), "FAT16": (32, ["-F", "16"]), "FAT32": (64, ["-F", "32", "-s", "1"])}
LONG = "a name that is much longer than eight and three.config"
EPOCH = 1_700_000_000
MUTATIONS = 200


def built(folder: Path, shape: str) -> Path:
    size, arguments = SHAPES[shape]
    image = folder / f"{shape}.img"
    with image.open("wb") as file:
        file.truncate(size * 2**20)
    run(["mkfs.vfat", "--invariant", "-n", "SAMPLE", *arguments, str(image)])
    source = folder / "source"
    (source / "EFI/BOOT").mkdir(parents=True, exist_ok=True)
    (source / "EFI/BOOT/BOOTX64.EFI").write_bytes(random.Random(1).randbytes(300_001))
    (source / "EFI" / LONG).write_text("long")
    (source / "lower.txt").write_text("lower")
    (source / "empty").touch()
    (source / "umläut \u2603.txt").write_text("snow")
    (source / "many").mkdir(exist_ok=True)
    for number in range(300):
        (source / "many" / f"number {number:03} of them").write_text(str(number))
    env = {"SOURCE_DATE_EPOCH": str(EPOCH), "TZ": "UTC"}
    run(["mcopy", "-s", "-Q", "-i", str(image), *map(str, sorted(source.iterdir())), "::"], env=env)
    return image


@pytest.fixture(scope="module", params=SHAPES)
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("vfat"), request.param)


@pytest.fixture
def files(image: Path) -> Files:
    return open_files(FileBlock(image))


def test_the_walk_finds_exactly_what_was_copied(files, image):
    source = image.parent / "source"
    truth = {"/" + str(path.relative_to(source)) for path in source.rglob("*")}
    assert {entry.path for entry in files.walk()} == truth | {"/"}


def test_every_file_has_the_bytes_that_were_copied(files, image):
    for path in (image.parent / "source").rglob("*"):
        if path.is_file():
            assert files.read("/" + str(path.relative_to(image.parent / "source"))) == path.read_bytes(), path


def test_names_are_found_in_any_case_and_shown_as_stored(files):
    assert files.canonical("/efi/boot/bootx64.efi") == "/EFI/BOOT/BOOTX64.EFI"


def test_what_fat_does_not_know_is_as_linux_mounts_it(files):
    entry = files.stat("/lower.txt")
    assert (entry.mode, entry.uid, entry.gid, entry.mtime) == (0o755, 0, 0, EPOCH)


def test_a_missing_path_offers_the_likely_one(files):
    with pytest.raises(MissingFile, match=r"did you mean /EFI/BOOT/BOOTX64\.EFI"):
        files.read("/EFI/BOOT/BOOTX65.EFI")


class Mutated:
    name = "mutated"

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.size = len(raw)

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or offset + length > self.size:
            raise DamagedImage("beyond the end", where=self.name)
        return self.raw[offset : offset + length]


def test_mutated_metadata_never_ends_in_anything_but_our_errors(tmp_path):
    raw = built(tmp_path, "FAT12").read_bytes()
    rng = random.Random(3)
    spots = [at for at in range(60_000) if raw[at]]
    started = time.monotonic()
    for _ in range(MUTATIONS):
        changed = bytearray(raw)
        for _ in range(4):
            changed[rng.choice(spots)] = rng.choice((0, 1, 0xFF, rng.randrange(256)))
        with contextlib.suppress(HarnessError):
            inodes = Vfat(Mutated(bytes(changed)))
            files = Files({"/": Mount(inodes, inodes.root)})
            for entry in files.walk():
                if entry.kind == "file":
                    files.sha256(entry.path)
    assert time.monotonic() - started < 60
