"""One packed block of a filesystem: unpacked in one go, never to more than was said beforehand.

The readers here keep blocks of at most a few MiB, so what they need is a bound on the output, not a stream. LZ4 and
LZO are unpacked by fs-explorer, which uses the host's liblz4 and liblzo2 where they are, else its own code.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Protocol

from harness.errors import DamagedImage, UnsupportedImage

LZMA_MEMORY = 2**26  # bytes; the dictionary of a block is as large as the block
ZSTD_WINDOW = 27  # log2 of bytes; zstd -22 has this


class _Stream(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def unpack(codec: str, packed: bytes, limit: int, where: str) -> bytes:
    """The bytes of one block of at most `limit` bytes; what follows the end of its stream is padding.

    Raises DamagedImage where it is corrupt, ends early or holds more, UnsupportedImage for a codec we do not have.
    """
    opener = _CODECS.get(codec)
    if opener is None:
        raise UnsupportedImage(f"its {codec} compression is not one that we read", where=where)
    found = opener(packed, limit)
    if found is None or len(found) > limit:
        why = "is corrupt or ends early" if found is None else f"holds more than {limit:,} bytes"
        raise DamagedImage(f"a block packed with {codec} {why}", where=where)
    return found


def _inflate(packed: bytes, limit: int, window: int = zlib.MAX_WBITS) -> bytes | None:
    stream = zlib.decompressobj(window)
    try:
        found = stream.decompress(packed, limit + 1)
    except zlib.error:
        return None
    return found if stream.eof or len(found) > limit else None


def _raw_inflate(packed: bytes, limit: int) -> bytes | None:
    return _inflate(packed, limit, -zlib.MAX_WBITS)


def _xz(packed: bytes, limit: int) -> bytes | None:
    import lzma  # noqa: PLC0415 - only images that wear it pay for it

    try:
        return _drain(lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=LZMA_MEMORY), packed, limit)
    except lzma.LZMAError:
        return None


def _lzma(packed: bytes, limit: int) -> bytes | None:
    import lzma  # noqa: PLC0415 - only images that wear it pay for it

    try:
        return _drain(lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=LZMA_MEMORY), packed, limit)
    except lzma.LZMAError:
        return None


def _zstd(packed: bytes, limit: int) -> bytes | None:
    from backports import zstd  # noqa: PLC0415 - only images that wear it pay for it

    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW}
    try:
        return _drain(zstd.ZstdDecompressor(options=options), packed, limit)
    except zstd.ZstdError:
        return None


def _drain(stream: _Stream, packed: bytes, limit: int) -> bytes | None:
    """All that a stream gives, or one byte more than allowed; nothing for one that does not end."""
    found = stream.decompress(packed, limit + 1)
    while not stream.eof and not stream.needs_input and len(found) <= limit:
        more = stream.decompress(b"", limit + 1 - len(found))
        if not more:
            break
        found += more
    return found if stream.eof or len(found) > limit else None


def _lz4(packed: bytes, limit: int) -> bytes | None:
    return _by_library("lz4", packed, limit)


def _lzo(packed: bytes, limit: int) -> bytes | None:
    return _by_library("lzo", packed, limit)


def _by_library(codec: str, packed: bytes, limit: int) -> bytes | None:
    from fs_explorer.codecs import registry  # noqa: PLC0415 - only images that wear it pay for it
    from fs_explorer.errors import FsExplorerError  # noqa: PLC0415

    try:
        return bytes(registry.decompress(codec, packed, limit))
    except (FsExplorerError, ValueError, IndexError):  # the pure decoders run off the end of bad input
        return None


_CODECS: Mapping[str, Callable[[bytes, int], bytes | None]] = {
    "zlib": _inflate,
    "deflate": _raw_inflate,
    "xz": _xz,
    "lzma": _lzma,
    "zstd": _zstd,
    "lz4": _lz4,
    "lzo": _lzo,
}
