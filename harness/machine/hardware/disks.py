"""Disks: how one is attached, and kola's words for it.

    SIZE[:OPTION,OPTION...]        5G    5G:mpath,wwn=81985529216486895    512M:nvme,4k,serial=scratch
    @FILE[:OPTION,OPTION...]       @data.qcow2:serial=data

SIZE is a number and K, M, G or T (powers of 1024): an empty disk. FILE is a raw or qcow2 file, which is never written;
its name has no colon and no comma in it. Options:

    virtio, scsi, nvme    the bus (kola's channel=BUS means the same); virtio unless another option needs scsi
    cd                    no disk, but a CD in a drive (scsi), which the guest cannot write: for ISOs
    4k                    sectors of 4096 bytes
    512e                  sectors of 512 bytes over physical ones of 4096
    mpath                 two paths to one disk, of one serial and one WWN: needs scsi
    serial=TEXT           1 to 20 letters, digits, `.`, `_` or `-`
    wwn=NUMBER            a world wide name of 64 bits, decimal as kola has it, or 0x...: needs scsi

An option may be given once, and those of a kind exclude each other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from harness.errors import BadInput
from harness.machine.hardware.arches import Bus
from harness.machine.hardware.disk_file import read_disk_file

Sectors = Literal["512", "512e", "4k"]

BUSES: tuple[Bus, ...] = get_args(Bus)
SECTORS: Mapping[str, tuple[int, int]] = {  # logical and physical bytes
    "512": (512, 512),
    "512e": (512, 4096),
    "4k": (4096, 4096),
}
UNITS: Final = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
LEAST, MOST = UNITS["M"], 8 * UNITS["T"]  # bytes; files of more do not fit ext4 with some block sizes
SIZE = re.compile(r"([0-9]{1,15})([KMGT])")
SERIAL = re.compile(r"[A-Za-z0-9._-]{1,20}")  # virtio-blk and NVMe keep twenty bytes
NUMBER = re.compile(r"[0-9]{1,20}|0[xX][0-9a-fA-F]{1,16}")
OPTIONS = "virtio, scsi, nvme, cd, channel=BUS, 4k, 512e, mpath, serial=TEXT, wwn=NUMBER"


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk and how it is attached. The boot disk has the size of its image: there `size` is 0.

    >>> Disk.parse("5G:mpath").describe()
    '5G scsi disk with two paths'
    """

    size: int = 0  # bytes
    bus: Bus = "virtio"
    sectors: Sectors = "512"
    is_multipath: bool = False
    serial: str = ""  # empty: one is made from its number
    wwn: int = 0  # 0: none, but for two paths, which would not be known as one disk without
    file: Path | None = field(default=None, compare=False)  # what is on it from the start; it is known by its digest
    digest: str = ""

    def __post_init__(self) -> None:
        """Raise BadInput for a disk that cannot be attached."""
        if self.size and not (LEAST <= self.size <= MOST and self.size % SECTORS["4k"][0] == 0):
            raise BadInput(f"a disk of {self.size} bytes cannot be had", next_step="choose 1M to 8T in steps of 4K")
        if self.bus not in BUSES:
            raise BadInput(f"unknown bus {self.bus!r}", next_step=f"choose one of {', '.join(BUSES)}")
        if self.sectors not in SECTORS:
            raise BadInput(f"unknown sectors {self.sectors!r}", next_step=f"choose one of {', '.join(SECTORS)}")
        if self.bus == "cd" and self.sectors != "512":
            raise BadInput(f"a CD has no sectors of {self.sectors}", next_step="leave them out")
        if self.bus != "scsi" and (self.is_multipath or self.wwn):
            what = "two paths" if self.is_multipath else "a WWN"
            raise BadInput(f"a disk with {what} cannot be on {self.bus}", next_step="leave the bus out, or say scsi")
        if self.serial and not SERIAL.fullmatch(self.serial):
            next_step = "1 to 20 letters, digits, '.', '_' or '-'"
            raise BadInput(f"cannot be a serial: {self.serial[:40]!r}", next_step=next_step)
        if not 0 <= self.wwn < 2**64:
            raise BadInput(f"a WWN of {self.wwn} has more than 64 bits")

    @classmethod
    def parse(cls, text: str) -> Disk:
        """An extra disk in the syntax above. Raises BadInput."""
        content, colon, options = text.partition(":")
        if colon and not options:
            raise BadInput(f"nothing follows the colon of disk {text[:80]!r}", next_step=f"options are {OPTIONS}")
        return disk_of(options.split(",") if options else (), content or "nothing")

    @property
    def sector_sizes(self) -> tuple[int, int]:
        """Logical and physical, bytes."""
        return SECTORS[self.sectors]

    def describe(self) -> str:
        """One phrase: `5G scsi disk with two paths (4k)`."""
        size = f"{in_units(self.size)} " if self.size else ""
        facts: list[str] = [self.sectors] if self.sectors != "512" else []
        facts += [f"serial {self.serial}"] if self.serial else []
        facts += [f"wwn {self.wwn:#x}"] if self.wwn else []
        phrase = f"{size}{self.bus}" if self.bus == "cd" else f"{size}{self.bus} disk"
        phrase += " with two paths" if self.is_multipath else ""
        phrase += f" out of {self.file.name}" if self.file else ""
        return f"{phrase} ({', '.join(facts)})" if facts else phrase


