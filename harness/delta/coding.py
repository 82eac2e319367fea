"""How the sections of a recipe are compressed: a few coders, of which the smallest result wins.

zstd's output depends on its version, its input does not: what is written here can be read by any zstd since 1.4 and
any liblzma since 5.0, so a recipe names its coders by name only. Memory is bounded by what a section declares.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator, Mapping
from typing import Literal, NamedTuple, Protocol

from backports import zstd

from harness.delta.errors import DamagedRecipe

Codec = Literal["store", "zstd", "lzma"]
CODECS: tuple[Codec, ...] = ("store", "zstd", "lzma")
Effort = Literal["fast", "normal", "best"]

GROUP = 20 * 2**20  # bytes: the largest section, unpacked; with the dictionary and Python it stays within the bound
MOST_DICTIONARY = 128 * 2**20  # bytes
SMALLEST_LZMA = 4096  # bytes of window, liblzma's own limit
CHEAP = 8 * 2**20  # bytes: up to here the best coding takes seconds; lzma wins nothing beyond
STEP = 2**18  # bytes unpacked at a time
EFFORTS: tuple[Effort, ...] = ("fast", "normal", "best")
LEVELS: dict[Effort, int] = {"fast": 2, "normal": 12, "best": 19}  # best takes minutes where a quarter of a GB is new
MANY_TRIES = 2**20  # bytes: below that everything is tried
SMALLEST_WINDOW = 10  # log2, zstd's own limit
FRAME = b"\x28\xb5\x2f\xfd\0"  # how a frame of zstd begins that names its window and nothing else
# A search through nearly everything (3 % smaller for the metadata of a filesystem, at three times level 19's time).
DEEPEST: dict[int, int] = {
    zstd.CompressionParameter.strategy: zstd.Strategy.btultra2,
    zstd.CompressionParameter.min_match: 3,
    zstd.CompressionParameter.target_length: 4096,
    zstd.CompressionParameter.search_log: 10,
    zstd.CompressionParameter.chain_log: 25,
    zstd.CompressionParameter.hash_log: 23,
}
SMALLEST_FRAME = 9  # bytes: magic, flags, window or size, one empty block
RAW_BLOCK = 2**17  # bytes: zstd's own limit

ReadStored = Callable[[int, int], bytes]  # offset in the section, most bytes -> stored bytes


class Dictionary(NamedTuple):
    """Bytes that a section was compressed behind; `read(offset, length)` finds them."""

    size: int
    read: Callable[[int, int], bytes]


def encode(
    content: bytes, dictionary: bytes | bytearray | None = None, effort: Effort = "normal"
) -> tuple[Codec, bool, bytes]:
    """The smallest of what the coders make of some bytes: coder, whether it needs the dictionary, result.

    The same input gives the same result, whoever asks and however busy the host is.
    """
    tries: list[tuple[Codec, bool, bytes]] = [("store", False, content)]
    small = len(content) <= MANY_TRIES
    level = LEVELS[effort]
    if effort == "normal" and len(content) <= CHEAP:
        effort, level = "best", LEVELS["best"]
    if dictionary:
        tries.append(("zstd", True, _zstd(content, dictionary, level)))
    if dictionary and effort == "best" and len(content) <= CHEAP:
        tries.append(("zstd", True, _zstd(content, dictionary, level, DEEPEST)))
    if small or not dictionary:
        tries.append(("zstd", False, _zstd(content, None, level)))
    if small or (effort == "best" and len(content) <= CHEAP):
        tries.append(("lzma", False, lzma.compress(content, lzma.FORMAT_RAW, filters=_lzma_filters(len(content)))))
    return min(tries, key=lambda each: len(each[2]))


def _lzma_filters(raw: int) -> list[dict[str, int]]:
    """LZMA2 with a window for all of a section: what liblzma reserves for larger ones takes longer than the coding."""
    window = max(SMALLEST_LZMA, 1 << (raw - 1).bit_length()) if raw else SMALLEST_LZMA
    return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": window}]


def _zstd(
    content: bytes, dictionary: bytes | bytearray | None, level: int, search: Mapping[int, int] | None = None
) -> bytes:
    """One frame: by a level with matches from afar, or by a search of its own."""
    parameter = zstd.CompressionParameter
    reach = len(content) + (len(dictionary) if dictionary else 0)
    options: dict[int, int] = {
        parameter.compression_level: level,
        parameter.window_log: _window_log(reach),
        parameter.dict_id_flag: 0,
        **(search or {}),
    }
    if reach > MANY_TRIES and not search:
        options[parameter.enable_long_distance_matching] = 1
    prefix = zstd.ZstdDict(dictionary, is_raw=True).as_prefix if dictionary else None
    return zstd.compress(content, options=options, zstd_dict=prefix)


def _window_log(reach: int) -> int:
    """log2 of zstd's window over a section and its dictionary: what a frame may ask memory for."""
    return max(SMALLEST_WINDOW, reach.bit_length())


