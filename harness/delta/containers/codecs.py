"""How a unit of a disk was packed: which library, with which parameters, and whether ours gives the same bytes.

Deflate as zlib has it (RFC 1950, 1951) and zstd. QEMU packs qcow2 clusters with windowBits -12 and memLevel 9
(block/qcow2-threads.c) and VMDK grains with plain compress(); zstd's bytes depend on libzstd's version, so the
host's own library (which QEMU uses) is a codec apart from ours. A codec carries what it made of a fixed sample:
where this host makes something else of it, nothing is unpacked on faith.
"""

from __future__ import annotations

import ctypes
import hashlib
import zlib
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Annotated, Literal

import msgspec
from backports import zstd

from harness.errors import BadInput

SAMPLE_SIZE = 2**16
SAMPLE_DIGEST = 8  # bytes of SHA-256 kept
MOST_SAMPLED = 64  # codecs whose digest is remembered
HOST_ZSTD = "libzstd.so.1"
MOST_ZSTD = 19  # level
QEMU_WINDOW, QEMU_MEMORY = -12, 9

Kind = Literal["stored", "verbatim", "deflate", "zstd", "host-zstd"]
Name = Annotated[str, msgspec.Meta(max_length=80, pattern=r"^[ -~]*\Z")]  # is shown: one line of plain text
Pack = Callable[[bytes], bytes]


class Codec(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Parameters as zlib.compressobj and zstd name them; `library` with its version; `sample` for the self-test."""

    kind: Kind
    level: int = 0
    window: int = 0
    memory: int = 0
    library: Name = ""
    sample: bytes = b""

    @property
    def packs(self) -> bool:
        """Whether it makes other bytes of a unit: `stored` does not, `verbatim` is looked up and never made."""
        return self.kind not in {"stored", "verbatim"}


STORED, VERBATIM = Codec("stored"), Codec("verbatim")


def packer_of(codec: Codec) -> Pack:
    """The function that packs a unit. Raises BadInput for parameters that no library here takes."""
    level, window, memory = codec.level, codec.window, codec.memory
    if codec.kind == "deflate" and -1 <= level <= 9 and 1 <= memory <= 9 and (window == 15 or -15 <= window <= -9):
        return _deflate(level, window, memory)
    if codec.kind == "zstd" and 1 <= level <= MOST_ZSTD:
        return lambda data: zstd.compress(data, level)
    if codec.kind == "host-zstd" and 1 <= level <= MOST_ZSTD and (library := _host_zstd()):
        return _zstd_of_host(library, level)
    raise BadInput(
        f"is packed by {codec.library or codec.kind!r} ({codec.kind}, level {level}), which is not on this host",
        next_step="rebuild it on a host like the one that took it apart",
    )


def check_codec(codec: Codec) -> None:
    """Raise BadInput unless this host packs the sample as the host did that took the image apart."""
    if codec.packs and _sampled(Codec(codec.kind, codec.level, codec.window, codec.memory)) != codec.sample:
        raise BadInput(
            f"relies on the exact bytes of {codec.library}; {_library(codec.kind)} here packs differently",
            next_step="rebuild it on a host like the one that took it apart",
        )


def grain_codecs() -> list[Codec]:
    """Candidates for VMDK grains, the likely ones first."""
    return [_known("deflate", level, 15, 8) for level in (6, 9, 1, 5, 3, 2, 4, 7, 8)]


def cluster_codecs(kind: Literal["zlib", "zstd"]) -> list[Codec]:
    """Candidates for qcow2 clusters, the likely ones first."""
    if kind == "zlib":
        likely = [_known("deflate", level, QEMU_WINDOW, QEMU_MEMORY) for level in (6, 9, 1)]
        return likely + [_known("deflate", level, -12, 8) for level in (6, 9)]
    host = [_known("host-zstd", 3)] if _host_zstd() else []
    return [*host, _known("zstd", 3)]


def block_codecs(compression: str, level: int, window: int) -> list[Codec]:
    """Candidates for blocks of a squashfs, whose superblock tells the parameters; none where no library here fits."""
    if compression == "zlib" and 1 <= level <= 9 and window == zlib.MAX_WBITS:
        return [_known("deflate", level, window, zlib.DEF_MEM_LEVEL)]
    if compression == "zstd" and 1 <= level <= MOST_ZSTD:
        host = [_known("host-zstd", level)] if _host_zstd() else []
        return [*host, _known("zstd", level)]
    return []


@cache
def _known(kind: Kind, level: int, window: int = 0, memory: int = 0) -> Codec:
    sampled = _sampled(Codec(kind, level, window, memory))
    return Codec(kind, level, window, memory, _library(kind), sampled)


def _library(kind: Kind) -> str:
    if kind == "deflate":
        return f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
    if kind == "zstd":
        return f"libzstd {zstd.zstd_version}"
    library = _host_zstd()
    return f"libzstd {library.ZSTD_versionString().decode()} of the host" if library else "no libzstd of the host"


@lru_cache(MOST_SAMPLED)
def _sampled(codec: Codec) -> bytes:
    """What this host's library makes of the sample, as a short digest; the same as long as the process runs."""
    return hashlib.sha256(packer_of(codec)(sample())).digest()[:SAMPLE_DIGEST]


@cache
def sample() -> bytes:
    """SAMPLE_SIZE bytes, always the same: text that repeats itself, numbers that nearly do, and noise."""
    pieces = []
    for number in range(SAMPLE_SIZE // 128):
        noise = hashlib.sha256(number.to_bytes(4, "little")).digest()
        text = f"/usr/lib/modules/{number % 37}/kernel/{noise[0] % 11}.ko: {number * number}".encode()
        pieces.append((text + noise[: number % 32] + bytes(number % 5) + text[::-1]).ljust(128, b"x")[:128])
    return b"".join(pieces)


def _deflate(level: int, window: int, memory: int) -> Pack:
    if memory == zlib.DEF_MEM_LEVEL:
        return lambda data: zlib.compress(data, level, window)

    def pack(data: bytes) -> bytes:
        inner = zlib.compressobj(level, zlib.DEFLATED, window, memory)
        return inner.compress(data) + inner.flush()

    return pack


@cache
def _host_zstd() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(HOST_ZSTD)
        library.ZSTD_versionString.restype = ctypes.c_char_p
        library.ZSTD_compressBound.restype = library.ZSTD_compress.restype = ctypes.c_size_t
        library.ZSTD_compressBound.argtypes = (ctypes.c_size_t,)
        library.ZSTD_compress.argtypes = (
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int,
        )  # fmt: skip
    except (OSError, AttributeError):
        return None
    return library


def _zstd_of_host(library: ctypes.CDLL, level: int) -> Pack:
    def pack(data: bytes) -> bytes:
        bound = library.ZSTD_compressBound(len(data))
        room = ctypes.create_string_buffer(bound)
        length = library.ZSTD_compress(room, bound, data, len(data), level)
        return room.raw[:length] if length <= bound else b""  # an error is a number beyond any bound

    return pack
