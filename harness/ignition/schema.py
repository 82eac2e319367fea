"""JSON Schemas (draft 2020-12) for the Ignition specifications, generated from the tables of `spec`.

A schema judges types and required keys. Unknown keys are allowed by the published schemas and by Ignition, which
warns of them; `unknown_keys` finds them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, cast

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend

from harness.ignition.finding import Finding
from harness.ignition.spec import ROOT, Field, Version, grammar, introduced, text_of

JSON_TYPES = {"str": "string", "int": "integer", "bool": "boolean"}
GO_INTEGERS = range(-(2**63), 2**63)  # what fits into the `int` Ignition reads numbers with
WORDS = {"string": "a string", "integer": "an integer", "boolean": "true or false", "object": "an object"}
WORDS |= {"array": "a list", "null": "null"}


def schema(version: Version) -> dict[str, Any]:
    """The JSON Schema of a specification.

    >>> schema((3, 0))["$defs"]["dropin"]["required"]
    ['name']
    """
    objects = grammar(version)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Ignition {text_of(version)}",
        "$ref": f"#/$defs/{ROOT}",
        "$defs": {
            name: {
                "type": "object",
                "properties": {field.name: _field_schema(field) for field in fields.values()},
                "required": [field.name for field in fields.values() if field.is_required],
            }
            for name, fields in objects.items()
        },
    }


def violations(document: object, version: Version) -> Iterator[Finding]:
    """Every place where a document breaks its schema.

    A null where the schema wants none is only a warning: Ignition reads it as an absent key.
    """
    for error in _validator(version).iter_errors(document):
        yield _finding(error)


def unknown_keys(document: object, version: Version) -> Iterator[Finding]:
    """A warning for every key that the declared specification does not have; Ignition ignores those."""
    return _unknown(document, "$", ROOT, version)


def without_nulls(document: object, version: Version) -> dict[str, Any]:
    """The document as Ignition's parser sees it: only known keys, and nulls read as absent or as zero values.

    Expects a document with the right types.
    """
    pruned = _pruned(document, ROOT, version)
    return pruned if isinstance(pruned, dict) else {}


def _field_schema(field: Field) -> dict[str, Any]:
    kind = JSON_TYPES.get(field.kind)
    value: dict[str, Any] = {"type": kind} if kind else {"$ref": f"#/$defs/{field.kind}"}
    if field.is_nullable:
        value = {"type": [kind, "null"]} if kind else {"anyOf": [{"type": "null"}, value]}
    return {"type": "array", "items": value} if field.is_list else value


@cache
def _validator(version: Version) -> Draft202012Validator:
    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", _is_integer)
    kind = extend(Draft202012Validator, type_checker=checker)  # type: ignore[no-untyped-call]
    return cast("Draft202012Validator", kind(schema(version)))


def _is_integer(_checker: object, value: object) -> bool:
    """Unlike JSON Schema, Ignition does not take 1.0 for an integer."""
    return isinstance(value, int) and not isinstance(value, bool) and value in GO_INTEGERS


def _finding(error: ValidationError) -> Finding:
    if error.validator == "anyOf":  # null or an object: the second branch tells what is wrong
        branch = [inner for inner in error.context or () if inner.schema_path[0] == 1]
        if branch:
            return _finding(branch[0])
    path, wanted = json_path(error.absolute_path), cast("Any", error.validator_value)
    if error.validator == "required":
        missing = next(key for key in wanted if error.message.startswith(f"'{key}'"))
        return Finding(path, f'"{missing}" is required', origin="schema")
    words = " or ".join(WORDS[kind] for kind in ([wanted] if isinstance(wanted, str) else wanted))
    if error.instance is None:
        return Finding(path, f"is null; the specification wants {words}", "warning", "schema")
    return Finding(path, f"must be {words}, found {_shown(error.instance)}", origin="type")


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def json_path(parts: Any) -> str:
    """`$.storage.files[0]` from its parts."""
    return "$" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)


def _unknown(value: object, path: str, kind: str, version: Version) -> Iterator[Finding]:
    if isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _unknown(entry, f"{path}[{index}]", kind, version)
    fields = grammar(version).get(kind)
    if not isinstance(value, dict) or fields is None:
        return
    for key, inner in value.items():
        if key in fields:
            yield from _unknown(inner, f"{path}.{key}", fields[key].kind, version)
        else:
            yield Finding(f"{path}.{key}", _unknown_words(key, kind, version), "warning")


def _unknown_words(key: str, kind: str, version: Version) -> str:
    newer = introduced(kind, key, version[0])
    if newer and newer > version:
        return f"ignored: it came with spec {text_of(newer)}, this config declares {text_of(version)}"
    for name in grammar(version)[kind]:
        if name.lower() == key.lower():
            return f'must be spelled "{name}" (Ignition may read it nevertheless; nothing else does)'
    return f"unknown key, ignored by Ignition {text_of(version)}"


def _pruned(value: Any, kind: str, version: Version) -> Any:
    fields = grammar(version).get(kind)
    if fields is None:
        return value
    if not isinstance(value, dict):
        return {}
    return {
        key: [_element(entry, fields[key].kind, version) for entry in inner]
        if isinstance(inner, list)
        else _pruned(inner, fields[key].kind, version)
        for key, inner in value.items()
        if key in fields and inner is not None
    }


def _element(value: Any, kind: str, version: Version) -> Any:
    if value is None:
        return {"str": "", "int": 0, "bool": False}.get(kind, {})
    return _pruned(value, kind, version)
