"""One blob, read once: its digest and what is packed in it, however it is cut, and bounded."""

import gzip
import hashlib

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.containers.blobs import read_blob
from harness.errors import DamagedImage


def sha256(data):
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_a_bomb_is_not_unpacked_to_its_end(monkeypatch):
    monkeypatch.setattr("harness.containers.blobs.FREE", 2**20)
    bomb = zstd.compress(bytes(64 * 2**20), 19)
    blob = read_blob("x", [bomb])
    assert (blob.digest, blob.diff_id) == (sha256(bomb), "")
    assert "a decompression bomb?" in blob.damage
    assert blob.inner_size <= 16 * 2**20


def test_a_reader_that_fails_is_heard():
    def broken():
        yield gzip.compress(bytes(10))[:10]
        raise DamagedImage("no more")

    with pytest.raises(DamagedImage, match="no more"):
        read_blob("x", broken())


@settings(max_examples=100)
@given(data=st.binary(max_size=5000), cuts=st.integers(1, 700), packing=st.sampled_from(["", "gz", "zst"]))
def test_a_blob_is_the_same_however_it_is_cut(data, cuts, packing):
    packed = {"": data, "gz": gzip.compress(data), "zst": zstd.compress(data)}[packing]
    blob = read_blob("x", [packed[at : at + cuts] for at in range(0, len(packed), cuts)])
    whole = read_blob("x", [packed])
    assert blob == whole
    assert (blob.digest, blob.size) == (sha256(packed), len(packed))
    if packing:
        assert (blob.diff_id, blob.inner_size, blob.packing) == (sha256(data), len(data), packing)
