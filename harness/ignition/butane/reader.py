"""Typed values of a Butane config, each with its place: the tree read by the grammar of its dialect.

What the dialect does not know is refused. Butane itself only warns of unknown keys, and drops them; a key that was
meant to do something and does nothing is the worse surprise. Scalars follow go-yaml: any scalar can be a string, only
an unquoted one can be a number or a boolean, 0644 is octal, and null is the same as not given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from harness.ignition.butane.dialect import Dialect, UnknownDialect, dialect_of
from harness.ignition.butane.document import Member, Raw, Word
from harness.ignition.butane.fault import Fault, Mark
from harness.ignition.butane.grammar import LABELS, ROOT, Field, fields_of, introduced

TRUE: Final = frozenset({"true", "True", "TRUE", "y", "Y", "yes", "Yes", "YES", "on", "On", "ON"})
FALSE: Final = frozenset({"false", "False", "FALSE", "n", "N", "no", "No", "NO", "off", "Off", "OFF"})
INTEGER: Final = re.compile(r"[-+]?(?:0[xX][0-9A-Fa-f]+|0[bB][01]+|0|0[oO]?[0-7]+|[1-9][0-9]*)", re.ASCII)
GO_INTEGERS: Final = range(-(2**63), 2**63)
DIGITS: Final = 80  # no 64-bit number is written longer than that


@dataclass(frozen=True, slots=True)
class Node:
    """A value (str, int, bool, list of nodes, or object of nodes by key) and where it was written."""

    value: Any
    at: Mark

    def get(self, *keys: str) -> Node | None:
        """What lies below these keys, or None."""
        found: Node | None = self
        for key in keys:
            if found is None or not isinstance(found.value, dict):
                return None
            found = found.value.get(key)
        return found

    def plain(self, *keys: str, default: Any = None) -> Any:
        """The string, number or boolean below these keys."""
        found = self.get(*keys)
        return default if found is None else found.value

    def each(self, *keys: str) -> Iterator[Node]:
        """The entries of the list below these keys; none where there is no such list."""
        found = self.get(*keys)
        return iter(found.value) if found is not None else iter(())


def read_dialect(document: Raw) -> Dialect:
    """The dialect that `variant` and `version` name. Raises Fault."""
    if not isinstance(document.value, dict):
        raise Fault("is not a mapping", document.at, "a Butane config begins with variant: and version:")
    words = [_word(document, key) for key in ("variant", "version")]
    try:
        return dialect_of(words[0].value, words[1].value)
    except UnknownDialect as cause:
        raise Fault(str(cause), words[cause.is_version].at) from cause


def read_fields(document: Raw, dialect: Dialect) -> Node:
    """The whole config. Raises Fault at the first thing that the dialect does not know."""
    return _object(document, ROOT, dialect, "the config")


def _word(document: Raw, key: str) -> Node:
    members = document.value if isinstance(document.value, dict) else {}
    if key not in members:
        advice = "is this Ignition JSON? it needs no translation" if "ignition" in members and key == "variant" else ""
        raise Fault(f"{key} is missing", document.at, advice)
    found = members[key].node
    return Node(_text(found, key), found.at)


def _object(raw: Raw, kind: str, dialect: Dialect, where: str) -> Node:
    if not isinstance(raw.value, dict):
        raise Fault(f"{where} must be a mapping, found {_shown(raw)}", raw.at)
    fields = fields_of(dialect)[kind]
    read: dict[str, Node] = {}
    for key, member in raw.value.items():
        field = fields.get(key)
        if field is None:
            raise _unknown(key, member, kind, dialect)
        if not (isinstance(member.node.value, Word) and member.node.value.is_null):
            read[key] = _field(member.node, field, dialect)
    return Node(read, raw.at)


def _field(raw: Raw, field: Field, dialect: Dialect) -> Node:
    if not field.is_list:
        return _single(raw, field.kind, dialect, field.name)
    if not isinstance(raw.value, list):
        raise Fault(f"{field.name} must be a list, found {_shown(raw)}", raw.at)
    return Node([_single(item, field.kind, dialect, f"an entry of {field.name}") for item in raw.value], raw.at)


def _single(raw: Raw, kind: str, dialect: Dialect, where: str) -> Node:
    if kind == "str":
        return Node(_text(raw, where), raw.at)
    if kind == "int":
        return Node(_integer(raw, where), raw.at)
    if kind == "bool":
        return Node(_boolean(raw, where), raw.at)
    if kind == LABELS:
        if not isinstance(raw.value, dict):
            raise Fault(f"{where} must be a mapping, found {_shown(raw)}", raw.at)
        return Node({key: Node(_text(found.node, key), found.node.at) for key, found in raw.value.items()}, raw.at)
    return _object(raw, kind, dialect, where)


def _text(raw: Raw, where: str) -> str:
    if not isinstance(raw.value, Word) or raw.value.is_null:
        raise Fault(f"{where} must be a string, found {_shown(raw)}", raw.at)
    return raw.value.text


def _integer(raw: Raw, where: str) -> int:
    word = raw.value
    text = word.text.replace("_", "") if isinstance(word, Word) else ""
    if not isinstance(word, Word) or not word.is_plain or len(text) > DIGITS or not INTEGER.fullmatch(text):
        quoted = isinstance(word, Word) and not word.is_plain and INTEGER.fullmatch(text)
        raise Fault(f"{where} must be an integer, found {_shown(raw)}", raw.at, "remove the quotes" if quoted else "")
    number = int(re.sub(r"^([-+]?)0[oO]?(?=[0-7])", r"\g<1>0o", text), 0)
    if number not in GO_INTEGERS:
        raise Fault(f"{where} does not fit into 64 bits", raw.at)
    return number


def _boolean(raw: Raw, where: str) -> bool:
    if isinstance(raw.value, Word) and raw.value.is_plain and raw.value.text in TRUE | FALSE:
        return raw.value.text in TRUE
    raise Fault(f"{where} must be true or false, found {_shown(raw)}", raw.at)


def _unknown(key: str, member: Member, kind: str, dialect: Dialect) -> Fault:
    fields = fields_of(dialect)[kind]
    later = introduced(kind, key, dialect)
    shown = key if len(key) <= 40 else key[:37] + "..."
    if later is not None:
        return Fault(f'"{shown}" came with {later}; this config is {dialect}', member.key_at, "raise its version")
    for field in fields.values():
        if key in {field.becomes, field.name.replace("_", "-")} or key.lower() == field.name:
            return Fault(f'unknown key "{shown}"', member.key_at, f'Butane spells it "{field.name}"')
    return Fault(f'unknown key "{shown}"', member.key_at, f"known here: {', '.join(sorted(fields))}"[:300])


def _shown(raw: Raw) -> str:
    if isinstance(raw.value, dict):
        return "a mapping"
    if isinstance(raw.value, list):
        return "a list"
    if raw.value.is_null:
        return "nothing"
    text = " ".join(raw.value.text.split())
    text = text if len(text) <= 40 else text[:37] + "..."
    return text if raw.value.is_plain else f'"{text}"'
