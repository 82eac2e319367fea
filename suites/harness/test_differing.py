"""Bytes in which two blocks differ: counted, cut out and shown without reading holes."""

import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.images.block import Part
from harness.images.difference.causes import AREAS, KNOBS, OUTSIDE, Difference, moment
from harness.images.difference.differing import Changes, differing, gaps
from harness.images.source import open_image
from suites.harness.workbench import patch

SIZE = 20_001


class Bytes:
    name = "memory"

    def __init__(self, content):
        self.content, self.size = content, len(content)

    def read(self, offset, length):
        return self.content[offset : offset + length]


contents = st.lists(st.tuples(st.integers(0, 20_000), st.binary(max_size=5)), max_size=6)
ranges = st.lists(st.tuples(st.integers(0, 20_000), st.integers(0, 900)), max_size=5)


def changed(left, right):
    blocks = []
    for changes in (left, right):
        content = bytearray(SIZE + 10)
        for at, data in changes:
            content[at : at + len(data)] = data
        blocks.append(Part(Bytes(bytes(content[:SIZE])), 0, SIZE, "memory"))
    return Changes(*blocks)


def unlike(changes):
    one, other = (part.read(0, SIZE) for part in (changes.one, changes.other))
    return [at for at in range(SIZE) if one[at] != other[at]]


@given(contents, contents, ranges)
def test_counting_agrees_with_comparing_byte_by_byte(left, right, taken):
    changes = changed(left, right)
    explained = [(start, start + length) for start, length in taken]
    offsets = [at for at in unlike(changes) if not any(start <= at < end for start, end in explained)]
    told = changes.told(changes.left(explained))
    if offsets:
        assert told.startswith(f"{len(offsets):,} byte")
        assert f"the first at {offsets[0]:,}: " in told
    else:
        assert told == ""


@given(contents, contents, ranges)
def test_touching_agrees_with_comparing_byte_by_byte(left, right, taken):
    changes = changed(left, right)
    for start, length in taken:
        touched = any(start <= at < start + length for at in unlike(changes))
        assert changes.touch([(start, start + length)]) == touched


@given(contents, contents, st.integers(0, 4), st.integers(1, 9000))
def test_a_window_has_what_differs_in_it(left, right, piece, size):
    changes = changed(left, right)
    start = piece * 4096
    parts = [Part(part.whole, start, min(size, SIZE - start), "window") for part in (changes.one, changes.other)]
    window = changes.window(*parts)
    assert window.told(window.left()) == Changes(*parts).told(Changes(*parts).left())


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60))), st.integers(0, 50))
def test_gaps_and_what_is_taken_cover_everything_once(taken, end):
    free = list(gaps(taken, end))
    covered = {at for start, stop in taken for at in range(start, stop)}
    assert {at for start, stop in free for at in range(start, stop)} == set(range(end)) - covered
    assert sum(stop - start for start, stop in free) == len(set(range(end)) - covered)


def test_what_stands_on_both_sides_is_shown():
    changes = changed([(5, b"\x01\x02")], [(6, b"\x03")])
    told = changes.told(changes.left())
    assert told == "2 bytes differ, the first at 5: 01 02 00 00 00 00 00 00 / 00 03 00 00 00 00 00 00"


def test_holes_are_not_read(tmp_path):
    """Two terabytes of nothing with one byte in them."""
    images = [tmp_path / "one.img", tmp_path / "other.img"]
    for image in images:
        with image.open("wb") as file:
            file.truncate(2 * 2**40)
        patch(image, 2**40, image.name.encode())
    subprocess.run(["sync", "-d", *images], check=True)
    with_table = b"\0" * 510 + struct.pack("<H", 0xAA55)
    for image in images:
        patch(image, 0, with_table)
    with open_image(images[0]) as one, open_image(images[1]) as other:
        parts = [Part(each.block, 0, each.block.size, each.block.name) for each in (one, other)]
        assert [piece.offset for piece in differing(*parts)] == [2**40]


@pytest.mark.parametrize("seconds, said", [(0, "1970-01-01T00:00:00Z"), (2**60, str(2**60)), (-(2**62), str(-(2**62)))])
def test_a_moment_no_calendar_has_is_a_number(seconds, said):
    assert moment(seconds) == said


def test_names_from_an_image_cannot_drive_the_terminal():
    assert "\x1b" not in str(Difference("file", "boot\x1b[2J", "/a\x1b", "mode", "x"))


def test_every_area_has_a_word_for_what_lies_outside_partitions():
    assert set(OUTSIDE) == set(AREAS)


def test_no_knob_is_empty():
    assert all(text.strip() == text and text for text in KNOBS.values())
