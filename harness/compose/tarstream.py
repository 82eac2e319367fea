"""A tar read once from its beginning to its end, in bounded memory: archives and layers that strangers wrote.

tar: POSIX.1-2017 (ustar and pax), GNU's long names and numbers to base 256; extended attributes as Schily's pax records
have them (image-spec 1.1, layer.md). Nothing is written anywhere: what a name may be is the caller's to decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Literal

from harness.errors import DamagedArtifact
from harness.images.formats.tar_numbers import checksum_is_right, number, pax_records, text

PIECE: Final = 2**20  # bytes of content at a time
BLOCK: Final = 512
LONGEST_EXTENSION: Final = 2**20  # bytes of headers about one member: names, times, extended attributes
MOST_MEMBERS: Final = 1_000_000
OF_XATTR: Final = "SCHILY.xattr."

Kind = Literal["file", "hardlink", "symlink", "character", "block", "directory", "fifo", "sparse", "unknown"]
KINDS: Final[dict[bytes, Kind]] = {
    b"0": "file",
    b"\0": "file",
    b"7": "file",
    b"1": "hardlink",
    b"2": "symlink",
    b"3": "character",
    b"4": "block",
    b"5": "directory",
    b"6": "fifo",
    b"S": "sparse",
}


@dataclass(frozen=True, slots=True)
class Member:
    """What a tar says of one member: name and target as written, `mode` the permission bits, `size` and times whole."""

    name: str
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    target: str
    device: tuple[int, int]
    xattrs: tuple[tuple[str, bytes], ...] = ()


class TarStream:
    """The members of a tar given in pieces: `for member in stream.members()`, and `content()` of the present one.

    Both raise DamagedArtifact, without saying where.
    """

    def __init__(self, pieces: Iterable[bytes], *, most: int = MOST_MEMBERS) -> None:
        self._pieces = iter(pieces)
        self._most = most
        self._rest, self._at = b"", 0
        self._left = self._padding = 0  # bytes of the present member that nobody has read

    def members(self) -> Iterator[Member]:
        """Every member; what of one's content was not read is passed over."""
        for _ in range(self._most):
            for _ in self.content():
                pass
            member = self._next()
            if member is None:
                for piece in self._pieces:  # padding; a layer's digest counts it
                    if any(piece):
                        raise DamagedArtifact("something follows the end of a tar")
                return
            self._left, self._padding = member.size, -member.size % BLOCK
            yield member
        raise DamagedArtifact(f"a tar has more than {self._most:,} members")

    def content(self) -> Iterator[bytes]:
        """What of the present member was not read yet, in pieces."""
        while self._left:
            piece = self._some(min(self._left, PIECE))
            self._left -= len(piece)
            yield piece
        self._take(self._padding)
        self._padding = 0

    def _next(self) -> Member | None:
        told: dict[str, bytes] = {}
        for _ in range(8):  # a header and what announces it: one of pax, two of GNU
            header = self._take(BLOCK)
            if not any(header):
                if any(self._rest[self._at :]):
                    raise DamagedArtifact("something follows the end of a tar")
                return None
            if not checksum_is_right(header):
                raise DamagedArtifact("the checksum of a tar header is wrong")
            if header[156:157] not in b"xgLK":
                return _member(header, told)
            size = _number(header, slice(124, 136), "size")
            if size > LONGEST_EXTENSION:
                raise DamagedArtifact(f"a tar header about another member has {size:,} bytes")
            content = self._take(size)
            self._take(-size % BLOCK)
            told |= _told(header[156:157], content)
        raise DamagedArtifact("a tar's member has too many headers")

    def _take(self, size: int) -> bytes:
        if self._at + size <= len(self._rest):
            self._at += size
            return self._rest[self._at - size : self._at]
        pieces = []
        while size:
            pieces.append(self._some(size))
            size -= len(pieces[-1])
        return b"".join(pieces)

    def _some(self, most: int) -> bytes:
        while self._at == len(self._rest):
            piece = next(self._pieces, None)
            if piece is None:
                raise DamagedArtifact("a tar is truncated")
            self._rest, self._at = piece, 0
        piece = self._rest[self._at : self._at + most]
        self._at += len(piece)
        return piece


def inside(name: str) -> str | None:
    """A member's name as a path below the root without a leading slash, or None where it would lead out.

    >>> inside("./usr//bin/"), inside("a/../b"), inside("/etc")
    ('usr/bin', None, None)
    """
    if name.startswith("/") or "\0" in name:
        return None
    parts = [part for part in name.split("/") if part not in {"", "."}]
    return None if ".." in parts else "/".join(parts)


def _member(header: bytes, told: dict[str, bytes]) -> Member:
    kind = KINDS.get(header[156:157], "unknown")
    if any(key.startswith("GNU.sparse.") for key in told):
        kind = "sparse"
    numbers = {}
    fields = {"mode": (100, 108), "uid": (108, 116), "gid": (116, 124), "size": (124, 136), "mtime": (136, 148)}
    for name, (start, stop) in fields.items():
        said = told.get(name)
        if said is None:
            numbers[name] = _number(header, slice(start, stop), name)
        else:
            whole, _, rest = said.partition(b".")  # times may have a fraction
            if not whole.removeprefix(b"-").isdigit() or len(said) > 40 or (rest and not rest.isdigit()):
                raise DamagedArtifact(f"a pax header gives the {name} {said[:40]!r}")
            numbers[name] = int(whole)
    if numbers["size"] < 0:
        raise DamagedArtifact("a pax header gives a negative size")
    is_device = kind in {"character", "block"}
    device = (_number(header, slice(329, 337), "device"), _number(header, slice(337, 345), "device"))
    return Member(
        name=text(told["path"]) if "path" in told else _name(header),
        kind=kind,
        mode=numbers["mode"] & 0o7777,
        uid=numbers["uid"],
        gid=numbers["gid"],
        mtime=numbers["mtime"],
        size=numbers["size"] if kind in {"file", "sparse", "unknown"} else 0,  # POSIX: whatever the field says
        target=text(told["linkpath"] if "linkpath" in told else header[157:257].split(b"\0", 1)[0]),
        device=device if is_device else (0, 0),
        xattrs=tuple((key.removeprefix(OF_XATTR), value) for key, value in told.items() if key.startswith(OF_XATTR)),
    )


def _told(kind: bytes, content: bytes) -> dict[str, bytes]:
    """What a header says of the member that follows."""
    if kind in b"LK":
        return {"path" if kind == b"L" else "linkpath": content.split(b"\0", 1)[0]}
    records = pax_records(content)
    if records is None:
        raise DamagedArtifact("a pax header is garbled")
    if kind == b"g" and {"path", "size", "linkpath"} & dict(records).keys():
        raise DamagedArtifact("a global pax header names a member")
    return dict(records) if kind == b"x" else {}


def _number(header: bytes, field: slice, name: str) -> int:
    found = number(header[field])
    if found is None:
        raise DamagedArtifact(f"a tar header gives the {name} {header[field]!r}")
    return found


def _name(header: bytes) -> str:
    """A member's name by the fields of its own header; GNU uses the prefix field for other things."""
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return text(prefix + b"/" + name if prefix else name)
