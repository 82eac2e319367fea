"""tar-split records (vbatts/tar-split, storage format 1): what containers-storage keeps of a layer's tar.

A gzip file of JSON lines. Type 2 carries raw bytes of the tar (headers, padding) in base64; type 1 stands for one
member's bytes, which lie in the layer's `diff` folder, with their size and CRC-64. Put together they are the tar
whose SHA-256 is the layer's diff_id. Everything here comes from outside and is bounded before it is believed.
"""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import msgspec

from harness.errors import DamagedImage

LARGEST = 512 * 2**20  # bytes of JSON; 44,000 files need about 60 MiB
LONGEST_LINE = 8 * 2**20  # bytes; a header record with PAX extensions rarely exceeds 4 KiB
PIECE = 2**20  # bytes decompressed at a time
CONTENT, SEGMENT = 1, 2  # types of lines
GZIP_WINDOW = 31  # zlib: largest window, gzip framing only
BLOCK = 512  # bytes in a tar block
OF_XATTR = "SCHILY.xattr."  # prefix in PAX headers (star(1)), as containers/storage reads and writes it
BAD_HEADER = (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError)
NUMBERS = (slice(100, 108), slice(108, 116), slice(116, 124), slice(136, 148), slice(148, 156))  # mode to checksum
NAMES = (slice(0, 100), slice(157, 257), slice(345, 500))  # name, target of a link, prefix of the name
USTAR = (b"ustar\x0000",)  # magic and version; GNU tar's own has other uses for the prefix

