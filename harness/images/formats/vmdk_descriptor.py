"""The text in a VMDK that says what kind of disk it is: read, and refused where it names other files.

Facts from VMware's "Virtual Disk Format 5.0". A descriptor can name extent files and a parent; nothing here or above
ever opens a name found in an image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block

FIRST_LINE = b"# disk descriptorfile"  # compared in small letters
LARGEST = 2**20  # bytes; QEMU and VMware reserve 10 KiB
NO_PARENT = "ffffffff"
READABLE_TYPES = ("monolithicSparse", "streamOptimized")
NAMES_SHOWN = 4
LONGEST_SHOWN = 120  # characters of a name
FLATTEN = "convert it where all its files are: qemu-img convert -O qcow2 {name} disk.qcow2"

_EXTENT = re.compile(r'(?:RW|RDONLY|NOACCESS)\s+(\d{1,20})\s+(\w+)(?:\s+"([^"]*)")?')
_FIELD = re.compile(r'([\w.]+)\s*=\s*"?([^"]*)')


@dataclass(frozen=True, slots=True)
class NamedExtent:
    """A line of the extent description: size in sectors, kind, and the file it names."""

    sectors: int
    kind: str  # SPARSE, FLAT, ZERO, VMFS, ...
    file: str | None


@dataclass(frozen=True, slots=True)
class Descriptor:
    """The descriptor's fields by name (`createType`, `CID`, `ddb.adapterType`, ...) and its extents in order."""

    fields: Mapping[str, str]
    extents: tuple[NamedExtent, ...]

    @property
    def create_type(self) -> str:
        return self.fields.get("createType", "")

    @property
    def named_files(self) -> tuple[str, ...]:
        """Every file that the disk needs by this descriptor's word, its parent first."""
        parent = self.fields.get("parentFileNameHint")
        return ((parent,) if parent else ()) + tuple(extent.file for extent in self.extents if extent.file)


def is_descriptor(head: bytes) -> bool:
    """Whether a file that begins like this is a descriptor on its own."""
    return head[: len(FIRST_LINE) + 64].lstrip().lower().startswith(FIRST_LINE)


def parse_descriptor(content: bytes) -> Descriptor:
    """Read the text up to the first NUL; lines that are neither field nor extent say nothing to us."""
    fields: dict[str, str] = {}
    extents: list[NamedExtent] = []
    for line in content[:LARGEST].split(b"\0", 1)[0].decode("utf-8", errors="backslashreplace").splitlines():
        stripped = line.strip()
        if extent := _EXTENT.match(stripped):
            extents.append(NamedExtent(int(extent[1]), extent[2], extent[3]))
        elif field := _FIELD.match(stripped):
            fields.setdefault(field[1], field[2])
    return Descriptor(fields, tuple(extents))


def read_embedded(file: Block, offset: int, size: int, name: str) -> Descriptor:
    """The descriptor inside a sparse extent, if that extent is the whole disk.

    Raises UnsupportedImage naming the other files where it is not, DamagedImage where its size is absurd.
    """
    if size > LARGEST:
        raise DamagedImage(f"VMDK header at 36: a descriptor of {size:,} bytes", where=name)
    found = parse_descriptor(file.read(offset, size) if offset else b"")
    if not found.fields and not found.extents:
        raise UnsupportedImage(
            "is one extent of a VMDK of several files: it has no descriptor inside",
            where=name,
            next_step=FLATTEN.format(name="its descriptor file"),
        )
    if found.fields.get("parentCID", NO_PARENT).lower() != NO_PARENT or "parentFileNameHint" in found.fields:
        raise UnsupportedImage(
            f"{_kind(found)} is the difference to a parent VMDK, {_shown(found.fields.get('parentFileNameHint', ''))}, "
            "which we do not open on an image's word",
            where=name,
            next_step=FLATTEN.format(name=name),
        )
    if found.create_type not in READABLE_TYPES or [extent.kind for extent in found.extents] != ["SPARSE"]:
        raise _several_files(found, name)
    return found


def refuse_alone(file: Block, name: str) -> UnsupportedImage:
    """What to say of a file that is a descriptor and nothing else."""
    return _several_files(parse_descriptor(file.read(0, min(file.size, LARGEST))), name)


def _several_files(found: Descriptor, name: str) -> UnsupportedImage:
    return UnsupportedImage(
        f"{_kind(found)} keeps its disk in {_names(found.named_files)}, which we do not open on an image's word",
        where=name,
        next_step=FLATTEN.format(name=name),
    )


def _kind(found: Descriptor) -> str:
    return f"VMDK of createType {_shown(found.create_type)}"


def _names(files: tuple[str, ...]) -> str:
    listed = ", ".join(map(_shown, files[:NAMES_SHOWN]))
    more = len(files) - NAMES_SHOWN
    return f"{listed} and {more:,} more" if more > 0 else listed or "other files"


def _shown(text: str) -> str:
    return repr(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}...")
