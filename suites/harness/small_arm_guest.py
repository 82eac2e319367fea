"""A guest of aarch64 that is up in seconds: Debian's arm64 kernel, GRUB, bash, coreutils and perl on one ESP.

Nothing of arm64 runs while it is built: packages are unpacked, not installed. They are fetched as those of the
reference image are, from the mirrors of the host's apt; `python -m suites.harness.small_arm_guest` writes their lock
anew.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

from harness.build import packages as debian
from harness.build.packages import Package, StaleLock, fetch, host_mirrors, read_lock, resolve, write_lock
from harness.store import Store, content_key
from harness.tools import run
from suites.harness.small_esp import esp_disk
from suites.harness.small_live_iso import cpio

KIND = "arm-guest"
LOCK, INIT = (Path(__file__).with_name(name) for name in ("arm_packages.lock", "arm_init.sh"))
WANTED = ("linux-image-cloud-arm64", "grub-efi-arm64-bin", "busybox-static", "bash", "coreutils", "perl-base")
HEADER = "# The small arm64 guest's packages. Written by `python -m suites.harness.small_arm_guest`; do not edit."
KERNEL = "linux-image-6"  # how the name of the package begins that has it
NEEDED = (*WANTED[1:], "libc6", "libcrypt1", "libtinfo6", KERNEL)
MODULES = ("virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "virtio_console", "virtio_net", "virtio-rng", "tpm_tis",
           "qemu_fw_cfg")  # fmt: skip
DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")  # of a module's section .modinfo

LOADER, GRUB_FOLDER, GRUB_MODULES = "/EFI/BOOT/BOOTAA64.EFI", "/EFI/debian", ("part_gpt", "fat", "normal", "linux")
CONFIG = """\
echo Loading Linux
linux /vmlinuz console=ttyAMA0 panic=1
initrd /initrd
boot
"""
LIBRARIES = "lib/aarch64-linux-gnu"
PROGRAMS = {  # in the guest, by where packages have them
    "bin/busybox": "bin/busybox",
    "usr/bin/bash": "bin/bash",
    "usr/bin/base64": "usr/bin/base64",
    "usr/bin/date": "bin/date",
    "usr/bin/perl": "usr/bin/perl",
    "lib/ld-linux-aarch64.so.1": f"{LIBRARIES}/ld-linux-aarch64.so.1",
    **{f"lib/{name}": f"{LIBRARIES}/{name}" for name in ("libc.so.6", "libm.so.6", "libcrypt.so.1", "libtinfo.so.6")},
}
SYSTEMCTL = """\
#!/bin/busybox sh
case $1 in
is-system-running) echo running ;;
poweroff | reboot) (sleep 0.5; exec busybox "$1" -f) </dev/null >/dev/null 2>&1 & ;;
*) exit 1 ;;
esac
"""
JOURNALCTL = """\
#!/bin/busybox sh
case " $* " in
*' -f '*) exec sleep 1000000 ;;
*) exec dmesg ;;
esac
"""
HOST_KEY = "ssh-ed25519 nobody listens\n"  # a snapshot remembers the keys of its guest


def arm_guest_disk(store: Store) -> Path:
    """A disk that boots by UEFI to a login prompt, and starts the harness's channel if it is given a config.

    From the store, or made; raises BuildFailed where the packages cannot be had.
    """
    debs = _packages(store)
    made_by = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (Path(__file__), INIT)]
    key = content_key({"debs": sorted(package.sha256 for package in debs), "made by": made_by})

    def build(folder: Path) -> None:
        with store.scratch("arm-guest") as scratch:
            for deb in debs.values():
                run(["dpkg-deb", "-x", deb, scratch / "root"], timeout=120)
            made = esp_disk(scratch, _files(scratch / "root", scratch), {"empty": b""}, esp_size=64)
            made.rename(folder / "disk.raw")

    return store.entry(KIND, key, build) / "disk.raw"


def _packages(store: Store) -> Mapping[Package, Path]:
    """As locked, or newer where the archive no longer has those."""
    try:
        return fetch(read_lock(LOCK), host_mirrors(), store)
    except StaleLock:
        return fetch(_resolved(), host_mirrors(), store)


def _resolved() -> Sequence[Package]:
    # Only here is another architecture than the reference image's asked for. A parameter would change the code that
    # built it, and so have every image built anew.
    with tempfile.TemporaryDirectory() as scratch, patch.object(debian, "ARCHITECTURE", "arm64"):
        found = resolve(WANTED, host_mirrors(), Path(scratch))
    return [package for package in found if package.name in NEEDED or package.name.startswith(KERNEL)]


def _files(root: Path, scratch: Path) -> dict[str, bytes]:
    """What lies on the ESP."""
    (kernel,) = root.glob("boot/vmlinuz-*")
    loader = scratch / "loader.efi"
    modules = root / "usr/lib/grub/arm64-efi"
    run(["grub-mkimage", "-O", "arm64-efi", "-d", modules, "-p", GRUB_FOLDER, "-o", loader, *GRUB_MODULES, "echo"])
    return {
        LOADER: loader.read_bytes(),
        f"{GRUB_FOLDER}/grub.cfg": CONFIG.encode(),
        "/vmlinuz": kernel.read_bytes(),
        "/initrd": gzip.compress(_initrd(_members(root)), 1, mtime=0),
    }


def _initrd(members: Mapping[str, bytes]) -> bytes:
    """One archive of folders, then one of files: the kernel leaves out what has no folder to be in."""
    folders = sorted({str(folder) for path in members for folder in list(Path(path).parents)[:-1]})
    return cpio(dict.fromkeys(folders, b""), 0o040755) + cpio(dict(members), 0o100755)


def _members(root: Path) -> dict[str, bytes]:
    """The root filesystem of the guest."""
    members = {path: (root / source).read_bytes() for path, source in PROGRAMS.items()}
    modules = {path.stem: path for path in root.glob("lib/modules/*/kernel/**/*.ko")}
    order = dict.fromkeys(name for wanted in MODULES for name in _with_needed(wanted, modules))
    members |= {f"modules/{name}.ko": modules[name].read_bytes() for name in order}
    members["modules/order"] = "".join(f"{name}.ko\n" for name in order).encode()
    members |= {"usr/bin/systemctl": SYSTEMCTL.encode(), "usr/bin/journalctl": JOURNALCTL.encode()}
    members |= {"etc/ssh/ssh_host_none_key.pub": HOST_KEY.encode(), "init": INIT.read_bytes()}
    return members


def _with_needed(name: str, modules: Mapping[str, Path]) -> Iterator[str]:
    """A module after those that it depends on."""
    found = DEPENDS.search(modules[name].read_bytes())
    for needed in found[1].decode().split(",") if found and found[1] else ():
        by_either_name = needed if needed in modules else needed.replace("_", "-")
        yield from _with_needed(by_either_name, modules)
    yield name


if __name__ == "__main__":
    write_lock(LOCK, _resolved())
    rows = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    LOCK.write_text("\n".join([HEADER, *rows, ""]))
