"""FAT12, FAT16 and FAT32 filesystems with long names (Microsoft, FAT specification 1.03), read-only.

FAT knows neither owners nor modes: everything belongs to root with mode 0755 as Linux mounts it, less the write bits
for read-only files. Its times carry no zone and are taken as UTC. An inode number is the byte at which the directory
record lies; the root directory has number 0.
"""

from __future__ import annotations

import calendar
import struct
from collections.abc import Iterator, Mapping
from itertools import pairwise

from harness.errors import DamagedImage
from harness.images.block import Block
from harness.images.filesystems.inodes import MOST_DIRECTORY_BYTES, Inode, Remembering, Run, decode_name, read_runs

ROOT = 0
RECORD = struct.Struct("<11sBBBHHHHHHHI")
READ_ONLY, VOLUME_LABEL, DIRECTORY, LONG_NAME = 0x01, 0x08, 0x10, 0x0F
LOWER_BASE, LOWER_EXTENSION = 0x08, 0x10  # Windows NT's case bits
LAST_LONG_PART = 0x40
END_OF_DIRECTORY, DELETED, ESCAPED_E5 = 0x00, 0xE5, 0x05
FAT12_BELOW, FAT16_BELOW = 4085, 65525  # clusters: the only thing that decides the type


class Vfat:
    """The files of one FAT filesystem. Raises DamagedImage when made from anything else."""

    filesystem = "vfat"
    root = ROOT
    ignores_case = True

    def __init__(self, block: Block) -> None:
        self._block = block
        self._metadata = Remembering(block)
        self._directories: dict[int, Mapping[str, int]] = {}
        raw = self._metadata.read(0, 512)
        sector, cluster, reserved, tables, root_records, short_total = struct.unpack_from("<HBHBHH", raw, 11)
        (short_table,) = struct.unpack_from("<H", raw, 22)
        long_total, long_table = struct.unpack_from("<II", raw, 32)
        table_sectors, total = short_table or long_table, short_total or long_total
        data = reserved + tables * table_sectors + -(-root_records * 32 // max(sector, 1))
        if sector not in {512, 1024, 2048, 4096} or not cluster or not reserved or not tables or total <= data:
            raise DamagedImage("its FAT boot sector has impossible sizes", where=self.name)
        self._table = reserved * sector
        self._root_area = Run(root_records * 32, (reserved + tables * table_sectors) * sector)
        self._data = data * sector
        self._cluster_bytes = cluster * sector
        self._clusters = (total - data) // cluster
        self._bits = 12 if self._clusters < FAT12_BELOW else 16 if self._clusters < FAT16_BELOW else 32
        self._root_cluster = 0 if root_records else struct.unpack_from("<I", raw, 44)[0]
        if table_sectors * sector * 8 < (self._clusters + 2) * self._bits:
            raise DamagedImage("its allocation table is too small for its clusters", where=self.name)

    @property
    def name(self) -> str:
        return self._block.name

    def inode(self, number: int) -> Inode:
        if number == ROOT:
            return Inode(ROOT, "directory", 0o755, 0, 0, 0, 0, 0, 1)
        _short, flags, _case, tenths, _made, _made_on, _read, _high, time, date, _low, size = self._record(number)
        del tenths
        mode = 0o555 if flags & READ_ONLY else 0o755
        if flags & DIRECTORY:
            return Inode(number, "directory", mode, 0, 0, 0, seconds_of(date, time), 0, 1)
        return Inode(number, "file", mode, 0, 0, size, seconds_of(date, time), 0, 1)

    def _record(self, number: int) -> tuple[bytes, int, int, int, int, int, int, int, int, int, int, int]:
        fields: tuple[bytes, int, int, int, int, int, int, int, int, int, int, int]
        fields = RECORD.unpack(self._metadata.read(number, RECORD.size))
        return fields

    def _first_cluster(self, number: int) -> int:
        record = self._record(number)
        return record[10] | (record[7] << 16 if self._bits == 32 else 0)

    def _runs(self, first: int) -> Iterator[Run]:
        """The chain from a first cluster, neighbours made one. No cluster is believed twice."""
        start = length = 0
        for cluster in self._chain(first):
            if length and cluster == start + length:
                length += 1
                continue
            if length:
                yield self._run(start, length)
            start, length = cluster, 1
        if length:
            yield self._run(start, length)

    def _run(self, start: int, count: int) -> Run:
        return Run(count * self._cluster_bytes, self._data + (start - 2) * self._cluster_bytes)

    def _chain(self, cluster: int) -> Iterator[int]:
        end = {12: 0xFF8, 16: 0xFFF8, 32: 0xFFFFFF8}[self._bits]
        for _ in range(self._clusters):
            if cluster >= end:
                return
            if not 2 <= cluster < self._clusters + 2:
                raise DamagedImage(f"a chain leads to cluster {cluster} of {self._clusters}", where=self.name)
            yield cluster
            cluster = self._next(cluster)
        if cluster < end:
            raise DamagedImage("a chain of clusters runs in a circle", where=self.name)

    def _next(self, cluster: int) -> int:
        if self._bits == 12:
            (pair,) = struct.unpack("<H", self._metadata.read(self._table + cluster * 3 // 2, 2))
            return int(pair) >> 4 if cluster & 1 else int(pair) & 0xFFF
        if self._bits == 16:
            return int.from_bytes(self._metadata.read(self._table + cluster * 2, 2), "little")
        return int.from_bytes(self._metadata.read(self._table + cluster * 4, 4), "little") & 0xFFFFFFF

    def footprint(self, number: int) -> Iterator[tuple[int, int]]:
        """Where a file's records and content lie: ranges of bytes, start and end."""
        if number == ROOT:
            runs = iter([self._root_area]) if self._root_area.length else self._runs(self._root_cluster)
        else:
            first = number
            while first >= 32 and self._record(first - 32)[1] & 0x3F == LONG_NAME:
                first -= 32
            yield first, number + 32
            runs = self._runs(self._first_cluster(number)) if self._first_cluster(number) else iter(())
        for run in runs:
            if run.offset is not None:
                yield run.offset, run.offset + run.length

    def tables(self) -> tuple[int, int]:
        """Where the allocation tables lie, all copies of them; and what FAT32 keeps in front of them."""
        end = self._root_area.offset or self._data
        return self._table, min(end, self._data)

    def raw_record(self, number: int) -> bytes:
        """A file's record as it lies in its directory; empty for the root."""
        return self._metadata.read(number, RECORD.size) if number != ROOT else b""

    def label_record(self) -> int | None:
        """Where the record with the label lies in the root directory."""
        for at, raw in self._records(ROOT):
            if raw[0] == END_OF_DIRECTORY:
                break
            if raw[0] != DELETED and raw[11] & 0x3F != LONG_NAME and raw[11] & VOLUME_LABEL:
                return at
        return None

    def entries(self, number: int) -> Mapping[str, int]:
        known = self._directories.get(number)
        if known is None:
            known = self._directories[number] = dict(self._read_directory(number))
        return known

    def _read_directory(self, number: int) -> Iterator[tuple[str, int]]:
        parts: list[bytes] = []
        for at, raw in self._records(number):
            short, flags, case = raw[:11], raw[11], raw[12]
            if short[0] == END_OF_DIRECTORY:
                return
            if short[0] == DELETED:
                parts = []
            elif flags & 0x3F == LONG_NAME:
                parts = [*([] if raw[0] & LAST_LONG_PART else parts), raw][-20:]
            elif flags & VOLUME_LABEL or short[:1] == b".":
                parts = []
            else:
                name = _long_name(parts, short) or _short_name(short, case)
                parts = []
                yield decode_name(name.encode("utf-8", "surrogatepass"), self.name), at

    def _records(self, number: int) -> Iterator[tuple[int, bytes]]:
        fixed_root = number == ROOT and self._root_area.length
        first = self._root_cluster if number == ROOT else self._first_cluster(number)
        done = 0
        for run in [self._root_area] if fixed_root else self._runs(first):
            done += run.length
            if run.offset is None or done > MOST_DIRECTORY_BYTES:
                raise DamagedImage("a directory is impossibly long", where=self.name)
            for start in range(run.offset, run.offset + run.length, 4096):
                piece = self._metadata.read(start, min(4096, run.offset + run.length - start))
                for at in range(0, len(piece) - 31, 32):
                    yield start + at, piece[at : at + 32]

    def target(self, number: int) -> str:
        raise DamagedImage(f"record {number} cannot be a symlink: FAT has none", where=self.name)

    def chunks(self, number: int, size: int) -> Iterator[bytes]:
        total = self.inode(number).size
        if total > self._clusters * self._cluster_bytes:
            raise DamagedImage(f"a file claims {total:,} bytes, more than the filesystem holds", where=self.name)
        runs = self._runs(self._first_cluster(number)) if total else iter(())
        return read_runs(self._block, runs, total, size)

    def xattrs(self, number: int) -> Mapping[str, bytes]:
        del number
        return {}


def seconds_of(date: int, time: int) -> int:
    """Seconds since the epoch of a DOS date and time; 0 for a date that no calendar has."""
    year, month, day = 1980 + (date >> 9), date >> 5 & 15, date & 31
    if not 1 <= month <= 12 or not day:
        return 0
    return calendar.timegm((year, month, day, time >> 11, time >> 5 & 63, (time & 31) * 2))


def _checksum(short: bytes) -> int:
    total = 0
    for byte in short:
        total = ((total & 1) << 7) + (total >> 1) + byte & 0xFF
    return total


def _long_name(parts: list[bytes], short: bytes) -> str:
    """The long name if its parts are complete, in order and belong to this short name, else nothing."""
    numbers = [part[0] & 0x1F for part in parts]
    ordered = all(before == after + 1 for before, after in pairwise(numbers)) and numbers[-1:] == [1]
    if not ordered or any(part[13] != _checksum(short) for part in parts):
        return ""
    units = b"".join(part[1:11] + part[14:26] + part[28:32] for part in reversed(parts))
    return units.decode("utf-16-le", "surrogatepass").split("\0")[0]


def _short_name(short: bytes, case: int) -> str:
    raw = b"\xe5" + short[1:] if short[0] == ESCAPED_E5 else short
    base, extension = raw[:8].decode("cp437").rstrip(), raw[8:].decode("cp437").rstrip()
    base = base.lower() if case & LOWER_BASE else base
    extension = extension.lower() if case & LOWER_EXTENSION else extension
    return f"{base}.{extension}" if extension else base
