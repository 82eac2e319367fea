"""What an external test says of itself: a header in its comments, or a kola.json beside it.

The format is coreos-assembler's (docs/kola/external-tests.md, mantle/kola/harness.go): `## kola:` and YAML in lines
that begin with `## `, or, older, one line of JSON after `# kola:`. Unknown keys are errors, as there. Keys that ask for
something we cannot give are remembered, so that the test is skipped by name instead of running without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import yaml

from harness.errors import BadInput

YAML_MARK, YAML_LINE, JSON_MARK = "## kola:", "## ", "# kola:"
READ_LIMIT = 64 * 1024  # bytes of a test in which a header is looked for; kola looks at 8 KiB
MOST_MINUTES = 24 * 60

Kind = Literal["switch", "count", "text", "words", "texts"]
KEYS: Final[Mapping[str, Kind]] = {
    "additionalDisks": "texts",
    "additionalNics": "count",
    "allowConfigWarnings": "switch",
    "appendFirstbootKernelArgs": "text",
    "appendKernelArgs": "text",
    "architectures": "words",
    "bindMountHostRO": "texts",
    "bootFrom": "text",
    "conflicts": "texts",
    "creationDate": "text",
    "description": "text",
    "distros": "words",
    "exclusive": "switch",
    "injectContainer": "switch",
    "instanceType": "text",
    "minDisk": "count",
    "minMemory": "count",
    "noInstanceCreds": "switch",
    "numaNodes": "switch",
    "platforms": "words",
    "primaryDisk": "texts",
    "requiredHostPorts": "texts",
    "requiredTag": "text",
    "tags": "words",
    "timeoutMin": "count",
}
WANTED: Final[Mapping[Kind, str]] = {
    "switch": "true or false",
    "count": "a whole number",
    "text": "a text",
    "words": "words",
    "texts": "a list",
}
# These change what the test runs on, in ways that we cannot offer.
UNSUPPORTED: Final = (
    "additionalDisks",
    "additionalNics",
    "appendFirstbootKernelArgs",
    "appendKernelArgs",
    "bindMountHostRO",
    "bootFrom",
    "injectContainer",
    "minDisk",
    "numaNodes",
    "primaryDisk",
    "requiredHostPorts",
)


@dataclass(frozen=True, slots=True)
class Scope:
    """Names for which a test is meant, or with a leading `!` for which it is not. An empty one is meant for all."""

    names: tuple[str, ...] = ()
    is_exclusion: bool = False

    def admits(self, name: str) -> bool:
        """Whether `name` is within.

        >>> Scope(("qemu", "aws")).admits("qemu"), Scope(("qemu",), is_exclusion=True).admits("qemu")
        (True, False)
        """
        return not self.names or (name in self.names) != self.is_exclusion

    def __str__(self) -> str:
        return ("!" if self.is_exclusion else "") + " ".join(self.names)


@dataclass(frozen=True, slots=True)
class Metadata:
    """A test's header. `minutes` is 0 and `memory` (MiB) is 0 where it says nothing; `unsupported` are keys it uses."""

    exclusive: bool = True
    conflicts: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    required_tag: str = ""
    minutes: int = 0
    memory: int = 0
    architectures: Scope = Scope()
    platforms: Scope = Scope()
    distros: Scope = Scope()
    description: str = ""
    unsupported: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Entry:
    value: Any
    line: int  # counts from 1


def read_header(path: Path) -> Metadata | None:
    """The metadata inside an executable, or None where it has none. Raises BadInput naming file and line."""
    try:
        with path.open("rb") as file:
            lines = file.read(READ_LIMIT).decode(errors="replace").split("\n")
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path)) from cause
    for number, line in enumerate(lines):
        if line.startswith(YAML_MARK):
            return _metadata(_yaml_entries(path, lines, number), path)
        if line.startswith(JSON_MARK):
            return _metadata(_json_entries(path, line.removeprefix(JSON_MARK), number), path)
    return None


def read_kola_json(path: Path) -> Metadata:
    """The metadata of a folder's kola.json. Raises BadInput naming file and line."""
    try:
        return _metadata(_json_entries(path, path.read_text(encoding="utf-8", errors="replace")[:READ_LIMIT], 0), path)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path)) from cause


