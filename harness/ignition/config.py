"""Ignition configs as documents: read from disk, recognised by version, and asked what they will write.

Reading does not judge (see `validate`); but nothing here fails on a document that breaks its specification other
than with InvalidIgnition.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import BadInput, InvalidIgnition
from harness.ignition.source import decode_data_url, unfold
from harness.ignition.spec import KNOWN, Version, text_of

# Ignition itself sets no limit, but fw_cfg hands a file to the guest byte by byte and the config is held in memory
# several times over; the largest real ones (rendered machine configs) have about 1 MiB.
SIZE_LIMIT = 16 * 2**20  # bytes
VALUE_LIMIT = 100_000  # strings, numbers, lists and objects; judging that many takes some seconds
DEPTH_LIMIT = 64  # levels; the deepest key of a specification stands on the ninth
VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(-[0-9A-Za-z.\-]+)?")


@dataclass(frozen=True, slots=True)
class File:
    """A file a config writes; `content` is None where it is fetched from elsewhere or left alone."""

    path: str
    mode: int | None
    content: bytes | None
    source: str
    user: str | int | None
    group: str | int | None
    overwrite: bool | None


@dataclass(frozen=True, slots=True)
class Unit:
    """A systemd unit a config writes, enables or masks; drop-ins are pairs of name and contents."""

    name: str
    contents: str | None
    enabled: bool | None
    mask: bool | None
    dropins: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class User:
    """An account a config creates or changes."""

    name: str
    ssh_keys: tuple[str, ...]
    password_hash: str | None
    groups: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class KernelArguments:
    """What a config of spec 3.3 or later wants on the kernel command line, and what it does not."""

    should_exist: tuple[str, ...] = ()
    should_not_exist: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Config:
    """One config: its exact bytes, its document and the specification it declares."""

    name: str  # what messages call it: a path
    raw: bytes
    document: dict[str, Any]
    version: Version

    @property
    def spec(self) -> str:
        """The declared specification as written in the config: `3.2.0`."""
        return text_of(self.version)

    def files(self) -> tuple[File, ...]:
        """Every file of the config, contents decoded. Raises InvalidIgnition for contents that cannot be decoded."""
        return tuple(self._file(index, entry) for index, entry in enumerate(self._entries("storage", "files")))

    def units(self) -> tuple[Unit, ...]:
        """Every systemd unit of the config."""
        return tuple(
            Unit(
                name=_text(entry, "name") or "",
                contents=_text(entry, "contents"),
                enabled=_flag(entry, "enabled"),
                mask=_flag(entry, "mask"),
                dropins=tuple(
                    (_text(dropin, "name") or "", _text(dropin, "contents") or "")
                    for dropin in _objects(entry.get("dropins"))
                ),
            )
            for entry in self._entries("systemd", "units")
        )

    def users(self) -> tuple[User, ...]:
        """Every account of the config."""
        return tuple(
            User(
                name=_text(entry, "name") or "",
                ssh_keys=_texts(entry.get("sshAuthorizedKeys")),
                password_hash=_text(entry, "passwordHash"),
                groups=_texts(entry.get("groups")),
            )
            for entry in self._entries("passwd", "users")
        )

    def kernel_arguments(self) -> KernelArguments:
        """The kernel arguments of a config of spec 3.3 or later; empty for older ones, which cannot have any."""
        section = self.document.get("kernelArguments")
        if self.version < (3, 3) or not isinstance(section, dict):
            return KernelArguments()
        return KernelArguments(_texts(section.get("shouldExist")), _texts(section.get("shouldNotExist")))

    def _entries(self, section: str, key: str) -> Iterator[dict[str, Any]]:
        found = self.document.get(section)
        return _objects(found.get(key)) if isinstance(found, dict) else iter(())

    def _file(self, index: int, entry: dict[str, Any]) -> File:
        contents = entry.get("contents")
        resource = contents if isinstance(contents, dict) else {}
        source = _text(resource, "source") or ""
        content = None
        try:
            if source.startswith("data:"):
                content = unfold(decode_data_url(source), _text(resource, "compression") or "")
        except ValueError as cause:
            where = f"{self.name}: $.storage.files[{index}].contents.source"
            raise InvalidIgnition(str(cause), where=where) from cause
        if self.version < (3, 0) and isinstance(contents, dict) and not source:
            content = b""  # spec 2: a file without a source is an empty file
        mode = entry.get("mode")
        return File(
            path=_text(entry, "path") or "",
            mode=mode if isinstance(mode, int) and not isinstance(mode, bool) else None,
            content=content,
            source=source,
            user=_owner(entry.get("user")),
            group=_owner(entry.get("group")),
            overwrite=_flag(entry, "overwrite"),
        )


def read_config(source: Path | bytes, name: str = "") -> Config:
    """Read a config from a file or from its bytes; `name` is what messages call it.

    Raises BadInput for a path that cannot be read, and InvalidIgnition (with line and column) for bytes that are not
    a JSON object or declare no specification that we know.
    """
    if isinstance(source, bytes):
        name, raw = name or "Ignition config", source
    else:
        name, raw = name or os.fspath(source), read_bounded(source)
    if len(raw) > SIZE_LIMIT:
        _refuse(f"is larger than {SIZE_LIMIT:,} bytes", name, "fetch large contents by URL")
    document = _parse(raw, name)
    return Config(name, raw, document, _version(document, name))


def read_bounded(path: Path) -> bytes:
    """A file, at most one byte more of it than SIZE_LIMIT. Raises BadInput where it cannot be read."""
    try:
        if not path.is_file():
            raise BadInput("is not a regular file" if path.exists() else "does not exist", where=str(path))
        with path.open("rb") as stream:
            return stream.read(SIZE_LIMIT + 1)
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path)) from cause


def _parse(raw: bytes, name: str) -> dict[str, Any]:
    try:
        document = json.loads(raw.decode(), parse_constant=_constant)
    except UnicodeDecodeError as cause:
        line = raw.count(b"\n", 0, cause.start) + 1
        _refuse(f"is not UTF-8 (line {line}, byte {cause.start})", name, "is it compressed, or Butane output?", cause)
    except json.JSONDecodeError as cause:
        what = "is empty" if not raw.strip() else f"is not JSON: {cause.msg} (line {cause.lineno} column {cause.colno})"
        _refuse(what, name, "write Butane YAML? convert it with butane first", cause)
    except RecursionError as cause:
        _refuse("is nested too deeply", name, "no Ignition config needs more than ten levels", cause)
    except ValueError as cause:  # NaN, or an integer of thousands of digits
        _refuse(f"is not JSON: {str(cause).partition(':')[0]}", name, "", cause)
    _bound(document, name)
    if not isinstance(document, dict):
        _refuse("is JSON but not an object", f"{name}: $", 'it must begin with {"ignition": {"version": ...')
    return document


def _bound(document: object, name: str) -> None:
    """Refuse what would take minutes or the whole stack to judge."""
    level, count = [document], 0
    for _ in range(DEPTH_LIMIT):
        count += len(level)
        if count > VALUE_LIMIT:
            _refuse(f"has more than {VALUE_LIMIT:,} values", name, "real configs have a few thousand")
        boxes = (
            value.values() if isinstance(value, dict) else value for value in level if isinstance(value, dict | list)
        )
        level = [value for box in boxes for value in box]
    if level:
        _refuse("is nested too deeply", name, "no Ignition config needs more than ten levels")


def _constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON value")


def _version(document: dict[str, Any], name: str) -> Version:
    where = f"{name}: $.ignition.version"
    section = document.get("ignition")
    text = section.get("version") if isinstance(section, dict) else None
    known = ", ".join(map(text_of, KNOWN))
    if text is None and "ignitionVersion" in document:
        _refuse("spec 1 (ignitionVersion) is not supported", where, f"known: {known}")
    if not isinstance(text, str):
        _refuse("is missing or not a string", where, f"known: {known}")
    match = VERSION.fullmatch(text)
    if match is None:
        _refuse(f'"{text[:40]}" is not a version', where, f"known: {known}")
    version = int(match[1]), int(match[2])
    if match[4]:
        _refuse(f'"{text[:40]}" is experimental: only one Ignition release reads it', where, f"known: {known}")
    if int(match[3]) or version not in KNOWN:
        _refuse(f"spec {text[:40]} is not supported", where, _advice(version, known))
    return version


def _advice(version: Version, known: str) -> str:
    if version[0] == 2:
        return f"of spec 2 only 2.2.0 is (RHCOS before 4.6); known: {known}"
    if version > KNOWN[-1]:
        return f"newer than this harness; known: {known}"
    return f"known: {known}"


def _refuse(what: str, where: str, next_step: str, cause: BaseException | None = None) -> NoReturn:
    raise InvalidIgnition(what, where=where, next_step=next_step) from cause


def _objects(value: object) -> Iterator[dict[str, Any]]:
    return (entry for entry in value if isinstance(entry, dict)) if isinstance(value, list) else iter(())


def _text(entry: dict[str, Any], key: str) -> str | None:
    value = entry.get(key)
    return value if isinstance(value, str) else None


def _texts(value: object) -> tuple[str, ...]:
    return tuple(entry for entry in value if isinstance(entry, str)) if isinstance(value, list) else ()


def _flag(entry: dict[str, Any], key: str) -> bool | None:
    value = entry.get(key)
    return value if isinstance(value, bool) else None


def _owner(value: object) -> str | int | None:
    if not isinstance(value, dict):
        return None
    found = value.get("name") or value.get("id")
    found = value.get("id") if found is None else found
    return found if isinstance(found, (str, int)) and not isinstance(found, bool) else None
