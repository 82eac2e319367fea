"""GRUB for BIOS and for UEFI, installed into image files without grub-install."""

from __future__ import annotations

from pathlib import Path

from harness.errors import MissingTool
from harness.tools import run

LIBRARY = Path("/usr/lib/grub")
SECTOR = 512
BOOT_CODE = 0x1B8  # bytes of the MBR before the disk signature
KERNEL_SECTOR = 0x5C  # where boot.img keeps the LBA of core.img (grub: GRUB_BOOT_MACHINE_KERNEL_SECTOR)
DRIVE_CHECK = 0x66  # two bytes that grub-install turns into no-ops on hard disks (GRUB_BOOT_MACHINE_DRIVE_CHECK)
BLOCK_LIST = 0x1F4  # in the first sector of core.img: the LBA of its second
# Everything but linux.mod and what it needs: an entry's `linux` line must reach our function (see grub.cfg).
CORE = ("part_gpt", "fat", "ext2", "search", "search_label", "search_fs_uuid", "normal", "configfile", "test", "echo",
        "regexp", "serial", "terminal", "sleep", "ls", "cat", "reboot", "halt", "minicmd")  # fmt: skip
PLATFORMS = {"i386-pc": (*CORE, "biosdisk"), "x86_64-efi": CORE}
EARLY = "search --no-floppy --label boot --set root\nset prefix=($root)/grub2\nconfigfile $prefix/grub.cfg\n"


def module_files(platform: str) -> list[str]:
    """linux.mod and every module it needs, by path."""
    listing = LIBRARY / platform / "moddep.lst"
    if not listing.exists():
        raise MissingTool(f"GRUB's modules for {platform} are not installed", next_step="run ./setup")
    needs = {
        line.partition(":")[0]: line.partition(":")[2].split()
        for line in listing.read_text().splitlines()
        if ":" in line
    }
    wanted, todo = set(), ["linux", "initrd"]
    while todo:
        module = todo.pop()
        if module in needs and module not in wanted:
            wanted.add(module)
            todo += needs[module]
    if "linux" in needs:
        todo = ["linux"]
    files = [LIBRARY / platform / f"{module}.mod" for module in sorted(wanted)]
    lists = [
        LIBRARY / platform / name for name in ("command.lst", "moddep.lst", "fs.lst", "crypto.lst", "terminal.lst")
    ]
    return [str(path) for path in (*files, *lists) if path.exists()]


def make_core(platform: str, folder: Path) -> Path:
    """GRUB's core image for a platform: `core.img` for BIOS, an EFI program for UEFI."""
    early = folder / "early.cfg"
    early.write_text(EARLY)
    target = folder / f"grub-{platform}.img"
    run(
        ["grub-mkimage", "-O", platform, "-d", LIBRARY / platform, "-c", early, "-p", "/grub2", "-o", target,
         *PLATFORMS[platform]]
    )  # fmt: skip
    return target


def install_bios(core: Path, disk: Path, core_lba: int, partition_sectors: int) -> None:
    """Write boot.img into the disk's MBR and core.img into the BIOS boot partition that starts at `core_lba`."""
    code = bytearray((LIBRARY / "i386-pc/boot.img").read_bytes()[:SECTOR])
    code[KERNEL_SECTOR : KERNEL_SECTOR + 8] = core_lba.to_bytes(8, "little")
    code[DRIVE_CHECK : DRIVE_CHECK + 2] = b"\x90\x90"
    image = bytearray(core.read_bytes())
    if len(image) > partition_sectors * SECTOR:
        raise MissingTool(f"GRUB's core image of {len(image):,} bytes does not fit its partition", where=str(core))
    image[BLOCK_LIST : BLOCK_LIST + 8] = (core_lba + 1).to_bytes(8, "little")
    with disk.open("r+b") as stream:
        stream.write(code[:BOOT_CODE])
        stream.seek(core_lba * SECTOR)
        stream.write(image)
