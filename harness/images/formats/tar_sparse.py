"""The maps of sparse files in tar archives: which parts of a file are stored (GNU tar manual, "Storing Sparse Files").

Four forms: GNU's own header ("oldgnu"), and pax 0.0, 0.1 and 1.0. Whatever the form, a map is believed only when its
parts are in order, do not overlap, lie within the file, and add up to what is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.block import Block
from harness.images.formats.tar_numbers import number

BLOCK = 512
MOST_PARTS = 2**18  # 256 Ki: a disk of 16 GiB cut into pieces of 64 KiB
LARGEST = 2**62  # bytes: beyond, no system can address a disk
HEADER_SLOTS = range(386, 482, 24)
EXTENSION_SLOTS = range(0, 504, 24)


@dataclass(frozen=True, slots=True)
class SparseMap:
    """A file's size, and the offset and length of each stored part; the parts lie one after another in the archive."""

    size: int
    parts: tuple[tuple[int, int], ...] = field(repr=False)


def of_old_gnu(archive: Block, header: bytes, at: int, stored: int) -> tuple[SparseMap, int]:
    """The map of a member of type S whose header is at `at`, and where its data begins."""
    where = f"{archive.name}: tar header at {at:,}"
    parts = list(_slots(header, HEADER_SLOTS, where))
    is_continued, at = bool(header[482]), at + BLOCK
    while is_continued:
        if at + BLOCK > archive.size:
            raise DamagedImage("a sparse map reaches beyond the end of the archive", where=where)
        extension = archive.read(at, BLOCK)
        parts += _slots(extension, EXTENSION_SLOTS, where)
        _check_count(len(parts), where)
        is_continued, at = bool(extension[504]), at + BLOCK
    return _checked(number(header[483:495]), parts, stored, where), at


def of_pax(
    archive: Block, known: Mapping[str, bytes], pairs: Iterable[tuple[str, bytes]], start: int, stored: int
) -> tuple[SparseMap, int]:
    """The map that pax records give for the member whose `stored` bytes begin at `start`, and where its data begins."""
    where = f"{archive.name}: tar member at {start:,}"
    size = _digits(known.get("GNU.sparse.realsize", known.get("GNU.sparse.size", b"")))
    if "GNU.sparse.major" in known:
        version = known["GNU.sparse.major"], known.get("GNU.sparse.minor")
        if version != (b"1", b"0"):
            raise UnsupportedImage(f"a sparse file of version {version}", where=where)
        numbers, length = _leading_numbers(archive, start, stored, where)
        return _checked(size, _paired(numbers, where), stored - length, where), start + length
    if "GNU.sparse.map" in known:
        raw = known["GNU.sparse.map"]
        _check_count(raw.count(b",") // 2, where)
        numbers = [_digits(word) for word in raw.split(b",") if word]
    else:
        slots = ("GNU.sparse.offset", "GNU.sparse.numbytes")
        numbers = [_digits(value) for key, value in pairs if key in slots]
    return _checked(size, _paired(numbers, where), stored, where), start


def _slots(block: bytes, places: range, where: str) -> Iterator[tuple[int, int]]:
    """The used slots of a header or its extension."""
    for at in places:
        slot = block[at : at + 24]
        if not any(slot):
            return
        offset, length = number(slot[:12]), number(slot[12:])
        if offset is None or length is None:
            raise DamagedImage(f"a sparse map holds {slot!r}", where=where)
        yield offset, length


def _leading_numbers(archive: Block, start: int, stored: int, where: str) -> tuple[list[int | None], int]:
    """Version 1.0: a count and so many pairs, a line each, padded to whole blocks, before the data itself."""
    numbers: list[int | None] = []
    wanted, rest, at = 1, b"", 0
    while len(numbers) < wanted:
        if at + BLOCK > stored:
            raise DamagedImage("a sparse map is longer than its member", where=where)
        *lines, rest = (rest + archive.read(start + at, BLOCK)).split(b"\n")
        at += BLOCK
        numbers += [_digits(line) for line in lines]
        if numbers and wanted == 1:
            count = numbers[0]
            if count is None:
                raise DamagedImage("a sparse map does not begin with a number", where=where)
            _check_count(count, where)
            wanted = 1 + 2 * count
        if len(rest) > BLOCK:
            raise DamagedImage("a sparse map holds a line without end", where=where)
    return numbers[1:wanted], at


def _paired(numbers: Sequence[int | None], where: str) -> list[tuple[int, int]]:
    known = [each for each in numbers if each is not None]
    if len(numbers) % 2 or len(known) < len(numbers):
        raise DamagedImage("a sparse map does not hold pairs of numbers", where=where)
    return list(zip(known[::2], known[1::2], strict=True))


def _digits(raw: bytes) -> int | None:
    return int(raw) if raw.isdigit() and len(raw) <= 19 else None


def _check_count(count: int, where: str) -> None:
    if count > MOST_PARTS:
        raise UnsupportedImage(f"a sparse file in {count:,} parts; we read up to {MOST_PARTS:,}", where=where)


def _checked(size: int | None, parts: Sequence[tuple[int, int]], stored: int, where: str) -> SparseMap:
    if size is None or size > LARGEST:
        raise DamagedImage("a sparse file without a size that can be", where=where)
    _check_count(len(parts), where)
    end = 0
    for offset, length in parts:
        if offset < end:
            raise DamagedImage(f"the part at {offset:,} of a sparse file overlaps the one before it", where=where)
        end = offset + length
    if end > size:
        raise DamagedImage(f"the parts of a sparse file end at {end:,}, the file at {size:,}", where=where)
    total = sum(length for _, length in parts)
    if total != stored:
        raise DamagedImage(f"the parts of a sparse file have {total:,} bytes, {stored:,} are stored", where=where)
    return SparseMap(size, tuple((offset, length) for offset, length in parts if length))
