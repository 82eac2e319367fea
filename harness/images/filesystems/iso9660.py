"""ISO 9660 (ECMA-119) with Rock Ridge (RRIP 1.12), read-only.

Where there is no Rock Ridge, names are those of Joliet, else the plain ones as Linux shows them: small letters and no
version. Everything then belongs to root with mode 0555. A file's inode number is the byte at which its directory
record lies, so hard links have as many numbers as names; a directory's is that of its record for itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.filesystems.inodes import MOST_DIRECTORY_BYTES, Inode, Remembering, Run, decode_name, read_runs
from harness.images.filesystems.iso9660_record import ASSOCIATED, MULTIPLE, Record, parse_record, record_length
from harness.images.filesystems.iso9660_rockridge import RockRidge, prefix_length, rock_ridge
from harness.images.filesystems.listings import Listings
from harness.images.lru import Recent

SECTOR = 2048
FIRST_DESCRIPTOR = 16 * SECTOR
MOST_DESCRIPTORS = 64
PRIMARY, SUPPLEMENTARY, LAST = 1, 2, 255
JOLIET_ESCAPES = (b"%/@", b"%/C", b"%/E")
MOST_SECTIONS = 1024  # of one file: 4 TiB
DIRECTORY_MODE = FILE_MODE = 0o555  # as Linux
REMEMBERED = 4096  # records


class Iso9660:
    """The files of one ISO 9660 volume. Raises DamagedImage or UnsupportedImage when made from anything else."""

    filesystem = "iso9660"

    def __init__(self, block: Block) -> None:
        self._block = block
        self._metadata = Remembering(block)
        self._records: Recent[int, Record] = Recent(REMEMBERED, self._read_record)
        self._rock_ridges: Recent[int, RockRidge | None] = Recent(REMEMBERED, self._read_rock_ridge)
        self._listings = Listings(self._read_directory, block.name)
        self._of_directories: dict[int, Mapping[str, bytes]] = {}  # attributes that only the parent has
        self._joliet = False
        self._skip: int | None = None
        descriptors = dict(self._descriptors())
        if PRIMARY not in descriptors:
            raise DamagedImage("it has no primary volume descriptor", where=block.name)
        primary = descriptors[PRIMARY]
        self._block_size: int = struct.unpack_from("<H", primary, 128)[0]
        if self._block_size not in {512, 1024, 2048}:
            raise UnsupportedImage(f"its blocks have {self._block_size:,} bytes", where=block.name)
        self.root = self._own_record(parse_record(primary[156:190], self.name))
        self._skip = prefix_length(self._records[self.root].system_use)
        if self._skip is None and SUPPLEMENTARY in descriptors:
            self._joliet = True
            self.root = self._own_record(parse_record(descriptors[SUPPLEMENTARY][156:190], self.name))

    def _descriptors(self) -> Iterator[tuple[int, bytes]]:
        """The volume descriptors that count, by type."""
        for index in range(MOST_DESCRIPTORS):
            raw = self._metadata.read(FIRST_DESCRIPTOR + index * SECTOR, SECTOR)
            if raw[1:6] != b"CD001" or raw[0] == LAST:
                return
            is_joliet = raw[0] == SUPPLEMENTARY and raw[88:91] in JOLIET_ESCAPES
            if raw[0] == PRIMARY or is_joliet:
                yield raw[0], raw

    @property
    def name(self) -> str:
        return self._block.name

    @property
    def ignores_case(self) -> bool:
        """Plain names were all of capital letters; Joliet's are compared as Windows does."""
        return self._skip is None

    def _own_record(self, record: Record) -> int:
        """The byte at which a directory's record for itself lies."""
        return (record.block + record.attribute_blocks) * self._block_size

    def _read_record(self, number: int) -> Record:
        length = record_length(self._metadata.read(number, 1), self.name)
        return parse_record(self._metadata.read(number, length), self.name)

    def _read_rock_ridge(self, number: int) -> RockRidge | None:
        if self._skip is None:
            return None
        raw = self._records[number].system_use[self._skip if number != self.root else 0 :]
        return rock_ridge(raw, self._continuation, self._where(number))

    def _continuation(self, block: int, offset: int, length: int) -> bytes:
        return self._metadata.read(block * self._block_size + offset, length)

    def _where(self, number: int) -> str:
        return f"{self.name}: record at {number:,}"

    def inode(self, number: int) -> Inode:
        record, more = self._records[number], self._rock_ridges[number]
        plain = "directory" if record.is_directory else "file"
        size = 0 if record.is_directory else sum(run.length for run in self._sections(number))
        if more is None or more.kind is None:
            mode = DIRECTORY_MODE if record.is_directory else FILE_MODE
            return Inode(number, "directory" if record.is_directory else "file", mode, 0, 0, size, record.mtime, 0, 1)
        if (more.kind == "directory") != record.is_directory:
            raise DamagedImage(f"is a {plain}, but a {more.kind} for Rock Ridge", where=self._where(number))
        mtime = record.mtime if more.mtime is None else more.mtime
        size = len(more.target) if more.kind == "symlink" else size if more.kind == "file" else 0
        return Inode(number, more.kind, more.mode, more.uid, more.gid, size, mtime, 0, more.links, device=more.device)

    def entries(self, number: int) -> Mapping[str, int]:
        return self._listings[number]

    def _read_directory(self, number: int) -> Iterator[tuple[str, int]]:
        own = self._records[number]
        if not own.is_directory or self._own_record(own) != number:
            raise DamagedImage("is not a directory", where=self._where(number))
        if own.size > min(MOST_DIRECTORY_BYTES, self._block.size):
            raise DamagedImage("a directory is impossibly long", where=self._where(number))
        continues = False
        for index, (at, record) in enumerate(self._following(number, number + own.size)):
            if index >= 2 and not continues and not record.flags & ASSOCIATED:  # the first two: itself, its parent
                yield from self._named(at, record)
            continues = bool(record.flags & MULTIPLE)

    def _following(self, at: int, end: int) -> Iterator[tuple[int, Record]]:
        """The records from one on; none crosses the end of its sector."""
        while at < end:
            length = self._metadata.read(at, 1)
            if not length[0]:
                at = at // SECTOR * SECTOR + SECTOR
                continue
            record = self._records[at]
            if at % SECTOR + length[0] > SECTOR:
                raise DamagedImage("it crosses the end of its sector", where=self._where(at))
            yield at, record
            at += length[0]

    def _named(self, at: int, record: Record) -> Iterator[tuple[str, int]]:
        more = self._rock_ridges[at]
        if more is not None and more.is_moved:
            return
        name = more.name if more is not None and more.name else self._plain_name(record)
        number = self._own_record(record) if record.is_directory else at
        if more is not None and more.child is not None:
            number = more.child * self._block_size
        if more is not None and more.attributes and number != at:
            self._of_directories[number] = more.attributes
        yield decode_name(name, self._where(at)), number

    def _plain_name(self, record: Record) -> bytes:
        if self._joliet:
            text = record.name.decode("utf-16-be", "surrogatepass").partition(";")[0]
            return text.encode("utf-8", "surrogatepass")
        name = record.name.partition(b";")[0].lower()
        return name.removesuffix(b".") if not record.is_directory else name

    def _sections(self, number: int) -> list[Run]:
        """Where a file's bytes lie: in several places only for one longer than 4 GiB."""
        found: list[Run] = []
        record = self._records[number]
        following = self._following(number, self._block.size) if record.flags & MULTIPLE else iter([(number, record)])
        for _at, part in following:
            if part.interleave:
                raise UnsupportedImage("its content is interleaved", where=self._where(number))
            if len(found) >= MOST_SECTIONS:
                raise DamagedImage("its content lies in impossibly many places", where=self._where(number))
            found.append(Run(part.size, (part.block + part.attribute_blocks) * self._block_size))
            if not part.flags & MULTIPLE:
                break
        return found

    def runs(self, number: int) -> list[Run]:
        """Where a file's bytes lie in the volume, for whoever writes into the ISO."""
        return self._sections(number)

    def target(self, number: int) -> str:
        more = self._rock_ridges[number]
        if more is None or more.kind != "symlink":
            raise DamagedImage("is not a symlink", where=self._where(number))
        return more.target.decode("utf-8", "surrogateescape")

    def chunks(self, number: int, size: int) -> Iterator[bytes]:
        more, sections = self._rock_ridges[number], self._sections(number)
        if more is not None and more.is_packed:
            raise UnsupportedImage("is packed by zisofs, which we do not read", where=self._where(number))
        return read_runs(self._block, iter(sections), sum(run.length for run in sections), size)

    def xattrs(self, number: int) -> Mapping[str, bytes]:
        more = self._rock_ridges[number]
        return {} if more is None else more.attributes or self._of_directories.get(number, {})