def disk_of(options: Iterable[str], content: str = "") -> Disk:
    """The disk that these options of the syntax describe; `content` is SIZE or @FILE. Raises BadInput."""
    fields: dict[str, Any] = {}
    for option in options:
        if (known := option_of(option)) is None:
            raise BadInput(f"unknown disk option {option[:40]!r}", next_step=f"options are {OPTIONS}")
        name, value = known
        if name in fields:
            raise BadInput(f"disk option {option[:40]!r} repeats or contradicts another", next_step="give one of them")
        fields[name] = value
    if "bus" not in fields and (fields.get("is_multipath") or fields.get("wwn")):
        fields["bus"] = "scsi"
    if content.startswith("@"):
        file = read_disk_file(Path(content[1:]))
        return Disk(file.size, **fields, file=file.path, digest=file.digest)
    return Disk(bytes_of(content) if content else 0, **fields)


def option_of(option: str) -> tuple[str, Any] | None:
    """The field of `Disk` and its value that an option stands for; None where it is none. Raises BadInput."""
    name, equals, value = option.partition("=")
    if not equals:
        if option in BUSES:
            return "bus", option
        if option in SECTORS and option != "512":
            return "sectors", option
        return ("is_multipath", True) if option == "mpath" else None
    if name == "channel":
        return "bus", value
    if name == "serial":
        if not value:
            raise BadInput("the serial of a disk is empty", next_step="leave it out, or give one")
        return "serial", value
    if name == "wwn":
        if not NUMBER.fullmatch(value) or not (number := int(value, 16 if value[:2] in {"0x", "0X"} else 10)):
            raise BadInput(f"cannot be a WWN: {value[:40]!r}", next_step="a number of 64 bits, decimal or 0x...")
        return "wwn", number
    return None


def bytes_of(text: str) -> int:
    """A size as in `5G`. Raises BadInput."""
    if (parts := SIZE.fullmatch(text)) is None or not (size := int(parts[1]) * UNITS[parts[2]]):
        raise BadInput(f"cannot be a size: {text[:40]!r}", next_step="a number and K, M, G or T, like 5G")
    return size


def in_units(size: int) -> str:
    """The shortest exact text of a size.

    >>> in_units(1536 * 2**20)
    '1536M'
    """
    unit = next(unit for unit in ("T", "G", "M", "K") if size % UNITS[unit] == 0)
    return f"{size // UNITS[unit]}{unit}"
