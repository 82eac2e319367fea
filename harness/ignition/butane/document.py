"""YAML documents as trees whose every part knows its line and column; bounded before they are believed.

Nothing is interpreted here: a scalar stays the text that was written, because only the field it belongs to says
whether `0644` is a number. Aliases and merge keys (`<<`) are followed; what they unfold to is counted first.
Butane reads its YAML with go-yaml; the differences kept on purpose are refusals: a second document, explicit tags
other than !!str, and keys that are not scalars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import yaml

from harness.ignition.butane.fault import Fault, Mark

SIZE_LIMIT: Final = 4 * 2**20  # bytes; large contents belong into files named by `local`
TEXT_LIMIT: Final = 16 * 2**20  # characters of all words, after aliases are followed
NODE_LIMIT: Final = 100_000  # after aliases are followed; as many values as an Ignition config may have
DEPTH_LIMIT: Final = 64
NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
MERGE: Final = "<<"
_TEXT_TAG: Final = "tag:yaml.org,2002:str"
_LOADER: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_START: Final = Mark(1, 1)


@dataclass(frozen=True, slots=True)
class Word:
    """A scalar: its text, and whether it was written without quotes (only then can it be a number or null)."""

    text: str
    is_plain: bool

    @property
    def is_null(self) -> bool:
        return self.is_plain and self.text in NULLS


@dataclass(frozen=True, slots=True)
class Member:
    """A key of a mapping: where the key stands, and its value."""

    key_at: Mark
    node: Raw


@dataclass(frozen=True, slots=True)
class Raw:
    """One node: a word, list or mapping; `weight` counts it and all it holds, `size` the characters of its words."""

    value: Word | list[Raw] | dict[str, Member]
    at: Mark
    weight: int = 1
    size: int = 0


@dataclass(slots=True)
class _Open:
    """A list or mapping of which not all has been read."""

    at: Mark
    anchor: str | None
    items: list[Raw] | None = None  # of a list
    members: dict[str, Member] | None = None  # of a mapping
    key: tuple[str, Mark] | None = None
    merges: list[Raw] | None = None


def read_document(raw: bytes) -> Raw:
    """The tree of the one document in `raw`. Raises Fault."""
    if len(raw) > SIZE_LIMIT:
        raise Fault(f"is larger than {SIZE_LIMIT:,} bytes", _START, "put large contents into files named by local")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as cause:
        line = raw.count(b"\n", 0, cause.start) + 1
        column = cause.start - raw.rfind(b"\n", 0, cause.start)
        raise Fault("is not UTF-8", Mark(line, column)) from cause
    builder = _Builder()
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as cause:
        mark = cause.problem_mark or cause.context_mark
        raise Fault(f"is not YAML: {cause.problem or cause.context}", _mark(mark) if mark else _START) from cause
    except yaml.YAMLError as cause:  # a character that YAML does not allow
        raise Fault(f"is not YAML: {str(cause).splitlines()[0][:80]}", _START) from cause
    if builder.root is None:
        raise Fault("is empty", _START, "a Butane config begins with variant: and version:")
    return builder.root


def _mark(mark: Any) -> Mark:
    return Mark(mark.line + 1, mark.column + 1)


class _Builder:
    """Makes a tree of the parser's events, without recursion."""

    def __init__(self) -> None:
        self.root: Raw | None = None
        self.stack: list[_Open] = []
        self.anchors: dict[str, Raw] = {}
        self.written = 0

    def take(self, event: Any) -> None:
        if isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            raise Fault("a second document begins", _mark(event.start_mark), "a Butane config is one YAML document")
        if isinstance(event, yaml.NodeEvent):
            self.written += 1
            if self.written > NODE_LIMIT:
                raise Fault(f"has more than {NODE_LIMIT:,} values", _mark(event.start_mark))
        if isinstance(event, yaml.ScalarEvent):
            _check_tag(event)
            _check_text(event)
            word = Word(event.value, not event.style)
            self._place(Raw(word, _mark(event.start_mark), size=len(event.value)), event.anchor)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise Fault(f'alias "*{event.anchor}" names nothing that was written before', _mark(event.start_mark))
            target = self.anchors[event.anchor]
            self._place(Raw(target.value, _mark(event.start_mark), target.weight, target.size), None)
        elif isinstance(event, yaml.CollectionStartEvent):
            _check_tag(event)
            self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()

    def _open(self, event: Any) -> None:
        opened = _Open(_mark(event.start_mark), event.anchor)
        if len(self.stack) >= DEPTH_LIMIT:
            raise Fault("is nested too deeply", opened.at, "no Butane config needs more than ten levels")
        if isinstance(event, yaml.SequenceStartEvent):
            opened.items = []
        else:
            opened.members = {}
        self.stack.append(opened)

    def _close(self) -> None:
        done = self.stack.pop()
        if done.items is not None:
            value: list[Raw] | dict[str, Member] = done.items
            parts = done.items
        else:
            members = done.members or {}
            for merged in done.merges or ():
                members = _merged(members, merged)
            value, parts = members, [member.node for member in members.values()]
        weight, size = 1 + sum(part.weight for part in parts), sum(part.size for part in parts)
        if weight > NODE_LIMIT:
            raise Fault(f"aliases unfold to more than {NODE_LIMIT:,} values", done.at)
        if size > TEXT_LIMIT:
            raise Fault(f"aliases unfold to more than {TEXT_LIMIT:,} characters", done.at)
        node = Raw(value, done.at, weight, size)
        self._place(node, done.anchor)

    def _place(self, node: Raw, anchor: str | None) -> None:
        if anchor is not None:
            self.anchors[anchor] = node
        if not self.stack:
            self.root = node
            return
        top = self.stack[-1]
        if top.items is not None:
            top.items.append(node)
        elif top.key is None:
            if not isinstance(node.value, Word):
                raise Fault("a key must be a word", node.at)
            top.key = (node.value.text, node.at)
        else:
            (text, at), top.key = top.key, None
            _add(top, text, at, node)


def _add(mapping: _Open, text: str, at: Mark, node: Raw) -> None:
    if text == MERGE:
        mapping.merges = [*(mapping.merges or ()), node]
        return
    members = mapping.members if mapping.members is not None else {}
    if text in members:
        raise Fault(f'"{_short(text)}" is written twice, first at {members[text].key_at}', at)
    members[text] = Member(at, node)


def _merged(members: dict[str, Member], source: Raw) -> dict[str, Member]:
    """With the keys of a `<<`, which never replace what is there."""
    for part in source.value if isinstance(source.value, list) else [source]:
        if not isinstance(part.value, dict):
            raise Fault("<< merges mappings only", source.at)
        members = part.value | members
    return members


def _check_tag(event: Any) -> None:
    if event.tag is not None and event.tag not in {"!", _TEXT_TAG}:
        raise Fault(f'the tag "{_short(event.tag)}" is not supported', _mark(event.start_mark))


def _check_text(event: Any) -> None:
    """Half a surrogate pair, which an escape may write, has no place in UTF-8."""
    try:
        event.value.encode()
    except UnicodeEncodeError as cause:
        raise Fault("holds a character that is none (a surrogate)", _mark(event.start_mark)) from cause


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
