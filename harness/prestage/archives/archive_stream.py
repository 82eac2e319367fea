"""A tar.gz read once, from its beginning to its end, in bounded memory: for archives that strangers wrote.

gzip: RFC 1952, of one or several members. tar: POSIX.1-2017 (ustar and pax) and GNU's long names. Anything that these
do not allow is a `Fault`: a cause in words, for whoever reads to make a finding of.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from harness.images.formats.tar_numbers import checksum_is_right, number, pax_records, text

PIECE: Final = 2**20  # bytes of content at a time
BLOCK: Final = 512
LONGEST_EXTENSION: Final = 2**16  # bytes of a header about another member: names and times
MOST_HEADERS: Final = 40_000
MOST_PADDING: Final = 2**20  # bytes of zeroes behind the end; GNU tar fills up to 10 KiB
FREE: Final = 64 * 2**20  # bytes that any archive may unpack to, and beyond that
DENSEST: Final = 200  # times what was read: ten times what a layer of programs gives
MAGIC: Final = b"\x1f\x8b"
GZIP: Final = 16 + zlib.MAX_WBITS

Kind = Literal["file", "directory", "symlink", "hard link", "device", "fifo", "sparse file", "unknown kind of file"]
KINDS: Final[dict[bytes, Kind]] = {
    b"0": "file",
    b"\0": "file",
    b"1": "hard link",
    b"2": "symlink",
    b"3": "device",
    b"4": "device",
    b"5": "directory",
    b"6": "fifo",
    b"7": "file",
    b"S": "sparse file",
}


class Fault(Exception):
    """Why nothing more can be read."""


@dataclass(frozen=True, slots=True)
class Head:
    """What the archive says of a member, before its content; `name` as written, `size` in bytes."""

    name: str
    kind: Kind
    size: int


class TarStream:
    """The members of a compressed archive, one after another: `for head in stream.heads()`, then `content(head)`.

    What is unpacked may be DENSEST times what was read, not counting what is `vouched` for. Raises Fault.
    """

    def __init__(self, compressed: Iterator[bytes]) -> None:
        self._compressed = compressed
        self._read = self._unpacked = 0
        self._vouched = 0
        self._unpacked_pieces = self._gunzip()
        self._rest, self._at = b"", 0  # what is unpacked, and how much of it was taken
        self._left = 0  # bytes of the present member that nobody has read

    def vouch(self, size: int) -> None:
        """So many bytes more are known to belong here, however well they compress."""
        self._vouched += size

    def heads(self) -> Iterator[Head]:
        """Every member; what of one's content was not read is passed over."""
        for _ in range(MOST_HEADERS):
            self._skip()
            head = self._next_head()
            if head is None:
                self._end()
                return
            self._left = head.size
            yield head
        raise Fault(f"has more than {MOST_HEADERS:,} members")

    def content(self) -> Iterator[bytes]:
        """What the present member holds, in pieces."""
        size = self._left
        while self._left:
            piece = self._some(min(self._left, PIECE), "a member")
            self._left -= len(piece)
            yield piece
        if any(self._take(-size % BLOCK, "a member")):
            raise Fault("the padding of a member is not zero")

    def _skip(self) -> None:
        if self._left:
            for _ in self.content():
                pass

    def _next_head(self) -> Head | None:
        told: dict[str, bytes] = {}
        for _ in range(8):  # a header, and what announces it: one of pax, two of GNU
            header = self._take(BLOCK, "a header")
            if not any(header):
                return None
            if not checksum_is_right(header):
                raise Fault("the checksum of a tar header is wrong")
            size = self._number(header)
            if header[156:157] not in b"xgLK":
                return self._head(header, told, size)
            if size > LONGEST_EXTENSION:
                raise Fault(f"a tar header about another member has {size:,} bytes")
            content = self._take(size, "a header")
            self._take(-size % BLOCK, "a header")
            told |= _told(header[156:157], content)
        raise Fault("a member has too many headers")

    def _head(self, header: bytes, told: dict[str, bytes], size: int) -> Head:
        kind = KINDS.get(header[156:157], "unknown kind of file")
        if any(key.startswith("GNU.sparse.") for key in told):
            kind = "sparse file"
        if "size" in told:
            if not told["size"].isdigit() or len(told["size"]) > 19:
                raise Fault(f"a pax header gives the size {told['size'][:24]!r}")
            size = int(told["size"])
        if kind in {"directory", "symlink", "hard link", "device", "fifo"}:
            size = 0  # POSIX: whatever the field says
        return Head(text(told["path"]) if "path" in told else _name(header), kind, size)

    def _number(self, header: bytes) -> int:
        found = number(header[124:136])
        if found is None:
            raise Fault(f"a tar header gives the size {header[124:136]!r}")
        return found

    def _end(self) -> None:
        """After the first block of zeroes: another, and nothing but zeroes to the end of the last gzip member."""
        if any(self._take(BLOCK, "its end")):
            raise Fault("something follows its end")
        padding = 0
        for piece in itertools.chain((self._rest[self._at :],), self._unpacked_pieces):
            padding += len(piece)
            if any(piece):
                raise Fault("something follows its end")
            if padding > MOST_PADDING:
                raise Fault("nothing but zeroes follows its end, without an end")

    def _take(self, size: int, what: str) -> bytes:
        pieces = []
        while size:
            pieces.append(self._some(size, what))
            size -= len(pieces[-1])
        return b"".join(pieces)

    def _some(self, most: int, what: str) -> bytes:
        while self._at == len(self._rest):
            piece = next(self._unpacked_pieces, None)
            if piece is None:
                raise Fault(f"ends in the middle of {what}" if what != "its end" else "has no end")
            self._rest, self._at = piece, 0
        piece = self._rest[self._at : self._at + most]
        self._at += len(piece)
        return piece

    def _gunzip(self) -> Iterator[bytes]:
        """What is in the gzip members, in bounded pieces."""
        inflate = zlib.decompressobj(GZIP)
        for packed in self._compressed:
            if not self._read and packed[:2] != MAGIC[: len(packed)]:
                raise Fault("is not compressed by gzip")
            self._read += len(packed)
            data = packed
            while data:
                if inflate.eof:
                    inflate = zlib.decompressobj(GZIP)
                    if not data.startswith(MAGIC[:1]):
                        raise Fault("something follows the compressed archive")
                yield self._inflated(inflate, data)
                data = inflate.unused_data if inflate.eof else inflate.unconsumed_tail
        while not inflate.eof and (piece := self._inflated(inflate, b"")):
            yield piece
        if not inflate.eof:
            raise Fault("is empty" if not self._read else "ends before its compression does")

    def _inflated(self, inflate: zlib._Decompress, data: bytes) -> bytes:
        try:
            piece = inflate.decompress(data, PIECE)
        except zlib.error as cause:
            raise Fault(f"its compression is corrupt: {cause}") from cause
        self._count(len(piece))
        return piece

    def _count(self, size: int) -> None:
        self._unpacked += size
        if self._unpacked > FREE + DENSEST * self._read + self._vouched:
            raise Fault(f"{self._read:,} bytes of it unpack to more than {self._unpacked - size:,}")


def _told(kind: bytes, content: bytes) -> dict[str, bytes]:
    """What a header says about the member that follows."""
    if kind == b"L":
        return {"path": content.rstrip(b"\0")}
    if kind == b"K":
        return {}
    records = pax_records(content)
    if records is None:
        raise Fault("a pax header is garbled")
    if kind == b"g" and {"path", "size"} & dict(records).keys():
        raise Fault("a global pax header names a member")
    return dict(records) if kind == b"x" else {}


def _name(header: bytes) -> str:
    """A member's name by the fields of its own header; GNU uses the prefix field for other things."""
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return text(prefix + b"/" + name if prefix else name)
