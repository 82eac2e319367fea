"""A disk of 32 MiB whose every byte is decided by arguments, and pairs of it: built with another knob, or changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.tools import run

MIB = 2**20
EPOCH = "1700000000"
UUID_ONE, UUID_TWO = "11111111-2222-4333-8444-555555555555", "11111111-2222-4333-8444-666666666666"
SEED = "aaaaaaaa-2222-4333-8444-555555555555"
DISK_GUID = "00000000-0000-4000-a000-000000000001"
STATUS = "Package: {}\nStatus: install ok installed\nArchitecture: amd64\nVersion: {}\nDescription: x\n"
PACKAGES = {"bash": "5.2", "dash": "0.5", "zsh": "5.9"}
FILES = {
    "etc/hostname": "one\n",
    "etc/motd": "hello\n",
    "usr/bin/tool": "#!/bin/sh\n" * 900,
    "big": "x" * 300_000,
    "var/lib/dpkg/status": "\n".join(STATUS.format(*package) for package in PACKAGES.items()),
}
ROOT, DATA, ESP = 1, 9, 25  # MiB
Pair = tuple[Path, Path]


def make_tree(top: Path, **changed: str | None) -> Path:
    """Files as they go into the root filesystem; those `changed` (by path, / as __) have other content, or none."""
    for path, text in {**FILES, **{name.replace("__", "/"): text for name, text in changed.items()}}.items():
        if text is not None:
            (top / path).parent.mkdir(parents=True, exist_ok=True)
            (top / path).write_text(text)
    (top / "link").symlink_to("etc/motd")
    os.link(top / "etc/motd", top / "etc/issue")
    return dated(top)


def dated(top: Path) -> Path:
    for path in (*top.rglob("*"), top):
        os.utime(path, (int(EPOCH), int(EPOCH)), follow_symlinks=False)
    return top


def filesystem(tree: Path, target: Path, **knobs: str) -> Path:
    """An ext4 of 8 MiB whose every byte is decided by the arguments, change times included."""
    usual = {"uuid": UUID_ONE, "label": "root", "features": "metadata_csum_seed", "time": EPOCH, "seed": SEED}
    knob = usual | {"block_size": "1024"} | knobs
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-b", knob["block_size"], "-O", knob["features"], "-L", knob["label"],
         "-U", knob["uuid"], "-E", f"hash_seed={knob['seed']},root_owner=0:0,lazy_itable_init=0",
         "-d", tree, target, "8M"],
        env={"E2FSPROGS_FAKE_TIME": knob["time"]})  # fmt: skip
    count = len({path.lstat().st_ino for path in tree.rglob("*")})
    times = [f"sif <{inode}> {field} @{EPOCH}" for inode in (2, *range(12, 12 + count)) for field in ("ctime", "atime")]
    edit(target, *times, time=knob["time"])
    return target


def edit(part: Path, *commands: str, time: str = EPOCH) -> None:
    """Change a filesystem by debugfs, at the epoch."""
    script = "\n".join(commands).encode()
    run(["debugfs", "-w", "-f", "/dev/stdin", part], stdin=script, env={"E2FSPROGS_FAKE_TIME": time})


def make_esp(folder: Path, *, volume: str = "7B7795E7", content: str = "loader\n", date: str = EPOCH) -> Path:
    image, loader = folder / "esp.img", folder / "LOADER.EFI"
    image.write_bytes(bytes(4 * MIB))
    loader.write_text(content)
    environment = {"SOURCE_DATE_EPOCH": date, "TZ": "UTC"}
    run(["mkfs.vfat", "--invariant", "-n", "ESP", "-i", volume, image], env=environment)
    run(["mcopy", "-i", image, loader, "::/"], env=environment)
    return image


def make_disk(image: Path, root: Path, esp: Path, **knobs: Any) -> Path:
    """A disk of 32 MiB: `root` with a filesystem, `data` with bytes, an ESP, and a MiB of nothing."""
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(32 * MIB)
    rows = knobs.get("table") or (
        f"1 : start={ROOT}MiB, size=8MiB, name={knobs.get('name', 'root')}, uuid={UUID_ONE}{knobs.get('more', '')}\n"
        f"2 : start={DATA}MiB, size=15MiB, name=data, uuid={knobs.get('part', SEED)}\n"
        f"3 : start={ESP}MiB, size=4MiB, name=esp, type={knobs.get('type', 'U')}, uuid={UUID_TWO}\n"
    )
    guid = knobs.get("guid", DISK_GUID)
    run(["sfdisk", "--quiet", image], stdin=f"label: gpt\nlabel-id: {guid}\n{rows}".encode())
    for offset, content in ((ROOT, root.read_bytes()), (DATA, knobs.get("data", b"")), (ESP, esp.read_bytes())):
        patch(image, offset * MIB, content)
    return image


def patch(image: Path, offset: int, content: bytes) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def flip(image: Path, offset: int) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


@dataclass(frozen=True)
class Bench:
    """Where pairs are made: the parts of the small disk, and a folder of this pair's own."""

    tree: Path
    root: Path
    esp: Path
    disk: Path
    folder: Path

    def copy(self, name: str = "other.img") -> Path:
        return Path(shutil.copyfile(self.disk, self.folder / name))

    def new_tree(self, **changed: str | None) -> Path:
        return make_tree(self.folder / "tree", **changed)

    def with_root(self, root: Path, name: str = "other.img") -> Path:
        return make_disk(self.folder / name, root, self.esp)

    def edited(self, *commands: str) -> Pair:
        """The root filesystem changed by debugfs."""
        part = Path(shutil.copyfile(self.root, self.folder / "root.img"))
        edit(part, *commands)
        return self.disk, self.with_root(part)

    def both_edited(self, first: tuple[str, ...], second: tuple[str, ...]) -> Pair:
        one, other = (self.folder / name for name in ("one.part", "other.part"))
        for part, commands in ((one, first), (other, second)):
            shutil.copyfile(self.root, part)
            edit(part, *commands)
        return self.with_root(one, "one.img"), self.with_root(other)

    def rebuilt(self, tree: Path | None = None, **knobs: str) -> Pair:
        """The root filesystem made from another tree, or with another knob."""
        return self.disk, self.with_root(filesystem(tree or self.tree, self.folder / "root.img", **knobs))

    def rebuilt_both(self, first: dict[str, str], second: dict[str, str]) -> Pair:
        names = ("one", "other")
        parts = [
            filesystem(self.tree, self.folder / f"{name}.part", **knobs)
            for name, knobs in zip(names, (first, second), strict=True)
        ]
        one, other = (self.with_root(part, f"{name}.img") for name, part in zip(names, parts, strict=True))
        return one, other

    def changed(self, change: Callable[[Path], Any]) -> Pair:
        """Bytes of the disk changed in place."""
        other = self.copy()
        change(other)
        return self.disk, other

    def disks(self, **knobs: Any) -> Pair:
        return self.disk, make_disk(self.folder / "other.img", self.root, self.esp, **knobs)

    def other_esp(self, **knobs: str) -> Pair:
        return self.disk, make_disk(self.folder / "other.img", self.root, make_esp(self.folder, **knobs))

    def converted(self, kind: str, first: tuple[str, ...], second: tuple[str, ...]) -> Pair:
        one, other = self.folder / f"one.{kind}", self.folder / f"other.{kind}"
        for image, options in ((one, first), (other, second)):
            run(["qemu-img", "convert", "-f", "raw", "-O", kind, *options, self.disk, image])
        return one, other

    def packed(self, program: str, first: tuple[str, ...], second: tuple[str, ...]) -> Pair:
        suffix = {"gzip": "gz", "xz": "xz", "zstd": "zst"}[program]
        one, other = self.folder / f"one.img.{suffix}", self.folder / f"other.img.{suffix}"
        for image, options in ((one, first), (other, second)):
            image.write_bytes(run([program, "-c", *options, self.root]))
        return one, other
