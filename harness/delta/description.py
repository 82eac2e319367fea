"""What a recipe says of itself, for people and for programs: `harness recipe show`."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from harness.delta.containers.dissection import outline
from harness.delta.ops import BASE, LITERAL, SELF, ZERO
from harness.delta.recipe import VERSION, Base, Identity, Recipe, Section

MAKERS = {ZERO: "zeroes", LITERAL: "literals", SELF: "the target itself"}


class Origin(msgspec.Struct, frozen=True):
    """How many bytes of the target come from where, in how many operations."""

    source: str  # "zeroes", "literals", "the target itself", "base 0", ...
    bytes: int
    operations: int


class Description(msgspec.Struct, frozen=True, omit_defaults=True):
    """A recipe. Sizes are bytes; `layers` and `relies_on` are of its plan: containers from the outermost, libraries."""

    version: int
    size: int
    makes: Identity  # the file that comes out
    target: Identity  # what operations make: that file, or the content that the plan makes it of
    bases: list[Base]
    origins: list[Origin]
    ops: list[Section]
    literals: list[Section]
    codecs: dict[str, str]
    wrapped: Identity | None = None
    plan: Section | None = None
    layers: list[str] = []
    relies_on: list[str] = []


def describe(recipe: Recipe) -> Description:
    """All that a recipe tells. Raises DamagedRecipe, and DamagedImage for a plan that cannot be read."""
    header = recipe.header
    plan = outline(b"".join(recipe.content(header.plan))) if header.plan else None
    return Description(
        VERSION,
        recipe.size,
        header.wrapped or header.target,
        header.target,
        header.bases,
        list(_origins(recipe)),
        header.ops,
        header.literals,
        header.codecs,
        header.wrapped,
        header.plan,
        list(plan.layers) if plan else [],
        list(plan.codecs) if plan else [],
    )


def _origins(recipe: Recipe) -> Iterator[Origin]:
    bytes_of: dict[int, int] = {}
    count_of: dict[int, int] = {}
    for op in recipe.ops():
        bytes_of[op.kind] = bytes_of.get(op.kind, 0) + op.length
        count_of[op.kind] = count_of.get(op.kind, 0) + 1
    for kind in sorted(bytes_of):
        yield Origin(MAKERS.get(kind, f"base {kind - BASE}"), bytes_of[kind], count_of[kind])


def to_json(description: Description) -> bytes:
    """One JSON document, the same for the same recipe."""
    return msgspec.json.format(msgspec.json.encode(description), indent=2) + b"\n"


def render(description: Description) -> str:
    """The recipe in a few lines."""
    made = description.makes
    lines = [
        f"recipe    version {description.version}, {description.size:,} bytes",
        f"makes     {made.size:,} bytes, SHA-256 {made.sha256}",
    ]
    if description.wrapped:
        layers = " around ".join(description.layers)
        lines.append(f"as        {layers}, around {description.target.size:,} bytes of content")
    lines += [f"relies on {library}" for library in description.relies_on]
    for number, base in enumerate(description.bases):
        lines.append(f"base {number:<4} {base.size:,} bytes, SHA-256 {base.sha256}")
        if base.view:
            lines.append(f"  seen as {base.view.kind}: {base.view.size:,} bytes")
    lines.append("of the content come")
    lines += [
        f"  {origin.bytes:>18,} bytes from {origin.source}, in {origin.operations:,} operations"
        for origin in description.origins
    ]
    lines.append("in the file are")
    named = [
        *(("operations", each) for each in description.ops),
        *(("literals", each) for each in description.literals),
    ]
    named += [("plan", description.plan)] if description.plan else []
    lines += [f"  {each.stored:>18,} bytes of {name}, by {each.codec} from {each.raw:,}" for name, each in named]
    return "\n".join(lines)
