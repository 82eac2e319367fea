"""OVA: a tar archive of an OVF descriptor and the disks it describes (DMTF DSP0243, Open Virtualization Format).

The disk is the member that the descriptor names. Where the descriptor and the disk disagree, that is a fact and no
failure: whoever judges an OVA wants to see it. The descriptor's names are compared with those of members and never
opened.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from xml.parsers import expat  # nosec - document types, and with them entities, are refused below

from harness.errors import DamagedImage
from harness.images.formats.archived import ArchivedDisk, the_disk
from harness.images.formats.disk import Fact
from harness.images.formats.raw import FileBlock
from harness.images.formats.tar import Member, is_tar

SUFFIX = ".ovf"
LARGEST_OVF = 2**20  # bytes; CoreOS' has 4 KiB
MOST_ELEMENTS = 100_000
LONGEST_TEXT = 1024  # characters kept of one element's text
UNITS: Final = re.compile(r"byte(?:\s*\*\s*2\s*\^\s*(\d{1,2}))?")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What an OVF says of its first disk and of the machine. None is what it does not say."""

    href: str | None
    file_size: int | None  # bytes, of the disk's file
    capacity: int | None  # bytes, of the virtual disk
    disk_format: str | None  # a URI
    hardware_version: str | None
    os_type: str | None
    name: str | None


def begins_ova(head: bytes) -> bool:
    """Whether a file that begins like this is an archive with its descriptor first, as an OVA must be."""
    return is_tar(head) and head[:100].split(b"\0", 1)[0].lower().endswith(SUFFIX.encode())


class OvaDisk(ArchivedDisk):
    """The disk that an OVA's descriptor names. Raises DamagedImage also for a descriptor that is no XML."""

    def __init__(self, archive: FileBlock) -> None:
        self._ova = archive
        super().__init__(archive)

    def _choose(self) -> Member:
        descriptor = self.members[0]
        where = f"{self._ova.name}: {descriptor.name!r}"
        if descriptor.size > LARGEST_OVF or descriptor.sparse:
            raise DamagedImage(f"has {descriptor.size:,} bytes, too many for a descriptor", where=where)
        self.descriptor = read_descriptor(self._ova.read(descriptor.start, descriptor.size), where)
        named = [member for member in self.members if member.name == self.descriptor.href and member.kind == "file"]
        return named[0] if named else the_disk(self.members[1:], self._ova.name)

    def facts(self) -> Mapping[str, Fact]:
        """What the archive says, what its descriptor says, where they disagree, and what the disk's format says."""
        said = self.descriptor
        return {
            **super().facts(),
            "ovf_name": said.name,
            "ovf_disk": said.href,
            "ovf_disk_bytes": said.file_size,
            "ovf_capacity": said.capacity,
            "ovf_disk_format": said.disk_format,
            "ovf_hardware": said.hardware_version,
            "ovf_os_type": said.os_type,
            "disagreements": "; ".join(self.disagreements()) or None,
        }

    def disagreements(self) -> Iterator[str]:
        """Where the descriptor is wrong about its disk, a sentence each."""
        said, member = self.descriptor, self.member
        if said.href != member.name:
            yield f"the descriptor names {said.href!r}, the disk is {member.name!r}"
        if said.file_size is not None and said.file_size != member.size:
            yield f"the descriptor says {said.file_size:,} bytes, the member has {member.size:,}"
        if said.capacity != self.size:
            capacity = "no capacity" if said.capacity is None else f"a capacity of {said.capacity:,} bytes"
            yield f"the descriptor says {capacity}, the disk has {self.size:,}"


def read_descriptor(raw: bytes, where: str) -> Descriptor:
    """Read an OVF. Raises DamagedImage for what is no XML, or XML with a document type."""
    reader = _Reader(where)
    try:
        reader.parser.Parse(raw, True)  # noqa: FBT003 - expat knows it by place only: this is all there is
    except (expat.ExpatError, ValueError, LookupError) as cause:
        raise DamagedImage(f"is no OVF descriptor: {cause}", where=where) from cause
    disk = reader.disk
    file = reader.files.get(disk.get("fileRef", "")) or {}
    return Descriptor(
        href=file.get("href"),
        file_size=_whole(file.get("size")),
        capacity=_capacity(disk),
        disk_format=disk.get("format"),
        hardware_version=reader.texts.get("VirtualSystemType"),
        os_type=reader.os_type,
        name=reader.texts.get("Name") or reader.system_id,
    )


class _Reader:
    """Keeps the few elements that matter as they go by; nothing else of the document is remembered."""

    def __init__(self, where: str) -> None:
        self.files: dict[str, dict[str, str]] = {}
        self.disk: dict[str, str] = {}
        self.texts: dict[str, str] = {}
        self.os_type: str | None = None
        self.system_id: str | None = None
        self.parser = expat.ParserCreate(namespace_separator=" ")
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._text
        self.parser.StartDoctypeDeclHandler = self._doctype
        self._where = where
        self._seen = 0
        self._element = ""

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._seen += 1
        if self._seen > MOST_ELEMENTS:
            raise DamagedImage("an OVF descriptor with more elements than any machine needs", where=self._where)
        self._element = _local(name)
        known = {_local(key): value[:LONGEST_TEXT] for key, value in attributes.items()}
        if self._element == "File" and "id" in known:
            self.files.setdefault(known["id"], known)
        elif self._element == "Disk" and "diskId" in known and not self.disk:
            self.disk = known
        elif self._element == "OperatingSystemSection":
            self.os_type = known.get("osType") or known.get("id")
        elif self._element == "VirtualSystem":
            self.system_id = known.get("id")

    def _text(self, content: str) -> None:
        if self._element in {"VirtualSystemType", "Name"}:
            self.texts[self._element] = (self.texts.get(self._element, "") + content)[:LONGEST_TEXT]

    def _end(self, _: str) -> None:
        self._element = ""

    def _doctype(self, *_: object) -> None:
        raise DamagedImage("an OVF descriptor with a document type, which no OVF has", where=self._where)


def _local(name: str) -> str:
    """A name without its namespace: vendors put the same attribute into their own."""
    return name.rpartition(" ")[2]


def _capacity(disk: Mapping[str, str]) -> int | None:
    """Bytes: the number times its unit, `byte * 2^30` (DSP0004, programmatic units)."""
    number = _whole(disk.get("capacity"))
    unit = UNITS.fullmatch(disk.get("capacityAllocationUnits", "byte").strip())
    return None if number is None or unit is None else number << int(unit[1] or 0)


def _whole(digits: str | None) -> int | None:
    return int(digits) if digits and digits.isascii() and digits.isdigit() and len(digits) <= 19 else None
