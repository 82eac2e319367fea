"""Folders of recipes from strangers: whatever their index says, it is one error, and no file."""

import json

import pytest

from harness.delta.errors import DamagedRecipe
from harness.delta.family.listing import INDEX, read_index
from harness.delta.family.rehydrate import Wish, check_family
from suites.delta.small_family import refused


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda index: index["images"][1].update(name="../../escape"), "no plain name"),
        (lambda index: index["images"][1].update(name="/etc/passwd"), "no plain name"),
        (lambda index: index["images"][1].update(name=".."), "no plain name"),
        (lambda index: index["images"][1].update(name=""), "no plain name"),
        (lambda index: index["images"][1].update(name="a\0b"), "no plain name"),
        (lambda index: index["images"][1].update(name="-rf"), "no plain name"),
        (lambda index: index["images"][1].update(name="n" * 256), "no plain name"),
        (lambda index: index["images"][1].update(file="../set/x.recipe"), "no plain name"),
        (lambda index: index["images"][1].update(name=index["images"][0]["name"]), "twice"),
        (lambda index: index["images"][1].update(file=index["images"][0]["file"]), "twice"),
        (lambda index: index["images"][1].update(file=INDEX), "twice"),
        (lambda index: index["images"][1].update(bases=[index["images"][1]["name"]]), "before its base"),
        (lambda index: index["images"].reverse(), "before its base"),
        (lambda index: index["images"][1].update(bases=["x"] * 1000), "is not of this format"),
        (lambda index: index["images"][1].update(bases=[index["images"][0]["name"]] * 2), "twice"),
        (lambda index: index["images"][1].update(size=2**60), "is not of this format"),
        (lambda index: index["images"][1].update(size=-1), "is not of this format"),
        (lambda index: index["images"][1].update(sha256="A" * 64), "is not of this format"),
        (lambda index: index["images"][1].update(more=1), "is not of this format"),
        (lambda index: index.update(images={}), "is not of this format"),
        (lambda index: index.update(images=index["images"] * 1000), "is not of this format"),
        (lambda index: index.update(version=2), "version 2"),
        (lambda index: index["images"][1].update(sha256="0" * 64), "is no recipe of"),
        (lambda index: index["images"][1].update(bases=[]), "does not name"),
        (lambda index: index["images"][0].update(sha256="0" * 64), "does not name"),
        (lambda index: (index["images"][0].update(size=1), index.update(images=index["images"][:1])), "holds"),
    ],
)
def test_a_hostile_index_is_one_error_and_no_file(own, tmp_path, change, says):
    index = json.loads((own / INDEX).read_text())
    change(index)
    (own / INDEX).write_text(json.dumps(index))
    with pytest.raises(DamagedRecipe, match=says):
        check_family(own, Wish())
    refused("rehydrate", own, "--all", "-o", tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "own"] == []


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[" * 100_000, b"\xff\xfe", b'{"version":1}' + b" " * 5_000_000],
    ids=["empty", "cut", "deep", "binary", "long"],
)
def test_an_index_that_is_none_is_one_error(own, text):
    (own / INDEX).write_bytes(text)
    with pytest.raises(DamagedRecipe):
        read_index(own)
