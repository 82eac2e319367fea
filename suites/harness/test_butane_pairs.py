"""Other people's Butane configs beside the Ignition configs that butane or fcct made of them.

Compared as values. `contents` are compared by what they decode to, because the bytes of gzip are the compressor's and
old versions wrote no empty `compression`. Ignition of spec 2 was written by hand beside two .fcc files, for RHCOS
before 4.6: of those, the files and users are compared.
"""

import json
from pathlib import Path

import pytest

from harness.ignition.butane.translate import Options, translate
from harness.ignition.config import read_config
from harness.ignition.source import decode_data_url, unfold
from harness.ignition.validate import validate


def pairs(corpus):
    found = [path for suffix in ("bu", "fcc") for path in corpus.rglob(f"*.{suffix}")]
    return [(path, path.with_suffix(".ign")) for path in sorted(found) if path.with_suffix(".ign").exists()]


def decoded(value):
    """With every embedded resource replaced by its contents."""
    if isinstance(value, list):
        return [decoded(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    if str(value.get("source", "")).startswith("data:"):
        rest = {key: inner for key, inner in value.items() if key not in {"source", "compression"}}
        return rest | {"content": unfold(decode_data_url(value["source"]), value.get("compression") or "")}
    return {key: decoded(inner) for key, inner in value.items()}


def test_every_pair_of_the_corpus_is_the_same_config(corpus):
    different = {}
    for source, expected in pairs(corpus):
        found, wanted = translate(source).config, read_config(expected)
        if wanted.version < (3, 0):
            same = [(f.path, f.mode, f.content) for f in found.files()] == [
                (f.path, f.mode, f.content) for f in wanted.files()
            ] and found.users() == wanted.users()
        else:
            same = decoded(found.document) == decoded(wanted.document)
        if not same:
            different[source.name] = (found.document, wanted.document)
    assert different == {}
    assert len(pairs(corpus)) >= 9


def test_most_pairs_are_the_same_to_the_byte(corpus):
    """All but the two of spec 2, and one made before butane wrote an empty `compression`."""
    same = [
        source.name
        for source, expected in pairs(corpus)
        if translate(source, options=Options(pretty=True)).output.strip() == expected.read_bytes().strip()
    ]
    assert same == [
        "dest.bu",
        "live.bu",
        "fcos-40.config.bu",
        "rhcos-4.10.3.config.fcc",
        "rhcos-4.6.1.config.fcc",
        "image-composer-fcos-config.fcc",
    ]


def test_what_comes_out_of_the_corpus_is_valid_without_a_warning(corpus):
    warnings = {source.name: validate(translate(source).config).warnings for source, _ in pairs(corpus)}
    assert {name: found for name, found in warnings.items() if found} == {}


PAIRS = Path(__file__).with_name("butane")


@pytest.mark.parametrize("source", sorted(PAIRS.glob("*.bu")), ids=lambda path: path.name)
def test_our_own_pairs_do_not_change(source):
    """Written down once and read by a person: what the translator says today it says tomorrow."""
    made = translate(source, source.name, Options(PAIRS / "files", pretty=True))
    assert json.loads(made.output) == json.loads(source.with_suffix(".ign").read_bytes())
