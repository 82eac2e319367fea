"""A live ISO of a megabyte, shaped like those of CoreOS: hybrid, with embed areas, kargs, rootfs and osmet files."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from harness.tools import known_tools, run

VOLUME = "small-coreos-1.2.3"
KARGS = f"mitigations=auto,nosmt coreos.liveiso={VOLUME} ignition.firstboot ignition.platform.id=metal"
AREA = 512  # bytes for kernel arguments
EMBED = 262144
MBR_TEMPLATE = "/usr/lib/ISOLINUX/isohdpfx.bin"


def live_files() -> dict[str, bytes]:
    """The files of the ISO by path."""
    grub = f"linux /images/pxeboot/vmlinuz {kargs_area()}# COREOS_KARG_EMBED_AREA\n"
    isolinux = f"append initrd=/images/pxeboot/initrd.img {kargs_area()}# COREOS_KARG_EMBED_AREA\n"
    areas = {"EFI/debian/grub.cfg": grub, "isolinux/isolinux.cfg": isolinux}
    kargs = {
        "default": KARGS,
        "size": AREA,
        "files": [{"path": path, "offset": text.index(KARGS), "pad": "#", "end": "\n"} for path, text in areas.items()],
    }
    return {
        "EFI/debian/grub.cfg": grub.encode(),
        "isolinux/isolinux.cfg": isolinux.encode(),
        "isolinux/isolinux.bin": bytes(4096),
        "images/efiboot.img": b"efi".ljust(65536, b"\0"),
        "images/ignition.img": bytes(EMBED),
        "images/pxeboot/vmlinuz": b"kernel",
        "images/pxeboot/initrd.img": b"initrd",
        "images/pxeboot/rootfs.img": rootfs(),
        "coreos/igninfo.json": json.dumps({"file": "images/ignition.img"}).encode(),
        "coreos/kargs.json": json.dumps(kargs).encode(),
        "coreos/features.json": json.dumps({"installer-config": True, "live-initrd-network": True}).encode(),
        "coreos/miniso.dat": b"MINISO\0\0" + bytes([1]) + text("0.17.0"),
    }


def kargs_area() -> str:
    return f"{KARGS}\n".ljust(AREA, "#")


def text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()


def osmet(sector_size: int) -> bytes:
    """The header of an osmet file."""
    number = b"\xfb" + struct.pack("<H", sector_size)
    return b"OSMET\0\0\0" + bytes([1]) + text("0.17.0") + number + text("Small OS 1.2.3") + text("x86_64")


def rootfs() -> bytes:
    """A squashfs by its first bytes, the build, and two osmet files."""
    squashfs = b"hsqs" + struct.pack("<IIIIHHHHHHQQ", 1, 0, 131072, 0, 6, 17, 0, 1, 4, 0, 0, 4096)
    members = {
        "root.squashfs": squashfs.ljust(4096, b"\0"),
        "etc/coreos-live-rootfs": b"1.2.3\n",
        "small-metal.raw.osmet": osmet(512),
        "small-metal4k.raw.osmet": osmet(4096),
    }
    return cpio(members)


def cpio(members: dict[str, bytes], mode: int = 0o100644) -> bytes:
    """A newc archive of files."""
    made = b""
    for number, (name, content) in enumerate([*members.items(), ("TRAILER!!!", b"")], 1):
        raw = name.encode() + b"\0"
        fields = [number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(raw), 0]
        made += b"070701" + b"".join(b"%08X" % field for field in fields) + raw
        made += bytes(-len(made) % 4) + content
        made += bytes(-len(made) % 4)
    return made


def small_live_iso(
    folder: Path, files: dict[str, bytes] | None = None, *, hybrid: bool = True, uefi: bool = True
) -> Path:
    """Build one in `folder` with xorriso, as coreos-assembler's recipe has it; skips the test where that is missing."""
    for tool in ("xorriso", MBR_TEMPLATE):
        if known_tools()[tool].find() is None:
            pytest.skip(f"{tool} is not installed")
    for path, content in (live_files() if files is None else files).items():
        target = folder / "tree" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    made = folder / "live.iso"
    boot = ["-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4",
            "-boot-info-table"]  # fmt: skip
    boot += ["-eltorito-alt-boot", "-e", "images/efiboot.img", "-no-emul-boot"] if uefi else []
    mbr = ["-isohybrid-mbr", MBR_TEMPLATE, *(["-isohybrid-gpt-basdat"] if uefi else [])] if hybrid else []
    options = ["-V", VOLUME, "-volset", VOLUME, "-A", "SMALL", "-iso-level", "1", "-r", "-J", "-joliet-long"]
    run(["xorriso", "-as", "mkisofs", *options, *mbr[:2], *boot, *mbr[2:], "-o", made, folder / "tree"])
    return made
