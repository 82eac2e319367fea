"""What a mutant is: one way to break the reference image, the checks that must notice, and the cause they must name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from harness.errors import VerdictClass

Damage = Callable[[Any], None]
Kind = Literal["disk", "file"]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken image. `fails` are the checks that fail, as `test_file.py::test_name`, and no others."""

    name: str
    words: str
    damage: Damage
    kind: Kind  # what is broken: the raw disk (`Disk`), or the qcow2 file (`Copy`)
    fails: frozenset[str]
    cause: str  # a regular expression that a cause line of a failed check matches
    is_published: bool = False  # digests of the unbroken file are given by --metadata
    is_refused: bool = False  # no check runs: one line, exit code 2
    verdict: VerdictClass = "image"  # whose fault the failures are said to be
    asks: str = ""  # `-k` expression: the checks that boot, for a mutant that no offline check can tell


MUTANTS: dict[str, Mutant] = {}


def mutant(
    *fails: str,
    cause: str,
    kind: Kind = "disk",
    is_published: bool = False,
    is_refused: bool = False,
    verdict: VerdictClass = "image",
    asks: str = "",
) -> Callable[[Damage], Damage]:
    """Register a function that breaks the image; its name names the mutant, its docstring says what it does."""

    def register(damage: Damage) -> Damage:
        assert damage.__name__ not in MUTANTS, f"two mutants are called {damage.__name__}"
        MUTANTS[damage.__name__] = Mutant(
            name=damage.__name__,
            words=(damage.__doc__ or "").strip(),
            damage=damage,
            kind=kind,
            fails=frozenset(name for group in fails for name in group.split()),
            cause=cause,
            is_published=is_published,
            is_refused=is_refused,
            verdict=verdict,
            asks=asks,
        )
        return damage

    return register
