"""Contents as data: URLs: Butane's choice of encoding, and that nothing is lost."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.ignition.butane.embed import embedded, escaped
from harness.ignition.source import decode_data_url, unfold


@pytest.mark.parametrize(
    "content, expected",
    [  # Butane's published test data, but for the gzip bytes
        (b"", ("data:,", "")),
        (b"tree/overridden-executable", ("data:,tree%2Foverridden-executable", "")),
        (b"[updates]\nenabled = false\n", ("data:,%5Bupdates%5D%0Aenabled%20%3D%20false%0A", "")),
        (b"-_.!~*'()", ("data:,-_.!~*'()", "")),
        (bytes(range(128, 140)), ("data:;base64,gIGCg4SFhoeIiYqL", "")),
    ],
)
def test_the_shortest_encoding_is_chosen(content, expected):
    assert embedded(content, may_compress=True) == expected


@pytest.mark.parametrize(
    "content, compression",
    [(b"tree" + b"/subdir" * 9 + b"/file", "gzip"), (random.Random(1).randbytes(999), "")],
    ids=["repeats itself", "noise"],
)
def test_contents_are_compressed_where_that_is_shorter(content, compression):
    """The first is of Butane's test data, which it compresses."""
    source, found = embedded(content, may_compress=True)
    assert (found, unfold(decode_data_url(source), found)) == (compression, content)


@given(st.binary(max_size=400) | st.text(max_size=60).map(lambda text: text.encode() * 20), st.booleans())
def test_whatever_is_embedded_can_be_read_again(content, may_compress):
    source, compression = embedded(content, may_compress=may_compress)
    assert unfold(decode_data_url(source), compression) == content
    assert decode_data_url(escaped(content)) == content
    assert len(source) <= len(escaped(content))


def test_equal_contents_give_equal_bytes():
    assert len({embedded(b"a line\n" * 500, may_compress=True) for _ in range(3)}) == 1
