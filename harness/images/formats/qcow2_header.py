"""The header of a qcow2 file: what it claims, and whether those claims can be believed.

Facts from QEMU's docs/interop/qcow2.txt; limits (32 MiB of L1 table, 1023 bytes of backing file name) from QEMU's
block/qcow2.h, so that we accept what QEMU accepts. All numbers in the file are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block

MAGIC = b"QFI\xfb"
VERSION_2_LENGTH = 72
VERSION_3_LENGTH = 104
FIRST_READ = 2**16  # bytes: the first cluster, which holds header and extensions, is rarely larger
LARGEST_L1 = 32 * 2**20  # bytes
LONGEST_BACKING_NAME = 1023  # bytes
CLUSTER_BITS = range(9, 22)
EXTENDED_CLUSTER_BITS = range(14, 22)
LARGEST_REFCOUNT_ORDER = 6

DIRTY, CORRUPT, EXTERNAL_DATA, COMPRESSION_TYPE, EXTENDED_L2 = (1 << bit for bit in range(5))
KNOWN_INCOMPATIBLE = DIRTY | CORRUPT | EXTERNAL_DATA | COMPRESSION_TYPE | EXTENDED_L2
BACKING_FORMAT_EXTENSION = 0xE2792ACA
COMPRESSIONS: dict[int, Literal["zlib", "zstd"]] = {0: "zlib", 1: "zstd"}

_COMMON = struct.Struct(">4sIQIIQIIQQIIQ")
_VERSION_3 = struct.Struct(">QQQII")


@dataclass(frozen=True, slots=True)
class Qcow2Header:
    """What the file says about itself; sizes and offsets in bytes, features as the bit fields of the format."""

    version: int
    cluster_bits: int
    virtual_size: int
    header_length: int
    refcount_order: int  # a reference count is 2**refcount_order bits wide
    compression_type: Literal["zlib", "zstd"]
    incompatible_features: int
    compatible_features: int
    autoclear_features: int
    encryption: int  # 0 none, 1 AES, 2 LUKS
    backing_file: str | None
    backing_format: str | None
    l1_size: int  # entries
    l1_offset: int
    refcount_table_offset: int
    refcount_table_clusters: int
    snapshots: int

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def is_dirty(self) -> bool:
        """Not closed cleanly: reference counts may be wrong, the mapping of the disk is not."""
        return bool(self.incompatible_features & DIRTY)

    @property
    def has_extended_l2(self) -> bool:
        return bool(self.incompatible_features & EXTENDED_L2)

    @property
    def l2_entries(self) -> int:
        """Entries of one L2 table, which is one cluster long."""
        return self.cluster_size // (16 if self.has_extended_l2 else 8)

    @property
    def l1_needed(self) -> int:
        """Entries of the L1 table that the virtual size takes."""
        return -(-self.virtual_size // (self.cluster_size * self.l2_entries))


def read_header(file: Block) -> Qcow2Header:
    """Read the header and check all that it claims about the file, reading nothing it points at except names.

    Raises DamagedImage for claims that contradict the format or the file's length, UnsupportedImage for features
    that we do not read (encryption, external data file, unknown ones).
    """
    head = file.read(0, min(file.size, FIRST_READ))
    header = _parse(head, file)
    if header.header_length > len(head) or header.cluster_size > len(head):
        header = _parse(file.read(0, min(file.size, header.cluster_size)), file)
    _check_features(header, file.name)
    _check_tables(header, file)
    return header


def _parse(head: bytes, file: Block) -> Qcow2Header:
    name = file.name
    if len(head) < VERSION_2_LENGTH or head[:4] != MAGIC:
        raise DamagedImage(
            f"not a whole qcow2 header: {len(head)} bytes, starts with {head[:4]!r}",
            where=name,
            next_step="download or build it again",
        )
    (_, version, backing_offset, backing_length, cluster_bits, size, encryption, l1_size, l1_offset,
     refcount_offset, refcount_clusters, snapshots, _) = _COMMON.unpack_from(head)  # fmt: skip
    if version not in {2, 3}:
        raise UnsupportedImage(f"qcow2 version {version} (we read 2 and 3)", where=name)
    if cluster_bits not in CLUSTER_BITS:
        raise DamagedImage(f"qcow2 header at 20: cluster_bits is {cluster_bits}, the format allows 9 to 21", where=name)
    incompatible, compatible, autoclear, refcount_order, header_length = 0, 0, 0, 4, VERSION_2_LENGTH
    if version == 3:
        if len(head) < VERSION_3_LENGTH:
            raise DamagedImage(f"ends within its qcow2 header, after {len(head)} bytes", where=name)
        incompatible, compatible, autoclear, refcount_order, header_length = _VERSION_3.unpack_from(head, 72)
        if not VERSION_3_LENGTH <= header_length <= 1 << cluster_bits:
            raise DamagedImage(f"qcow2 header at 100: header_length is {header_length}", where=name)
    kind = head[VERSION_3_LENGTH] if VERSION_3_LENGTH < header_length <= len(head) else 0
    if kind not in COMPRESSIONS:
        raise UnsupportedImage(f"qcow2 compression type {kind} (we read 0 zlib and 1 zstd)", where=name)
    return Qcow2Header(
        version=version,
        cluster_bits=cluster_bits,
        virtual_size=size,
        header_length=header_length,
        refcount_order=refcount_order,
        compression_type=COMPRESSIONS[kind],
        incompatible_features=incompatible,
        compatible_features=compatible,
        autoclear_features=autoclear,
        encryption=encryption,
        backing_file=_backing_name(head, backing_offset, backing_length, 1 << cluster_bits, name),
        backing_format=_backing_format(head, header_length, 1 << cluster_bits),
        l1_size=l1_size,
        l1_offset=l1_offset,
        refcount_table_offset=refcount_offset,
        refcount_table_clusters=refcount_clusters,
        snapshots=snapshots,
    )


def _backing_name(head: bytes, offset: int, length: int, cluster_size: int, name: str) -> str | None:
    """The name as text; nothing ever opens it."""
    if offset == 0:
        return None
    if length > LONGEST_BACKING_NAME or offset + length > min(cluster_size, max(len(head), 2**16)):
        raise DamagedImage(
            f"qcow2 header at 8: backing file name of {length:,} bytes at {offset:,} lies outside the first cluster",
            where=name,
        )
    return head[offset : offset + length].decode("utf-8", errors="backslashreplace")


def _backing_format(head: bytes, position: int, cluster_size: int) -> str | None:
    """From the header extensions, which end with type 0, with the first cluster or with what we have of it."""
    end = min(len(head), cluster_size)
    while position + 8 <= end:
        kind, length = struct.unpack_from(">II", head, position)
        if kind == 0:
            break
        if kind == BACKING_FORMAT_EXTENSION:
            return head[position + 8 : min(position + 8 + length, end)].decode("utf-8", errors="backslashreplace")
        position += 8 + (length + 7) // 8 * 8
    return None


def _check_features(header: Qcow2Header, name: str) -> None:
    features = header.incompatible_features
    if unknown := features & ~KNOWN_INCOMPATIBLE:
        raise UnsupportedImage(f"qcow2 incompatible feature bits {unknown:#x} are not known to us", where=name)
    if features & CORRUPT:
        raise DamagedImage(
            "marked corrupt by the program that wrote it", where=name, next_step="try qemu-img check -r all on a copy"
        )
    if header.encryption:
        raise UnsupportedImage(
            f"encrypted (method {header.encryption})", where=name, next_step="decrypt it with qemu-img convert"
        )
    if features & EXTERNAL_DATA:
        raise UnsupportedImage(
            "keeps its data in an external data file", where=name, next_step="flatten it with qemu-img convert"
        )
    if header.has_extended_l2 and header.cluster_bits not in EXTENDED_CLUSTER_BITS:
        raise DamagedImage(f"extended L2 entries with clusters of {header.cluster_size} bytes", where=name)
    if header.refcount_order > LARGEST_REFCOUNT_ORDER:
        raise DamagedImage(f"qcow2 header at 96: refcount_order is {header.refcount_order}, at most 6", where=name)
    if (header.compression_type != "zlib") != bool(features & COMPRESSION_TYPE):
        raise DamagedImage("qcow2 header: compression type and its feature bit contradict each other", where=name)


def _check_tables(header: Qcow2Header, file: Block) -> None:
    if header.l1_size * 8 > LARGEST_L1:
        raise DamagedImage(f"qcow2 header at 36: an L1 table of {header.l1_size:,} entries", where=file.name)
    if header.l1_needed > header.l1_size:
        raise DamagedImage(
            f"L1 table of {header.l1_size:,} entries is too small for {header.virtual_size:,} bytes "
            f"(needs {header.l1_needed:,})",
            where=file.name,
        )
    if header.l1_size and header.l1_offset % header.cluster_size:
        raise DamagedImage(f"L1 table at {header.l1_offset:#x} is not aligned to a cluster", where=file.name)
    tables = (
        ("L1 table", header.l1_offset, header.l1_size * 8),
        ("reference count table", header.refcount_table_offset, header.refcount_table_clusters * header.cluster_size),
    )
    for what, offset, length in tables:
        if length and offset + length > file.size:
            raise DamagedImage(
                f"{what} at {offset:#x} (+{length:,} bytes) lies beyond the end of the file at {file.size:,}",
                where=file.name,
                next_step="truncated download? get it again and compare its checksum",
            )
