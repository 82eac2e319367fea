"""tar-split records: what is read from them, and how bad ones are refused."""

import base64
import contextlib
import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.containers.tarsplit import crc64, read_tar_split
from harness.errors import DamagedImage


def test_crc64_is_that_of_the_iso_standard():
    assert crc64([b"1234", b"56789"]).hex() == "b90956c775a41001"  # check value of CRC-64/GO-ISO


def tar_split(*lines):
    return [gzip.compress(b"\n".join(json.dumps(line).encode() for line in lines))]


@pytest.mark.parametrize(
    "packed, what",
    [
        ([], "is truncated"),
        ([b"plain text"], "not a sound gzip file"),
        ([gzip.compress(b"{}") + b"more"], "goes on behind its end"),
        (tar_split([]), "line 1 is no tar-split record"),
        (tar_split({"type": 3}), "line 1 has type 3"),
        (tar_split({"type": 1, "size": -1}), "line 1 has type 1 and size -1"),
        (tar_split({"type": 1, "name": "x"}), "the tar header before 'x' is unreadable"),
        ([gzip.compress(bytes(9 * 2**20))], "has a line of more than"),
        (tar_split({"type": 2, "payload": base64.b64encode(bytes(512)).decode()}, {"type": 1}), "is unreadable"),
    ],
)
def test_a_bad_tar_split_is_told_in_words(packed, what):
    with pytest.raises(DamagedImage, match=what):
        list(read_tar_split(packed))


@settings(max_examples=200)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"type": st.integers(1, 2), "size": st.integers(0, 2**70), "payload": st.binary(max_size=1100)}
        ),
        max_size=4,
    )
)
def test_a_random_tar_split_is_read_or_refused(lines):
    coded = [{**line, "payload": base64.b64encode(line["payload"]).decode()} for line in lines]
    with contextlib.suppress(DamagedImage):
        list(read_tar_split(tar_split(*coded)))
