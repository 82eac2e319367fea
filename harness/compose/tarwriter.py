"""Tars and layers written: nothing in them depends on the host, the order of a folder or the time.

POSIX.1-1988 (ustar); a pax header only for what that cannot say: long names, large files, extended attributes.
A layer is packed by the zlib that is installed, into a gzip member whose header is fixed: the digest of what is packed
(the diff_id) is the same everywhere, that of the packed layer wherever zlib is of the same version.
"""

from __future__ import annotations

import hashlib
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import BinaryIO, Final, Self

from harness.compose.tarstream import BLOCK, OF_XATTR
from harness.containers.layout import GZIP_HEADER

LEVEL: Final = 6  # of zlib
TYPES: Final = {
    "file": tarfile.REGTYPE,
    "directory": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
}


@dataclass(frozen=True, slots=True)
class Header:
    """What a tar shall say of a member; `size` in bytes, `kind` one of TYPES."""

    name: str
    kind: str = "file"
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    target: str = ""
    xattrs: tuple[tuple[str, bytes], ...] = ()


class TarWriter:
    """A tar, given to `write` in pieces; `epoch` is every member's time. `with` it: the end is written at the end."""

    def __init__(self, write: Callable[[bytes], object], epoch: int) -> None:
        self._write = write
        self._epoch = epoch

    def add(self, header: Header, content: Iterable[bytes] = ()) -> int:
        """Append a member and return how many bytes its content really had; fewer or more than `size` damage the tar.

        Only `size` bytes are written; what is lacking is filled with zeroes, so the caller must look at the result.
        """
        member = tarfile.TarInfo(f"{header.name}/" if header.kind == "directory" else header.name)
        member.type, member.size, member.linkname = TYPES[header.kind], header.size, header.target
        member.mode, member.uid, member.gid, member.mtime = header.mode, header.uid, header.gid, self._epoch
        member.pax_headers = {
            OF_XATTR + name: value.decode("utf-8", "surrogateescape") for name, value in sorted(header.xattrs)
        }
        self._write(member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        seen = 0
        for piece in content:
            if seen < header.size:
                self._write(piece[: header.size - seen])
            seen += len(piece)
        self._write(bytes(max(0, header.size - seen) + -header.size % BLOCK))
        return seen

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._write(bytes(2 * BLOCK))


@dataclass
class GzipSink:
    """A gzip member written to `out`; knows the digests and sizes of what went in and what came out."""

    out: BinaryIO
    inner_size: int = 0
    size: int = 0
    _inner: hashlib._Hash = field(default_factory=hashlib.sha256)
    _outer: hashlib._Hash = field(default_factory=hashlib.sha256)
    _crc: int = 0
    _deflate: zlib._Compress = field(default_factory=lambda: zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS))

    def __post_init__(self) -> None:
        self._put(GZIP_HEADER)

    def write(self, piece: bytes) -> None:
        """Pack some more."""
        self._inner.update(piece)
        self._crc = zlib.crc32(piece, self._crc)
        self.inner_size += len(piece)
        self._put(self._deflate.compress(piece))

    def close(self) -> None:
        """Write the end."""
        self._put(self._deflate.flush())
        self._put(self._crc.to_bytes(4, "little") + (self.inner_size & 0xFFFFFFFF).to_bytes(4, "little"))

    @property
    def diff_id(self) -> str:
        """Digest of what was packed."""
        return f"sha256:{self._inner.hexdigest()}"

    @property
    def digest(self) -> str:
        """Digest of what was written."""
        return f"sha256:{self._outer.hexdigest()}"

    def _put(self, piece: bytes) -> None:
        self._outer.update(piece)
        self.size += len(piece)
        self.out.write(piece)
