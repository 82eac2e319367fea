"""Pairs of images with one thing different, each with what `harness diff` has to say about it: that, and nothing else.

A row builds a small disk with one other knob, or changes one thing in a copy of it.
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.build.reproduction import FALSE_CLOCK
from harness.tools import run
from suites.harness.workbench import (
    DISK_GUID,
    EPOCH,
    FILES,
    MIB,
    ROOT,
    UUID_ONE,
    UUID_TWO,
    Bench,
    Pair,
    dated,
    edit,
    flip,
    patch,
)  # fmt: skip

CLOCK = "2023-11-14 22:13:20"  # EPOCH for libfaketime, standing still


@dataclass(frozen=True)
class Planted:
    """One row: how the pair is made, and area, partition, path and cause of the one difference."""

    name: str
    plant: Callable[[Bench], Pair]
    area: str
    partition: str
    path: str
    cause: str


def at(content: str) -> Callable[[Bench], int]:
    """Where in the disk a text lies."""
    return lambda bench: bench.disk.read_bytes().index(content.encode())


def flipped(place: Callable[[Bench], int], more: int = 0) -> Callable[[Bench], Pair]:
    return lambda bench: bench.changed(lambda image: flip(image, place(bench) + more))


def moved_blocks(bench: Bench) -> Pair:
    """One file's only block copied to a free one, its map and the bitmap changed."""
    listing = run(["debugfs", "-R", "blocks etc/hostname", bench.root]).decode()
    old, new = int(listing.split()[0]), 7000
    part = Path(shutil.copyfile(bench.root, bench.folder / "moved.part"))
    block = 8 * MIB // 8192
    content = part.read_bytes()[old * block : (old + 1) * block]
    patch(part, old * block, bytes(block))
    patch(part, new * block, content)
    edit(part, f"sif etc/hostname block[5] {new}", f"freeb {old}", f"setb {new}")
    return bench.disk, bench.with_root(part)


def moved_backup(bench: Bench) -> Pair:
    one, other = bench.copy("one.img"), bench.copy("other.img")
    for image in (one, other):
        os.truncate(image, 40 * MIB)
    run(["sgdisk", "-e", other])
    return one, other


def split_link(bench: Bench) -> Pair:
    """Two names of one file become two files."""
    tree = bench.new_tree()
    (tree / "etc/issue").unlink()
    shutil.copyfile(tree / "etc/motd", tree / "etc/issue")
    return bench.rebuilt(dated(tree))


def gzip_mtime(bench: Bench) -> Pair:
    images = bench.folder / "one.gz", bench.folder / "other.gz"
    for mtime, image in enumerate(images, 5):
        image.write_bytes(gzip.compress(bench.root.read_bytes(), 6, mtime=mtime))
    return images


def gzip_name(bench: Bench) -> Pair:
    one, other = gzip_mtime(bench)
    raw = one.read_bytes()
    other.write_bytes(raw[:3] + b"\x08" + raw[4:10] + b"disk.img\0" + raw[10:])
    return one, other


def vmdk_cid(bench: Bench) -> Pair:
    one, _ = bench.converted("vmdk", ("-o", "subformat=streamOptimized"), ())
    other = Path(shutil.copyfile(one, bench.folder / "again" / "one.vmdk"))
    raw = other.read_bytes()
    start = raw.index(b"\nCID=") + 5
    patch(other, start, b"0badcafe"[: raw.index(b"\n", start) - start])
    return one, other


def vhd_footer(offset: int, value: bytes) -> Callable[[Bench], Pair]:
    def plant(bench: Bench) -> Pair:
        one, _ = bench.converted("vpc", ("-o", "subformat=fixed,force_size"), ())
        other = Path(shutil.copyfile(one, bench.folder / "again.vhd"))
        footer = bytearray(other.read_bytes()[-512:])
        footer[offset : offset + len(value)] = value
        footer[64:68] = bytes(4)
        footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
        patch(other, other.stat().st_size - 512, bytes(footer))
        return one, other

    return plant


def xfs_uuid(bench: Bench) -> Pair:
    images = bench.folder / "one.xfs", bench.folder / "other.xfs"
    for image, uuid in zip(images, (UUID_ONE, UUID_TWO), strict=True):
        with image.open("wb") as file:
            file.truncate(300 * MIB)
        run(
            ["mkfs.xfs", "-q", "-m", f"uuid={uuid}", image],
            env={"LD_PRELOAD": os.fspath(FALSE_CLOCK), "FAKETIME": CLOCK},
        )
    return images


