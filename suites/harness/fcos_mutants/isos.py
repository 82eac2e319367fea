"""A live ISO of a megabyte of which suites/fcos finds nothing wrong, and hands to break it."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from harness.tools import run
from suites.harness.mutants.copies import PartitionedDisk
from suites.harness.small_live_iso import cpio, live_files, osmet, small_live_iso

BUILD = "1.2.3"
BLOCK = 2**21  # bytes of rootfs.img under one hash
GRUB, ISOLINUX = "EFI/debian/grub.cfg", "isolinux/isolinux.cfg"
IGNITION, EFI_IMAGE = "images/ignition.img", "images/efiboot.img"
IGNINFO, KARGS_JSON, FEATURES = "coreos/igninfo.json", "coreos/kargs.json", "coreos/features.json"
INITRD, ROOTFS = "images/pxeboot/initrd.img", "images/pxeboot/rootfs.img"
OF_ROOTFS, OF_INITRD = "etc/coreos-live-rootfs", "etc/coreos-live-initramfs"
WANTED, OF_FEATURES = "etc/coreos-live-want-rootfs", "etc/coreos/features.json"
LOADER = "EFI/BOOT/BOOTX64.EFI"
SECTOR = 2048  # bytes, of an ISO


class LiveIso:
    """What a live ISO is built from, changed at will before `build`.

    `rootfs` and `stamps` are members of rootfs.img and of the archive behind the initramfs; what of the stamps is not
    said there is derived. `files` are all others by path, and win over what is derived. `afterwards` is done to the
    built one.
    """

    def __init__(self, folder: Path, squashfs: bytes, efi: bytes) -> None:
        self.folder = folder
        self.rootfs = {"root.squashfs": squashfs, OF_ROOTFS: f"{BUILD}\n".encode(), "small-metal.raw.osmet": osmet(512)}
        self.stamps: dict[str, bytes] = {}
        self.pack: Callable[[bytes], bytes] = partial(gzip.compress, mtime=0)
        self.files = {**live_files(), EFI_IMAGE: efi, "isolinux/isolinux.bin": b"\xfa" * 4096}
        del self.files[INITRD], self.files[ROOTFS]
        self.edit(GRUB, "\n", "\ninitrd /images/pxeboot/initrd.img /images/ignition.img\n")
        self.edit(
            ISOLINUX, "initrd=/images/pxeboot/initrd.img", "initrd=/images/pxeboot/initrd.img,/images/ignition.img"
        )
        self.edit(ISOLINUX, "append", "kernel /images/pxeboot/vmlinuz\nappend")
        self.announce()
        self.without: set[str] = set()
        self.is_hybrid = self.has_efi_image = True
        self.afterwards: list[Callable[[PartitionedDisk], None]] = []

    def edit(self, path: str, old: str, new: str) -> None:
        """Change the last place of a text where `old` stands."""
        before, found, behind = self.files[path].decode().rpartition(old)
        assert found, f"{path} has no {old!r}"
        self.files[path] = f"{before}{new}{behind}".encode()

    def change_json(self, path: str, change: Callable[[dict[str, object]], object]) -> None:
        document = json.loads(self.files[path])
        change(document)
        self.files[path] = json.dumps(document).encode()

    def announce(self) -> None:
        """kargs.json says where the rooms are."""

        def change(document: dict[str, object]) -> None:
            for file in document["files"]:  # type: ignore[attr-defined]
                file["offset"] = self.files[file["path"]].index(document["default"].encode())  # type: ignore[attr-defined]

        self.change_json(KARGS_JSON, change)

    def build(self) -> Path:
        """Write it."""
        root = cpio(self.rootfs)
        hashes = [hashlib.sha256(root[at : at + BLOCK]).hexdigest() for at in range(0, len(root), BLOCK)]
        stamps = {
            OF_INITRD: f"{BUILD}\n".encode(),
            WANTED: "\n".join([f"stream-hash sha256 {BLOCK}", *hashes, ""]).encode(),
            OF_FEATURES: self.files.get(FEATURES, b"{}"),
            **self.stamps,
        }
        initramfs = gzip.compress(cpio({"init": b"#!/bin/sh\n"}), mtime=0)
        initrd = initramfs + bytes(-len(initramfs) % 4) + self.pack(cpio(stamps))
        files = {ROOTFS: root, INITRD: initrd, **self.files}
        kept = {path: content for path, content in files.items() if path not in self.without}
        made = small_live_iso(self.folder, kept, hybrid=self.is_hybrid, uefi=self.has_efi_image)
        if self.afterwards:
            disk = PartitionedDisk(made, self.folder / "edited.iso")
            for change in self.afterwards:
                change(disk)
            return disk.path
        return made


def plain(archive: bytes) -> bytes:
    """An archive that is not packed."""
    return archive


def small_squashfs(folder: Path) -> bytes:
    """A root filesystem of one file."""
    (folder / "root/etc").mkdir(parents=True)
    (folder / "root/etc/os-release").write_text("ID=small\n")
    run(["mksquashfs", folder / "root", folder / "root.squashfs", "-quiet", "-no-progress", "-all-root"])
    return (folder / "root.squashfs").read_bytes()


def efi_image(folder: Path, files: dict[str, bytes]) -> bytes:
    """A FAT filesystem with these files."""
    image = folder / "efiboot.img"
    image.write_bytes(bytes(2**20))
    run(["mkfs.vfat", "--invariant", "-n", "EFI-SYSTEM", image])
    for parent in sorted({str(parent) for path in files for parent in list(Path(path).parents)[:-1]}):
        run(["mmd", "-i", image, f"::{parent}"])
    for path, content in files.items():
        (folder / "staged").write_bytes(content)
        run(["mcopy", "-i", image, folder / "staged", f"::{path}"])
    return image.read_bytes()
