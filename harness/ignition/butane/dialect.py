"""The variants and versions of Butane's language, and the Ignition specification each is translated to.

Facts: Butane's table of specifications (docs/specs.md) and its release notes. `openshift` is `fcos` of an older minor
version with the fields of a MachineConfig, less what the Machine Config Operator refuses; `rhcos` 0.1.0 is the name
that fcct 0.8 to 0.10 gave to what became `openshift`, kept so that old .fcc files can still be read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from harness.ignition.spec import Version

VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})(-[0-9A-Za-z.\-]+)?")
FCOS_SPECS: Final[tuple[Version, ...]] = ((3, 0), (3, 1), (3, 2), (3, 2), (3, 3), (3, 4), (3, 5))  # by minor version
ELSEWHERE: Final = frozenset({"flatcar", "fiot", "r4e"})  # known to butane


@dataclass(frozen=True, slots=True)
class Dialect:
    """One version of one variant; `base` is the minor version of fcos whose fields it has."""

    variant: str
    version: Version
    base: int

    @property
    def spec(self) -> Version:
        """The Ignition specification it is translated to."""
        return FCOS_SPECS[self.base]

    @property
    def is_openshift(self) -> bool:
        return self.variant == "openshift"

    @property
    def guards_mount_points(self) -> bool:
        """Mount units below /etc and /var only, and a word about partitions found by label (Butane 0.19)."""
        return self.version >= (4, 14) if self.is_openshift else self.base >= 6

    @property
    def compresses(self) -> bool:
        """Contents may be compressed: neither fcos 1.0 nor the Machine Config Operator before 4.10 knows how."""
        return self.version >= (4, 10) if self.is_openshift else self.base >= 1

    def __str__(self) -> str:
        return f"{self.variant} {self.version[0]}.{self.version[1]}.0"


def _openshift(minor: int) -> Dialect:
    return Dialect("openshift", (4, minor), 3 if minor <= 13 else 5 if minor <= 18 else 6)


DIALECTS: Final = (
    *(Dialect("fcos", (1, minor), minor) for minor in range(len(FCOS_SPECS))),
    *(_openshift(minor) for minor in range(8, 23)),
    Dialect("rhcos", (0, 1), 3),
)


class UnknownDialect(ValueError):
    """The words are a message; `is_version` says whether the version is to blame, rather than the variant."""

    def __init__(self, words: str, *, is_version: bool) -> None:
        super().__init__(words)
        self.is_version = is_version


def dialect_of(variant: str, version: str) -> Dialect:
    """The dialect of these two words of a config. Raises UnknownDialect."""
    known = [dialect for dialect in DIALECTS if dialect.variant == variant]
    if not known:
        extra = " (butane itself knows it: --by butane)" if variant in ELSEWHERE else ""
        raise UnknownDialect(
            f'unknown variant "{variant[:40]}"{extra}; known: fcos, openshift, rhcos', is_version=False
        )
    match = VERSION.fullmatch(version)
    if match is None:
        raise UnknownDialect(f'"{version[:40]}" is not a version such as {_name(known[-1])}', is_version=True)
    span = f"{_name(known[0])} to {_name(known[-1])}"
    if match[4]:
        words = f"{version[:40]} is experimental: its meaning changed with every Butane; stable: {span}"
        raise UnknownDialect(words, is_version=True)
    for dialect in known:
        if dialect.version == (int(match[1]), int(match[2])) and not int(match[3]):
            return dialect
    raise UnknownDialect(f"{variant} {version[:40]} is not known; known: {span}", is_version=True)


def _name(dialect: Dialect) -> str:
    return str(dialect).partition(" ")[2]
