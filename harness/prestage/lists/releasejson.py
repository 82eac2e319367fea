"""The images of a release as JSON: `image-references` of its manifests, and what `oc adm release info -o json` says.

Both have an image stream: `spec.tags[]`, each with the operator's `name` and the pull spec in `from.name`; the second
has it in `references`, and names the release image in `image`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

from harness.errors import BadInput
from harness.ignition.locate import locate
from harness.prestage.lists.entry import Entry
from harness.prestage.lists.problem import Problem

MOST_VALUES = 200_000  # a real release has 20,000
LONGEST_TEXT = 65_536  # characters of one value
SHOWN = 60


def json_entries(text: str, where: str) -> Iterator[Entry | Problem]:
    """The entries of a release. Raises BadInput for what is no JSON, or JSON of something else."""
    document = _parsed(text, where)
    inside, stream = ("$.references", document["references"]) if "references" in document else ("$", document)
    spec = stream.get("spec") if isinstance(stream, dict) else None
    tags = spec.get("tags") if isinstance(spec, dict) else None
    if not isinstance(tags, list):
        raise BadInput(
            f"is JSON without {inside}.spec.tags",
            where=where,
            next_step="give image-references of a release, or oc adm release info -o json",
        )
    places = locate(text)
    if isinstance(image := document.get("image"), str):
        yield Entry(image, places.line("$.image"), "$.image", is_release=True)
    for index, tag in enumerate(tags):
        path = f"{inside}.spec.tags[{index}]"
        source = tag.get("from") if isinstance(tag, dict) else None
        pull_spec = source.get("name") if isinstance(source, dict) else None
        if not isinstance(pull_spec, str):
            yield Problem("bad-json", "has no pull spec (from.name)", places.line(path), path=path)
            continue
        name = tag.get("name")
        if not isinstance(name, str) or not name:
            yield Problem("bad-json", "has no name", places.line(path), path=path)
        path = f"{path}.from.name"
        yield Entry(pull_spec, places.line(path), path, name if isinstance(name, str) else "")


def _parsed(text: str, where: str) -> dict[str, Any]:
    if sum(map(text.count, ",[{")) > MOST_VALUES:
        raise BadInput(f"has more than {MOST_VALUES:,} values", where=where, next_step="a release has 20,000")
    if max(map(len, text.split('"'))) > LONGEST_TEXT:
        raise BadInput(f"has a value of more than {LONGEST_TEXT:,} characters", where=where)
    try:
        document = json.loads(text, parse_constant=_constant)
    except json.JSONDecodeError as cause:
        what = f"is not JSON: {cause.msg} (line {cause.lineno} column {cause.colno})"
        raise BadInput(what, where=where, next_step="is it cut off?") from cause
    except (RecursionError, ValueError) as cause:
        raise BadInput(f"is not JSON: {str(cause)[:SHOWN]}", where=where) from cause
    if not isinstance(document, dict):
        raise BadInput("is JSON but no object", where=where, next_step="give oc adm release info -o json")
    return document


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")
