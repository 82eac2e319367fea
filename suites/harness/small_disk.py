"""A CoreOS-shaped disk of 48 MiB in a second: GPT with ESP, boot and root, and an ostree deployment if wanted."""

from __future__ import annotations

import json
from pathlib import Path

from harness.tools import run

COMMIT = "c" * 64
BOOT_CHECKSUM = "b" * 64
MIB = 2**20
PARTS = {"EFI-SYSTEM": (1, 4), "boot": (5, 10), "root": (15, 30)}  # MiB: start, size
TYPES = {
    "EFI-SYSTEM": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "boot": "BC13C2FF-59E6-4262-A352-B275FD6F7172",
    "root": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
}
OS_RELEASE = 'NAME="Small OS"\nID=small\nPRETTY_NAME="Small OS 1"\nVARIANT_ID=coreos\nOSTREE_VERSION=1.2\n'
PLATFORMS = {"qemu": {"kernel_arguments": ["console=ttyS0"], "grub_commands": ["serial"]}, "azure": {}}
IMAGES = [{"id": "1" * 64, "digest": "sha256:" + "2" * 64, "names": ["localhost/one:1"], "layer": "3" * 64}]


def small_disk(folder: Path, *, ostree: bool = True, ostree_karg: str | None = None) -> Path:
    """Build one in `folder` and return the raw image; `ostree_karg` overrides what the boot entry names."""
    karg = ostree_karg or f"/ostree/boot.1/small/{BOOT_CHECKSUM}/0"
    put(folder, "boot", boot_files(f" ostree={karg}" if ostree else ""))
    (folder / "boot/loader").symlink_to("loader.1")
    put(folder, "root", ostree_files() if ostree else system_files())
    link_deployment(folder / "root") if ostree else None
    image = folder / "small.img"
    with image.open("wb") as file:
        file.truncate(48 * MIB)
    lines = ["label: gpt", "label-id: 00000000-0000-4000-a000-000000000001"]
    lines += [
        f"start={start * 2048}, size={size * 2048}, name={label}, type={TYPES[label]}"
        for label, (start, size) in PARTS.items()
    ]
    run(["sfdisk", "-q", str(image)], stdin="\n".join(lines).encode())
    for label in ("boot", "root"):
        part = folder / f"{label}.part"
        source, size = str(folder / label), f"{PARTS[label][1]}M"
        run(["mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-d", source, str(part), size])
        write(image, PARTS[label][0] * MIB, part.read_bytes())
    write(image, PARTS["EFI-SYSTEM"][0] * MIB, esp(folder))
    return image


def put(folder: Path, label: str, files: dict[str, str]) -> None:
    for path, content in files.items():
        target = folder / label / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)


def boot_files(ostree: str) -> dict[str, str]:
    options = f"options rw $ignition_firstboot{ostree} ignition.platform.id=qemu console=tty0 console=ttyS0"
    return {
        "loader.1/entries/ostree-1-small.conf": f"title Small OS\nversion 1\n{options}\nlinux /ostree/x/vmlinuz-6.1\n",
        "ignition.firstboot": "",
        "coreos/platforms.json": json.dumps(PLATFORMS),
        "grub2/console.cfg": "# CONSOLE-SETTINGS-START\nserial --speed=115200\n# CONSOLE-SETTINGS-END\n",
    }


def system_files() -> dict[str, str]:
    return {"etc/os-release": OS_RELEASE, "usr/lib/modules/6.1/vmlinuz": "", "var/lib/state": "kept"}


def ostree_files() -> dict[str, str]:
    """As `admin deploy` leaves it: the deployment below the stateroot, /var beside it."""
    top = "ostree/deploy/small"
    below = f"{top}/deploy/{COMMIT}.0"
    files = {f"{below}/{path}": text for path, text in system_files().items() if not path.startswith("var/")}
    images = f"{top}/var/lib/containers/storage/overlay-images/images.json"
    aleph = {"version": "1.2", "ref": "small/stable", "osbuild-version": "x"}
    return files | {
        f"{top}/var/lib/state": "kept",
        f"{top}/var/home/.keep": "",
        images: json.dumps(IMAGES),
        "ostree/repo/config": "",
        ".aleph-version.json": json.dumps(aleph),
    }


def link_deployment(root: Path) -> None:
    (root / ".coreos-aleph-version.json").symlink_to(".aleph-version.json")
    below = f"ostree/deploy/small/deploy/{COMMIT}.0"
    (root / below / "home").symlink_to("var/home")
    (root / below / "ostree").symlink_to("sysroot/ostree")
    chain = root / f"ostree/boot.1.1/small/{BOOT_CHECKSUM}"
    chain.mkdir(parents=True)
    (chain / "0").symlink_to(f"../../../deploy/small/deploy/{COMMIT}.0")
    (root / "ostree/boot.1").symlink_to("boot.1.1")


def esp(folder: Path) -> bytes:
    part, loader = folder / "esp.part", folder / "BOOTX64.EFI"
    part.write_bytes(bytes(PARTS["EFI-SYSTEM"][1] * MIB))
    loader.write_bytes(b"MZ")
    run(["mkfs.vfat", "--invariant", "-n", "EFI-SYSTEM", str(part)])
    run(["mmd", "-i", str(part), "::EFI", "::EFI/BOOT"])
    run(["mcopy", "-i", str(part), str(loader), "::EFI/BOOT/"])
    return part.read_bytes()


def write(image: Path, offset: int, data: bytes) -> None:
    """Overwrite bytes of a file in place."""
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)