def squashfs_time(bench: Bench) -> Pair:
    images = bench.folder / "one.squashfs", bench.folder / "other.squashfs"
    for image, seconds in zip(images, (EPOCH, "1700000001"), strict=True):
        run(["mksquashfs", bench.tree, image, "-quiet", "-no-progress", "-mkfs-time", seconds])
    return images


def other_version(bench: Bench) -> Pair:
    return bench.rebuilt(bench.new_tree(var__lib__dpkg__status=FILES["var/lib/dpkg/status"].replace("5.9", "6.0")))


def other_order(bench: Bench) -> Pair:
    orders = (("aaa", "bbb"), ("bbb", "aaa"))
    first, second = (tuple(f"write {bench.tree}/etc/hostname {name}" for name in names) for names in orders)
    return bench.both_edited(first, second)


def on_root(*commands: str) -> Callable[[Bench], Pair]:
    return lambda bench: bench.edited(*commands)


def from_tree(**changed: str | None) -> Callable[[Bench], Pair]:
    return lambda bench: bench.rebuilt(bench.new_tree(**changed))


def other_uuid(features: str) -> Callable[[Bench], Pair]:
    return lambda bench: bench.rebuilt_both({"features": features}, {"features": features, "uuid": UUID_TWO})


def built(**knobs: str) -> Callable[[Bench], Pair]:
    return lambda bench: bench.rebuilt(**knobs)


def table(**knobs: Any) -> Callable[[Bench], Pair]:
    return lambda bench: bench.disks(**knobs)


def in_fat(**knobs: str) -> Callable[[Bench], Pair]:
    return lambda bench: bench.other_esp(**knobs)


def converted(kind: str, first: str, second: str) -> Callable[[Bench], Pair]:
    return lambda bench: bench.converted(kind, tuple(first.split()), tuple(second.split()))


def packed(program: str, first: str, second: str) -> Callable[[Bench], Pair]:
    return lambda bench: bench.packed(program, tuple(first.split()), tuple(second.split()))


def gzip_and_xz(bench: Bench) -> Pair:
    return bench.packed("gzip", (), ())[0], bench.packed("xz", ("-1",), ("-1",))[0]


def raw_and_qcow2(bench: Bench) -> Pair:
    return bench.disk, bench.converted("qcow2", (), ())[1]


TOOL, HOSTNAME, LOADER = "/usr/bin/tool", "/etc/hostname", "/LOADER.EFI"
LONG = "v" * 600  # does not fit into an inode
Row = tuple[str, str, str, str, Callable[[Bench], Pair]]

