"""What a lint looks at: Ignition configs, patches of assisted-service that hold one, bare unit files, bare scripts.

A patch is a JSON object whose key says what it overrides: `ignition_config_override` the discovery config of an
infra-env, `config` the pointer config of a host; its value is a whole config as a string (assisted-service, REST API).
What a file is, its content says.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import BadInput, InvalidIgnition
from harness.ignition.config import Config, read_config
from harness.ignition.source import decode_data_url, unfold
from harness.prestage.lint.unitfile import Option, is_true, read_options
from harness.prestage.lists.lists import Stage

SIZE_LIMIT = 16 * 2**20  # bytes
LONGEST_SCRIPT = 256 * 2**10  # bytes; real ones have less than 10,000
MOST_UNITS = 1000
KEYS = {"ignition_config_override": Stage.DISCOVERY, "config": Stage.INSTALL}
SECTION = re.compile(r"^\[(?:Unit|Service|Mount|Install|Socket|Timer|Path|Automount|Swap)\]\s*$", re.MULTILINE)
STAGE_UNITS = {"agent.service": Stage.DISCOVERY, "machine-config-daemon-pull.service": Stage.INSTALL}


@dataclass(frozen=True, slots=True)
class Place:
    """A file, and a JSON path in it; empty for a file that is what it holds."""

    file: str
    path: str = ""

    def at(self, rest: str) -> Place:
        return Place(self.file, f"{self.path}{rest}")


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit with contents. `is_enabled` is None where nobody says; `place` is that of its contents."""

    name: str
    options: tuple[Option, ...]
    is_enabled: bool | None
    place: Place

    def values(self, *keys: str) -> tuple[Option, ...]:
        """The options of these keys that have a value."""
        return tuple(option for option in self.options if option.key in keys and option.value)

    def words(self, *keys: str) -> frozenset[str]:
        """All words of the values of these keys."""
        return frozenset(word for option in self.values(*keys) for word in option.value.split())

    def says(self, key: str) -> bool:
        """Whether a boolean option is true; the last one counts."""
        found = self.values(key)
        return bool(found) and is_true(found[-1].value)


