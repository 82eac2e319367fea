"""Rules for systemd units: their names, and whether their contents can be read and enabled."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping
from typing import Any

from harness.ignition.finding import Finding
from harness.ignition.paths import repeated, size_of
from harness.ignition.spec import Version

_COMMON_TYPES = ("service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer")
UNIT_TYPES = frozenset((*_COMMON_TYPES, "snapshot", "slice", "scope"))
NETWORK_TYPES = frozenset(("link", "netdev", "network"))
LINE_LIMIT = 2048  # bytes, systemd's LINE_MAX, with the final zero
OPTION = re.compile(r"[^=\r\n]*=")
COMMENT_OR_SECTION = re.compile(r"[\[#;]")


class UnreadableUnit(ValueError):
    """The contents of a unit that no unit parser could read."""


def option_sections(contents: str) -> Iterator[str]:
    """The section of every option of a unit file, in order. Raises UnreadableUnit.

    What comes before the first section is skipped, and a backslash continues values and comments alike, as Ignition
    reads them.
    """
    for line in contents.split("\n"):
        if size_of(line.rstrip("\r")) >= LINE_LIMIT:
            raise UnreadableUnit(f"line too long (max {LINE_LIMIT} bytes)")
    section, at = _first_section(contents)
    while at < len(contents):
        if contents[at].isspace():
            at += 1
        elif contents[at] == "[":
            section, at = _section(contents, at)
        elif contents[at] in "#;":
            at = _after_value(contents, at, is_comment=True)
        else:
            option = OPTION.match(contents, at)
            if option is None:
                text = contents[at : _line_end(contents, at)].strip()[:40]
                raise UnreadableUnit(f'line "{text}" is neither a section nor an option (name=value)')
            yield section
            at = _after_value(contents, option.end(), is_comment=False)


def _first_section(contents: str) -> tuple[str, int]:
    at = 0
    while match := COMMENT_OR_SECTION.search(contents, at):
        if match[0] == "[":
            return _section(contents, match.start())
        at = _after_value(contents, match.start(), is_comment=True)
    return "", len(contents)


def _section(contents: str, at: int) -> tuple[str, int]:
    """The name of the section whose bracket opens at `at`, and where the next line begins."""
    closing = contents.find("]", at)
    if closing < 0:
        raise UnreadableUnit(f'section "{contents[at : at + 40].splitlines()[0]}" has no closing bracket')
    end = _line_end(contents, closing)
    rest = contents[closing + 1 : end].strip()
    if rest:
        raise UnreadableUnit(f'"{rest[:40]}" follows the section name "{contents[at + 1 : closing][:40]}"')
    return contents[at + 1 : closing], end + 1


def _after_value(contents: str, at: int, *, is_comment: bool) -> int:
    """Where the line after a value or comment begins, past all its continuations."""
    while at < len(contents):
        end = _line_end(contents, at)
        line = contents[at:end].rstrip("\r")
        at = end + 1
        if not (line.removesuffix(" ") if is_comment else line).endswith("\\"):
            break
    return at


def _line_end(contents: str, at: int) -> int:
    end = contents.find("\n", at)
    return len(contents) if end < 0 else end


def unit_findings(path: str, unit: Mapping[str, Any], version: Version) -> Iterator[Finding]:
    """A systemd unit with its drop-ins."""
    name, contents = unit.get("name", ""), unit.get("contents", "")
    if extension(name) not in UNIT_TYPES:
        yield Finding(f"{path}.name", f'invalid systemd unit extension: "{name}" must end in .service, .mount, ...')
    enabled = unit.get("enabled") is True or unit.get("enable") is True
    try:
        sections = list(option_sections(contents))
    except UnreadableUnit as cause:
        yield Finding(f"{path}.contents", f"invalid unit content: {cause}")
    else:
        if contents and enabled and "Install" not in sections:
            words = f'unit "{name}" is enabled, but has no install section so enable does nothing'
            yield Finding(f"{path}.contents", words, "warning")
    if "enable" in unit and version < (3, 0):
        yield Finding(f"{path}.enable", "enable is deprecated: use enabled", "warning")
    yield from _dropin_findings(path, unit, version)


def networkd_findings(path: str, unit: Mapping[str, Any], version: Version) -> Iterator[Finding]:
    """A networkd file of spec 2.2."""
    name = unit.get("name", "")
    if extension(name) not in NETWORK_TYPES:
        yield Finding(f"{path}.name", f'invalid networkd extension: "{name}" must end in .network, .netdev or .link')
    yield from _dropin_findings(path, unit, version)


def extension(name: str) -> str:
    """What follows the last dot of a unit's name."""
    last = posixpath.basename(name)
    return last.rpartition(".")[2] if "." in last else ""


def _dropin_findings(path: str, unit: Mapping[str, Any], version: Version) -> Iterator[Finding]:
    dropins = unit.get("dropins", [])
    for index, dropin in enumerate(dropins):
        where = f"{path}.dropins[{index}]"
        if extension(dropin.get("name", "")) != "conf":
            words = f'invalid systemd drop-in extension: "{dropin.get("name", "")}" is not .conf'
            yield Finding(f"{where}.name", words)
        try:
            for _ in option_sections(dropin.get("contents", "")):
                pass
        except UnreadableUnit as cause:
            yield Finding(f"{where}.contents", f"invalid unit content: {cause}")
    if version[0] > 2:
        for index in repeated([dropin.get("name", "") for dropin in dropins]):
            yield Finding(f"{path}.dropins[{index}]", "duplicate drop-in")
