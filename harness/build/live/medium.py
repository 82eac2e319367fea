"""The ISO around them: boot loaders for BIOS and UEFI, room for a config and kernel arguments, and xorriso's options.

What is where, and the JSON files that say so, follow CoreOS (osbuild's live-artifacts.mono, coreos-installer's
documentation). Every time stamp is the build's epoch.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.build.bootloader import LIBRARY
from harness.build.live.initrd import features
from harness.errors import BuildFailed
from harness.tools import find_tool, run

IGNITION_AREA = 262144  # bytes, as CoreOS's
SPARE_KARGS = 1024  # bytes for kernel arguments besides the default ones
LARGEST_KARGS = 2048  # bytes: coreos-installer refuses larger areas
LONGEST_VOLUME_ID = 32
MARK = "COREOS_KARG_EMBED_AREA"
EFI_MIB = 4
ISOLINUX = Path("/usr/lib/ISOLINUX/isolinux.bin")
ISOLINUX_LIBRARY = Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
MBR = Path("/usr/lib/ISOLINUX/isohdpfx.bin")
GRUB_MODULES = ("iso9660", "part_gpt", "part_msdos", "search", "search_label", "normal", "configfile", "test", "echo",
                "linux", "minicmd", "ls", "cat", "sleep", "reboot", "halt", "serial", "terminal")  # fmt: skip
AREA_TEMPLATES = {"isolinux/isolinux.cfg": "isolinux.cfg", "EFI/{vendor}/grub.cfg": "grub.cfg"}


@dataclass(frozen=True, slots=True)
class Medium:
    """What one ISO is called and booted with."""

    volume: str
    volume_set: str
    title: str
    vendor: str
    kargs: str
    epoch: int

    @classmethod
    def of(cls, settings: Mapping[str, Any], live: Mapping[str, Any]) -> Medium:
        """From the definitions of the reference system and of its live ISO. Raises BuildFailed."""
        name = f"{settings['name']}-{settings['version']}"
        volume = name[:LONGEST_VOLUME_ID]
        kargs = " ".join([*live["kargs"], *live["console"]]).format(volume=volume)
        if len(kargs) + SPARE_KARGS > LARGEST_KARGS:
            raise BuildFailed(f"{len(kargs)} bytes of kernel arguments leave too little room", where="live.toml")
        title = f"Reference CoreOS {settings['version']} (Live)"
        return cls(volume, name, title, live["vendor"], kargs, settings["epoch"])

    @property
    def area_size(self) -> int:
        return len(self.kargs) + SPARE_KARGS


def lay_out(medium: Medium, templates: Path, tree: Path, scratch: Path) -> None:
    """Everything but images/pxeboot, in the folder that becomes the ISO."""
    files = dict[str, bytes](
        {
            "images/ignition.img": bytes(IGNITION_AREA),
            "coreos/igninfo.json": _json({"file": "images/ignition.img"}),
            "coreos/features.json": features(),
            "isolinux/isolinux.bin": _installed(ISOLINUX),
            "isolinux/ldlinux.c32": _installed(ISOLINUX_LIBRARY),
        }
    )
    area = f"{medium.kargs}\n".ljust(medium.area_size, "#") + f" {MARK}"
    places = []
    for path, template in AREA_TEMPLATES.items():
        name = path.format(vendor=medium.vendor)
        text = (templates / template).read_text().format(area=area, title=medium.title)
        files[name] = text.encode()
        places.append({"path": name, "offset": text.index(medium.kargs), "pad": "#", "end": "\n"})
    files["coreos/kargs.json"] = _json({"default": medium.kargs, "files": places, "size": medium.area_size})
    for name, content in files.items():
        target = tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    _write_efi(medium, scratch, tree / "images/efiboot.img")


def write_iso(medium: Medium, tree: Path, target: Path) -> None:
    """The hybrid ISO: from a CD or a disk, by BIOS or UEFI.

    Level 1 for the names of 8.3 that coreos-installer looks for. Without any one of the two dates and the GUID, two
    ISOs of one tree differ.
    """
    moment = time.strftime("%Y%m%d%H%M%S00", time.gmtime(medium.epoch))
    guid = uuid.uuid5(uuid.NAMESPACE_URL, f"image-harness:{medium.volume_set}:live")
    names = ["-V", medium.volume, "-volset", medium.volume_set, "-iso-level", "1", "-r", "-J", "-joliet-long"]
    same = [f"--modification-date={moment}", "--set_all_file_dates", moment, "--gpt_disk_guid", guid.hex]
    bios = ["-b", "isolinux/isolinux.bin", "-c", "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4",
            "-boot-info-table"]  # fmt: skip
    uefi = ["-eltorito-alt-boot", "-e", "images/efiboot.img", "-no-emul-boot"]
    hybrid = ["-isohybrid-mbr", find_tool(str(MBR)), "-isohybrid-gpt-basdat"]
    command: Sequence[str | Path] = ["xorriso", "-as", "mkisofs", "-quiet", *names, *same, *hybrid[:2], *bios, *uefi,
                                     *hybrid[2:], "-o", target, tree]  # fmt: skip
    run(command, env={"SOURCE_DATE_EPOCH": str(medium.epoch), "TZ": "UTC"})


def _write_efi(medium: Medium, scratch: Path, target: Path) -> None:
    """A FAT image with GRUB at the path for removable media; it goes on with the configuration on the ISO."""
    early, grub = scratch / "early.cfg", scratch / "BOOTX64.EFI"
    folder = f"/EFI/{medium.vendor}"
    early.write_text(
        f"search --no-floppy --label {medium.volume} --set root\n"
        f"set prefix=($root){folder}\nconfigfile $prefix/grub.cfg\n"
    )
    library = LIBRARY / "x86_64-efi"
    run(["grub-mkimage", "-O", library.name, "-d", library, "-c", early, "-p", folder, "-o", grub, *GRUB_MODULES])
    with target.open("wb") as stream:
        stream.truncate(EFI_MIB * 2**20)
    environment = {"SOURCE_DATE_EPOCH": str(medium.epoch), "MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}
    number = uuid.uuid5(uuid.NAMESPACE_URL, f"image-harness:{medium.volume_set}:efiboot").hex[:8]
    run(["mkfs.vfat", "--invariant", "-n", "EFI-SYSTEM", "-i", number, target], env=environment)
    run(["mmd", "-i", target, "::/EFI", "::/EFI/BOOT"], env=environment)
    run(["mcopy", "-i", target, grub, "::/EFI/BOOT/BOOTX64.EFI"], env=environment)


def _installed(path: Path) -> bytes:
    return Path(find_tool(str(path))).read_bytes()


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def link_or_copy(source: Path, target: Path) -> None:
    """One file under two names where the filesystem can: xorriso only reads it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)
