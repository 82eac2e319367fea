"""Contents as `data:` URLs, as Butane embeds them: percent-encoded, base64 or gzip in base64, whichever is shortest.

Facts: Butane's documentation ("auto-select smallest encoding", fcct 0.6; an explicit empty `compression` with
uncompressed contents, 0.15) and its published test data. Which encoding is chosen is the same; the gzip bytes
themselves are not, because Go's compressor is not zlib. Go ends its stream with an empty block of five bytes, which
is counted here, so that the choice agrees where sizes are close.
"""

from __future__ import annotations

import base64
import zlib
from typing import Final
from urllib.parse import quote

UNRESERVED: Final = "-_.!~*'()"  # RFC 2396, beside letters and digits
GZIP_HEADER: Final = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"  # no name, no time, best compression, no system
GO_TAIL: Final = 5  # bytes
GZIP: Final = "gzip"


def embedded(content: bytes, *, may_compress: bool) -> tuple[str, str]:
    """The source URL and the compression of a resource that holds `content`.

    >>> embedded(b"hello there", may_compress=True)
    ('data:,hello%20there', '')
    """
    source = "," + quote(content, safe=UNRESERVED)
    encoded = _base64(content)
    if len(encoded) < len(source):
        source = encoded
    if may_compress:
        squeezed = _gzip(content)
        size = len(_base64(squeezed + bytes(GO_TAIL)))
        if size + len(GZIP) < len(source):
            return "data:" + _base64(squeezed), GZIP
    return "data:" + source, ""


def escaped(content: bytes) -> str:
    """The percent-encoded URL that fcos 1.0 always uses."""
    return "data:," + quote(content, safe=UNRESERVED)


def _base64(content: bytes) -> str:
    return ";base64," + base64.b64encode(content).decode()


def _gzip(content: bytes) -> bytes:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(content) + deflate.flush()
    tail = zlib.crc32(content).to_bytes(4, "little") + (len(content) & 0xFFFFFFFF).to_bytes(4, "little")
    return GZIP_HEADER + body + tail
