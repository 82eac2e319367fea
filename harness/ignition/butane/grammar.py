"""The fields of Butane's language: those of Ignition in snake_case, and what Butane adds to them.

A line of SUGAR is one object, written as in `harness.ignition.spec`; `@first` is the minor version of fcos.
Facts: the documentation of the configuration specifications fcos 1.0 to 1.6 and openshift 4.8 to 4.22.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Final

from harness.ignition.butane.dialect import DIALECTS, Dialect
from harness.ignition.spec import FIELD, ROOT, grammar

SUGAR: Final = """
config            variant!:str version!:str boot_device:boot_device@3 grub:grub@5
resource          inline:str local:str@1
filesystem        with_mount_unit:bool@1
storage           trees:tree[]@1
tree              local!:str path:str
unit              contents_local:str@5
dropin            contents_local:str@5
user              ssh_authorized_keys_local:str[]@5
boot_device       layout:str luks:boot_luks mirror:mirror
boot_luks         tang:tang[] threshold:int tpm2:bool discard:bool@5 device:str@6 cex:cex@6
mirror            devices:str[]
grub              users:grub_user[]
grub_user         name!:str password_hash!:str
"""

OPENSHIFT: Final = """
config            metadata!:metadata openshift:openshift
metadata          name!:str labels!:labels
openshift         kernel_type:str kernel_arguments:str[] extensions:str[] fips:bool
"""

LABELS: Final = "labels"  # the kind of a mapping with any keys, whose values are strings


@dataclass(frozen=True, slots=True)
class Field:
    """One key of one object; `becomes` is its name in Ignition, empty for what only Butane knows."""

    name: str
    kind: str
    is_list: bool
    becomes: str


Fields = Mapping[str, Mapping[str, Field]]


def snake(name: str) -> str:
    """An Ignition key as Butane writes it.

    >>> snake("sizeMiB"), snake("noCreateHome")
    ('size_mib', 'no_create_home')
    """
    return re.sub("MiB|[A-Z]", lambda match: "_" + match[0].lower(), name)


@cache
def fields_of(dialect: Dialect) -> Fields:
    """The objects of a dialect and their fields, by name."""
    objects: dict[str, dict[str, Field]] = {
        kind: {snake(field.name): Field(snake(field.name), field.kind, field.is_list, field.name) for field in fields}
        for kind, fields in ((kind, known.values()) for kind, known in grammar(dialect.spec).items())
    }
    del objects["ignition"]["version"]
    for table in (SUGAR, OPENSHIFT) if dialect.is_openshift else (SUGAR,):
        for kind, fields in _table(table).items():
            objects.setdefault(kind, {}).update({field.name: field for field, since in fields if since <= dialect.base})
    return objects


def introduced(kind: str, key: str, dialect: Dialect) -> Dialect | None:
    """The first version of the same variant that has a key which `dialect` lacks."""
    kinds = [kind, "resource"] if kind in {"reference", "authority"} else [kind]
    for later in DIALECTS:
        if later.variant == dialect.variant and later.version > dialect.version:
            objects = fields_of(later)
            if any(key in objects.get(known, {}) for known in kinds):
                return later
    return None


@cache
def _table(text: str) -> Mapping[str, tuple[tuple[Field, int], ...]]:
    lines = (line.split() for line in text.splitlines() if line)
    return {words[0]: tuple(map(_field, words[1:])) for words in lines}


def _field(word: str) -> tuple[Field, int]:
    match = FIELD.fullmatch(word)
    if match is None:
        raise ValueError(word)
    return Field(match["name"], match["kind"], bool(match["many"]), ""), int(match["since"] or 0)


__all__ = ["LABELS", "ROOT", "Field", "Fields", "fields_of", "introduced", "snake"]
