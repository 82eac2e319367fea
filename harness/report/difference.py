"""Where two values differ, field by field: the table `expected | found | where` of a failed comparison."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import SequenceMatcher
from typing import Any

from msgspec import Struct

KEYS = ("number", "path", "name", "label", "id")  # fields by which members of two sequences are matched
WIDEST = 72  # characters of a cell: a SHA-256 in quotes fits
ROWS = 40
MISSING, SURPLUS = "missing", "not expected"
WHOLE = "the value"  # where something differs that has no parts
WORDS = (str, bytes, int, float, type(None))


@dataclass(frozen=True, slots=True)
class Difference:
    """One place where values differ; `where` reads like Python from the compared value on."""

    where: str
    expected: str
    found: str


def differences(found: object, expected: object, where: str = "") -> Iterator[Difference]:
    """All differences in order. Dataclasses need not be of one type: the fields of `expected` are what counts."""
    if found == expected:
        return
    if is_record(found) and is_record(expected):
        yield from _of_records(found, expected, where)
    elif isinstance(found, Mapping) and isinstance(expected, Mapping):
        yield from _of_mappings(found, expected, lambda key: f"{where}[{key!r}]")
    elif _is_list(found) and _is_list(expected):
        yield from _of_lists(found, expected, where)
    else:
        yield Difference(where or WHOLE, shown(expected), shown(found))


def table(found: object, expected: object) -> list[str]:
    """A summary line, then the table; empty where nothing tells the two apart."""
    rows = list(differences(found, expected))
    if not rows:
        return []
    first = rows[0]
    count = "1 value differs" if len(rows) == 1 else f"{len(rows)} values differ, first"
    place = "" if first.where == WHOLE else f"{count} at {first.where}: "
    summary = f"{place}{_told(first)}"
    cells = [("expected", "found", "where")] + [(row.expected, row.found, row.where) for row in rows[:ROWS]]
    widths = [max(len(row[column]) for row in cells) for column in range(2)]
    lines = [f"{one:{widths[0]}} | {two:{widths[1]}} | {three}" for one, two, three in cells]
    more = [f"... and {len(rows) - ROWS} more"] if len(rows) > ROWS else []
    return [summary, lines[0], "-+-".join("-" * width for width in (*widths, 5)), *lines[1:], *more]


def _told(row: Difference) -> str:
    if row.found == MISSING:
        return f"{row.expected} is missing"
    return f"{row.found} is not expected" if row.expected == SURPLUS else f"expected {row.expected}, found {row.found}"


def shown(value: object) -> str:
    """A value in a cell: grouped digits, no endless text.

    >>> shown(135266304), shown("boot")
    ('135,266,304', "'boot'")
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}"
    text = str(value) if type(value).__name__ in {"UUID", "PosixPath"} else repr(value)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"


def is_record(value: object) -> bool:
    """Whether a value has named fields that we compare one by one: a dataclass or a msgspec Struct."""
    return (is_dataclass(value) or isinstance(value, Struct)) and not isinstance(value, type)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _of_records(found: Any, expected: Any, where: str) -> Iterator[Difference]:
    for name in _compared_fields(expected):
        place = f"{where}.{name}"
        if hasattr(found, name):
            yield from differences(getattr(found, name), getattr(expected, name), place)
        else:
            yield Difference(place, shown(getattr(expected, name)), MISSING)


def _compared_fields(record: Any) -> Sequence[str]:
    if isinstance(record, Struct):
        return record.__struct_fields__
    return [field.name for field in fields(record) if field.compare]


def _of_mappings(found: Mapping[Any, Any], expected: Mapping[Any, Any], place: Any) -> Iterator[Difference]:
    for key in expected:
        if key in found:
            yield from differences(found[key], expected[key], place(key))
        else:
            yield Difference(place(key), shown(expected[key]), MISSING)
    for key in found:
        if key not in expected:
            yield Difference(place(key), SURPLUS, shown(found[key]))


def _of_lists(found: Any, expected: Any, where: str) -> Iterator[Difference]:
    key = _common_key(found, expected)
    if key is None and len(found) != len(expected) and all(isinstance(word, WORDS) for word in (*found, *expected)):
        yield from _of_words(found, expected, where)
        return
    if key is None:
        yield from _of_mappings(dict(enumerate(found)), dict(enumerate(expected)), lambda index: f"{where}[{index}]")
        return
    founds = {getattr(member, key): member for member in found}
    expecteds = {getattr(member, key): member for member in expected}
    yield from _of_mappings(founds, expecteds, lambda value: f"{where}[{key}={value!r}]")
    if set(founds) == set(expecteds) and list(founds) != list(expecteds):
        yield Difference(f"{where} order", shown(list(expecteds)), shown(list(founds)))


def _of_words(found: Sequence[Any], expected: Sequence[Any], where: str) -> Iterator[Difference]:
    """What must be taken out of and put into a list of plain values, where one is longer than the other."""
    for kind, start, end, first, last in SequenceMatcher(None, expected, found, autojunk=False).get_opcodes():
        if kind != "equal":
            lost, new = expected[start:end], found[first:last]
            for offset in range(max(len(lost), len(new))):
                wanted = shown(lost[offset]) if offset < len(lost) else SURPLUS
                there = shown(new[offset]) if offset < len(new) else MISSING
                yield Difference(f"{where}[{(start if offset < len(lost) else first) + offset}]", wanted, there)


def _common_key(found: Sequence[Any], expected: Sequence[Any]) -> str | None:
    """A field all members have, with a value of its own in each."""
    members = [*found, *expected]
    if not members or not all(is_record(member) for member in members):
        return None
    for key in KEYS:
        if all(hasattr(member, key) for member in members) and all(
            len({getattr(member, key) for member in side}) == len(side) for side in (found, expected)
        ):
            return key
    return None
