"""Packed blocks of filesystems: every codec gives the bytes back, and never more than was allowed."""

from __future__ import annotations

import lzma
import random
import zlib

import pytest
from backports import zstd
from fs_explorer.codecs import registry

from harness.errors import DamagedImage, UnsupportedImage
from harness.images.filesystems import listings
from harness.images.filesystems.listings import KEPT, Listings
from harness.images.filesystems.packed import unpack

CONTENT = b"some words, " * 5000


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


PACKERS = {
    "zlib": zlib.compress,
    "deflate": deflate,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zstd": zstd.compress,
    "lz4": lambda data: registry.compress("lz4", data),
}


@pytest.fixture(params=PACKERS)
def codec(request):
    return request.param


def test_a_block_is_unpacked(codec):
    assert unpack(codec, PACKERS[codec](CONTENT), len(CONTENT), "x") == CONTENT


@pytest.mark.parametrize("content", [CONTENT, bytes(50_000_000)], ids=["slightly", "a bomb"])
def test_a_block_that_holds_more_is_refused(codec, content):
    with pytest.raises(DamagedImage, match=f"x: a block packed with {codec}"):
        unpack(codec, PACKERS[codec](content), len(CONTENT) - 1, "x")


def test_a_block_that_ends_early_is_refused(codec):
    with pytest.raises(DamagedImage, match="ends early"):
        unpack(codec, PACKERS[codec](CONTENT)[:-9], len(CONTENT), "x")


@pytest.mark.parametrize("codec", [*PACKERS, "lzo"])
def test_noise_is_refused_or_bounded(codec):
    rng = random.Random(codec)
    for _ in range(300):
        try:
            found = unpack(codec, rng.randbytes(rng.randrange(60)), 5000, "x")
        except DamagedImage:
            continue
        assert len(found) <= 5000


def test_a_codec_that_nobody_knows_is_named():
    with pytest.raises(UnsupportedImage, match="its brotli compression"):
        unpack("brotli", b"", 1, "x")


def test_listings_forget_the_oldest_but_not_a_long_one():
    read = []

    def names(number):
        read.append(number)
        return ((f"{index}", index) for index in range(KEPT if number == 1 else 10))

    found = Listings(names, "x")
    for number in (1, 1, 2, 3, 1, 1):
        assert len(found[number]) == (KEPT if number == 1 else 10)
    assert read == [1, 2, 3, 1]


def test_directories_that_share_a_long_list_are_refused_in_time(monkeypatch):
    monkeypatch.setattr(listings, "MOST_READ", 1000)
    found = Listings(lambda _: ((f"{index}", index) for index in range(400)), "x")
    assert len(found[1]) == len(found[2]) == len(found[1]) == 400
    with pytest.raises(DamagedImage, match="impossibly long"):
        found[3]


def test_a_directory_with_a_name_twice_is_damaged():
    with pytest.raises(DamagedImage, match="has the name 'a' twice"):
        Listings(lambda _: [("a", 1), ("a", 2)], "x")[0]