class Decoder(Protocol):
    """What zstd and lzma have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def decoded(
    codec: Codec, read: ReadStored, stored: int, raw: int, dictionary: Dictionary | None = None
) -> Iterator[bytes]:
    """The content of a section in pieces of at most STEP, exactly `raw` bytes of it.

    Raises DamagedRecipe where the section holds more, less or anything else.
    """
    if codec == "store":
        if stored != raw:
            raise DamagedRecipe(f"a section of {stored:,} stored bytes claims {raw:,}")
        yield from (read(offset, min(STEP, raw - offset)) for offset in range(0, raw, STEP))
        return
    made = 0
    for piece in _unpacked(codec, read, stored, raw, dictionary):
        made += len(piece)
        if made > raw:
            raise DamagedRecipe(f"a section holds more than the {raw:,} bytes it claims")
        yield piece
    if made != raw:
        raise DamagedRecipe(f"a section holds {made:,} bytes and claims {raw:,}")


def _unpacked(codec: Codec, read: ReadStored, stored: int, raw: int, dictionary: Dictionary | None) -> Iterator[bytes]:
    given: Iterator[bytes] = (read(offset, min(STEP, stored - offset)) for offset in range(0, stored, STEP))
    if codec == "lzma":
        yield from _pieces(lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_lzma_filters(raw)), given)
        return
    before = dictionary.size if dictionary else 0
    limit: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _window_log(raw + before)}
    if dictionary:
        given = _continued(dictionary, given, raw)
    for piece in _pieces(zstd.ZstdDecompressor(None, limit), given):
        if len(piece) > before:
            yield piece[before:]
        before = max(0, before - len(piece))


def _pieces(decoder: Decoder, given: Iterator[bytes]) -> Iterator[bytes]:
    try:
        while not decoder.eof:
            more = b""
            if decoder.needs_input:
                more = next(given, b"")
                if not more:
                    raise DamagedRecipe("a section ends before its content does")
            if piece := decoder.decompress(more, STEP):
                yield piece
    except (zstd.ZstdError, lzma.LZMAError, MemoryError, EOFError) as cause:
        raise DamagedRecipe(f"a section cannot be unpacked: {cause}") from cause
    if decoder.unused_data or next(given, b""):
        raise DamagedRecipe("a section has bytes behind its end")


def _continued(dictionary: Dictionary, stored: Iterator[bytes], raw: int) -> Iterator[bytes]:
    """A frame that holds the dictionary as it is and goes on with the blocks of a stored one (RFC 8878, 3.1.1).

    To look back into a dictionary or into what the frame held before is the same to zstd, but of a dictionary it
    keeps a copy beside its window: this way there is one.
    """
    first = next(stored, b"")
    yield FRAME + _window_descriptor(dictionary.size + raw)
    for offset in range(0, dictionary.size, RAW_BLOCK):
        size = min(RAW_BLOCK, dictionary.size - offset)
        yield (size << 3).to_bytes(3, "little") + dictionary.read(offset, size)  # not the last block, and raw
    yield first[_frame_header(first) :]
    yield from stored


def _window_descriptor(size: int) -> bytes:
    """The smallest window of at least `size` bytes that a frame can name: eighths of powers of two."""
    exponent = max(0, (size - 1).bit_length() - 1 - SMALLEST_WINDOW)
    unit = 1 << (SMALLEST_WINDOW + exponent - 3)
    eighths = max(0, -(-size // unit) - 8)
    return bytes([exponent + eighths // 8 << 3 | eighths % 8])


def _frame_header(frame: bytes) -> int:
    """How long the header of a frame is; its checksum, if it has one, is left over and refused."""
    if len(frame) < SMALLEST_FRAME or not frame.startswith(FRAME[:4]):
        raise DamagedRecipe("a section cannot be unpacked: it is no frame of zstd")
    flags = frame[4]
    single, has_id = flags >> 5 & 1, (0, 1, 2, 4)[flags & 3]
    return 5 + (1 - single) + has_id + (single, 2, 4, 8)[flags >> 6]
