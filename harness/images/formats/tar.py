"""tar archives: what is in one, and the disk inside as a block. Nothing is extracted, and no name is ever a path.

Read are ustar, pax (POSIX.1-2017, pax, "ustar Interchange Format") and GNU archives, with GNU tar's sparse files in
all their forms (GNU tar manual, "Sparse Formats"; sparse.py has the maps). Sizes and offsets are bytes. A header is
believed only when its checksum is right; the number of headers, and what is read for each, are bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.formats.tar_numbers import checksum_is_right, number, pax_records, text
from harness.images.formats.tar_sparse import MOST_PARTS, SparseMap, of_old_gnu, of_pax

BLOCK = 512
MAGIC = b"ustar"
MAGIC_AT = 257
MOST_MEMBERS = 10_000  # headers looked at; archives that carry a disk have two or three members
LONGEST_EXTENSION = 2**23  # bytes of a pax header or a long name: room for the sparse map of a large disk
AGAIN = "download it again and compare its checksum"

Kind = Literal["file", "directory", "link", "device", "other"]
Dialect = Literal["ustar", "gnu", "pax"]
KINDS: Mapping[bytes, Kind] = {
    **dict.fromkeys((b"0", b"\0", b"7", b"S"), "file"),
    **dict.fromkeys((b"1", b"2"), "link"),
    **dict.fromkeys((b"3", b"4", b"6"), "device"),
    b"5": "directory",
}


@dataclass(frozen=True, slots=True)
class Member:
    """One member. `start` and `stored` are where its bytes lie in the archive, `size` is what it has unpacked."""

    name: str
    kind: Kind
    dialect: Dialect
    owner: tuple[int | None, int | None]  # numbers of user and group, None for what is no number
    start: int
    stored: int
    size: int
    sparse: SparseMap | None = None


def is_tar(head: bytes) -> bool:
    """Whether a file that begins like this is an archive we know; the oldest kind, without magic, is not."""
    return head[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def read_members(archive: Block) -> tuple[Member, ...]:
    """All members in order.

    Raises DamagedImage for a wrong checksum, a size that cannot be, a member beyond the end of the archive or an
    impossible sparse map; UnsupportedImage for more than MOST_MEMBERS headers.
    """
    return tuple(_Walk(archive).members())


class _Walk:
    """One pass over the headers; what pax and GNU headers announce holds for the member that follows."""

    def __init__(self, archive: Block) -> None:
        self._archive = archive
        self._at = 0  # of the next header
        self._common: dict[str, bytes] = {}  # of global pax headers
        self._next: dict[str, bytes] = {}
        self._pairs: list[tuple[str, bytes]] = []  # of the next member: sparse format 0.0 repeats its keys
        self._parts = 0  # of all sparse maps

    def members(self) -> Iterator[Member]:
        seen = 0
        while (header := self._header()) is not None:
            seen += 1
            if seen > MOST_MEMBERS:
                raise UnsupportedImage(f"has more than {MOST_MEMBERS:,} members", where=self._archive.name)
            kind = header[156:157]
            if kind in b"xgLK":
                self._announce(header)
                continue
            yield self._member(header)
            self._next, self._pairs = {}, []

    def _header(self) -> bytes | None:
        """The next header, or None at the end: a block of zeroes, or nothing at all after the last member."""
        if self._at + BLOCK > self._archive.size:
            if self._at < self._archive.size or self._at == 0:
                raise self._damaged("ends in the middle of a header")
            return None
        header = self._archive.read(self._at, BLOCK)
        if not any(header):
            return None
        if not checksum_is_right(header):
            raise self._damaged("the checksum of the header is wrong")
        return header

    def _announce(self, header: bytes) -> None:
        """Take in a header that is about another member."""
        size = self._number(header, 124, "size")
        if size > LONGEST_EXTENSION:
            raise self._damaged(f"a header of {size:,} bytes about another member is longer than we believe")
        content = self._content(size)
        kind = header[156:157]
        if kind == b"L":
            self._next["path"] = content.rstrip(b"\0")
        elif kind in b"xg":
            pairs = pax_records(content)
            if pairs is None:
                raise self._damaged("a pax header is garbled")
            (self._common if kind == b"g" else self._next).update(pairs)
            if kind == b"x":
                self._pairs += pairs
        self._at += BLOCK + _padded(size)

    def _member(self, header: bytes) -> Member:
        known = {**self._common, **self._next}
        stored = self._pax_size(known) if "size" in known else self._number(header, 124, "size")
        start, kind = self._at + BLOCK, KINDS.get(header[156:157], "other")
        if kind in {"link", "directory", "device"}:
            stored = 0  # POSIX: whatever the field says
        name, sparse = _name(header, known), None
        if header[156:157] == b"S":
            sparse, start = of_old_gnu(self._archive, header, self._at, stored)
        elif kind == "file" and any(key.startswith("GNU.sparse.") for key in known):
            self._check_end(start, stored)
            sparse, start = of_pax(self._archive, known, self._pairs, start, stored)
            name = text(known.get("GNU.sparse.name", name.encode("utf-8", "surrogateescape")))
            stored -= start - self._at - BLOCK
        self._check_end(start, stored)
        self._at = start + _padded(stored)
        self._parts += len(sparse.parts) if sparse else 0
        if self._parts > MOST_PARTS:
            raise UnsupportedImage(f"its sparse files have more than {MOST_PARTS:,} parts", where=self._archive.name)
        owner = number(header[108:116]), number(header[116:124])
        size = sparse.size if sparse else stored
        return Member(name, kind, _dialect(header, known), owner, start, stored, size, sparse)

    def _pax_size(self, known: Mapping[str, bytes]) -> int:
        digits = known["size"]
        if not digits.isdigit() or len(digits) > 19:
            raise self._damaged(f"a pax header gives the size {digits[:24]!r}")
        return int(digits)

    def _number(self, header: bytes, at: int, what: str) -> int:
        found = number(header[at : at + 12])
        if found is None:
            raise self._damaged(f"the {what} {header[at : at + 12]!r} is no number that can be")
        return found

    def _content(self, size: int) -> bytes:
        self._check_end(self._at + BLOCK, size)
        return self._archive.read(self._at + BLOCK, size)

    def _check_end(self, start: int, stored: int) -> None:
        if start + stored > self._archive.size:
            raise self._damaged(
                f"a member of {stored:,} bytes reaches beyond the end of the archive at {self._archive.size:,}"
            )

    def _damaged(self, what: str) -> DamagedImage:
        return DamagedImage(f"tar header at {self._at:,}: {what}", where=self._archive.name, next_step=AGAIN)


def _name(header: bytes, known: Mapping[str, bytes]) -> str:
    """A member's name: of a header before it, or the fields of its own; GNU uses the prefix field for other things."""
    if "path" in known:
        return text(known["path"])
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return text(prefix + b"/" + name if prefix else name)


def _dialect(header: bytes, known: Mapping[str, bytes]) -> Dialect:
    """What made this header; GNU's programs announce long names by headers of their own, which `known` cannot tell."""
    if header[257:265] == b"ustar  \0":
        return "gnu"
    return "pax" if known else "ustar"


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
