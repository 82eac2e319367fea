"""Small live ISOs of every generation of announcements there has been (facts B4), and recipes of minimal ISOs."""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.images.filesystems.files import open_files
from harness.images.formats.raw import FileBlock
from harness.images.system.live_places import EMBED_RECORD_AT, KARGS_RECORD_AT, place_of
from harness.tools import run
from suites.harness.small_live_iso import AREA, EMBED, KARGS, VOLUME, kargs_area, live_files, small_live_iso, text

GRUB, ISOLINUX, COMMAND_LINE, IGNITION = (
    "EFI/debian/grub.cfg",
    "isolinux/isolinux.cfg",
    ".cmdline",
    "images/ignition.img",
)
IGNINFO, KARGS_JSON, FEATURES, MINISO = (
    "coreos/igninfo.json", "coreos/kargs.json", "coreos/features.json", "coreos/miniso.dat",
)  # fmt: skip
CDBOOT = "images/cdboot.img"
CDBOOT_KARGS, CDBOOT_IGNITION, CDBOOT_SIZE = 66688, 132096, 394240  # as the real one of 2023-07
RECORDS = {"2020-09": ("coreiso+",), **dict.fromkeys(("2021-01", "2021-09", "2021-12"), ("coreiso+", "coreKarg"))}
MISSING = {
    "2020-09": (IGNINFO, KARGS_JSON, FEATURES, MINISO),
    "2021-01": (IGNINFO, KARGS_JSON, FEATURES, MINISO),
    "2021-09": (IGNINFO, FEATURES, MINISO),
    "2021-12": (IGNINFO,),
    "2022-02": (IGNINFO,),
    "2023-03": (),
    "2023-03.s390x": (KARGS_JSON, IGNITION),
    "2023-07": (),
    "2023-07.s390x": (IGNITION,),
}
GENERATIONS = tuple(MISSING)
WITH_KARGS = tuple(name for name in GENERATIONS if name not in {"2020-09", "2023-03.s390x"})


def files_of(generation: str) -> dict[str, bytes]:
    """The files of an ISO of that time, by path."""
    files = {path: content for path, content in live_files().items() if path not in MISSING[generation]}
    if "coreKarg" in RECORDS.get(generation, ()):
        files[COMMAND_LINE] = kargs_area().encode()
    if KARGS_JSON in files and generation < "2023-07":  # ends and padding are said since then
        said = json.loads(files[KARGS_JSON])
        said["files"] = [{key: each[key] for key in ("path", "offset")} for each in said["files"]]
        files[KARGS_JSON] = json.dumps(said).encode()
    if generation.endswith("s390x"):
        files |= _s390x(has_kargs=KARGS_JSON in files)
    return files


def _s390x(*, has_kargs: bool) -> dict[str, bytes]:
    """One file holds kernel, kernel arguments and initrd; what is not an area is not zero."""
    image = bytearray(b"\xa5" * CDBOOT_SIZE)
    image[CDBOOT_KARGS : CDBOOT_KARGS + AREA] = KARGS.encode().ljust(AREA, b"\0")
    image[CDBOOT_IGNITION:] = bytes(EMBED)
    igninfo = {"file": CDBOOT, "offset": CDBOOT_IGNITION, "length": EMBED}
    made = {CDBOOT: bytes(image), IGNINFO: json.dumps(igninfo).encode()}
    if has_kargs:
        place = {"path": CDBOOT, "offset": CDBOOT_KARGS, "pad": "\0", "end": "\0"}
        made[KARGS_JSON] = json.dumps({"default": KARGS, "size": AREA, "files": [place]}).encode()
    return made


def iso_of(folder: Path, generation: str, changed: dict[str, bytes] | None = None) -> Path:
    """An ISO of that time, made by xorriso; hybrid since 2022. `changed` files have other content."""
    folder.mkdir(parents=True, exist_ok=True)
    files = files_of(generation) | (changed or {})
    made = small_live_iso(folder, files, hybrid=generation >= "2022" and not generation.endswith("s390x"))
    write_records(made, RECORDS.get(generation, ()))
    return made


def by_genisoimage(folder: Path, generation: str) -> Path:
    """The same by another program, without El Torito."""
    for path, content in files_of(generation).items():
        target = folder / "tree" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    made = folder / "live.iso"
    run(["genisoimage", "-quiet", "-V", VOLUME, "-r", "-J", "-o", made, folder / "tree"])
    write_records(made, RECORDS.get(generation, ()))
    return made


def write_records(iso: Path, records: tuple[str, ...]) -> None:
    """Write the records at the end of the system area, as coreos-assembler did."""
    with FileBlock(iso) as block:
        files = open_files(block)
        places = {path: place_of(block, files, f"/{path}").start for path in (IGNITION,) if files.exists(f"/{path}")}
        if "coreKarg" in records:
            for path in (COMMAND_LINE, GRUB, ISOLINUX):
                part = place_of(block, files, f"/{path}")
                places[path] = part.start + part.read(0, part.size).index(KARGS.encode())
    with iso.open("r+b") as file:
        if "coreiso+" in records:
            file.seek(EMBED_RECORD_AT)
            file.write(struct.pack("<8sQQ", b"coreiso+", places[IGNITION], EMBED))
        if "coreKarg" in records:
            offsets = [places[COMMAND_LINE], places[GRUB], places[ISOLINUX], 0, 0, 0, 0]
            file.seek(KARGS_RECORD_AT)
            file.write(struct.pack("<8s8Q", b"coreKarg", AREA, *offsets))


def with_minimal(folder: Path, alter: Callable[[Any], None] = lambda _: None) -> tuple[Path, Path]:
    """A full ISO with the recipe of a minimal one, and that minimal one; `alter` may change the recipe's fields."""
    files = files_of("2023-07")
    full = iso_of(folder / "full", "2023-07", {MINISO: bytes(16384)})
    small = {path: content for path, content in files.items() if path not in {MINISO, "images/pxeboot/rootfs.img"}}
    minimal = small_live_iso(folder / "minimal", small)
    with FileBlock(full) as a, FileBlock(minimal) as b:
        ours, theirs = open_files(a), open_files(b)
        shared = sorted(
            (place_of(b, theirs, f"/{path}").start, place_of(a, ours, f"/{path}").start, len(content))
            for path, content in small.items()
            if path != "isolinux/isolinux.bin"  # has a table of where it lies
        )
        at = place_of(a, ours, f"/{MINISO}").start
    fields = {"shared": shared, "raw": minimal.read_bytes()}
    alter(fields)
    with full.open("r+b") as file:
        file.seek(at)
        file.write(recipe(fields["shared"], fields["raw"]))
    return full, minimal


def recipe(shared: list[tuple[int, int, int]], raw: bytes) -> bytes:
    """miniso.dat of a table and of the minimal ISO's bytes."""
    rest, at = b"", 0
    for minimal, _, size in shared:
        rest, at = rest + raw[at:minimal], minimal + size
    packed = lzma.compress(rest + raw[at:])
    table = b"".join(number(lo // 2048) + number(hi // 2048) + number(size) for lo, hi, size in shared)
    head = b"MINISO\0\0" + bytes([1]) + text("0.17.0") + number(len(shared))
    return head + table + hashlib.sha256(raw).digest() + number(len(packed)) + packed


def number(value: int) -> bytes:
    """A number in bincode's variable-length form."""
    for most, mark, code in ((250, b"", "<B"), (2**16 - 1, b"\xfb", "<H"), (2**32 - 1, b"\xfc", "<I")):
        if value <= most:
            return mark + struct.pack(code, value)
    return b"\xfd" + struct.pack("<Q", value)
