"""One small file for every reader: each container, compression and filesystem, made by the field's own tools."""

from __future__ import annotations

import subprocess
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path

from harness.tools import run
from suites.harness.fuzz import recipes

QCOW2_OPTIONS = {
    "qcow2": ["-o", "compat=1.1"],
    "qcow2-v2": ["-o", "compat=0.10"],
    "qcow2-zlib": ["-c"],
    "qcow2-zstd": ["-c", "-o", "compression_type=zstd"],
    "qcow2-extended-l2": ["-o", "extended_l2=on,cluster_size=128k"],
}
OTHER_OPTIONS = {
    "vmdk-sparse": ("vmdk", ["-o", "subformat=monolithicSparse"]),
    "vmdk-stream": ("vmdk", ["-o", "adapter_type=lsilogic,compat6,subformat=streamOptimized"]),
    "vhd-fixed": ("vpc", ["-o", "subformat=fixed,force_size"]),
    "vhd-dynamic": ("vpc", ["-o", "subformat=dynamic"]),
    "vhdx": ("vhdx", []),
}
COMPRESSORS = {"gz": ["gzip", "-n"], "xz": ["xz", "-0"], "zst": ["zstd", "-q", "-1"]}
OVF = """<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1">
<References><File ovf:href="disk.vmdk" ovf:id="file1"/></References></Envelope>"""


def makers() -> Mapping[str, Callable[[Path, Path], Path]]:
    """Name of a sample -> function of (folder, raw disk) that makes it."""
    table: dict[str, Callable[[Path, Path], Path]] = {"raw": lambda _folder, disk: disk}
    table |= {name: _converter("qcow2", options) for name, options in QCOW2_OPTIONS.items()}
    table |= {name: _converter(kind, options) for name, (kind, options) in OTHER_OPTIONS.items()}
    table |= {f"qcow2.{suffix}": _compressor(suffix) for suffix in COMPRESSORS}
    table |= {"ova": _ova, "gcp": _gcp, "mbr": _mbr}
    table |= {"xfs": _xfs, "btrfs": _btrfs, "squashfs": _squashfs, "erofs": _erofs, "iso": _iso, "vfat": _vfat}
    table |= {"recipe": _recipe, "plan": _plan}
    return table


def small_tree(folder: Path) -> Path:
    """A few files of each kind."""
    tree = folder / "tree"
    (tree / "below" / "deeper").mkdir(parents=True)
    (tree / "below" / "text").write_text("text\n" * 1000)
    (tree / "below" / "deeper" / "large").write_bytes(b"0123456789abcdef" * 40_000)
    (tree / "link").symlink_to("below/text")
    (tree / "long-link").symlink_to("x" * 200)
    for number in range(60):
        (tree / f"file-number-{number}").write_text(str(number))
    return tree


def _converter(kind: str, options: list[str]) -> Callable[[Path, Path], Path]:
    def make(folder: Path, disk: Path) -> Path:
        target = folder / f"disk.{kind}"
        run(["qemu-img", "convert", "-q", "-f", "raw", "-O", kind, *options, str(disk), str(target)])
        return target

    return make


def _compressor(suffix: str) -> Callable[[Path, Path], Path]:
    def make(folder: Path, disk: Path) -> Path:
        plain = _converter("qcow2", [])(folder, disk)
        target = plain.with_suffix(f".qcow2.{suffix}")
        with plain.open("rb") as source, target.open("wb") as packed:
            subprocess.run([*COMPRESSORS[suffix], "-c"], stdin=source, stdout=packed, check=True)
        return target

    return make


def _ova(folder: Path, disk: Path) -> Path:
    vmdk = _converter("vmdk", ["-o", "subformat=streamOptimized"])(folder, disk)
    (folder / "coreos.ovf").write_text(OVF)
    with tarfile.open(folder / "disk.ova", "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(folder / "coreos.ovf", "coreos.ovf")
        archive.add(vmdk, "disk.vmdk")
    return folder / "disk.ova"


def _gcp(folder: Path, disk: Path) -> Path:
    (folder / "disk.raw").symlink_to(disk)
    run(["tar", "-C", str(folder), "-h", "--sparse", "--format=oldgnu", "-cf", str(folder / "disk.tar"), "disk.raw"])
    return folder / "disk.tar"


def _mbr(folder: Path, disk: Path) -> Path:
    target = folder / "mbr.raw"
    with target.open("wb") as file:
        file.truncate(8 * 2**20)
    table = "label: dos\nsize=1MiB, type=c\nsize=1MiB, type=83\ntype=5\nsize=1MiB, type=83\nsize=1MiB, type=83\n"
    run(["sfdisk", "-q", str(target)], stdin=table.encode())
    return target


def _blank(folder: Path, name: str, size: int) -> Path:
    target = folder / name
    with target.open("wb") as file:
        file.truncate(size)
    return target


def _xfs(folder: Path, disk: Path) -> Path:
    target = _blank(folder, "xfs.raw", 300 * 2**20)
    prototype = folder / "prototype"
    tree = small_tree(folder)
    files = [f"number-{number} ---644 0 0 {tree}/file-number-{number}" for number in range(60)]
    lines = [
        "/boot/none",
        "0 0",
        "d--755 0 0",
        *files,
        f"text ---644 0 0 {tree}/below/text",
        "link l--777 0 0 text",
        "$",
    ]
    prototype.write_text("\n".join([*lines, "$", ""]))
    run(["mkfs.xfs", "-q", "-p", str(prototype), str(target)])
    return target


def _btrfs(folder: Path, disk: Path) -> Path:
    target = _blank(folder, "btrfs.raw", 112 * 2**20)
    run(["mkfs.btrfs", "-q", "--rootdir", str(small_tree(folder)), str(target)])
    return target


def _squashfs(folder: Path, disk: Path) -> Path:
    run(["mksquashfs", str(small_tree(folder)), str(folder / "squashfs.raw"), "-quiet", "-no-progress"])
    return folder / "squashfs.raw"


def _erofs(folder: Path, disk: Path) -> Path:
    run(["mkfs.erofs", str(folder / "erofs.raw"), str(small_tree(folder))])
    return folder / "erofs.raw"


def _iso(folder: Path, disk: Path) -> Path:
    run(["xorriso", "-as", "mkisofs", "-quiet", "-R", "-o", str(folder / "live.iso"), str(small_tree(folder))])
    return folder / "live.iso"


def _vfat(folder: Path, disk: Path) -> Path:
    target = _blank(folder, "vfat.raw", 40 * 2**20)
    run(["mkfs.vfat", str(target)])
    tree = small_tree(folder)
    run(["mcopy", "-s", "-i", str(target), *(str(tree / name) for name in ("file-number-1", "below")), "::/"])
    return target


def _recipe(folder: Path, disk: Path) -> Path:
    target = folder / "recipe"
    target.write_bytes(recipes.sound_recipe())
    return target


def _plan(folder: Path, disk: Path) -> Path:
    """The body of one: damage to what is packed would only show that it is packed."""
    target = folder / "plan"
    target.write_bytes(recipes.body_of(recipes.sound_plans()["vmdk stream"][0]))
    return target
