"""The images that recipes are measured on, built once and kept in the store.

Family: the reference image as qemu, openstack, metal, aws.vmdk and vmware.vmdk; its trees in another instance of their
filesystems, on 4 KiB sectors (metal4k); its root as a live system (rootfs.img in live.iso). Next version: the reference
definition with more packages, of the release alone (v1) and with its updates (v2). Small pair: a few packages of the
same two, each in one ext4. Live: the reference image and the live ISO that is built of it. What the mirrors have
decides how much the versions differ; a warm store keeps them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import tomllib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

from harness.build import ext4
from harness.build.flavour import system_of
from harness.build.initramfs import make_initramfs
from harness.build.live.live import build_live
from harness.build.packages import RELEASE, fetch, host_mirrors, read_lock, resolve, write_lock
from harness.build.reference import DEFINITION, LOCK, Built, build_reference, read_definition, usable_packages
from harness.build.rootfs import install
from harness.build.sandbox import run_stage
from harness.build.tree import unpack
from harness.images.edits.convert import convert
from harness.images.edits.platform import set_platform
from harness.store import Store, content_key
from suites.bench.sectors4k import Part, write_disk

WORK = 1  # to be raised when what is built here changes: the store keeps it by that
LARGER = (
    "linux-image-amd64", "git", "vim-nox", "python3", "docker.io", "smbclient", "nfs-common", "bind9-dnsutils",
    "tcpdump", "openssl", "rsync", "gdb",
)  # fmt: skip
SMALL = ("linux-image-cloud-amd64", "systemd-sysv", "openssh-server", "curl", "python3", "openssl")
OLD_AND_NEW = ("old", "new")
NEXT = ("12.20261115.0", 1794700800)  # the second version and its epoch: two weeks later
OLD_EPOCH = read_definition(DEFINITION)["epoch"]
LARGER_MIB = 4096  # size of its metal image
FLAGS = re.MULTILINE | re.DOTALL
OTHER_SEED = uuid.uuid5(uuid.NAMESPACE_URL, "image-harness:other-instance")
OTHER_ROOT_MIB, BOOT_MIB = 3072, 384
SMALL_MIB = 1024
ISO = (
    "-V", "reference-live", "-volset", "reference-live", "-iso-level", "1", "-r", "-J", "-joliet-long",
    "--modification-date=2026110100000000", "--set_all_file_dates", "2026110100000000",
    "--gpt_disk_guid", "00000000-0000-4000-a000-000000000002",
)  # fmt: skip


class Family(NamedTuple):
    """Files made from one reference image."""

    qemu: Path
    openstack: Path
    metal: Path
    metal4k: Path
    aws: Path
    vmware: Path
    kernel: Path
    initramfs: Path
    rootfs: Path
    iso: Path


class Live(NamedTuple):
    """The files of one system: as a disk, and as an ISO whose squashfs `harness build live` packed."""

    disk: Path
    iso: Path


class Pair(NamedTuple):
    """Two versions of an image, and how many packages differ."""

    old: Path
    new: Path
    changed: int
    packages: int


def family(store: Store, reference: Built) -> Family:
    """All of `Family`, from the store."""
    key = content_key({"reference": reference.sha256_qcow2, "work": WORK})
    folder = store.entry("bench-family", key, lambda target: _make_family(store, reference.path, target))
    return Family(reference.path, *(folder / NAMES[field] for field in Family._fields[1:]))


NAMES = {
    "qemu": "qemu.qcow2",
    "openstack": "openstack.qcow2",
    "metal": "metal.raw",
    "metal4k": "metal4k.raw",
    "aws": "aws.vmdk",
    "vmware": "vmware.vmdk",
    "kernel": "vmlinuz",
    "initramfs": "initramfs.img",
    "rootfs": "rootfs.img",
    "iso": "live.iso",
}


def _make_family(store: Store, reference: Path, folder: Path) -> None:
    set_platform(reference, "openstack", folder / "openstack.qcow2", form="qcow2")
    set_platform(reference, "metal", folder / "metal.raw", form="raw")
    for platform in ("aws", "vmware"):
        _as_vmdk(store, reference, platform, folder / f"{platform}.vmdk")
    with _trees(store) as trees:
        _other_instance(trees, folder / "metal4k.raw")
        _live(trees, folder)


def _as_vmdk(store: Store, reference: Path, platform: str, target: Path) -> None:
    with store.scratch("bench-vmdk") as scratch:
        set_platform(reference, platform, scratch / "disk.raw", form="raw")
        convert(scratch / "disk.raw", "vmdk", target)


@contextmanager
def _trees(store: Store) -> Iterator[Path]:
    """A folder with what the reference image was made of: `sysroot` and `boot`, kernel and initramfs."""
    settings = read_definition(DEFINITION)
    packages, _ = usable_packages(settings, DEFINITION, store, None, unlocked=True)
    rootfs = install(packages, settings["epoch"], store)
    initramfs = make_initramfs(
        rootfs, DEFINITION / "initramfs", settings["initramfs"]["drivers"], settings["epoch"], store
    )
    with store.scratch("bench-trees") as scratch:
        arguments = {
            "system": system_of(None, DEFINITION, rootfs, initramfs),
            "boot_files": str(DEFINITION / "boot"),
            "settings": settings,
            "scratch": str(scratch),
            "target": str(scratch),
        }
        run_stage("filesystems:build_filesystems", arguments, settings["epoch"])
        for name in ("vmlinuz", "initramfs.img"):
            shutil.copyfile(initramfs / name, scratch / name)
        yield scratch


def _other_instance(trees: Path, target: Path) -> None:
    """The same trees as metal4k: filesystems of other sizes, UUIDs and seeds, on a GPT of 4 KiB sectors."""
    with tempfile.TemporaryDirectory(dir=trees) as scratch, _seeded(OTHER_SEED, OLD_EPOCH + 60):
        made = {}
        for label, mib in (("boot", BOOT_MIB), ("root", OTHER_ROOT_MIB)):
            wanted = ext4.Ext4(label, str(uuid.uuid5(OTHER_SEED, label)), mib)
            ext4.make_filesystem(wanted, trees / ("sysroot" if label == "root" else label), Path(scratch), {})
            made[label] = Path(scratch) / f"{label}.ext4"
        parts = (
            Part("boot", "BC13C2FF-59E6-4262-A352-B275FD6F7172", 129, BOOT_MIB, made["boot"]),
            Part("root", "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", 513, OTHER_ROOT_MIB, made["root"]),
        )
        write_disk(target, OTHER_SEED, parts, 513 + OTHER_ROOT_MIB + 1)


@contextmanager
def _seeded(seed: uuid.UUID, epoch: int) -> Iterator[None]:
    """Filesystems are made as the build makes them, with this seed for directories and at this time."""
    times = {"E2FSPROGS_FAKE_TIME": str(epoch), "SOURCE_DATE_EPOCH": str(epoch)}
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    with patch.dict(os.environ, {**times, "PATH": path}), patch.object(ext4, "HASH_SEED", seed):
        yield


def _live(trees: Path, folder: Path) -> None:
    """The root as a live system has it: squashfs in a cpio, and that in an ISO beside kernel and initramfs."""
    squashfs = trees / "root.squashfs"
    epoch = str(OLD_EPOCH)
    _run(
        "mksquashfs", trees / "sysroot", squashfs, "-comp", "zstd", "-Xcompression-level", "15", "-noappend", "-quiet",
        "-no-progress", "-mkfs-time", epoch, "-all-time", epoch,
    )  # fmt: skip
    with (folder / "rootfs.img").open("wb") as target, squashfs.open("rb") as source:
        target.write(_newc("root.squashfs", 0o100644, 1, squashfs.stat().st_size))
        shutil.copyfileobj(source, target)
        target.write(bytes(-target.tell() % 4))
        target.write(_newc("TRAILER!!!", 0, 1, 0))
        target.write(bytes(-target.tell() % 512))
    for name in ("vmlinuz", "initramfs.img"):
        shutil.copyfile(trees / name, folder / name)
    tree = trees / "iso"
    (tree / "images/pxeboot").mkdir(parents=True)
    for name in ("vmlinuz", "rootfs.img"):
        shutil.copyfile(folder / name, tree / "images/pxeboot" / name)
    with (tree / "images/pxeboot/initrd.img").open("wb") as target:
        target.write((folder / "initramfs.img").read_bytes())
        target.write(bytes(-target.tell() % 4))
        target.write(_newc("etc/coreos-live-initramfs", 0o100644, 1, 0) + _newc("TRAILER!!!", 0, 1, 0))
    _run("xorriso", "-as", "mkisofs", *ISO, "-o", folder / "live.iso", tree)


def _newc(name: str, mode: int, inode: int, size: int) -> bytes:
    """Header and name of a cpio member in the "new ASCII" format (cpio(5)), padded to four bytes."""
    fields = (inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name) + 1, 0)
    row = b"070701" + b"".join(b"%08X" % number for number in fields) + name.encode() + b"\0"
    return row + bytes(-len(row) % 4)


def live(store: Store) -> Live:
    """The reference image and the live ISO with the same deployment, from the store."""
    built = build_live(store, unlocked=True)
    return Live(built.reference.path, built.path)


def next_version(store: Store) -> Pair:
    """v1 and v2 as qcow2, from the store: the larger reference definition of the release, and with its updates."""
    locks = _locks(store, _larger_packages())
    return _pair(store, "bench-next", locks, _make_next)


def _make_next(store: Store, locks: Sequence[Path], folder: Path) -> None:
    for lock, name, changes in zip(locks, OLD_AND_NEW, ({}, {"version": NEXT[0], "epoch": NEXT[1]}), strict=True):
        with store.scratch("bench-definition") as scratch:
            definition = scratch / "definition"
            shutil.copytree(DEFINITION, definition)
            shutil.copyfile(lock, definition / LOCK)
            _rewrite(definition / "reference.toml", {"packages": _larger_packages(), **changes})
            built = build_reference(store, definition=definition)
            (folder / f"{name}.qcow2").hardlink_to(built.path)
            store.discard("reference", built.key)


def small_pair(store: Store) -> Pair:
    """About 300 MB each: a few packages of the two versions, one ext4 in a qcow2."""
    return _pair(store, "bench-small", _locks(store, SMALL), _make_small)


def _pair(store: Store, kind: str, locks: Sequence[Path], make: Callable[[Store, Sequence[Path], Path], None]) -> Pair:
    inputs = {"locks": [lock.read_text() for lock in locks], "work": WORK}
    folder = store.entry(kind, content_key(inputs), lambda target: make(store, locks, target))
    return Pair(folder / "old.qcow2", folder / "new.qcow2", *_compared(locks))


def _larger_packages() -> list[str]:
    """Those of the reference image, with the kernel for hardware instead of that for clouds, and more."""
    usual = tomllib.loads((DEFINITION / "reference.toml").read_text())["packages"]
    return sorted({*usual, *LARGER} - {"linux-image-cloud-amd64"})


def _locks(store: Store, names: Sequence[str]) -> list[Path]:
    """Locks of these packages: of the release alone, and with its updates; what they name is in the store."""

    def make(folder: Path) -> None:
        mirrors = host_mirrors()
        released = [one for one in mirrors if one.codename == RELEASE]
        for name, served in zip(OLD_AND_NEW, (released, mirrors), strict=True):
            with store.scratch("resolve") as scratch:
                packages = resolve(names, served, scratch)
            fetch(packages, mirrors, store)
            write_lock(folder / name, packages)

    entry = store.entry("bench-locks", content_key({"names": sorted(names)}), make)
    return [entry / name for name in OLD_AND_NEW]


def _compared(locks: Sequence[Path]) -> tuple[int, int]:
    """How many packages are in another version, or in one of them only, and how many there are."""
    old, new = ({package.name: package.version for package in read_lock(lock)} for lock in locks)
    return sum(old.get(name) != new.get(name) for name in {*old, *new}), len(new)


def _rewrite(path: Path, changes: Mapping[str, object]) -> None:
    """Other values for top-level keys of a definition, and room for more on its disk."""
    text = path.read_text()
    for key, value in changes.items():
        text, count = re.subn(rf"^{key} = (\[.*?^\]|[^\n#]*)", f"{key} = {json.dumps(value)}", text, flags=FLAGS)
        if count != 1:
            raise ValueError(key)
    path.write_text(text.replace("metal_mib = 2048", f"metal_mib = {LARGER_MIB}"))


def _make_small(store: Store, locks: Sequence[Path], folder: Path) -> None:
    for lock, name, epoch in zip(locks, OLD_AND_NEW, (OLD_EPOCH, NEXT[1]), strict=True):
        rootfs = install(fetch(read_lock(lock), host_mirrors(), store), epoch, store)
        with store.scratch("bench-small") as scratch, _seeded(ext4.HASH_SEED, epoch):
            unpack(rootfs, scratch / "root")
            wanted = ext4.Ext4("root", str(uuid.uuid5(OTHER_SEED, "small")), SMALL_MIB)
            ext4.make_filesystem(wanted, scratch / "root", scratch, {})
            convert(scratch / "root.ext4", "qcow2", folder / f"{name}.qcow2")


def _run(*argv: str | Path) -> None:
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
