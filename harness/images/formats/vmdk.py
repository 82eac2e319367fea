"""The virtual disk inside a VMDK of one file: monolithicSparse and streamOptimized, as VMware and QEMU write them.

Format from VMware's "Virtual Disk Format 5.0". A grain directory points at grain tables, these at grains, plain or
each deflated behind a marker. Offsets in directory and tables are sectors of 512 bytes; here they become bytes.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections.abc import Mapping
from itertools import pairwise

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.formats.disk import Fact, Opening
from harness.images.formats.mapping import (
    AGAIN,
    CACHE_BYTES,
    HOLE,
    ZERO,
    Area,
    MappedDisk,
    PlaceKind,
    Run,
    numbers,
    open_file,
)
from harness.images.formats.vmdk_descriptor import is_descriptor, read_embedded, refuse_alone
from harness.images.formats.vmdk_header import MAGIC, SECTOR, ZERO_GRAINS, read_header
from harness.images.lru import Recent

ESX_MAGIC = b"COWD"  # createType vmfsSparse: the redo log of an ESX server
ZEROED = 1  # a table entry, where the header's flag allows it
FIELDS_TOLD = ("createType", "CID")
DDB_TOLD = ("adapterType", "virtualHWVersion", "toolsVersion", "longContentID", "uuid", "uuid.image")

_GRAIN_MARKER = struct.Struct("<QI")  # sector of the disk, bytes of deflated data behind it


class VmdkBlock(MappedDisk):
    """The virtual disk of a VMDK file, or of a window on one; closes the file when it is closed.

    Raises UnsupportedImage for a VMDK that names other extent files or a parent, DamagedImage for what contradicts
    the format or lies beyond the end of the file.
    """

    def __init__(self, file: Block, name: str = "") -> None:
        name = name or file.name
        _refuse_others(file, name)
        self.header = header = read_header(file, name)
        self.descriptor = read_embedded(file, header.descriptor_offset, header.descriptor_size, name)
        areas = (
            Area("header", 0, SECTOR),
            Area("descriptor", header.descriptor_offset, header.descriptor_size),
            Area("grain directory", header.directory_offset, header.tables * 4),
        )
        super().__init__(
            file, name, size=header.capacity, step=header.grain_size, per_table=header.table_entries, areas=areas
        )
        self._directory = numbers(file.read(header.directory_offset, header.tables * 4), "I", "little")
        self._check_directory()
        self._grains: Recent[tuple[int, int], bytes] = Recent(CACHE_BYTES // header.grain_size, self._unpack)
        self._check_length(lambda table: max(table) * SECTOR)

    def facts(self) -> Mapping[str, Fact]:
        """What header and descriptor say, in the format's words; the grain size in bytes."""
        header, fields = self.header, self.descriptor.fields
        geometry = [fields.get(f"ddb.geometry.{axis}", "?") for axis in ("cylinders", "heads", "sectors")]
        told: dict[str, Fact] = {name: fields[name] for name in FIELDS_TOLD if name in fields}
        told |= {
            "version": header.version,
            "flags": f"{header.flags:#x}",
            "grain_size": header.grain_size,
            "compressAlgorithm": "deflate" if header.is_compressed else None,
            "footer": header.has_footer,
            "uncleanShutdown": header.unclean_shutdown,
            "extent": self.descriptor.extents[0].file,
        }
        told |= {name: fields[f"ddb.{name}"] for name in DDB_TOLD if f"ddb.{name}" in fields}
        return told | {"geometry": "/".join(geometry)}

    # -- tables -------------------------------------------------------------------------------------------------

    def _check_directory(self) -> None:
        """Tables lie within the file and do not overlap, so that they are worth no more disk than they take file."""
        length = self.header.table_entries * 4
        known = sorted(entry for entry in self._directory if entry)
        for entry, following in pairwise(known):
            if entry * SECTOR + length > following * SECTOR:
                raise DamagedImage(f"grain tables at {entry * SECTOR:#x} and after it overlap", where=self.name)
        if known and known[-1] * SECTOR + length > self._file.size:
            raise self._beyond_end("grain table", known[-1] * SECTOR, length)

    def _read_table(self, index: int) -> array[int] | None:
        offset = self._directory[index] * SECTOR
        data = self._file.read(offset, self.header.table_entries * 4) if offset else b""
        return None if data == bytes(len(data)) else numbers(data, "I", "little")

    def _place(self, entry: int) -> tuple[PlaceKind, int]:
        if entry == 0:
            return HOLE
        if entry == ZEROED and self.header.flags & ZERO_GRAINS:
            return ZERO
        return "packed" if self.header.is_compressed else "data", entry * SECTOR

    def _end_of_block(self, start: int) -> int:
        if not self.header.is_compressed:
            return super()._end_of_block(start)
        marker = self._file.read(start, min(_GRAIN_MARKER.size, self._file.size - start))
        _, length = _GRAIN_MARKER.unpack(marker.ljust(_GRAIN_MARKER.size, b"\xff"))
        return start + _GRAIN_MARKER.size + int(length)

    # -- grains -------------------------------------------------------------------------------------------------

    def _content(self, run: Run) -> bytes:
        if run.kind != "packed":
            return super()._content(run)
        grain, within = divmod(run.offset, self.header.grain_size)
        content = self._grains[grain, run.source][within : within + run.length]
        if len(content) < run.length:
            raise self._no_grain(run.source, f"unpacks to only {within + len(content):,} bytes")
        return content

    def _unpack(self, place: tuple[int, int]) -> bytes:
        """One grain: its marker names the sector it belongs to, which must be where the table was asked for it."""
        grain, source = place
        if source + _GRAIN_MARKER.size > self._file.size:
            raise self._beyond_end("grain", source, SECTOR)
        sector, length = _GRAIN_MARKER.unpack(self._file.read(source, _GRAIN_MARKER.size))
        size = self.header.grain_size
        if sector * SECTOR != grain * size:
            raise self._no_grain(source, f"is marked as sector {sector:,}, wanted {grain * size // SECTOR:,}")
        if not 0 < length <= 2 * size:
            raise self._no_grain(source, f"is said to be {length:,} bytes long")
        if source + _GRAIN_MARKER.size + length > self._file.size:
            raise self._beyond_end("grain", source, length)
        stream = zlib.decompressobj()
        try:
            content = stream.decompress(self._file.read(source + _GRAIN_MARKER.size, length), size + 1)
        except zlib.error as cause:
            raise self._no_grain(source, f"does not unpack ({cause})") from cause
        if len(content) > size:
            raise self._no_grain(source, f"unpacks to more than {size:,} bytes")
        if not stream.eof:
            raise self._no_grain(source, "ends in the middle of its deflate stream")
        return content

    def _no_grain(self, source: int, what: str) -> DamagedImage:
        return DamagedImage(f"grain at {source:#x} {what}", where=self.name, next_step=AGAIN)


def _refuse_others(file: Block, name: str) -> None:
    head = file.read(0, min(file.size, SECTOR))
    if is_descriptor(head):
        raise refuse_alone(file, name)
    if head.startswith(ESX_MAGIC):
        raise UnsupportedImage(
            "is an extent of createType vmfsSparse (COWD), which is part of a VMDK of several files",
            where=name,
            next_step="consolidate the snapshots on the ESX server and export the disk as OVA",
        )


def recognises(head: bytes, _file: Block | None) -> bool:
    """Whether a file that begins like this is a VMDK of any kind, also one that `open_disk` refuses."""
    return head.startswith((MAGIC, ESX_MAGIC)) or is_descriptor(head)


def open_disk(opening: Opening) -> VmdkBlock:
    """Open a VMDK file; raises as `VmdkBlock` does."""
    return open_file(opening, VmdkBlock)
