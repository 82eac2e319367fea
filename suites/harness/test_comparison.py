"""The table of a failed comparison."""

from dataclasses import dataclass
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from harness.report.difference import differences, table


@dataclass(frozen=True)
class Partition:
    number: int
    label: str
    start: int = 0


class Row(Struct):
    start: int


BOOT, ROOT = Partition(3, "boot", 135266304), Partition(4, "root", 537919488)


def where(found, expected):
    return [row.where for row in differences(found, expected)]


@pytest.mark.parametrize(
    "found,expected,places",
    [
        ((BOOT, ROOT), (BOOT, Partition(4, "root", 1)), ["[number=4].start"]),
        ((BOOT,), (BOOT, ROOT), ["[number=4]"]),
        ((BOOT, ROOT), (BOOT,), ["[number=4]"]),
        ((ROOT, BOOT), (BOOT, ROOT), [" order"]),
        ({"a": {"b": [1, 2]}}, {"a": {"b": [1, 3]}}, ["['a']['b'][1]"]),
        ({"a": 1}, {"b": 1}, ["['b']", "['a']"]),
        ((BOOT, BOOT), (BOOT, ROOT), ["[1].number", "[1].label", "[1].start"]),
        (1, 2, ["the value"]),
        (BOOT, BOOT, []),
        (Row(start=1), Row(start=2), [".start"]),
        (("rw", "quiet", "x"), ("rw", "x"), ["[1]"]),
        (("rw",), ("rw", "x", "y"), ["[1]", "[2]"]),
        (("y", "x"), ("x", "y"), ["[0]", "[1]"]),
    ],
)
def test_difference_is_named_by_its_place(found, expected, places):
    assert where(found, expected) == places


def test_table_has_cause_line_and_aligned_columns():
    assert table((BOOT, ROOT), (Partition(3, "boot", 135267328), ROOT)) == [
        "1 value differs at [number=3].start: expected 135,267,328, found 135,266,304",
        "expected    | found       | where",
        "------------+-------------+------",
        "135,267,328 | 135,266,304 | [number=3].start",
    ]


def test_a_word_too_many_is_named():
    assert table(["rw", "quiet"], ["rw"])[0] == "1 value differs at [1]: 'quiet' is not expected"


def test_a_whole_digest_is_shown():
    assert table("a" * 64, "b" * 64)[0] == f"expected '{'b' * 64}', found '{'a' * 64}'"


def test_uuids_are_shown_as_people_write_them():
    one, other = UUID(int=1), UUID(int=2)
    assert table({"guid": one}, {"guid": other})[-1] == f"{other} | {one} | ['guid']"


def test_long_values_and_long_tables_are_cut():
    lines = table(dict.fromkeys(range(100), "x" * 500), dict.fromkeys(range(100), "y" * 500))
    assert lines[-1] == "... and 60 more"
    assert max(map(len, lines)) < 200


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.builds(Partition, st.integers(), st.text()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


@given(VALUES, VALUES)
def test_unequal_values_always_have_a_difference_and_equal_ones_never(found, expected):
    assert bool(where(found, expected)) is (found != expected)
