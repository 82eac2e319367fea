"""One file with a list of images: what kind it is, by its content, and what it says, bounded before it is believed."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness.errors import BadInput
from harness.prestage.lists.entry import Entry
from harness.prestage.lists.problem import Problem
from harness.prestage.lists.reference import Reference, is_archive_name, meant_by
from harness.prestage.lists.releasejson import json_entries
from harness.prestage.lists.stages import BOTH, DISCOVERY, Stages, is_agent, stages_of
from harness.prestage.lists.textlist import MOST_LINES, is_mapping, mapping_entries, plain_entries

SIZE_LIMIT = 4 * 2**20  # bytes; oc adm release info -o json has less than one million
MOST_IMAGES = 5_000  # of a list; a release with all its operators has some hundreds
MOST_OF_DISCOVERY = 64  # images: real lists of that stage have 2 to 20, those of a release 160 and more
COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh")

ListKind = Literal["release", "discovery", "mapping", "json"]


@dataclass(frozen=True, slots=True)
class Row:
    """An entry with its pull spec; `is_sound` is false where that is guessed from the name of an archive."""

    entry: Entry
    reference: Reference
    stages: Stages
    is_sound: bool


@dataclass(frozen=True, slots=True)
class ListFile:
    """What one file lists, and what its lines have wrong, each by itself."""

    file: str
    kind: ListKind
    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]


def read_file(path: Path, kind: ListKind | None = None) -> ListFile:
    """Read a list of any kind, or of the kind given. Raises BadInput for what is no list at all."""
    file = os.fspath(path)
    return read_text(_text(path), file, kind)


def read_text(text: str, file: str, kind: ListKind | None = None) -> ListFile:
    """The same for a list that is in memory already; `file` is what messages call it."""
    text = text.removeprefix("\ufeff")
    if text.lstrip()[:1] in {"{", "["}:
        recognised: ListKind = "json"
        rows, problems = _rows(json_entries(text, file), file)
    elif text.count("\n") > MOST_LINES:
        raise BadInput(f"has more than {MOST_LINES:,} lines", where=file, next_step="is it a list of images?")
    elif is_mapping(text):
        recognised = "mapping"
        rows, problems = _rows(mapping_entries(text), file)
    else:
        rows, problems = _rows(plain_entries(text), file)
        is_discovery = len(rows) <= MOST_OF_DISCOVERY and any(is_agent(row.reference) for row in rows)
        recognised = "discovery" if is_discovery else "release"
    if not rows and not problems:
        problems.append(Problem("empty", "names no image", remedy="was the release found?"))
    if (kind or recognised) == "discovery":
        rows = [replace(row, stages=BOTH if row.stages == BOTH else DISCOVERY) for row in rows]
    return ListFile(file, kind or recognised, tuple(rows), tuple(problems))


def _rows(entries: Iterable[Entry | Problem], file: str) -> tuple[list[Row], list[Problem]]:
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, each in enumerate(entries):
        if number >= MOST_IMAGES:
            raise BadInput(f"has more than {MOST_IMAGES:,} entries", where=file, next_step="is it a list of images?")
        if isinstance(each, Problem):
            problems.append(each)
            continue
        reference, is_sound = None, True
        try:
            reference = Reference.parse(each.text)
        except BadInput as wrong:
            problems.append(_complaint(each, wrong))
            reference, is_sound = meant_by(each.text) if is_archive_name(each.text) else None, False
        if reference is not None:
            rows.append(Row(each, reference, stages_of(reference, each.name, is_release=each.is_release), is_sound))
    return rows, problems


def _complaint(entry: Entry, wrong: BadInput) -> Problem:
    if not is_archive_name(entry.text):
        return Problem("bad-reference", f"{wrong.where} {wrong.what}", entry.line, wrong.next_step, entry.path)
    meant = meant_by(entry.text)
    remedy = f"write {meant}" if meant else "write the pull spec, as the release has it"
    return Problem("archive-name", f"{wrong.where} names an archive, not an image", entry.line, remedy, entry.path)


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            what = "is not a regular file" if path.exists() else "does not exist"
            raise BadInput(what, where=str(path), next_step="give a list of images")
        with path.open("rb") as stream:
            raw = stream.read(SIZE_LIMIT + 1)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path)) from cause
    if len(raw) > SIZE_LIMIT:
        raise BadInput(f"is larger than {SIZE_LIMIT:,} bytes", where=str(path), next_step="is it a list of images?")
    if raw.startswith(COMPRESSED):
        raise BadInput("is compressed", where=str(path), next_step="is it an archive? Unpack a list first")
    try:
        text = raw.decode()
    except UnicodeDecodeError as cause:
        line = raw.count(b"\n", 0, cause.start) + 1
        raise BadInput(f"is not text (line {line})", where=str(path), next_step="give a list of images") from cause
    if "\0" in text:
        raise BadInput("is not text", where=str(path), next_step="give a list of images")
    return text