@dataclass(frozen=True, slots=True)
class Delivered:
    """A file in the guest: `content` is None where it comes from elsewhere; `place` is that of its entry."""

    path: str
    mode: int | None
    content: bytes | None
    place: Place

    @property
    def script(self) -> str:
        """Its text if it begins as a script does, else empty."""
        if self.content is None or not self.content.startswith(b"#!") or len(self.content) > LONGEST_SCRIPT:
            return ""
        return self.content.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Subject:
    """One config, or everything that was given bare; `root` is where its document begins (`$.config > $`).

    `config` is None for bare files; what those lack may be somewhere else.
    """

    root: Place
    units: tuple[Unit, ...]
    files: tuple[Delivered, ...]
    config: Config | None = None
    patch_key: str = ""
    is_string: bool = True  # a patch's value, as assisted-service wants it

    @property
    def stage(self) -> Stage | None:
        """The stage it is for: by the key of a patch, or by what its units hurry to be ready for."""
        if self.patch_key:
            return KEYS[self.patch_key]
        words = {word for unit in self.units for word in unit.words("Before", "WantedBy", "RequiredBy")}
        return next((stage for name, stage in STAGE_UNITS.items() if name in words), None)

    def entries(self, *keys: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The objects of a list of the document, with their paths behind `root`: `.storage.files[0]`."""
        found: Any = self.config.document if self.config else None
        for key in keys:
            found = found.get(key) if isinstance(found, dict) else None
        for index, entry in enumerate(found if isinstance(found, list) else ()):
            if isinstance(entry, dict):
                yield f".{'.'.join(keys)}[{index}]", entry


def read_subjects(paths: Sequence[Path]) -> tuple[Subject, ...]:
    """Read files; those that are bare become one subject. Raises BadInput and InvalidIgnition."""
    subjects: list[Subject] = []
    units: list[Unit] = []
    scripts: list[Delivered] = []
    for path in paths:
        file, text = os.fspath(path), _text(path)
        if text.lstrip().startswith("{"):
            subjects.append(_of_document(text, file))
        elif text.startswith("#!"):
            scripts.append(Delivered(path.name, None, text.encode(), Place(file)))
        elif SECTION.search(text):
            units.append(Unit(path.name, read_options(text), None, Place(file)))
        else:
            words = "give Ignition configs, patches of assisted-service, units or scripts"
            raise BadInput("is nothing that we can judge", where=file, next_step=words)
    if units or scripts:
        subjects.append(Subject(Place(""), tuple(units), tuple(scripts)))
    return tuple(subjects)


def _of_document(text: str, file: str) -> Subject:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as cause:
        what = f"is not JSON: {cause.msg} (line {cause.lineno} column {cause.colno})"
        raise InvalidIgnition(what, where=file, next_step="is it cut off?") from cause
    except (RecursionError, ValueError) as cause:
        raise InvalidIgnition(f"is not JSON: {str(cause)[:60]}", where=file) from cause
    key = next((key for key in KEYS if key in document), "") if "ignition" not in document else ""
    if not key:
        return _of_config(read_config(text.encode(), file), Place(file, "$"))
    value = document[key]
    if not isinstance(value, str | dict):
        raise InvalidIgnition("holds no config", where=f"{file}: $.{key}", next_step="it must be one as a string")
    inner = value if isinstance(value, str) else json.dumps(value)
    try:
        raw = inner.encode()
    except UnicodeEncodeError as cause:
        raise InvalidIgnition("is not UTF-8", where=f"{file}: $.{key}") from cause
    config = read_config(raw, f"{file}: $.{key}")
    root = Place(file, f"$.{key} > $" if isinstance(value, str) else f"$.{key}")
    return _of_config(config, root, key, is_string=isinstance(value, str))


def _of_config(config: Config, root: Place, patch_key: str = "", *, is_string: bool = True) -> Subject:
    bare = Subject(root, (), (), config, patch_key, is_string)
    units = tuple(
        Unit(
            _string(entry, "name"),
            read_options(_string(entry, "contents")),
            _is_enabled(entry),
            root.at(f"{path}.contents"),
        )
        for path, entry in bare.entries("systemd", "units")
        if _string(entry, "contents") and entry.get("mask") is not True
    )
    if len(units) > MOST_UNITS:
        raise InvalidIgnition(f"has more than {MOST_UNITS:,} units", where=config.name)
    files = tuple(
        Delivered(_string(entry, "path"), _mode(entry), _content(entry), root.at(path))
        for path, entry in bare.entries("storage", "files")
    )
    return Subject(root, units, files, config, patch_key, is_string)


def _is_enabled(entry: dict[str, Any]) -> bool:
    return entry.get("enabled") is True or entry.get("enable") is True


def _content(entry: dict[str, Any]) -> bytes | None:
    """What a data URL carries; None where there is none, or none that Ignition could read."""
    contents = entry.get("contents")
    resource = contents if isinstance(contents, dict) else {}
    source = _string(resource, "source")
    if not source.startswith("data:"):
        return None
    try:
        return unfold(decode_data_url(source), _string(resource, "compression"))
    except ValueError:
        return None


def _mode(entry: dict[str, Any]) -> int | None:
    mode = entry.get("mode")
    return mode if isinstance(mode, int) and not isinstance(mode, bool) else None


def _string(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _text(path: Path) -> str:
    try:
        if not path.is_file():
            raise BadInput("is not a regular file" if path.exists() else "does not exist", where=str(path))
        with path.open("rb") as stream:
            raw = stream.read(SIZE_LIMIT + 1)
        text = raw.decode()
    except OSError as cause:
        raise BadInput(f"cannot be read: {cause.strerror}", where=str(path)) from cause
    except UnicodeDecodeError as cause:
        raise BadInput("is not text", where=str(path), next_step="is it compressed? Unpack it first") from cause
    if len(raw) > SIZE_LIMIT:
        raise BadInput(f"is larger than {SIZE_LIMIT:,} bytes", where=str(path))
    return text
