"""Our generated JSON Schemas against the published ones: same verdict on sound configs and on mutated ones."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator, Draft202012Validator

from harness.ignition.schema import schema, violations
from harness.ignition.spec import KNOWN, ROOT, grammar, text_of

SAMPLES = {"str": "x", "int": 1, "bool": True}
SPEC_3 = [version for version in KNOWN if version >= (3, 0)]


@pytest.mark.parametrize("version", KNOWN, ids=text_of)
def test_a_generated_schema_is_a_schema(version):
    Draft202012Validator.check_schema(schema(version))


def full(version, kind=ROOT):
    """A document with every key that a specification has."""
    objects = grammar(version)
    document = {}
    for field in objects[kind].values():
        value = full(version, field.kind) if field.kind in objects else SAMPLES[field.kind]
        document[field.name] = [value] if field.is_list else value
    return document


def places(value, path=()):
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


def slices(document):
    """The same content as several small documents, one list or object of one section each."""
    for section, content in document.items():
        for key, value in content.items():
            yield {"ignition": {"version": "x"}} | {section: {"version": "x", key: value}}


def mutants(document):
    """The document with one value removed or replaced, for every place; changed in place and mended afterwards."""
    for path in list(places(document))[1:]:
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        sound = parent[path[-1]]
        for odd in (None, True, 7, "x", [], {}, [None], [{}], ["x"]):
            parent[path[-1]] = odd
            yield path, odd
        if isinstance(parent, dict):
            del parent[path[-1]]
            yield path, "removed"
        parent[path[-1]] = sound


@pytest.mark.parametrize("version", KNOWN, ids=text_of)
def test_a_document_with_every_key_is_valid(version):
    assert list(violations(full(version), version)) == []


@pytest.fixture(params=SPEC_3, ids=text_of, scope="module")
def published(request):
    corpus = request.config.getoption("--corpus", default=None)
    if corpus is None:
        pytest.skip("no corpus with the published schemas given (--corpus DIR)")
    version = request.param
    document = json.loads((Path(corpus) / "ignition-schema" / f"ignition-v3_{version[1]}.json").read_text())
    return version, Draft4Validator(document)


def test_every_single_mutation_gets_the_published_verdict(published):
    version, reference = published
    for document in slices(full(version)):
        for path, odd in mutants(document):
            ours = not list(violations(document, version))
            assert ours == reference.is_valid(document), (path, odd)


def test_the_tables_have_the_published_keys(published):
    """Validity cannot show a key that is missing from a table, for unknown keys are valid; so count them."""
    version, reference = published

    def keys(node):
        if isinstance(node, dict):
            properties = node.get("properties", {})
            found = set(properties) if isinstance(properties, dict) else set()
            return found.union(*map(keys, node.values()))
        return set().union(*map(keys, node)) if isinstance(node, list) else set()

    assert keys(reference.schema) == {name for fields in grammar(version).values() for name in fields}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_several_mutations_at_once_get_the_published_verdict(published, data):
    version, reference = published
    document = full(version)
    for _ in range(data.draw(st.integers(1, 4))):
        path = data.draw(st.sampled_from(list(places(document))[1:]))
        parent = document
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = data.draw(st.sampled_from([None, True, 7, "x", [], {}, [None], {"name": "x"}]))
    assert (not list(violations(document, version))) == reference.is_valid(document)
