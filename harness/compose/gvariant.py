"""GVariant, as far as ostree's objects use it (GVariant Specification 1.0; libostree, ostree-core.h): values read.

Numbers are little-endian in GVariant; ostree stores its own big-endian, and so they come out here as it means them.
Bytes in, plain Python values out: arrays are lists, `ay` bytes, `a{sv}` a dict, tuples tuples.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any, Final

from harness.errors import DamagedArtifact

FIXED: Final = {"y": 1, "b": 1, "u": 4, "t": 8}
ALIGNED: Final = {"y": 1, "b": 1, "u": 4, "t": 8, "s": 1, "v": 8}
DEEPEST: Final = 16  # variants in variants
MOST: Final = 1_000_000  # elements of one array


def decode(kind: str, data: bytes, depth: int = 0) -> Any:
    r"""The value of type `kind` in `data`. Raises DamagedArtifact, without saying where.

    >>> decode("(say)", b"name\0" + bytes([1, 2]) + bytes([5]))
    ('name', b'\x01\x02')
    """
    if depth > DEEPEST:
        raise DamagedArtifact("an ostree object has values within values without end")
    if kind in FIXED:
        if len(data) != FIXED[kind]:
            raise DamagedArtifact(f"an ostree object has {len(data)} bytes where {FIXED[kind]} are due")
        number = int.from_bytes(data, "big")
        return bool(number) if kind == "b" else number
    if kind == "s":
        if not data.endswith(b"\0"):
            raise DamagedArtifact("an ostree object has a text without an end")
        return data[:-1].decode("utf-8", "surrogateescape")
    if kind == "v":
        value, mark, inner = data.rpartition(b"\0")
        if not mark or inner not in {b"s", b"b", b"u", b"t", b"y", b"ay", b"as", b"v", b"a{sv}", b"(uuuua(ayay))"}:
            return None  # metadata of a kind that we need not know
        return decode(inner.decode(), value, depth + 1)
    if kind == "ay":
        return data
    if kind.startswith("a"):
        items = [decode(kind[1:], piece, depth) for piece in _elements(kind[1:], data)]
        return dict(items) if kind.startswith("a{") else items
    return tuple(decode(inner, piece, depth) for inner, piece in _members(kind, data))


def raw_members(kind: str, data: bytes) -> list[bytes]:
    """The serialised members of a tuple, as they are. Raises DamagedArtifact."""
    return [piece for _, piece in _members(kind, data)]


def offset_size(body: int, offsets: int) -> int:
    """Bytes of each framing offset of a container whose content is `body` bytes and that has so many offsets."""
    return next(size for size in (1, 2, 4, 8) if body + offsets * size < 1 << (8 * size))


@functools.cache
def split(kind: str) -> tuple[str, ...]:
    """The member types of a tuple or dictionary entry.

    >>> split("(a(say)a{sv}t)")
    ('a(say)', 'a{sv}', 't')
    """
    found, depth, start = [], 0, 1
    for at in range(1, len(kind) - 1):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(kind[at], 0)
        if not depth and kind[at] != "a":
            found.append(kind[start : at + 1])
            start = at + 1
    return tuple(found)


@functools.cache
def _alignment(kind: str) -> int:
    if kind.startswith("a"):
        return _alignment(kind[1:])
    return max(map(_alignment, split(kind))) if kind[0] in "({" else ALIGNED[kind]


def _elements(kind: str, data: bytes) -> Iterator[bytes]:
    if kind in FIXED:
        size = FIXED[kind]
        yield from (data[at : at + size] for at in range(0, len(data), size))
        return
    if not data:
        return
    size = offset_size(len(data), 0)
    last = int.from_bytes(data[-size:], "little")
    count, rest = divmod(len(data) - last, size)
    if rest or not 0 < count <= MOST:
        raise DamagedArtifact("an ostree object has a garbled array")
    start, align = 0, _alignment(kind)
    for number in range(count):
        at = last + number * size
        end = int.from_bytes(data[at : at + size], "little")
        start = -(-start // align) * align
        if not start <= end <= last:
            raise DamagedArtifact("an ostree object has an array whose elements overlap")
        yield data[start:end]
        start = end


def _members(kind: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    kinds = split(kind)
    size = offset_size(len(data), 0)
    limit, start = len(data), 0
    for number, inner in enumerate(kinds):
        align = _alignment(inner)
        start = -(-start // align) * align
        if inner in FIXED:
            end = start + FIXED[inner]
        elif number == len(kinds) - 1:
            end = limit
        else:
            limit -= size
            end = int.from_bytes(data[limit : limit + size], "little") if limit >= 0 else -1
        if not start <= end <= limit:
            raise DamagedArtifact("an ostree object is garbled or truncated")
        yield inner, data[start:end]
        start = end
