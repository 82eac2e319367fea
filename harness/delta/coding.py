"""How the sections of a recipe are compressed: a few coders, of which the smallest result wins.

zstd's output depends on its version, its input does not: what is written here can be read by any zstd since 1.4 and
any liblzma since 5.0, so a recipe names its coders by name only. Memory is bounded by what a section declares.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator
from typing import Literal, Protocol

from backports import zstd

from harness.delta.errors import DamagedRecipe

Codec = Literal["store", "zstd", "lzma"]
CODECS: tuple[Codec, ...] = ("store", "zstd", "lzma")
Effort = Literal["fast", "best"]

GROUP = 32 * 2**20  # bytes: the largest section, unpacked
MOST_DICTIONARY = 128 * 2**20  # bytes
LARGEST_WINDOW = 28  # log2: a section behind a dictionary, both at their largest
SMALLEST_LZMA = 4096  # bytes of window, liblzma's own limit
MOST_FOR_LZMA = 8 * 2**20  # bytes: beyond that it costs more time than zstd with a dictionary leaves to win
STEP = 2**18  # bytes unpacked at a time
LEVELS: dict[Effort, int] = {"fast": 3, "best": 19}
MANY_TRIES = 2**20  # bytes: below that everything is tried
SMALLEST_WINDOW = 10  # log2, zstd's own limit

ReadStored = Callable[[int, int], bytes]  # offset in the section, most bytes -> stored bytes


def dictionary_of(content: bytes | bytearray) -> zstd.ZstdDict:
    """Bytes as zstd's dictionary, which is a copy of them: let go of the bytes."""
    return zstd.ZstdDict(content, is_raw=True)


def encode(
    content: bytes, dictionary: zstd.ZstdDict | None = None, effort: Effort = "best"
) -> tuple[Codec, bool, bytes]:
    """The smallest of what the coders make of some bytes: coder, whether it needs the dictionary, result.

    The same input gives the same result, whoever asks and however busy the host is.
    """
    tries: list[tuple[Codec, bool, bytes]] = [("store", False, content)]
    small = len(content) <= MANY_TRIES
    if dictionary:
        tries.append(("zstd", True, _zstd(content, dictionary, effort)))
    if small or not dictionary:
        tries.append(("zstd", False, _zstd(content, None, effort)))
    if small or (effort == "best" and len(content) <= MOST_FOR_LZMA):
        tries.append(("lzma", False, lzma.compress(content, lzma.FORMAT_RAW, filters=_lzma_filters(len(content)))))
    return min(tries, key=lambda each: len(each[2]))


def _lzma_filters(raw: int) -> list[dict[str, int]]:
    """LZMA2 with a window for all of a section: what liblzma reserves for larger ones takes longer than the coding."""
    window = max(SMALLEST_LZMA, 1 << (raw - 1).bit_length()) if raw else SMALLEST_LZMA
    return [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": window}]


def _zstd(content: bytes, dictionary: zstd.ZstdDict | None, effort: Effort) -> bytes:
    parameter = zstd.CompressionParameter
    reach = len(content) + (len(dictionary) if dictionary else 0)
    options: dict[int, int] = {
        parameter.compression_level: LEVELS[effort],
        parameter.window_log: max(SMALLEST_WINDOW, reach.bit_length()),
        parameter.dict_id_flag: 0,
    }
    if reach > MANY_TRIES:
        options[parameter.enable_long_distance_matching] = 1
    prefix = dictionary.as_prefix if dictionary else None
    return zstd.compress(content, options=options, zstd_dict=prefix)


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
    codec: Codec, read: ReadStored, stored: int, raw: int, dictionary: zstd.ZstdDict | None = None
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
    for piece in _pieces(_decoder(codec, raw, dictionary), read, stored):
        made += len(piece)
        if made > raw:
            raise DamagedRecipe(f"a section holds more than the {raw:,} bytes it claims")
        yield piece
    if made != raw:
        raise DamagedRecipe(f"a section holds {made:,} bytes and claims {raw:,}")


def _decoder(codec: Codec, raw: int, dictionary: zstd.ZstdDict | None) -> Decoder:
    if codec == "lzma":
        return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_lzma_filters(raw))
    prefix = dictionary.as_prefix if dictionary else None
    return zstd.ZstdDecompressor(prefix, {zstd.DecompressionParameter.window_log_max: LARGEST_WINDOW})


def _pieces(decoder: Decoder, read: ReadStored, stored: int) -> Iterator[bytes]:
    position = 0
    try:
        while not decoder.eof:
            given = b""
            if decoder.needs_input:
                given = read(position, min(STEP, stored - position))
                if not given:
                    raise DamagedRecipe("a section ends before its content does")
                position += len(given)
            if piece := decoder.decompress(given, STEP):
                yield piece
    except (zstd.ZstdError, lzma.LZMAError, MemoryError, EOFError) as cause:
        raise DamagedRecipe(f"a section cannot be unpacked: {cause}") from cause
    if position != stored or decoder.unused_data:
        raise DamagedRecipe("a section has bytes behind its end")