def _yaml_entries(path: Path, lines: list[str], start: int) -> dict[str, _Entry]:
    """`start` is the index of the line with the mark; blank lines keep its place, so that YAML counts as we do."""
    if (rest := lines[start].removeprefix(YAML_MARK).strip()) and not rest.startswith("#"):
        raise _wrong(f"says {rest[:80]!r} after {YAML_MARK!r}: keys belong on the next lines", path, start + 1)
    body = []
    for line in lines[start + 1 :]:
        if not line.startswith(YAML_LINE):
            break
        body.append(line.removeprefix(YAML_LINE))
    text = "\n" * (start + 1) + "\n".join(body)
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as cause:
        mark = getattr(cause, "problem_mark", None)
        problem = getattr(cause, "problem", None) or "cannot be understood"
        raise _wrong(f"is no YAML: {problem}", path, mark.line + 1 if mark else start + 1) from cause
    except (ValueError, RecursionError) as cause:  # a date of month 13; a hundred brackets
        raise _wrong(f"is no YAML we can read: {str(cause)[:80]}", path, start + 1) from cause
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode) or not isinstance(values, dict):
        raise _wrong("is no list of keys and values", path, node.start_mark.line + 1)
    entries: dict[str, _Entry] = {}
    for key_node, _ in node.value:
        line, key = key_node.start_mark.line + 1, str(key_node.value)
        if key in entries:
            raise _wrong(f"says {key!r} twice", path, line)
        entries[key] = _Entry(values.get(key), line)
    return entries


def _json_entries(path: Path, text: str, before: int) -> dict[str, _Entry]:
    """`before` is how many lines of the file come before the text."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as cause:
        raise _wrong(f"is no JSON: {cause.msg}", path, before + cause.lineno) from cause
    except RecursionError as cause:
        raise _wrong("is no JSON we can read: too deep", path, before + 1) from cause
    if not isinstance(values, dict):
        raise _wrong("is no JSON object", path, before + 1)
    return {key: _Entry(value, before + text.partition(f'"{key}"')[0].count("\n") + 1) for key, value in values.items()}


def _metadata(entries: Mapping[str, _Entry], path: Path) -> Metadata:
    for key, entry in entries.items():
        if key not in KEYS:
            raise _wrong(f"says {key!r}, which is no key of kola's (known: {', '.join(KEYS)})", path, entry.line)
    values = {key: _value(key, entry, path) for key, entry in entries.items()}
    minutes = values.get("timeoutMin", 0)
    if "timeoutMin" in values and not 1 <= minutes <= MOST_MINUTES:
        raise _wrong(f"has timeoutMin {minutes}, not 1 to {MOST_MINUTES}", path, entries["timeoutMin"].line)
    return Metadata(
        exclusive=values.get("exclusive", True),
        conflicts=values.get("conflicts", ()),
        tags=values.get("tags", ()),
        required_tag=values.get("requiredTag", ""),
        minutes=minutes,
        memory=values.get("minMemory", 0),
        architectures=_scope(values.get("architectures", ())),
        platforms=_scope(values.get("platforms", ())),
        distros=_scope(values.get("distros", ())),
        description=values.get("description", ""),
        unsupported=tuple(key for key in UNSUPPORTED if values.get(key)),
    )


def _value(key: str, entry: _Entry, path: Path) -> Any:
    """The value as its kind has it: bool, int, str, or a tuple of strings."""
    kind, value = KEYS[key], entry.value
    listed = value if isinstance(value, list) else [value]
    are_plain = all(isinstance(one, str | int | float) and not isinstance(one, bool) for one in listed)
    if kind == "switch" and isinstance(value, bool):
        return value
    if kind == "count" and isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if kind == "text" and value is not None and not isinstance(value, list | dict):
        return str(value)
    if kind == "words" and are_plain:
        return tuple(word for one in listed for word in str(one).split())
    if kind == "texts" and are_plain:
        return tuple(map(str, listed))
    raise _wrong(f"has {key} {value!r:.80}, not {WANTED[kind]}", path, entry.line)


def _scope(words: tuple[str, ...]) -> Scope:
    """A `!` before the first name is about all of them."""
    if words and words[0].startswith("!"):
        return Scope(tuple(filter(None, (words[0][1:], *words[1:]))), is_exclusion=True)
    return Scope(words)


def _wrong(what: str, path: Path, line: int) -> BadInput:
    return BadInput(f"the metadata {what}", where=f"{path}:{line}")
