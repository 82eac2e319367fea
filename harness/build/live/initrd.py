"""What a live system boots with besides the kernel: initrd.img and rootfs.img.

initrd.img is the reference image's initramfs, as it is, with a second archive behind it: our stages of a live boot,
and what tells it from a disk's. Names and contents of the stamps are those of CoreOS (osbuild's stage
org.osbuild.coreos.live-artifacts.mono).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.build.live.root import SQUASHFS
from harness.images.formats.newc import FILE, LINK, PROGRAM, Entry, filled, write_archive

BLOCK = 2**21  # bytes of rootfs.img under one hash
BUILD_OF_ROOTFS, BUILD_OF_INITRD = "etc/coreos-live-rootfs", "etc/coreos-live-initramfs"
WANTED_ROOTFS, FEATURES = "etc/coreos-live-want-rootfs", "etc/coreos/features.json"
UNITS = "usr/lib/systemd/system"
PULLED = ("reference-live-rootfs.service", "reference-live-state.service")  # in, by initrd-root-fs.target
WHAT_WORKS: dict[str, Any] = {
    "installer-config": False,  # there is no coreos-installer in it
    "installer-config-directives": {},
    "live-initrd-network": False,
}

NOTHING = """\
[Unit]
Description=Nothing to do in a live system: {stage}
DefaultDependencies=no

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/true
"""
SYSROOT = """\
[Unit]
Description=Deployment of the live system
DefaultDependencies=no
Requires=reference-live-rootfs.service
After=reference-live-rootfs.service initrd-root-device.target
Before=initrd-root-fs.target

[Mount]
What=/run/live/root/ostree/deploy/{stateroot}/deploy/{commit}.0
Where=/sysroot
Options=bind
"""


def write_rootfs(squashfs: Path, version: str, target: Path) -> None:
    """rootfs.img: the squashfs first, which then lies at byte 124, and the build it belongs to."""
    members = [Entry(SQUASHFS, squashfs), Entry(BUILD_OF_ROOTFS, f"{version}\n".encode())]
    with target.open("wb") as archive:
        write_archive(archive, members)


def write_initrd(
    initramfs: Path, stages: Path, busybox: bytes, without: Sequence[str], facts: dict[str, str], rootfs: Path,
    target: Path,
) -> None:  # fmt: skip
    """initrd.img. `stages` is a folder laid over the initramfs; `facts` has stateroot, commit and version."""
    version = f"{facts['version']}\n".encode()
    members = [
        *_of_folder(stages),
        Entry("usr/bin/busybox", busybox, PROGRAM),
        Entry(f"{UNITS}/sysroot.mount", SYSROOT.format(**facts).encode()),
        *(Entry(f"{UNITS}/reference-{stage}.service", NOTHING.format(stage=stage).encode()) for stage in without),
        *(Entry(f"{UNITS}/initrd-root-fs.target.requires/{unit}", f"../{unit}".encode(), LINK) for unit in PULLED),
        Entry(BUILD_OF_INITRD, version),
        Entry(WANTED_ROOTFS, stream_hash(rootfs)),
        Entry(FEATURES, features()),
    ]
    with target.open("wb") as archive, initramfs.open("rb") as disk:
        shutil.copyfileobj(disk, archive, BLOCK)
        archive.write(bytes(filled(archive.tell()) - archive.tell()))  # where the kernel looks for the next one
        write_archive(archive, sorted(members, key=lambda member: member.name))


def stream_hash(path: Path) -> bytes:
    """What rootfs.img is checked against on its way from a server: a SHA-256 for each block."""
    lines = [f"stream-hash sha256 {BLOCK}"]
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            lines.append(hashlib.sha256(block).hexdigest())
    return "".join(f"{line}\n" for line in lines).encode()


def features() -> bytes:
    """features.json, on the ISO and in its initrd."""
    return (json.dumps(WHAT_WORKS, indent=2, sort_keys=True) + "\n").encode()


def _of_folder(folder: Path) -> Iterator[Entry]:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            yield Entry(name, path.read_bytes(), PROGRAM if os.access(path, os.X_OK) else FILE)
