"""Options of a systemd unit file (systemd.syntax(7)), each with its section and line.

Reads leniently: what systemd would skip with a warning is skipped. Whether Ignition takes a unit is judged elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

TRUE = frozenset(("1", "yes", "true", "on", "y", "t"))  # systemd.syntax(7), as parse_boolean has them


@dataclass(frozen=True, slots=True)
class Option:
    """One assignment; `line` is 1-based and that of its first line."""

    section: str
    key: str
    value: str
    line: int


def read_options(text: str) -> tuple[Option, ...]:
    """Every option of a unit file, continuation lines joined by a blank."""
    return tuple(_options(text))


def _options(text: str) -> Iterator[Option]:
    section, pending, begun = "", "", 0
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if line.startswith(("#", ";")) or (not line and not pending):
            continue
        if not pending:
            begun = number
        if line.endswith("\\"):
            pending += f"{line[:-1].strip()} "
            continue
        line, pending = pending + line, ""
        if line.startswith("["):
            section = line.strip("[]")
            continue
        key, equals, value = line.partition("=")
        if equals:
            yield Option(section, key.strip(), value.strip(), begun)


def is_true(value: str) -> bool:
    """Whether systemd takes a value for yes."""
    return value.lower() in TRUE


def mount_unit_of(path: str) -> str:
    """The name of the unit that mounts at a path: systemd-escape(1) --path --suffix=mount."""
    parts = [part for part in path.split("/") if part]
    if not parts:
        return "-.mount"
    escaped = []
    for part in parts:
        plain = "".join(_escaped(byte) for byte in part.encode())
        escaped.append(plain)
    name = "-".join(escaped)
    return f"{f'{chr(92)}x2e{name[1:]}' if name.startswith('.') else name}.mount"


def _escaped(byte: int) -> str:
    character = chr(byte)
    if character.isascii() and (character.isalnum() or character in ":_."):
        return character
    return f"\\x{byte:02x}"
