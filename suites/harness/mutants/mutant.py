"""What a mutant is: one way to break what a suite judges, the checks that must notice, the cause they must name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.errors import VerdictClass

Damage = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken thing. `fails` are the checks that fail, as `test_file.py::test_name`, and no others.

    `kind` says what is broken. Of the reference image: the raw disk (`Disk`), or the qcow2 file (`Copy`).
    """

    name: str
    words: str
    damage: Damage
    kind: str
    fails: frozenset[str]
    cause: str  # a regular expression that a cause line of a failed check matches
    is_published: bool = False  # digests of the unbroken file are given by --metadata
    is_refused: bool = False  # no check runs: one line, exit code 2
    verdict: VerdictClass = "image"  # whose fault the failures are said to be
    asks: str = ""  # `-k` expression: the checks that boot, for a mutant that no offline check can tell


class Mutants(dict[str, Mutant]):
    """All mutants of a suite, by their names."""

    def mutant(
        self,
        *fails: str,
        cause: str,
        kind: str = "disk",
        is_published: bool = False,
        is_refused: bool = False,
        verdict: VerdictClass = "image",
        asks: str = "",
    ) -> Callable[[Damage], Damage]:
        """Register a function that breaks something; its name names the mutant, its docstring says what it does."""

        def register(damage: Damage) -> Damage:
            assert damage.__name__ not in self, f"two mutants are called {damage.__name__}"
            self[damage.__name__] = Mutant(
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


MUTANTS = Mutants()  # of suites/rhcos
mutant = MUTANTS.mutant