# name, partition, path, cause, how
IN_FILES: tuple[Row, ...] = (
    ("mtime", "root", HOSTNAME, "timestamp", on_root("sif etc/hostname mtime @1700000001")),
    ("ctime", "root", "/big", "timestamp", on_root("sif big ctime @1700000001")),
    ("mode", "root", HOSTNAME, "mode", on_root("sif etc/hostname mode 0100755")),
    ("mode of a folder", "root", "/etc", "mode", on_root("sif etc mode 040700")),
    ("owner", "root", "/big", "owner", on_root("sif big uid 7")),
    ("xattr", "root", "/big", "xattr", on_root("ea_set big user.note hi")),
    ("xattr in a block", "root", "/big", "xattr", on_root(f"ea_set big user.note {LONG}")),
    ("generation", "root", "/big", "metadata", on_root("sif big generation 77")),
    ("content of the same size", "root", TOOL, "content", flipped(at(FILES["usr/bin/tool"]), 4321)),
    ("content of another size", "root", HOSTNAME, "content", from_tree(etc__hostname="one two\n")),
    ("content of more blocks", "root", "/big", "content", from_tree(big="x" * 400_000)),
    ("added file", "root", "/etc/new", "missing", from_tree(etc__new="new")),
    ("removed file", "root", TOOL, "missing", on_root("rm usr/bin/tool")),
    ("folder left out", "root", "/usr", "missing", from_tree(usr__bin__tool=None)),
    ("renamed file", "root", TOOL, "name", on_root("ln usr/bin/tool usr/bin/tool2", "unlink usr/bin/tool")),
    ("symlink target", "root", "/link", "content", flipped(at("etc/motd\0"), 7)),
    ("hard link", "root", "/etc/motd", "hard link", split_link),
    ("directory order", "root", "/", "directory order", other_order),
    ("content in FAT", "esp", LOADER, "content", in_fat(content="loadem\n")),
    ("larger content in FAT", "esp", LOADER, "content", in_fat(content="loader\n" * 999)),
    ("mtime in FAT", "esp", LOADER, "timestamp", in_fat(date="1700000100")),
)
IN_FILESYSTEMS: tuple[Row, ...] = (
    ("other blocks", "root", "", "allocation", moved_blocks),
    ("UUID", "root", "", "UUID", other_uuid("^metadata_csum_seed,metadata_csum")),
    ("UUID without checksums", "root", "", "UUID", other_uuid("^metadata_csum")),
    ("hash seed", "root", "", "hash seed", built(seed=UUID_TWO)),
    ("label", "root", "", "label", built(label="start")),
    ("time of mkfs", "root", "", "timestamp", built(time="1700009999")),
    ("mount count", "root", "", "metadata", on_root("ssv mnt_count 5")),
    ("volume id", "esp", "", "UUID", in_fat(volume="7B7795E8")),
    ("XFS UUID", "", "", "UUID", xfs_uuid),
    ("squashfs time", "", "", "timestamp", squashfs_time),
)
IN_TABLES: tuple[Row, ...] = (
    ("disk GUID", "", "", "UUID", table(guid=UUID_TWO)),
    ("partition GUID", "data", "", "UUID", table(part=DISK_GUID)),
    ("partition label", "root", "", "partition table", table(name="boat")),
    ("partition type", "esp", "", "partition table", table(type="L")),
    ("partition attribute", "root", "", "partition table", table(more=", attrs=LegacyBIOSBootable")),
    ("backup table moved", "", "", "partition table", moved_backup),
    ("disk signature", "", "", "UUID", flipped(lambda _: 441)),
)
IN_CONTAINERS: tuple[Row, ...] = (
    ("qcow2 version", "", "", "format", converted("qcow2", "-o compat=0.10", "-o compat=1.1")),
    ("cluster size", "", "", "format", converted("qcow2", "", "-o cluster_size=4096")),
    ("compressed clusters", "", "", "compression level", converted("qcow2", "", "-c")),
    ("raw and qcow2", "", "", "format", raw_and_qcow2),
    ("gzip mtime", "", "", "timestamp", gzip_mtime),
    ("gzip name", "", "", "name", gzip_name),
    ("gzip level", "", "", "compression level", packed("gzip", "-n -1", "-n -9")),
    ("gzip level without a flag", "", "", "compression level", packed("gzip", "-n -5", "-n -6")),
    ("xz level", "", "", "compression level", packed("xz", "-1", "-6")),
    ("xz threads", "", "", "compression level", packed("xz", "-1 -T1", "-1 -T2")),
    ("xz check", "", "", "compression level", packed("xz", "-1", "-1 -Ccrc32")),
    ("zstd level", "", "", "compression level", packed("zstd", "-q -1", "-q -3")),
    ("zstd checksum", "", "", "compression level", packed("zstd", "-q", "-q --no-check")),
    ("gzip and xz", "", "", "format", gzip_and_xz),
    ("VMDK content id", "", "", "CID", vmdk_cid),
    ("VHD time", "", "", "timestamp", vhd_footer(24, b"\x12\x34\x56\x78")),
    ("VHD UUID", "", "", "UUID", vhd_footer(68, bytes(range(16)))),
)
IN_BYTES: tuple[Row, ...] = (
    ("free block", "root", "", "unexplained", flipped(lambda _: (ROOT + 8) * MIB - 100)),
    ("boot code", "", "", "content", flipped(lambda _: 100)),
    ("byte behind the header", "", "", "unexplained", flipped(lambda _: 512 + 100)),
    ("byte between partitions", "", "", "unexplained", flipped(lambda _: 29 * MIB + 17)),
    ("partition without filesystem", "data", "", "content", table(data=b"core")),
)
AREAS = {
    "file": IN_FILES,
    "filesystem": IN_FILESYSTEMS,
    "partition table": IN_TABLES,
    "container": IN_CONTAINERS,
    "package": (("package version", "", "zsh", "package", other_version),),
    "bytes": IN_BYTES,
}
PLANTED = tuple(
    Planted(name, plant, area, partition, path, cause)
    for area, rows in AREAS.items()
    for name, partition, path, cause, plant in rows
)