MemberKind = Literal["file", "directory", "symlink", "hardlink", "device", "global"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes of the tar that are not a member's content."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Member:
    """One member of the tar as its header states it, and where its content comes from."""

    path: str  # normalised, relative to the container's root; "" is the root itself
    kind: MemberKind
    mode: int  # permission bits
    uid: int
    gid: int
    mtime: float  # Unix seconds
    target: str  # of a symlink or hard link
    size: int  # bytes to take from the layer's folder
    checksum: bytes  # CRC-64 of these bytes, empty without content
    xattrs: tuple[tuple[str, bytes], ...] = ()  # extended attributes by full name


PLAIN_KINDS: Mapping[bytes, MemberKind] = {b"0": "file", b"1": "hardlink", b"2": "symlink", b"5": "directory"}


class _Line(msgspec.Struct):
    type: int
    name: str | None = None
    name_raw: bytes | None = None
    size: int = 0
    payload: bytes | None = None


def read_tar_split(packed: Iterable[bytes]) -> Iterator[Segment | Member]:
    """The records of a tar-split file, given its gzip bytes in pieces.

    Raises DamagedImage saying what is wrong; the caller knows where.
    """
    decoder = msgspec.json.Decoder(_Line)
    between = bytearray()  # tar bytes since the last member's content
    padding = 0  # bytes that fill up the last member's final block
    for number, text in enumerate(_lines(packed), 1):
        try:
            line = decoder.decode(text)
        except (msgspec.MsgspecError, RecursionError, ValueError) as cause:
            raise DamagedImage(f"line {number} is no tar-split record: {cause}") from cause
        payload = line.payload or b""
        if line.type == SEGMENT:
            between += payload
            if len(between) > LONGEST_LINE:
                raise DamagedImage(f"line {number}: more than {LONGEST_LINE:,} bytes of headers for one member")
            yield Segment(payload)
        elif line.type == CONTENT and line.size >= 0:
            yield _member(bytes(between[padding:]), line, number)
            between.clear()
            padding = -line.size % BLOCK
        else:
            raise DamagedImage(f"line {number} has type {line.type} and size {line.size}, which no tar-split has")


def _member(headers: bytes, line: _Line, number: int) -> Member:
    try:
        if len(headers) == BLOCK:
            if plain := _plain_member(headers, line):
                return plain
            info = tarfile.TarInfo.frombuf(headers, "utf-8", "surrogateescape")
        else:  # GNU long names or PAX records come before the header
            with tarfile.open(fileobj=io.BytesIO(headers), mode="r:", errors="surrogateescape") as tar:
                found = tar.next()
            info = found or tarfile.TarInfo("pax_global_header")
            info.type = info.type if found else tarfile.XGLTYPE
    except BAD_HEADER as cause:
        raise DamagedImage(f"line {number}: the tar header before {line.name!r} is unreadable: {cause}") from cause
    path = _normalised(info.name)
    if path is None:
        raise DamagedImage(f"line {number}: {info.name!r} leads out of the layer")
    return Member(
        path=path,
        kind=_kind(info),
        mode=info.mode & 0o7777,
        uid=info.uid,
        gid=info.gid,
        mtime=info.mtime,
        target=info.linkname,
        size=line.size,
        checksum=line.payload or b"",
        xattrs=tuple(
            (key.removeprefix(OF_XATTR), value.encode("utf-8", "surrogateescape"))
            for key, value in info.pax_headers.items()
            if key.startswith(OF_XATTR)
        ),
    )


def _plain_member(header: bytes, line: _Line) -> Member | None:
    """The member of a header as almost all are (POSIX 1003.1, ustar: octal numbers, short names), or None.

    Four times as fast as tarfile, which reads whatever is odd, or tells why it is bad.
    """
    kind = PLAIN_KINDS.get(header[156:157])
    numbers = [header[field].rstrip(b" \0") for field in NUMBERS]
    if kind is None or header[257:265] not in USTAR or not all(map(bytes.isdigit, numbers)):
        return None
    mode, uid, gid, mtime, checksum = numbers
    if int(checksum, 8) != sum(header[:148]) + sum(header[156:]) + 256:  # its own field counts as eight spaces
        return None
    name, target, prefix = (header[field].partition(b"\0")[0].decode("utf-8", "surrogateescape") for field in NAMES)
    path = _normalised(f"{prefix}/{name}" if prefix else name)
    if path is None:
        return None
    return Member(
        path=path,
        kind=kind,
        mode=int(mode, 8) & 0o7777,
        uid=int(uid, 8),
        gid=int(gid, 8),
        mtime=int(mtime, 8),
        target=target,
        size=line.size,
        checksum=line.payload or b"",
    )


def _normalised(name: str) -> str | None:
    """A path below the container's root, or None where it would lead out."""
    if "\0" in name:
        return None
    parts = [part for part in name.split("/") if part not in {"", "."}]
    return None if ".." in parts else "/".join(parts)


def _kind(info: tarfile.TarInfo) -> MemberKind:
    if info.type == tarfile.XGLTYPE:
        return "global"
    if info.isdir():
        return "directory"
    if info.issym():
        return "symlink"
    if info.islnk():
        return "hardlink"
    return "file" if info.isfile() else "device"


def _lines(packed: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in _unpacked(packed):
        *whole, rest = (rest + piece).split(b"\n")
        yield from (line for line in whole if line)
        if len(rest) > LONGEST_LINE:
            raise DamagedImage(f"has a line of more than {LONGEST_LINE:,} bytes")
    if rest:
        yield rest


def _unpacked(packed: Iterable[bytes]) -> Iterator[bytes]:
    gzip, total = zlib.decompressobj(GZIP_WINDOW), 0
    for given in packed:
        left = given
        while left:
            if gzip.eof:
                raise DamagedImage("goes on behind its end")
            try:
                piece = gzip.decompress(left, PIECE)
            except zlib.error as cause:
                raise DamagedImage(f"is not a sound gzip file: {cause}") from cause
            total += len(piece)
            if total > LARGEST:
                raise DamagedImage(f"unpacks to more than {LARGEST:,} bytes")
            yield piece
            left = gzip.unconsumed_tail or gzip.unused_data
    if not gzip.eof:
        raise DamagedImage("is truncated: its gzip stream has no end")


@cache
def _table() -> tuple[int, ...]:
    polynomial = 0xD800000000000000  # ISO 3309, reflected: Go's crc64.ISO
    values = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ polynomial if value & 1 else value >> 1  # noqa: PLW2901
        values.append(value)
    return tuple(values)


def crc64(pieces: Iterable[bytes]) -> bytes:
    """CRC-64 as Go's `crc64.ISO`, big-endian. About 3 MB/s: call it only to name a file known to be bad.

    >>> crc64([b"123456789"]).hex()
    'b90956c775a41001'
    """
    table, value = _table(), 0xFFFFFFFFFFFFFFFF
    for piece in pieces:
        for byte in piece:
            value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return (value ^ 0xFFFFFFFFFFFFFFFF).to_bytes(8, "big")
