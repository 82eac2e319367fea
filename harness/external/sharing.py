"""Which external tests may share a machine: those that say so, and do not conflict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from harness.external.discovery import ExternalTest


def shares_of(tests: Iterable[ExternalTest]) -> Mapping[str, int]:
    """The number of the machine for each test that is not exclusive, by name; equal numbers share one.

    A conflict counts both ways, whoever names it. The answer depends on the whole set of tests and not on its order, so
    every process that collects the same folders comes to the same one.
    """
    shared = {test.name: test for test in tests if not test.metadata.exclusive}
    conflicts: dict[str, set[str]] = defaultdict(set)
    for test in shared.values():
        for other in test.metadata.conflicts:
            conflicts[test.name].add(other)
            conflicts[other].add(test.name)
    machines: list[set[str]] = []
    numbers: dict[str, int] = {}
    for name in sorted(shared):
        number = next((n for n, taken in enumerate(machines) if not taken & conflicts[name]), len(machines))
        if number == len(machines):
            machines.append(set())
        machines[number].add(name)
        numbers[name] = number
    return numbers
